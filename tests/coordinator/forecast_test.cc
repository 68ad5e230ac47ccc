// The forecast against schedules that are drawn, step by step.
#include "coordinator/policy/forecast.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "common/entropy.h"

namespace interlace {
namespace {

constexpr absl::Duration kTiny = absl::Microseconds(1);  // of rounding

// A machine whose cost is learned, streams that decode, and prompts that wait.
struct Scene {
  explicit Scene(uint64_t seed) : entropy(MakeSeededEntropy(seed)) {
    const double fixed = Uniform(1e-3, 2e-2), row = Uniform(1e-5, 1e-3), product = Uniform(0, 1e-6);
    for (int i = 0; i < 64; ++i) {
      const StepWork work = StepWork().Add(Draw(0, 500), Draw(1, 200));
      cost.Observe(work, absl::Seconds(fixed + row * static_cast<double>(work.rows) +
                                       product * static_cast<double>(work.products)));
    }
    for (int i = 0; i < 100; ++i) lengths.Ended(Draw(1, 300));
    view.now = absl::UnixEpoch() + absl::Seconds(1000);
    view.cost = &cost;
    view.lengths = &lengths;
    for (int32_t i = Draw(0, 40); i > 0; --i) room.beside.Add(Draw(1, 2000), 1);
    room.under_way = absl::Milliseconds(Draw(0, 50));
    room.prompt_rows = Draw(1, 512);
    room.chunk_tokens = Draw(1, 300);
    for (int32_t i = Draw(1, 12); i > 0; --i) {
      const int32_t from = Draw(0, 500);
      prompts.emplace_back(from, from + Draw(1, 1000));
    }
  }
  double Uniform(double low, double high) {
    return low + (high - low) * static_cast<double>(entropy->Next() >> 11) / 9007199254740992.0;
  }
  int32_t Draw(int32_t low, int32_t high) { return low + static_cast<int32_t>(Uniform(0, 1) * (high - low + 1)); }
  PromptsAhead All() const {
    PromptsAhead all;
    for (const auto& [from, to] : prompts) all.Add(from, to);
    return all;
  }
  // One that waits, with the last of the prompts.
  SequenceView Last() const {
    SequenceView s;
    s.id = RequestId{7};
    s.prompt = s.known = prompts.back().second;
    s.max_tokens = 300;
    s.arrival = view.now - absl::Milliseconds(100);
    s.deadline = absl::InfiniteFuture();
    return s;
  }

  const std::unique_ptr<Entropy> entropy;
  CostModel cost;
  LengthHistory lengths;
  StepView view;
  StepRoom room;
  std::vector<std::pair<int32_t, int32_t>> prompts;  // positions that are computed
};

// Whatever the steps hold, as long as they hold no more than they may, they take no less than was forecast.
TEST(Forecast, NoScheduleIsFaster) {
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    Scene scene(seed);
    const absl::Duration forecast = TimeOfPrompts(scene.cost, scene.room, scene.All());
    std::vector<std::pair<int32_t, int32_t>> left = scene.prompts;
    const bool lazy = seed % 2 == 0;  // chunks are smaller than they might be
    absl::Duration took = scene.room.under_way;
    while (!left.empty()) {
      StepWork step = scene.room.beside;
      int32_t rows = scene.room.prompt_rows;
      for (auto& [from, to] : left) {
        int32_t count = std::min({to - from, scene.room.chunk_tokens, rows});
        if (lazy && count > 1) count = scene.Draw(1, count);
        if (count <= 0) continue;
        step.Add(from, count);
        from += count;
        rows -= count;
      }
      took += scene.cost.Expect(step);
      std::erase_if(left, [](const auto& prompt) { return prompt.first >= prompt.second; });
    }
    EXPECT_LE(forecast, took + kTiny) << "seed " << seed;
    EXPECT_GT(forecast, absl::ZeroDuration());
  }
}

TEST(Forecast, WhoeverComesFirstOnlyMakesItLonger) {
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    Scene scene(seed);
    PromptsAhead ahead;
    absl::Duration before = TimeOfPrompts(scene.cost, scene.room, ahead);
    EXPECT_EQ(before, scene.room.under_way);
    for (const auto& [from, to] : scene.prompts) {
      const absl::Duration now = TimeOfPrompts(scene.cost, scene.room, ahead.Add(from, to));
      // Rows are counted in whole ones: what a step holds on average is rounded down.
      EXPECT_GE(now, 0.98 * before - scene.cost.Expect({1, 1, 1})) << "seed " << seed;
      before = now;
    }
  }
}

TEST(Forecast, AMissIsOneToTheMicrosecond) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    Scene scene(seed);
    SequenceView s = scene.Last();
    const int32_t found = scene.prompts.back().first;
    const PromptsAhead all = scene.All();
    EXPECT_EQ(Predict(scene.view, scene.room, all, s, found).miss, Miss::kNone) << "it has no target";
    const absl::Duration first = TimeOfPrompts(scene.cost, scene.room, all);
    const absl::Duration waited = scene.view.now - s.arrival;
    s.ttft = waited + first + kTiny;
    EXPECT_EQ(Predict(scene.view, scene.room, all, s, found).miss, Miss::kNone);
    s.ttft = waited + first - kTiny;
    const Forecast miss = Predict(scene.view, scene.room, all, s, found);
    EXPECT_EQ(miss.miss, Miss::kTtft);
    EXPECT_EQ(miss.needs, first);
    EXPECT_EQ(miss.left, s.ttft - waited);
    EXPECT_EQ(miss.target, s.ttft);
    const absl::Duration alone = scene.cost.Prefill(found, s.known, scene.room.chunk_tokens);
    EXPECT_EQ(miss.hopeless, alone > s.ttft);
    SequenceView now = s;
    now.arrival = scene.view.now;
    now.ttft = std::min(first, alone) - kTiny;
    EXPECT_TRUE(Predict(scene.view, scene.room, all, now, found).hopeless);
    // The deadline counts the rest of an answer, as short as nine in ten are not.
    s.ttft = absl::InfiniteDuration();
    const int32_t tokens = scene.lengths.AtLeast(0, 0.1, s.max_tokens);
    const absl::Duration whole = first + (tokens - 1) * scene.cost.Expect(StepWork().Add(s.known, 1));
    s.deadline = scene.view.now + whole + kTiny;
    EXPECT_EQ(Predict(scene.view, scene.room, all, s, found).miss, Miss::kNone);
    s.deadline = scene.view.now + whole - kTiny;
    EXPECT_EQ(Predict(scene.view, scene.room, all, s, found).miss, Miss::kDeadline);
    // Who has a token is never said to miss anything.
    s.first_token = scene.view.now;
    EXPECT_EQ(Predict(scene.view, scene.room, all, s, found).miss, Miss::kNone);
  }
}

TEST(Forecast, NothingIsPredictedBeforeAnythingIsKnown) {
  Scene scene(1);
  const CostModel fresh;
  scene.view.cost = &fresh;
  SequenceView s = scene.Last();
  s.ttft = absl::Nanoseconds(1);
  s.deadline = scene.view.now;
  EXPECT_EQ(Predict(scene.view, scene.room, scene.All(), s, 0).miss, Miss::kNone);
}

}  // namespace
}  // namespace interlace
