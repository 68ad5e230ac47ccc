// The directory against a model of it, and what it takes of memory.
#include "coordinator/router/prefix_directory.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <vector>

#include "common/entropy.h"

namespace interlace {
namespace {

constexpr int32_t kReplicas = 5, kChains = 6, kBlocks = 12;

const BlockId& IdOf(uint64_t chain, int32_t block) {
  static const auto* const ids = [] {
    const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(1);
    auto* drawn = new std::vector<BlockId>;
    for (int32_t i = 0; i < kChains * kBlocks; ++i) drawn->push_back({entropy->Next(), entropy->Next()});
    return drawn;
  }();
  return (*ids)[chain * kBlocks + static_cast<size_t>(block)];
}

// Every replica holds and expects what it will; what Match says is compared with a plain look at all of it.
TEST(PrefixDirectoryTest, MatchesAreThoseOfAPlainModel) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
    PrefixDirectory directory(kReplicas);
    std::map<std::pair<int32_t, BlockId>, KvMedium> places;
    std::map<std::pair<int32_t, BlockId>, int32_t> coming;
    std::vector<std::pair<int32_t, std::vector<BlockId>>> expected;
    for (int32_t step = 0; step < 1500; ++step) {
      const auto replica = static_cast<int32_t>(entropy->Next() % kReplicas);
      const uint64_t chain = entropy->Next() % kChains;
      const BlockId id = IdOf(chain, static_cast<int32_t>(entropy->Next() % kBlocks));
      const uint64_t roll = entropy->Next() % 100;
      if (roll < 50) {
        const KvMedium medium = roll % 2 == 0 ? KvMedium::kDevice : KvMedium::kHost;
        directory.observer(replica).OnStored(id, medium);
        places[{replica, id}] = medium;
      } else if (roll < 65) {
        const auto place = places.find({replica, id});
        if (place == places.end()) continue;
        directory.observer(replica).OnRemoved(id, place->second);
        places.erase(place);
      } else if (roll < 80) {
        std::vector<BlockId> ids;
        for (int32_t b = 0; b < kBlocks; ++b) ids.push_back(IdOf(chain, b));
        directory.Expect(replica, ids);
        for (const BlockId& one : ids) ++coming[{replica, one}];
        expected.emplace_back(replica, std::move(ids));
      } else if (roll < 98 && !expected.empty()) {
        const size_t at = entropy->Next() % expected.size();
        directory.Forget(expected[at].first, expected[at].second);
        for (const BlockId& one : expected[at].second) --coming[{expected[at].first, one}];
        expected.erase(expected.begin() + static_cast<ptrdiff_t>(at));
      } else if (roll == 99) {
        directory.observer(replica).OnCleared();
        for (auto it = places.begin(); it != places.end();) it = it->first.first == replica ? places.erase(it) : ++it;
      }
      std::vector<BlockId> asked;
      for (int32_t b = 0; b < kBlocks; ++b) asked.push_back(IdOf(chain, b));
      std::vector<HeldPrefix> held;
      const int32_t lie = directory.Match(asked, &held);
      int32_t want_lie = 0;
      const auto lies = [&](const BlockId& one) {
        for (int32_t r = 0; r < kReplicas; ++r) {
          if (places.contains({r, one})) return true;
        }
        return false;
      };
      while (want_lie < kBlocks && lies(asked[static_cast<size_t>(want_lie)])) ++want_lie;
      ASSERT_EQ(lie, want_lie) << "seed " << seed << ", step " << step;
      for (int32_t r = 0; r < kReplicas; ++r) {
        HeldPrefix want;
        for (const BlockId& one : asked) {
          const auto place = places.find({r, one});
          if (place == places.end() && coming[{r, one}] == 0) break;
          ++want.blocks;
          want.host += place != places.end() && place->second == KvMedium::kHost ? 1 : 0;
          want.coming += place == places.end() ? 1 : 0;
        }
        ASSERT_EQ(held[static_cast<size_t>(r)], want) << "replica " << r << ", seed " << seed << ", step " << step;
      }
    }
    std::set<BlockId> left;
    for (const auto& [key, medium] : places) left.insert(key.second);
    for (const auto& [key, count] : coming) {
      if (count > 0) left.insert(key.second);
    }
    // What a replica held when it was cleared may be there still, until many have gone.
    EXPECT_GE(directory.blocks(), left.size());
    for (int32_t clears = 0; clears < 128; ++clears) directory.observer(0).OnCleared();  // one of them sweeps
    std::erase_if(left, [&](const BlockId& id) {
      for (int32_t r = 0; r < kReplicas; ++r) {
        if (coming[{r, id}] > 0 || (r > 0 && places.contains({r, id}))) return false;
      }
      return true;
    });
    EXPECT_EQ(directory.blocks(), left.size()) << "entries that nobody holds stay";
  }
}

TEST(PrefixDirectoryTest, MemoryIsThatOfWhatIsHeldNow) {
  constexpr int32_t kMany = 100000;
  PrefixDirectory directory(kReplicas);
  std::vector<BlockId> ids;
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(3);
  for (int32_t b = 0; b < kMany; ++b) ids.push_back({entropy->Next(), entropy->Next()});
  for (int32_t b = 0; b < kMany; ++b)
    directory.observer(b % kReplicas).OnStored(ids[static_cast<size_t>(b)], KvMedium::kDevice);
  EXPECT_EQ(directory.blocks(), kMany);
  EXPECT_LE(directory.bytes(), kMany * 100) << "bytes a block";
  for (int32_t r = 0; r < kReplicas; ++r) directory.observer(r).OnCleared();
  EXPECT_EQ(directory.blocks(), 0);
  std::vector<HeldPrefix> held;
  directory.Match(ids, &held);
  for (const HeldPrefix& prefix : held) EXPECT_EQ(prefix, HeldPrefix());
}

// A rolling upgrade: each of many replicas is lost and comes back with what it had. Whoever walked the whole table for
// each would walk 64 times all blocks.
TEST(PrefixDirectoryTest, AReplicaThatLeavesCostsInProportionToWhatItHeld) {
  constexpr int32_t kMany = 64, kEach = 1000;
  PrefixDirectory directory(kMany);
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(4);
  std::vector<std::vector<BlockId>> ids(kMany);
  const auto store = [&](int32_t r) {
    for (const BlockId& id : ids[static_cast<size_t>(r)]) directory.observer(r).OnStored(id, KvMedium::kDevice);
  };
  for (int32_t r = 0; r < kMany; ++r) {
    for (int32_t b = 0; b < kEach; ++b) ids[static_cast<size_t>(r)].push_back({entropy->Next(), entropy->Next()});
    store(r);
  }
  std::vector<HeldPrefix> held;
  for (int32_t r = 0; r < kMany; ++r) {
    directory.observer(r).OnCleared();
    const auto first = absl::MakeConstSpan(ids[static_cast<size_t>(r)]).first(1);
    EXPECT_EQ(directory.Match(first, &held), 0) << "what a lost replica held lies nowhere";
    store(r);
    EXPECT_EQ(directory.Match(first, &held), 1);
    EXPECT_LE(directory.blocks(), kMany * kEach * 3 / 2);
  }
  EXPECT_LE(directory.swept(), 4 * kMany * kEach) << "blocks walked in all";
}

// A number that a replica's generation had long ago does not bring back what it held then.
TEST(PrefixDirectoryTest, WhatWasHeldBeforeManyLossesStaysLost) {
  PrefixDirectory directory(1);
  const std::vector<BlockId> id = {{1, 2}};
  std::vector<HeldPrefix> held;
  directory.Expect(0, id);  // which keeps the entry
  directory.observer(0).OnStored(id[0], KvMedium::kDevice);
  for (int32_t losses = 1; losses <= 600; ++losses) {
    directory.observer(0).OnCleared();
    ASSERT_EQ(directory.Match(id, &held), 0) << losses;
    EXPECT_EQ(held[0].coming, 1);
  }
}

}  // namespace
}  // namespace interlace
