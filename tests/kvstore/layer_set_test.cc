#include "kvstore/layer_set.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "common/entropy.h"

namespace interlace {
namespace {

std::set<int32_t> Members(const LayerSet& layers) {
  std::set<int32_t> members;
  layers.ForEach([&](LayerId layer) { members.insert(Value(layer)); });
  return members;
}

TEST(LayerSetTest, InterleavesTheDocumentedLayers) {
  EXPECT_EQ(LayerSet::Interleaved(4, 8).ToString(), "0,2,4,6");
  EXPECT_EQ((LayerSet::Interleaved(4, 8) | LayerSet::Range(4, 6)).ToString(), "0,2,4-6");
}

// Never ahead of nor behind an even spread by a layer.
TEST(LayerSetTest, InterleavesEvenly) {
  for (int32_t layers = 1; layers <= 60; ++layers) {
    for (int32_t keep = 0; keep <= layers; ++keep) {
      const LayerSet set = LayerSet::Interleaved(keep, layers);
      ASSERT_EQ(set.size(), keep);
      for (int32_t l = 0; l < layers; ++l) {
        ASSERT_EQ((set & LayerSet::Range(0, l + 1)).size(), (l + 1) - (l + 1) * (layers - keep) / layers);
      }
      // A step of streams begins with a layer that is there, unless none is.
      ASSERT_EQ(set.Has(LayerId{0}), keep > 0);
    }
  }
}

TEST(LayerSetTest, AgreesWithASet) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    auto entropy = MakeSeededEntropy(seed);
    LayerSet set, other;
    std::set<int32_t> plain, plain_other;
    for (int step = 0; step < 60; ++step) {
      const auto layer = static_cast<int32_t>(entropy->Next() % LayerSet::kMaxLayers);
      switch (entropy->Next() % 3) {
        case 0:
          set.Add(LayerId{layer});
          plain.insert(layer);
          break;
        case 1:
          set.Remove(LayerId{layer});
          plain.erase(layer);
          break;
        default:
          other.Add(LayerId{layer});
          plain_other.insert(layer);
      }
      ASSERT_EQ(set.Has(LayerId{layer}), plain.count(layer) > 0);
    }
    std::set<int32_t> both, either = plain, left = plain;
    either.insert(plain_other.begin(), plain_other.end());
    for (int32_t layer : plain) {
      if (plain_other.count(layer) > 0) both.insert(layer), left.erase(layer);
    }
    EXPECT_EQ(Members(set), plain);
    EXPECT_EQ(Members(set & other), both);
    EXPECT_EQ(Members(set | other), either);
    EXPECT_EQ(Members(set - other), left);
    EXPECT_EQ(set.empty(), plain.empty());
    EXPECT_TRUE((set | other).Contains(set));
    EXPECT_EQ(set.Contains(other), left.size() + plain_other.size() == plain.size());
    LayerSet back;
    ASSERT_TRUE(LayerSet::Decode(set.Encode(), &back));
    EXPECT_EQ(back, set);
  }
  LayerSet back;
  EXPECT_FALSE(LayerSet::Decode(std::string(33, 'x'), &back));
}

}  // namespace
}  // namespace interlace
