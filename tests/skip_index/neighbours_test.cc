// The nearest keys are those that comparing with all of them finds, whatever came and went before.
#include "coordinator/skip_index/neighbours.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "tests/skip_index/key_cloud.h"

namespace interlace {
namespace {

using Keys = std::map<uint64_t, std::vector<float>>;

std::vector<Neighbour> Compared(const Keys& keys, const std::vector<float>& key, size_t most) {
  std::vector<Neighbour> all;
  for (const auto& [id, other] : keys) {
    double dot = 0;
    for (size_t i = 0; i < key.size(); ++i) dot += double{key[i]} * other[i];
    all.push_back({id, static_cast<float>(dot)});
  }
  std::sort(all.begin(), all.end(), [](const Neighbour& a, const Neighbour& b) { return a.similarity > b.similarity; });
  all.resize(std::min(all.size(), most));
  return all;
}

TEST(NeighboursTest, FewKeysAreFoundExactly) {
  const auto entropy = MakeSeededEntropy(1);
  for (const int32_t width : {3, 16, 37}) {
    Neighbours neighbours(width);
    Keys keys;
    uint64_t next = 1;
    for (int turn = 0; turn < 2000; ++turn) {
      const bool removes = !keys.empty() && (entropy->Next() % 3 == 0 || keys.size() > 200);
      if (removes) {
        auto gone = keys.begin();
        std::advance(gone, static_cast<ptrdiff_t>(entropy->Next() % keys.size()));
        neighbours.Remove(gone->first);
        keys.erase(gone);
      } else {
        const std::vector<float> key = RandomKey(*entropy, width);
        neighbours.Put(next, key);
        keys.emplace(next++, key);
      }
      ASSERT_EQ(neighbours.size(), static_cast<int32_t>(keys.size()));
      const std::vector<float> asked = RandomKey(*entropy, width);
      const std::vector<Neighbour> found = neighbours.Nearest(asked, 3), expected = Compared(keys, asked, 3);
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < found.size(); ++i) {
        EXPECT_EQ(found[i].id, expected[i].id) << width << " " << turn;
        EXPECT_NEAR(found[i].similarity, expected[i].similarity, 1e-5);
      }
    }
  }
}

// Groups of prompts that are like each other, as there are in use.
TEST(NeighboursTest, AGraphFindsNearlyAllOfThemWhateverWentBefore) {
  constexpr int32_t kWidth = 48;
  const auto entropy = MakeSeededEntropy(2);
  std::vector<std::vector<float>> centres;
  for (int i = 0; i < 100; ++i) centres.push_back(RandomKey(*entropy, kWidth));
  const auto draw = [&] { return Near(*entropy, centres[entropy->Next() % centres.size()], 0.6); };
  Neighbours neighbours(kWidth);
  Keys keys;
  uint64_t next = 1;
  const auto put = [&] {
    const std::vector<float> key = draw();
    neighbours.Put(next, key);
    keys.emplace(next++, key);
  };
  const auto remove = [&] {
    auto gone = keys.lower_bound(entropy->Next() % next);
    if (gone == keys.end()) gone = keys.begin();
    neighbours.Remove(gone->first);
    keys.erase(gone);
  };
  const auto check = [&](const char* when) {
    int found = 0, asked = 300;
    for (int i = 0; i < asked; ++i) {
      const std::vector<float> key = draw();
      const std::vector<Neighbour> nearest = neighbours.Nearest(key, 1);
      ASSERT_EQ(nearest.size(), 1u);
      ASSERT_TRUE(keys.contains(nearest[0].id)) << "a key that was removed, " << when;
      EXPECT_NEAR(nearest[0].similarity, Dot(keys.at(nearest[0].id), key), 1e-5);
      found += nearest[0].id == Compared(keys, key, 1)[0].id ? 1 : 0;
    }
    EXPECT_GE(found, asked * 95 / 100) << when;
  };
  while (keys.size() < 2500) put();
  check("first");
  for (int i = 0; i < 5000; ++i) {  // each key gave way twice
    remove();
    put();
  }
  check("after others took their places");
  while (keys.size() > 600) remove();
  check("after most went");
  while (!keys.empty()) remove();
  EXPECT_TRUE(neighbours.Nearest(draw(), 1).empty());
  EXPECT_EQ(neighbours.bytes(), 0);
  put();
  EXPECT_EQ(neighbours.Nearest(draw(), 4).size(), 1u);
}

TEST(NeighboursTest, OnlyKeysWithALengthAreNormalised) {
  std::vector<float> zero(8), wild(8, 1), good(8, 3);
  wild[3] = std::nanf("");
  EXPECT_FALSE(Normalise(&zero));
  EXPECT_FALSE(Normalise(&wild));
  wild[3] = INFINITY;
  EXPECT_FALSE(Normalise(&wild));
  ASSERT_TRUE(Normalise(&good));
  EXPECT_NEAR(Dot(good, good), 1, 1e-6);
}

}  // namespace
}  // namespace interlace
