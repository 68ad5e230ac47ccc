// LayerPager and KvPool against a plain model that keeps every row in memory: the same attention, bit for bit, whatever
// moves between device and host, and exactly the slots and frames that the plans account for.
#include "worker/layer_pager.h"

#include "tests/worker/pager_history.h"

namespace interlace {
namespace {

TEST(LayerPagerTest, AgreesWithThePlainModel) {
  int64_t streamed = 0, ahead = 0, adopted = 0, duplicates = 0, truncated = 0, behind = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    PagerHistory history({.seed = seed}, /*may_lose=*/false);
    history.Run(120);
    streamed += history.streamed();
    ahead += history.read_ahead();
    adopted += history.adopted();
    duplicates += history.duplicates();
    truncated += history.truncated();
    behind += history.dropped_behind();
    if (HasFailure()) return;
  }
  EXPECT_GT(streamed, 20000 * kPagerShape.bytes());
  EXPECT_GT(ahead, 5000);
  EXPECT_GT(adopted, 1000);
  EXPECT_GT(duplicates, 1000);
  EXPECT_GT(truncated, 1000);
  EXPECT_GT(behind, 1000);
}

// Nothing is lost where the scheduler's account of slots and frames holds, however few there are.
TEST(LayerPagerTest, LosesNothingWhereTheAccountHolds) {
  int64_t attended = 0, ahead = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    PagerHistory history({.slots = static_cast<int32_t>(20 + 2 * (seed % 50)),
                          .frames = static_cast<int32_t>(20 + 3 * (seed % 30)),
                          .seed = seed},
                         /*may_lose=*/false);
    history.Run(120);
    attended += history.attended();
    ahead += history.read_ahead();
    if (HasFailure()) return;
  }
  EXPECT_GT(attended, 10000);
  EXPECT_GT(ahead, 1000);
}

TEST(LayerPagerTest, DamageIsALossAndNeverAnOutput) {
  for (const char* point :
       {"kv.flip_at_rest", "kv.flip_in_flight", "kv.swap_layer", "kv.swap_request", "kv.read_lost"}) {
    for (const char* probability : {"0.02", "0.3", "1"}) {
      int64_t losses = 0;
      for (uint64_t seed = 1; seed <= 6; ++seed) {
        const std::string faults = absl::StrCat(point, ":", probability);
        SCOPED_TRACE(absl::StrCat(faults, " seed ", seed));
        PagerHistory history({.faults = faults, .seed = seed}, /*may_lose=*/true);
        history.Run(120);
        losses += history.losses();
        if (HasFailure()) return;
      }
      EXPECT_GT(losses, 0) << point << " " << probability;
    }
  }
}

}  // namespace
}  // namespace interlace
