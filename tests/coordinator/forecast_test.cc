// The forecast against schedules that are drawn, step by step.
#include "coordinator/policy/forecast.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
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
    EXPECT_EQ(Predict(scene.view, {scene.room, all}, s, found).miss, Miss::kNone) << "it has no target";
    const absl::Duration first = TimeOfPrompts(scene.cost, scene.room, all);
    const absl::Duration waited = scene.view.now - s.arrival;
    s.ttft = waited + first + kTiny;
    EXPECT_EQ(Predict(scene.view, {scene.room, all}, s, found).miss, Miss::kNone);
    s.ttft = waited + first - kTiny;
    const Forecast miss = Predict(scene.view, {scene.room, all}, s, found);
    EXPECT_EQ(miss.miss, Miss::kTtft);
    EXPECT_EQ(miss.needs, first);
    EXPECT_EQ(miss.left, s.ttft - waited);
    EXPECT_EQ(miss.target, s.ttft);
    const absl::Duration alone = scene.cost.Prefill(found, s.known, scene.room.chunk_tokens);
    EXPECT_EQ(miss.hopeless, alone > s.ttft);
    SequenceView now = s;
    now.arrival = scene.view.now;
    now.ttft = std::min(first, alone) - kTiny;
    EXPECT_TRUE(Predict(scene.view, {scene.room, all}, now, found).hopeless);
    // The deadline counts the rest of an answer, as short as nine in ten are not.
    s.ttft = absl::InfiniteDuration();
    const int32_t tokens = scene.lengths.AtLeast(0, 0.1, s.max_tokens);
    const absl::Duration whole = first + (tokens - 1) * scene.cost.Expect(StepWork().Add(s.known, 1));
    s.deadline = scene.view.now + whole + kTiny;
    EXPECT_EQ(Predict(scene.view, {scene.room, all}, s, found).miss, Miss::kNone);
    s.deadline = scene.view.now + whole - kTiny;
    EXPECT_EQ(Predict(scene.view, {scene.room, all}, s, found).miss, Miss::kDeadline);
    // Who has a token is never said to miss anything.
    s.first_token = scene.view.now;
    EXPECT_EQ(Predict(scene.view, {scene.room, all}, s, found).miss, Miss::kNone);
  }
}

// ---- room

// Streams that run, with what they hold; each ends after as many tokens as its answer has, nobody else comes.
struct RunningScene : Scene {
  explicit RunningScene(uint64_t seed) : Scene(seed) {
    view.layers = Draw(1, 32);
    view.block_tokens = Draw(8, 64);
    view.rows = 512;
    view.free_blocks = Draw(0, 40);
    for (int32_t i = Draw(1, 20); i > 0; --i) {
      SequenceView& s = sequences.emplace_back();
      s.phase = Phase::kRunning;
      s.prompt = Draw(1, 800);
      s.max_tokens = 300;
      s.known = s.scheduled = s.prompt + Draw(1, 200);
      s.first_token = s.last_token = view.now;
      s.kept_layers = Draw(0, 2) > 0 ? view.layers : Draw(0, view.layers);
      step.Add(s.known, 1);
    }
    for (const SequenceView& s : sequences) running.push_back(&s);
    view.running = running;
  }
  int64_t Blocks(int32_t tokens) const { return (tokens + view.block_tokens - 1) / view.block_tokens; }
  SequenceView New() {
    SequenceView s;
    s.prompt = s.known = Draw(1, 2000);
    s.max_tokens = 300;
    return s;
  }

  std::deque<SequenceView> sequences;
  std::vector<const SequenceView*> running;
  StepWork step;
};

TEST(RoomAhead, NoFutureHasRoomSooner) {
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    RunningScene scene(seed);
    const RoomAhead ahead(scene.view);
    const absl::Duration token = scene.cost.Expect(scene.step);
    EXPECT_EQ(ahead.Until(scene.view.free_blocks), absl::ZeroDuration());
    std::vector<std::pair<absl::Duration, int64_t>> ends;
    int64_t room = scene.view.free_blocks;
    for (const SequenceView& s : scene.sequences) {
      const int32_t left = s.max_tokens - s.generated();
      const int32_t tokens = scene.Draw(std::min(left, scene.lengths.AtLeast(s.generated(), 0.1, left)), left);
      ends.emplace_back(tokens * token, scene.Blocks(s.known) * s.kept_layers / scene.view.layers);
    }
    std::sort(ends.begin(), ends.end());
    absl::Duration before;
    for (const auto& [end, blocks] : ends) {
      if (blocks > 0) {
        EXPECT_LE(ahead.Until(room + blocks), end + kTiny) << "seed " << seed;
      }
      room += blocks;
      EXPECT_GE(ahead.Until(room), before) << "more is not there sooner";
      before = ahead.Until(room);
    }
    EXPECT_EQ(ahead.Until(room + 1), absl::InfiniteDuration());
  }
}

TEST(RoomQueue, WhoStartsWholeWaitsForAllBeforeIt) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    RunningScene scene(seed);
    StepDraft draft{.least_layers = scene.view.layers, .resume_layers = scene.view.layers};
    for (SequenceView& s : scene.sequences) s.kept_layers = scene.view.layers;
    RoomQueue queue(scene.view, draft);
    const RoomAhead ahead(scene.view);
    int64_t blocks = 0;
    for (int i = 0; i < 10; ++i) {
      const SequenceView next = scene.New();
      blocks += scene.Blocks(next.known);
      EXPECT_EQ(queue.Wait(next), ahead.Until(blocks));
      queue.Take(next);
    }
  }
}

// As many as may start early wait for nothing; those behind start one by one, as those before get room for all layers,
// and never later than if they waited for room for themselves.
TEST(RoomQueue, WhoStartsEarlyWaitsForAPlaceAmongTheParked) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    RunningScene scene(seed);
    StepDraft draft{.starts = scene.Draw(0, 3), .resume_layers = scene.view.layers};
    if (draft.starts == 0) draft.hold_up = HoldUp::kParkedBound;
    RoomQueue queue(scene.view, draft);
    const RoomAhead ahead(scene.view);
    SequenceView parked = scene.New();
    parked.first_token = scene.view.now;
    queue.Take(parked);
    absl::Duration before;
    int64_t all = 0;
    for (int i = 0; i < 10; ++i) {
      const SequenceView next = scene.New();
      all += scene.Blocks(next.known);
      const absl::Duration wait = queue.Wait(next);
      if (i < draft.starts) {
        EXPECT_EQ(wait, absl::ZeroDuration());
      }
      EXPECT_GE(wait, before) << "seed " << seed << ": whoever comes later starts sooner";
      before = wait;
      queue.Take(next);
    }
    draft.hold_up = HoldUp::kStreamLate;  // that passes
    draft.starts = 0;
    EXPECT_EQ(RoomQueue(scene.view, draft).Wait(scene.New()), absl::ZeroDuration());
  }
}

TEST(ForecastError, IsWhatNineInTenStayWithin) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    Scene scene(seed);
    ForecastError error;
    EXPECT_EQ(error.factor(), 1);
    std::vector<double> ratios;
    const double usual = scene.Uniform(0.5, 3);
    for (int i = 0; i < 64; ++i) {
      ratios.push_back(usual * scene.Uniform(0.8, 1.2));
      error.Observe(absl::Seconds(1), absl::Seconds(ratios.back()));
    }
    const double factor = error.factor();
    EXPECT_GE(factor, 1);
    EXPECT_LE(factor, 2);
    const auto within = std::count_if(ratios.begin(), ratios.end(), [&](double r) { return r <= factor + 1e-6; });
    if (factor > 1 && factor < 2) {
      EXPECT_NEAR(static_cast<double>(within), 0.9 * 64, 1.5) << "seed " << seed;
    }
    for (int i = 0; i < 64; ++i) error.Observe(absl::Seconds(1), absl::Milliseconds(900));
    EXPECT_EQ(error.factor(), 1) << "what is long past does not count";
  }
}

TEST(Forecast, AMarginMultipliesIt) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    Scene scene(seed);
    SequenceView s = scene.Last();
    const Ahead ahead{scene.room, scene.All(), absl::Milliseconds(scene.Draw(0, 3000))};
    const int32_t found = scene.prompts.back().first;
    s.ttft = absl::Hours(1);
    const absl::Duration first = Predict(scene.view, ahead, s, found).needs;
    const absl::Duration alone = scene.cost.Prefill(found, s.known, scene.room.chunk_tokens);
    EXPECT_GE(first + kTiny, ahead.wait + alone) << "room comes first";
    const double margin = scene.Uniform(1, 2);
    s.ttft = scene.view.now - s.arrival + margin * first + kTiny;
    EXPECT_EQ(Predict(scene.view, ahead, s, found, margin).miss, Miss::kNone);
    s.ttft -= 2 * kTiny;
    EXPECT_EQ(Predict(scene.view, ahead, s, found, margin).miss, Miss::kTtft);
  }
}

TEST(Forecast, NothingIsPredictedBeforeAnythingIsKnown) {
  Scene scene(1);
  const CostModel fresh;
  scene.view.cost = &fresh;
  SequenceView s = scene.Last();
  s.ttft = absl::Nanoseconds(1);
  s.deadline = scene.view.now;
  EXPECT_EQ(Predict(scene.view, {scene.room, scene.All()}, s, 0).miss, Miss::kNone);
}

}  // namespace
}  // namespace interlace
