#include "kvstore/block_pointers.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/entropy.h"

namespace interlace {
namespace {

// The counters against a plain model, over seeds.
TEST(BlockPointersTest, CountsWhatIsAbsentOfWhatIsSeen) {
  constexpr int32_t kLayers = 3;
  std::byte memory[4];
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    auto entropy = MakeSeededEntropy(seed);
    const auto below = [&](int32_t n) { return static_cast<int32_t>(entropy->Next() % static_cast<uint64_t>(n)); };
    const auto any = [&] { return below(2) == 0 ? nullptr : &memory[below(4)]; };
    BlockPointers pointers(kLayers);
    std::vector<std::vector<std::byte*>> plain(kLayers);
    std::vector<int32_t> first(kLayers);
    int32_t shared = 0, blocks = 0;
    for (int step = 0; step < 200; ++step) {
      const int32_t layer = below(kLayers);
      switch (below(5)) {
        case 0:
          blocks = std::max(shared, blocks + below(7) - 2);
          pointers.Resize(blocks);
          for (auto& row : plain) row.resize(blocks);
          break;
        case 1:
          if (blocks == 0) break;
          if (const int32_t block = below(blocks); block < shared) {
            plain[layer][block] = any();
            pointers.SetShared(layer, block, plain[layer][block]);
          } else {
            pointers.SetShared(layer, block, any());  // says nothing about it
            plain[layer][block] = any();
            pointers.SetOwn(layer, block, plain[layer][block]);
          }
          break;
        case 2:
          if (shared == blocks) break;
          for (auto& row : plain) row[shared] = any();
          pointers.ShareNext([&](int32_t l) { return plain[l][shared]; });
          ++shared;
          break;
        case 3:
          first[layer] = below(blocks + 3);
          pointers.SeeFrom(layer, first[layer]);
          break;
        default:
          break;
      }
      int32_t all = 0;
      for (int32_t l = 0; l < kLayers; ++l) {
        int32_t absent = 0, next = shared;
        for (int32_t b = shared - 1; b >= first[l]; --b) {
          if (plain[l][b] == nullptr) ++absent, next = b;
        }
        all += absent;
        ASSERT_EQ(pointers.absent(l), absent);
        ASSERT_EQ(pointers.NextAbsent(l, 0), next);
        ASSERT_EQ(std::vector<std::byte*>(pointers.Layer(l).begin(), pointers.Layer(l).end()), plain[l]);
      }
      ASSERT_EQ(pointers.absent(), all);
      ASSERT_EQ(pointers.shared(), shared);
    }
  }
}

}  // namespace
}  // namespace interlace
