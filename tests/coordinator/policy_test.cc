// Policies are pure functions: each rule against its definition, by search or by simulation, over seeds.
#include "coordinator/policy/policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <memory>
#include <vector>

#include "common/entropy.h"
#include "coordinator/policy/early_start.h"
#include "coordinator/policy/pace.h"
#include "coordinator/policy/reserve.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

constexpr absl::Duration kNone = absl::InfiniteDuration();

class Chance {
 public:
  explicit Chance(uint64_t seed) : entropy_(MakeSeededEntropy(seed)) {}
  double Uniform() { return static_cast<double>(entropy_->Next() >> 11) / 9007199254740992.0; }
  double Between(double low, double high) { return low + (high - low) * Uniform(); }
  int32_t Draw(int32_t low, int32_t high) { return low + static_cast<int32_t>(Uniform() * (high - low + 1)); }
  absl::Duration Milliseconds(double low, double high) { return absl::Milliseconds(Between(low, high)); }

 private:
  const std::unique_ptr<Entropy> entropy_;
};

// A step of random requests on a machine whose cost is known.
struct Scene {
  explicit Scene(uint64_t seed) : chance(seed) {
    const double fixed = chance.Between(1e-3, 2e-2), row = chance.Between(1e-4, 1e-3);
    for (int i = 0; i < 64; ++i) {
      const StepWork work = StepWork().Add(chance.Draw(0, 500), chance.Draw(1, 200));
      cost.Observe(work, absl::Seconds(fixed + row * static_cast<double>(work.rows)));
    }
    cost.ObserveTransfer(Route::kIn, 1'000'000, chance.Milliseconds(0.1, 5));
    cost.ObserveTransfer(Route::kOut, 1'000'000, chance.Milliseconds(0.1, 5));
    for (int i = 0; i < 100; ++i) lengths.Ended(chance.Draw(1, 300));
    now = absl::UnixEpoch() + absl::Seconds(1000);
    for (int32_t i = chance.Draw(0, 20); i > 0; --i) Add();
    for (const SequenceView& sequence : sequences) running.push_back(&sequence);
    view.now = view.begins = now;
    view.running = running;
    for (int32_t i = chance.Draw(0, 5); i > 0; --i) {
      SequenceView& s = queued.emplace_back();
      s.arrival = now;
      s.deadline = absl::InfiniteFuture();
      s.prompt = s.known = chance.Draw(1, 2000);
      s.max_tokens = chance.Draw(1, 300);
    }
    for (const SequenceView& sequence : queued) waiting.push_back(&sequence);
    view.waiting = waiting;
    view.rows = 512;
    view.layers = chance.Draw(1, 40);
    for (SequenceView& sequence : sequences) sequence.kept_layers = std::min(sequence.kept_layers, view.layers);
    view.block_tokens = chance.Draw(1, 64);
    view.block_bytes = 12288;
    view.device_blocks = chance.Draw(8, 1000);
    view.free_blocks = chance.Draw(0, static_cast<int32_t>(view.device_blocks));
    view.parked = chance.Draw(0, 20);
    view.begun_waiting = chance.Draw(0, view.parked);
    view.cost = &cost;
    view.lengths = &lengths;
  }
  void Add() {
    SequenceView& s = sequences.emplace_back();
    s.id = RequestId{sequences.size()};
    s.phase = Phase::kRunning;
    s.arrival = now - chance.Milliseconds(0, 20000);
    s.deadline = s.arrival + absl::Seconds(600);
    s.prompt = chance.Draw(1, 500);
    s.max_tokens = chance.Draw(1, 300);
    s.known = s.prompt + (chance.Draw(0, 3) > 0 ? chance.Draw(0, s.max_tokens - 1) : 0);
    s.scheduled = s.generated() > 0 ? s.known : chance.Draw(0, s.prompt);
    if (s.generated() > 0) {
      s.first_token = s.arrival + (now - s.arrival) * chance.Uniform();
      s.last_token = s.first_token + (now - s.first_token) * chance.Uniform();
    }
    if (chance.Draw(0, 1) > 0) s.tpot = chance.Milliseconds(5, 300);
    if (chance.Draw(0, 1) > 0) s.largest_gap = chance.Milliseconds(100, 5000);
    if (chance.Draw(0, 1) > 0) s.ttft = chance.Milliseconds(100, 5000);
    s.priority = chance.Draw(-2, 2);
    s.kept_layers = chance.Draw(0, 40);
    s.sealed = s.known / 16;
  }

  Chance chance;
  CostModel cost;
  LengthHistory lengths;
  absl::Time now;
  std::deque<SequenceView> sequences, queued;
  std::vector<const SequenceView*> running, waiting;
  StepView view;
};

// The pause is the largest after which the mean time per token is still what is aimed at.
TEST(Pace, AllowedPauseIsTheLargestThatKeepsThePromise) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    Chance chance(seed);
    SequenceView s;
    s.prompt = 10;
    s.known = 10 + chance.Draw(1, 200);
    s.first_token = absl::UnixEpoch();
    s.last_token = s.first_token + chance.Milliseconds(0, 5000);
    s.tpot = chance.Milliseconds(5, 300);
    const absl::Time now = s.last_token + chance.Milliseconds(0, 500);
    const int32_t future = chance.Draw(1, 100);
    const absl::Duration per_token = chance.Milliseconds(1, 100);
    const absl::Duration pause = AllowedPause(s, now, future, per_token);
    const auto mean = [&](absl::Duration paused) {
      return ((now - s.first_token) + paused + future * per_token) / (s.generated() - 1 + future);
    };
    EXPECT_NEAR(absl::ToDoubleSeconds(mean(pause)), absl::ToDoubleSeconds(kPaceAim * s.tpot), 1e-9) << "seed " << seed;
    EXPECT_GT(mean(pause + absl::Milliseconds(1)), kPaceAim * s.tpot) << "seed " << seed;
    s.largest_gap = chance.Milliseconds(1, 3000);
    const absl::Duration bounded = AllowedPause(s, now, future, per_token);
    EXPECT_EQ(bounded, std::min(pause, s.last_token + s.largest_gap - now - per_token));
  }
}

// A stream that is faster than its TPOT has a deposit: its next token is due as much later as its tokens came early.
// What is due when does not depend on when the tokens before it came, but for the largest gap.
TEST(Pace, TokensThatCameEarlyAreADeposit) {
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    Scene scene(seed);
    SequenceView s;
    s.arrival = scene.now - absl::Seconds(100);
    s.deadline = absl::InfiniteFuture();
    s.prompt = 10;
    s.max_tokens = 1000;
    s.known = s.prompt + scene.chance.Draw(1, 200);
    s.tpot = scene.chance.Milliseconds(10, 300);
    s.largest_gap = absl::Hours(1);
    s.first_token = scene.now - scene.chance.Milliseconds(1, 30000);
    s.last_token =
        s.generated() == 1 ? s.first_token : s.first_token + (scene.now - s.first_token) * scene.chance.Uniform();
    const absl::Time at_pace = s.first_token + s.tpot * s.generated();
    const absl::Time by_gap = s.last_token + absl::Seconds(4);  // nobody waits without end
    EXPECT_EQ(Due(s), std::min(at_pace, by_gap));
    SequenceView ahead = s;
    const int32_t more = scene.chance.Draw(1, 50);  // tokens made in the same time
    ahead.known += more;
    EXPECT_EQ(Due(ahead), std::min(at_pace + s.tpot * more, by_gap));
    const absl::Duration pause = AllowedPause(s, scene.now, 1, absl::ZeroDuration());
    const absl::Duration longer = AllowedPause(ahead, scene.now, 1, absl::ZeroDuration());
    EXPECT_NEAR(absl::ToDoubleSeconds(longer - pause), absl::ToDoubleSeconds(kPaceAim * s.tpot * more), 1e-9);
  }
}

TEST(Pace, NobodyWithoutTargetsIsEverPaused) {
  SequenceView s;
  EXPECT_EQ(AllowedPause(s, absl::UnixEpoch(), 1, absl::Seconds(1)), kNone);
  s.first_token = s.last_token = absl::UnixEpoch();
  EXPECT_EQ(AllowedPause(s, absl::UnixEpoch() + absl::Hours(1), 1, absl::Seconds(1)), kNone);
}

// A request that decodes alone and obeys the allowed step in each of its steps keeps TPOT and gap, whatever prompts
// join; also where a step is planned while the one before it runs, and so before its token is known.
TEST(Pace, StepsWithinTheAllowedOneKeepEveryTarget) {
  for (uint64_t seed = 1; seed <= 600; ++seed) {
    Scene scene(seed);
    Chance& chance = scene.chance;
    const bool ahead = seed % 2 == 0;
    SequenceView s;
    s.phase = Phase::kRunning;
    s.prompt = s.scheduled = 100;
    s.known = 101;
    s.max_tokens = 200;
    s.deadline = absl::InfiniteFuture();
    const absl::Duration alone = scene.cost.Bound(StepWork().Add(400, 1));
    s.tpot = alone * chance.Between(1.3, 10);
    s.largest_gap = alone * chance.Between(2, 20);
    const absl::Time begin = absl::UnixEpoch();
    s.first_token = s.last_token = begin;
    const SequenceView* running[] = {&s};
    scene.view.running = running;
    scene.view.block_tokens = 1;
    const auto plan = [&](absl::Time now, absl::Time begins) {
      scene.view.now = now;
      scene.view.begins = begins;
      const int32_t rows =
          std::min(PromptRows(scene.view, PaceOf(scene.view)), 512) - 1;  // one block is always allowed: here one row
      return scene.cost.Expect(StepWork().Add(s.known, 1).Add(0, std::max(0, rows)));
    };
    absl::Time end = begin + plan(begin, begin);
    s.pending = ahead ? 1 : 0;
    absl::Duration largest = end - begin;
    while (s.generated() < s.max_tokens) {
      const absl::Duration next = ahead ? plan(s.last_token, end) : absl::ZeroDuration();
      s.last_token = end;
      s.scheduled = s.known++;
      const absl::Duration step = ahead ? next : plan(end, end);
      if (s.generated() + s.pending < s.max_tokens) largest = std::max(largest, step);
      end += step;
    }
    EXPECT_LE((s.last_token - s.first_token) / (s.generated() - 1), s.tpot * 1.001) << "seed " << seed;
    EXPECT_LE(largest, s.largest_gap * 1.001) << "seed " << seed;
  }
}

TEST(Pace, RowsThatHideTakeNoLongerThanTheReads) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    Scene scene(seed);
    EXPECT_EQ(RowsThatHide(CostModel(), 0, 512, 1 << 20), 0) << "nothing is known";
    CostModel cost = scene.cost;
    EXPECT_EQ(RowsThatHide(cost, 0, 512, 0), 0) << "nothing is read";
    cost.ObserveTransfer(Route::kIn, 1 << 20, absl::Milliseconds(1));
    const auto start = static_cast<int32_t>(seed * 7), most = static_cast<int32_t>(1 + seed * 5);
    const int64_t bytes = int64_t{1} << (10 + seed % 20);
    const absl::Duration reads = cost.Transfer(Route::kIn, bytes);
    const int32_t rows = RowsThatHide(cost, start, most, bytes);
    EXPECT_LE(rows, most);
    if (rows > 0) {
      EXPECT_LE(cost.Bound(StepWork().Add(start, rows)), reads) << seed;
    }
    if (rows < most) {
      EXPECT_GT(cost.Bound(StepWork().Add(start, rows + 1)), reads) << seed;
    }
  }
}

TEST(Pace, StreamBytesTravelWithinTheStep) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    Scene scene(seed);
    StepWork work;
    for (const SequenceView* s : scene.running) {
      if (s->decodes()) work.Add(s->known, 1);
    }
    const int64_t bytes = StreamBytes(scene.view, PaceOf(scene.view));
    EXPECT_LE(scene.cost.Transfer(Route::kIn, bytes), scene.cost.Expect(work) + absl::Nanoseconds(10));
    EXPECT_GT(scene.cost.Transfer(Route::kIn, bytes + 100), scene.cost.Expect(work));
  }
}

// ---- reserve

TEST(Reserve, AnEmptyDeviceReservesNothing) {
  for (ReserveRule rule : {ReserveRule::kNone, ReserveRule::kShare, ReserveRule::kCap, ReserveRule::kQuantile}) {
    Scene scene(3);
    scene.view.running = {};
    scene.view.options = {.reserve = rule, .reserve_factor = 1e6};
    EXPECT_EQ(ReservedBlocks(scene.view), 0);
  }
}

TEST(Reserve, RulesAreTheirFormulas) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    Scene scene(seed);
    StepView& view = scene.view;
    const auto n = static_cast<double>(view.running.size());
    if (n == 0) continue;
    view.options = {.reserve = ReserveRule::kNone, .reserve_factor = 5};
    EXPECT_EQ(ReservedBlocks(view), 0);
    int64_t before = 0;
    for (double o = 0; o <= 12; o += 0.2) {
      view.options = {.reserve = ReserveRule::kShare, .reserve_factor = o};
      const auto exact = static_cast<int64_t>(std::ceil(o * n / view.block_tokens));
      EXPECT_EQ(ReservedBlocks(view), std::min(exact, view.device_blocks / 8));
      EXPECT_GE(ReservedBlocks(view), before) << "more is never reserved for less";
      before = ReservedBlocks(view);
    }
    for (double a = 1.8; a <= 7.5; a += 0.2) {
      view.options = {.reserve = ReserveRule::kCap, .reserve_factor = a};
      EXPECT_EQ(ReservedBlocks(view), static_cast<double>(view.device_blocks) / n > a ? 0 : view.device_blocks);
    }
  }
}

// The answers' lengths are drawn from what the history has seen: the reserve covers what they need in 94 of 100
// futures.
TEST(Reserve, QuantileCoversWhatTheNextBlockOfTokensNeeds) {
  int64_t futures = 0, covered = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Scene scene(seed);
    Chance& chance = scene.chance;
    std::deque<SequenceView> sequences;
    std::vector<const SequenceView*> running;
    for (int i = 0; i < 60; ++i) {
      SequenceView& s = sequences.emplace_back();
      s.phase = Phase::kRunning;
      s.prompt = chance.Draw(1, 100);
      s.known = s.scheduled = s.prompt + chance.Draw(1, 200);
      s.max_tokens = 1000;
      running.push_back(&s);
    }
    scene.view.running = running;
    scene.view.block_tokens = chance.Draw(8, 64);
    scene.view.device_blocks = 100000;
    scene.view.options = {};
    const int64_t reserve = ReservedBlocks(scene.view);
    for (int future = 0; future < 100; ++future, ++futures) {
      int64_t needed = 0;
      for (const SequenceView* s : running) {
        const int32_t room = (scene.view.block_tokens - s->known % scene.view.block_tokens) % scene.view.block_tokens;
        int32_t length = 0;  // of the answer, given that it is as long as it is
        while (length < s->generated()) length = chance.Draw(1, 300);
        needed += length - s->generated() > room ? 1 : 0;
      }
      covered += needed <= reserve ? 1 : 0;
    }
  }
  EXPECT_GE(covered, 94 * futures / 100) << covered << " of " << futures;
  EXPECT_LT(covered, futures) << "a reserve that is always enough is too much";
}

TEST(Reserve, TextNamesARule) {
  PolicyOptions options;
  EXPECT_OK(ParseReserve("share:1.2", &options));
  EXPECT_EQ(options.reserve, ReserveRule::kShare);
  EXPECT_EQ(options.reserve_factor, 1.2);
  EXPECT_OK(ParseReserve("none", &options));
  EXPECT_OK(ParseReserve("quantile", &options));
  EXPECT_OK(ParseReserve("cap:3", &options));
  for (const char* text : {"", "share", "share:", "share:-1", "share:nan", "none:1", "cap:x", "search1:2"}) {
    EXPECT_FALSE(ParseReserve(text, &options).ok()) << text;
  }
}

// ---- lengths

TEST(LengthHistory, AnswersFromTheLastOnesOnly) {
  LengthHistory lengths;
  EXPECT_EQ(lengths.AtLeast(0, 0.1, 1000), 0);
  EXPECT_EQ(lengths.Reaching(10, 10), 1);
  Chance chance(5);
  std::deque<int32_t> last;
  for (int i = 0; i < 1000; ++i) {
    const int32_t tokens = chance.Draw(0, 40);
    lengths.Ended(tokens);
    last.push_back(tokens);
    if (last.size() > LengthHistory::kKept) last.pop_front();
    const int32_t g = chance.Draw(0, 45), more = chance.Draw(0, 10);
    const auto at_least = [&](int32_t n) {
      return std::count_if(last.begin(), last.end(), [n](int32_t t) { return t >= n; });
    };
    const auto reached = at_least(g);
    const double expected = reached < 8 ? 1 : static_cast<double>(at_least(g + more)) / static_cast<double>(reached);
    ASSERT_DOUBLE_EQ(lengths.Reaching(g, more), expected);
    if (at_least(g + 1) < 8) continue;
    const int32_t left = lengths.AtLeast(g, 0.25, 1000);
    ASSERT_GE(4 * at_least(g + left), 3 * at_least(g + 1)) << "a quarter at most ends before";
  }
}

// ---- the table

TEST(Policies, AreFoundByNameAndOtherNamesAreNot) {
  for (const Policy& policy : Policies()) {
    const absl::StatusOr<const Policy*> found = FindPolicy(policy.name);
    ASSERT_OK(found.status());
    EXPECT_EQ(*found, &policy);
    EXPECT_FALSE(policy.meaning.empty());
  }
  EXPECT_FALSE(FindPolicy("").ok());
  EXPECT_FALSE(FindPolicy("fifo").ok());
}

// The same view, the same draft: however often, and whatever was composed in between.
TEST(Policies, ArePure) {
  std::vector<std::unique_ptr<Scene>> scenes;
  std::vector<StepDraft> drafts;
  std::vector<double> keys;
  for (uint64_t seed = 1; seed <= 200; ++seed) scenes.push_back(std::make_unique<Scene>(seed));
  for (const Policy& policy : Policies()) {
    for (const auto& scene : scenes) {
      drafts.push_back(policy.compose(scene->view));
      for (const SequenceView* s : scene->running) keys.push_back(policy.key(*s, scene->cost));
    }
  }
  auto draft = drafts.rbegin();
  for (auto policy = Policies().rbegin(); policy != Policies().rend(); ++policy) {
    for (auto scene = scenes.rbegin(); scene != scenes.rend(); ++scene) {
      EXPECT_EQ(policy->compose((*scene)->view), *draft++);
    }
  }
  auto key = keys.begin();
  for (const Policy& policy : Policies()) {
    for (const auto& scene : scenes) {
      for (const SequenceView* s : scene->running) EXPECT_EQ(policy.key(*s, scene->cost), *key++);
    }
  }
}

// Whatever the view, a policy leaves a way on: rows for prompts, and a start on an empty device.
TEST(Policies, LeaveAWayOn) {
  const CostModel nothing;
  for (const Policy& policy : Policies()) {
    for (uint64_t seed = 1; seed <= 300; ++seed) {
      Scene scene(seed);
      const StepDraft draft = policy.compose(scene.view);
      EXPECT_GT(draft.prompt_rows, 0) << policy.name;
      EXPECT_GE(draft.stream_bytes, 0) << policy.name;
      EXPECT_GE(draft.most_layers, draft.least_layers) << policy.name;
      scene.view.running = {};
      scene.view.parked = scene.view.begun_waiting = 0;
      scene.view.cost = &nothing;  // else nobody may start early where arithmetic is the limit
      const StepDraft empty = policy.compose(scene.view);
      EXPECT_GT(empty.starts, 0) << policy.name;
      EXPECT_EQ(empty.spare_blocks, 0) << policy.name;
    }
  }
}

const Policy& Named(absl::string_view name) { return **FindPolicy(name); }

// Streams that run again read from the host no more than a step brings while it is computed, less what those who run
// read of it; and only where somebody waits for the rest of an answer.
TEST(Policies, WhoRunsAgainReadsWithinTheStep) {
  int some = 0, none = 0;
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    Scene scene(seed);
    int64_t reads = 0;
    for (const SequenceView& s : scene.sequences) {
      const bool streams = s.decodes() && s.kept_layers < scene.view.layers;
      if (streams) reads += int64_t{s.sealed} * (scene.view.layers - s.kept_layers) * scene.view.block_bytes;
    }
    for (const Policy& policy : Policies()) {
      const StepDraft draft = policy.compose(scene.view);
      ASSERT_GE(draft.resume_bytes, 0) << policy.name;
      if (draft.resume_bytes == 0) continue;
      ASSERT_LE(reads + draft.resume_bytes, draft.stream_bytes) << policy.name << " seed " << seed;
      EXPECT_TRUE(draft.park_streams) << policy.name << " would read without a limit";
      EXPECT_GT(scene.view.begun_waiting, 0);
    }
    (Named("slack").compose(scene.view).resume_bytes > 0 ? some : none) += 1;
  }
  EXPECT_GT(some, 20);
  EXPECT_GT(none, 20);
}

// Whoever is about to be late reads first, least slack first; then the oldest, however far ahead of its pace it is.
TEST(Pace, TheOldestReadsFirstUnlessSomebodyIsAboutToBeLate) {
  int late_first = 0, oldest_first = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    const Scene scene(seed);
    const absl::Time soon = scene.now + absl::Milliseconds(100);
    for (const SequenceView* a : scene.running) {
      for (const SequenceView* b : scene.running) {
        if (!a->begun() || !b->begun()) continue;
        const bool a_late = Due(*a) <= soon, b_late = Due(*b) <= soon;
        const bool first = ReadingOrder(*a, scene.now) < ReadingOrder(*b, scene.now);
        if (a_late != b_late) {
          ASSERT_EQ(first, a_late);
          late_first += 1;
        } else if (a_late) {
          ASSERT_EQ(first, Due(*a) < Due(*b));
        } else {
          ASSERT_EQ(first, a->first_token < b->first_token);
          oldest_first += first ? 1 : 0;
        }
      }
    }
  }
  EXPECT_GT(late_first, 20);
  EXPECT_GT(oldest_first, 20);
}

TEST(Policies, NobodyStarvesUnderAging) {
  CostModel cost;
  SequenceView old, fresh;
  old.priority = 5;
  fresh.priority = -5;
  for (const char* name : {"priority", "slack"}) {
    old.arrival = absl::UnixEpoch();
    old.deadline = fresh.deadline = absl::InfiniteFuture();
    fresh.arrival = old.arrival;
    EXPECT_LT(Named(name).key(fresh, cost), Named(name).key(old, cost)) << name;
    fresh.arrival = old.arrival + absl::Minutes(6);
    EXPECT_GT(Named(name).key(fresh, cost), Named(name).key(old, cost)) << name;
  }
}

TEST(Policies, EdfServesTheEarliestDeadlineFirst) {
  CostModel cost;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Scene scene(seed);
    for (const SequenceView* a : scene.running) {
      for (const SequenceView* b : scene.running) {
        if (a->begun() || b->begun()) continue;
        const absl::Time due_a = std::min(a->deadline, a->arrival + a->ttft);
        const absl::Time due_b = std::min(b->deadline, b->arrival + b->ttft);
        if (due_a + absl::Microseconds(1) < due_b) {
          EXPECT_LT(Named("edf").key(*a, cost), Named("edf").key(*b, cost));
        }
      }
    }
  }
}

// Slack starts nobody early where arithmetic is the limit, and says so; the policies of others do as they were written.
TEST(Policies, SlackStartsNobodyEarlyWhereArithmeticIsTheLimit) {
  int limited = 0, held = 0;
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    Scene scene(seed);
    scene.view.parked = scene.view.begun_waiting = 0;
    scene.view.running = {};
    if (scene.queued.empty()) continue;
    const bool room = RoomIsTheLimit(scene.view);
    limited += room ? 1 : 0;
    held += room ? 0 : 1;
    for (const char* name : {"slack", "priority", "edf", "fair"}) {
      const StepDraft draft = Named(name).compose(scene.view);
      EXPECT_EQ(draft.starts > 0, room) << name << " seed " << seed;
      EXPECT_EQ(draft.hold_up, room ? HoldUp::kNone : HoldUp::kCoresBusy);
    }
    EXPECT_GT(Named("layerkv").compose(scene.view).starts, 0);
    scene.queued.front().first_token = scene.now;  // it waits for the rest of its answer
    if (scene.queued.size() == 1) {
      EXPECT_GT(Named("slack").compose(scene.view).starts, 0) << "nobody asks";
    }
  }
  EXPECT_GT(limited, 20);
  EXPECT_GT(held, 20);
}

// With more room a request's own time is the same, and less is idle.
TEST(Policies, MoreRoomLeavesLessIdle) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Scene scene(seed);
    if (scene.running.size() + scene.queued.size() == 0) continue;
    double before = std::numeric_limits<double>::infinity();
    for (int64_t blocks = 1; blocks < 1'000'000; blocks *= 3) {
      scene.view.device_blocks = blocks;
      const ServiceTimes service = ServiceOf(scene.view);
      EXPECT_GE(service.own, 0);
      EXPECT_LE(service.idle, before) << "seed " << seed;
      before = service.idle;
    }
  }
}

// A long prompt, which must start earlier for the same target, does not hold up the short ones that came before it. Of
// those who wait for the rest of an answer, whoever has more to compute again comes first.
TEST(Policies, SlackCountsWhatIsLeftToDoOnceThereIsAToken) {
  Scene scene(1);
  SequenceView small, large;
  small.arrival = large.arrival = scene.now;
  small.deadline = large.deadline = absl::InfiniteFuture();
  small.ttft = large.ttft = absl::Seconds(1);
  small.prompt = small.known = 10;
  large.prompt = large.known = 2000;
  large.arrival += absl::Milliseconds(1);
  EXPECT_LT(Named("slack").key(small, scene.cost), Named("slack").key(large, scene.cost));
  for (SequenceView* sequence : {&small, &large}) {
    sequence->first_token = sequence->last_token = scene.now;
    sequence->known += 1;
  }
  EXPECT_GT(Named("slack").key(small, scene.cost), Named("slack").key(large, scene.cost));
}

}  // namespace
}  // namespace interlace
