// What a look at the scheduler shows, against what the test knows of it.
#include "coordinator/snapshot.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "coordinator/replica_history.h"
#include "coordinator/request_trace.h"
#include "coordinator/scheduler.h"
#include "tests/coordinator/fake_replica.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

constexpr int32_t kBlockTokens = 8;

struct Client final : TokenSink {
  void OnTokens(absl::Span<const int32_t> tokens) override { got += static_cast<int64_t>(tokens.size()); }
  void OnEnd(const RequestEnd& e) override { end = e; }
  int64_t got = 0;
  std::optional<RequestEnd> end;
};

// A scheduler with scripted ranks; each turn takes a tenth of a second.
class Rig {
 public:
  Rig(uint64_t seed, absl::string_view policy, const Scheduler::Options& options, const std::vector<RankInfo>& ranks)
      : entropy(MakeSeededEntropy(seed)),
        replica(*entropy),
        scheduler(options, **FindPolicy(policy), clock, metrics, replica) {
    replica.fetch_percent = 100;
    replica.Start(Epoch{1}, ranks);
    scheduler.OnFormed(Epoch{1}, ranks);
  }
  std::shared_ptr<Client> Admit(int32_t prompt, int32_t max_tokens, Targets targets = {}) {
    auto client = std::make_shared<Client>();
    Request request{.id = RequestId{++next}, .name = absl::StrCat("r", next)};
    for (int32_t i = 0; i < prompt; ++i) request.prompt.push_back(Draw(*entropy, 0, kVocab - 1));
    request.max_tokens = max_tokens;
    request.arrival = clock.Now();
    request.deadline = clock.Now() + absl::Hours(1);
    request.targets = std::move(targets);
    request.sink = client;
    scheduler.Admit(std::move(request));
    return client;
  }
  void Turn() {
    clock.Advance(absl::Milliseconds(100));
    if (std::optional<StepResult> result = replica.Turn()) scheduler.OnResult(*std::move(result));
    scheduler.RunOnce();
    scheduler.CheckInvariants();
  }
  void Finish() {
    for (int i = 0; i < 100000 && !(scheduler.idle() && !replica.busy()); ++i) Turn();
    ASSERT_TRUE(scheduler.idle());
  }

  ManualClock clock;
  Metrics metrics{"test"};
  std::unique_ptr<Entropy> entropy;
  FakeReplica replica;
  uint64_t next = 0;
  Scheduler scheduler;
};

class SnapshotTest : public testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  }
  void TearDown() override { SetLogSink(nullptr, LogLevel::kInfo); }
  static Scheduler::Options Small() {
    Scheduler::Options options;
    options.context = 1000;
    options.chunk_tokens = 32;
    return options;
  }
};

// What must be so of every look, whatever happens.
void CheckLook(const ReplicaSnapshot& look, int64_t admitted) {
  ASSERT_EQ(look.total() + look.slo.finished + look.slo.failed, admitted);
  ASSERT_EQ(look.requests.size(), std::min<size_t>(static_cast<size_t>(look.total()), ReplicaSnapshot::kMostRequests));
  std::map<RequestState, int64_t> states;
  for (const RequestSnapshot& row : look.requests) {
    ++states[row.state];
    ASSERT_FALSE(row.phases.empty());
    ASSERT_EQ(row.phases[0].phase, RequestPhase::kWaiting);
    ASSERT_EQ(row.phases[0].begin, absl::ZeroDuration());
    for (size_t i = 1; i < row.phases.size(); ++i) {
      ASSERT_GE(row.phases[i].begin, row.phases[i - 1].begin);
      ASSERT_NE(row.phases[i].phase, row.phases[i - 1].phase);
    }
    ASSERT_LE(row.phases.back().begin, row.age);
    const bool runs = row.state == RequestState::kRunning || row.state == RequestState::kStreaming;
    ASSERT_EQ(row.phases.back().phase == RequestPhase::kRunning, runs);
    ASSERT_EQ(row.layers.size(), row.state == RequestState::kWaiting ? 0u : static_cast<size_t>(look.layers));
    ASSERT_EQ(row.generated > 0, row.first_token.has_value());
    if (runs) {
      ASSERT_EQ(std::count(row.layers.begin(), row.layers.end(), 'd'), row.kept);
      ASSERT_EQ(row.state == RequestState::kStreaming, row.kept < look.layers);
    }
  }
  if (look.total() == static_cast<int64_t>(look.requests.size())) {
    ASSERT_EQ(states[RequestState::kWaiting], look.waiting);
    ASSERT_EQ(states[RequestState::kFetching], look.fetching);
    ASSERT_EQ(states[RequestState::kRunning], look.running);
    ASSERT_EQ(states[RequestState::kStreaming], look.streaming);
    ASSERT_EQ(states[RequestState::kParked], look.parked);
  }
  std::vector<int64_t> device(look.stages.size()), host(look.stages.size());
  for (const LayerSnapshot& layer : look.by_layer) {
    device[layer.stage] += layer.device;
    host[layer.stage] += layer.host;
    ASSERT_GE(layer.device, 0);
    ASSERT_LE(layer.streamed_by, look.streaming);
  }
  int32_t layers = 0;
  for (size_t s = 0; s < look.stages.size(); ++s) {
    const StageSnapshot& stage = look.stages[s];
    ASSERT_EQ(stage.layer_begin, layers);
    layers = stage.layer_end;
    ASSERT_LE(device[s], stage.device.held + stage.device.cached);  // tails of requests are held too
    ASSERT_LE(stage.device.held + stage.device.cached, stage.device.total);
    ASSERT_LE(host[s], stage.host.held + stage.host.cached);
    ASSERT_LE(stage.host.held + stage.host.cached, stage.host.total);
    ASSERT_GE(std::min({stage.device.held, stage.device.cached, stage.host.held, stage.host.cached}), 0);
  }
  ASSERT_EQ(layers, look.layers);
}

TEST_F(SnapshotTest, EveryLookAddsUp) {
  int64_t parked = 0, streamed = 0, failed = 0;
  for (uint64_t seed = 0; seed < 24; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    const int32_t stages = 1 + static_cast<int32_t>(seed % 2);
    const char* policies[] = {"stream", "slack", "swap", "fcfs"};
    Rig rig(seed, policies[seed % 4], Small(), MakeRanks(4, stages, kBlockTokens, 160, seed % 3 == 0 ? 400 : 60));
    rig.replica.loss_permille = seed % 5 == 0 ? 10 : 0;
    std::vector<std::shared_ptr<Client>> clients;
    for (int turn = 0; turn < 600; ++turn) {
      if (clients.size() < 40 && Chance(*rig.entropy, 12)) {
        Targets targets;
        if (Chance(*rig.entropy, 50)) targets.ttft = absl::Milliseconds(Draw(*rig.entropy, 100, 4000));
        if (Chance(*rig.entropy, 50)) targets.largest_gap = absl::Milliseconds(Draw(*rig.entropy, 100, 2000));
        clients.push_back(rig.Admit(Draw(*rig.entropy, 1, 90), Draw(*rig.entropy, 1, 60), targets));
      }
      if (!clients.empty() && Chance(*rig.entropy, 1)) {
        rig.scheduler.Cancel(RequestId{1 + rig.entropy->Next() % rig.next}, absl::CancelledError("gone"));
      }
      rig.Turn();
      const ReplicaSnapshot look = rig.scheduler.Snapshot();
      CheckLook(look, static_cast<int64_t>(clients.size()));
      if (HasFatalFailure()) return;
      parked += look.parked;
      streamed += look.streaming;
      int64_t got = 0;
      for (const auto& client : clients) got += client->got;
      ASSERT_EQ(look.tokens, got);
    }
    rig.Finish();
    const ReplicaSnapshot look = rig.scheduler.Snapshot();
    CheckLook(look, static_cast<int64_t>(clients.size()));
    EXPECT_EQ(look.total(), 0);
    SloTally slo;
    for (const auto& client : clients) {
      ASSERT_TRUE(client->end);
      ++(client->end->status.ok() ? slo.finished : slo.failed);
      const auto count = [](const std::optional<bool>& met, TargetTally* tally) {
        if (met) ++(*met ? tally->met : tally->missed);
      };
      count(client->end->met.ttft, &slo.ttft);
      count(client->end->met.tpot, &slo.tpot);
      count(client->end->met.largest_gap, &slo.largest_gap);
      count(client->end->met.deadline, &slo.deadline);
    }
    slo.goodput = static_cast<int64_t>(rig.metrics.Total("interlace_slo_goodput_requests_total"));
    EXPECT_EQ(look.slo, slo);
    EXPECT_EQ(look.positions, static_cast<int64_t>(rig.metrics.Total("interlace_planned_tokens_total")));
    EXPECT_EQ(look.steps, static_cast<int64_t>(rig.metrics.Total("interlace_steps_total")));
    failed += slo.failed;
  }
  // The loads were worth looking at.
  EXPECT_GT(parked, 100);
  EXPECT_GT(streamed, 100);
  EXPECT_GT(failed, 0);
}

TEST_F(SnapshotTest, ShowsTheFirstOfManyInTheOrderOfService) {
  Scheduler::Options options = Small();
  options.max_running = 4;
  Rig rig(1, "fcfs", options, MakeRanks(4, 1, kBlockTokens, 1000, 0));
  for (int i = 0; i < 300; ++i) rig.Admit(8, 20);
  rig.Turn();
  const ReplicaSnapshot look = rig.scheduler.Snapshot();
  EXPECT_EQ(look.total(), 300);
  EXPECT_EQ(look.waiting, 296);
  ASSERT_EQ(look.requests.size(), ReplicaSnapshot::kMostRequests);
  for (size_t i = 0; i < look.requests.size(); ++i) EXPECT_EQ(look.requests[i].name, absl::StrCat("r", i + 1));
  EXPECT_EQ(look.requests[3].state, RequestState::kRunning);
  EXPECT_EQ(look.requests[4].state, RequestState::kWaiting);
}

TEST_F(SnapshotTest, ARequestIsShownAsItIs) {
  Rig rig(1, "stream", Small(), MakeRanks(4, 1, kBlockTokens, 1000, 0));
  Targets targets{.ttft = absl::Seconds(5), .tpot = absl::Seconds(1), .priority = 3, .tenant = "acme"};
  rig.Admit(20, 10, targets);
  ReplicaSnapshot look;
  do {
    rig.Turn();
    look = rig.scheduler.Snapshot();
  } while (look.requests[0].generated < 3);
  const RequestSnapshot& row = look.requests[0];
  EXPECT_EQ(row.name, "r1");
  EXPECT_EQ(row.state, RequestState::kRunning);
  EXPECT_EQ(row.targets, targets);
  EXPECT_EQ(row.deadline, absl::Hours(1));
  EXPECT_EQ(row.prompt, 20);
  EXPECT_EQ(row.max_tokens, 10);
  EXPECT_EQ(row.layers, "dddd");
  EXPECT_GE(row.computed, 22);
  EXPECT_EQ(row.since_token, absl::ZeroDuration());
  // By its mean pace the third token after the first is due three seconds after it; the nominal gap is longer.
  EXPECT_EQ(row.slack, *row.first_token + absl::Seconds(3) - row.age);
  EXPECT_EQ(look.policy, "stream");
  EXPECT_EQ(look.block_tokens, kBlockTokens);
  // Two sealed blocks, and one that is being filled.
  for (const LayerSnapshot& layer : look.by_layer) {
    EXPECT_EQ(layer.device, 2);
    EXPECT_EQ(layer.host, 0);
    EXPECT_EQ(layer.unsealed, 1);
  }
  rig.Finish();
  const ReplicaSnapshot end = rig.scheduler.Snapshot();
  ASSERT_EQ(end.ended.size(), 1u);
  EXPECT_EQ(end.ended[0].state, RequestState::kFinished);
  EXPECT_EQ(end.ended[0].generated, 10);
  EXPECT_EQ(end.ended[0].met.ttft, true);
  EXPECT_EQ(end.ended[0].layers, "dddd");
  EXPECT_EQ(end.ended[0].slack, absl::InfiniteDuration());
  EXPECT_EQ(end.ended[0].age + end.ended[0].ended, end.uptime);
  EXPECT_EQ(end.prompt_tokens, 20);
}

TEST_F(SnapshotTest, TrafficOfALayerOutlivesItsRequests) {
  Rig rig(1, "stream", Small(), MakeRanks(4, 1, kBlockTokens, 1000, 0));
  rig.Admit(8, 2);
  int64_t told = 0;
  for (int turn = 0; turn < 1000 && told < 3; ++turn) {
    rig.clock.Advance(absl::Milliseconds(1));
    if (std::optional<StepResult> result = rig.replica.Turn()) {
      result->traffic = {{RequestId{1}, LayerId{2}, 100, 10, 7},
                         {RequestId{99}, LayerId{3}, 1, 0, 0},
                         {RequestId{1}, LayerId{-1}, 5, 5, 5},
                         {RequestId{1}, LayerId{1 << 20}, 5, 5, 5}};
      ++told;
      rig.scheduler.OnResult(*std::move(result));
    }
    rig.scheduler.RunOnce();
    if (rig.scheduler.idle()) rig.Admit(8, 2);
  }
  const ReplicaSnapshot look = rig.scheduler.Snapshot();
  EXPECT_EQ(look.by_layer[2].bytes_in, 300);
  EXPECT_EQ(look.by_layer[2].bytes_out, 30);
  EXPECT_EQ(look.by_layer[2].stall, absl::Microseconds(21));
  EXPECT_EQ(look.by_layer[3].bytes_in, 3);
  EXPECT_EQ(look.by_layer[1].bytes_in, 0);
}

TEST_F(SnapshotTest, WithoutAReplicaRequestsWaitAndNothingIsHeld) {
  Rig rig(1, "stream", Small(), MakeRanks(4, 1, kBlockTokens, 1000, 0));
  rig.Admit(20, 10);
  for (int i = 0; i < 6; ++i) rig.Turn();
  const int64_t tokens = rig.scheduler.Snapshot().tokens;
  rig.replica.Stop();
  rig.scheduler.OnLost(absl::UnavailableError("gone"));
  const ReplicaSnapshot look = rig.scheduler.Snapshot();
  EXPECT_EQ(look.ranks_ready, 0);
  EXPECT_EQ(look.layers, 0);
  EXPECT_TRUE(look.stages.empty());
  EXPECT_TRUE(look.by_layer.empty());
  EXPECT_EQ(look.waiting, 1);
  EXPECT_EQ(look.tokens, tokens);
  ASSERT_EQ(look.requests.size(), 1u);
  EXPECT_EQ(look.requests[0].layers, "");
  EXPECT_EQ(look.requests[0].phases.back().phase, RequestPhase::kParked);  // set aside after it ran
}

TEST(RequestTraceTest, TellsAFirstWaitFromALaterOneAndStaysSmall) {
  RequestTrace trace;
  const absl::Time begin = absl::UnixEpoch();
  trace.Enter(PhaseOf(Spending::kQueued), begin);
  trace.Enter(PhaseOf(Spending::kQueued), begin + absl::Seconds(1));  // it still waits
  ASSERT_EQ(trace.changes().size(), 1u);
  for (int i = 1; i < 200; ++i) {
    trace.Enter(PhaseOf(Spending::kDecode), begin + absl::Seconds(2 * i));
    trace.Enter(PhaseOf(Spending::kParked), begin + absl::Seconds(2 * i + 1));
  }
  ASSERT_LE(trace.changes().size(), RequestTrace::kMost);
  ASSERT_GE(trace.changes().size(), RequestTrace::kMost - 1);
  EXPECT_EQ(trace.changes()[0], (RequestTrace::Change{RequestPhase::kWaiting, begin}));
  EXPECT_EQ(trace.changes()[2], (RequestTrace::Change{RequestPhase::kParked, begin + absl::Seconds(3)}));
  for (size_t i = 1; i < trace.changes().size(); ++i) {
    EXPECT_NE(trace.changes()[i].phase, trace.changes()[i - 1].phase);
  }
  EXPECT_EQ(trace.changes().back().phase, RequestPhase::kParked);  // what it does now
}

TEST(ReplicaHistoryTest, CountsByTheSecondAndForgets) {
  const absl::Time began = absl::UnixEpoch() + absl::Milliseconds(300);
  const auto entropy = MakeSeededEntropy(3);
  ReplicaHistory history(began);
  std::map<int64_t, int64_t> tokens;  // by the second
  absl::Duration at;
  for (int i = 0; i < 2000; ++i) {
    at += absl::Milliseconds(Draw(*entropy, 0, 400) * (Chance(*entropy, 1) ? 300 : 1));
    const int64_t count = Draw(*entropy, 0, 5);
    history.OnTokens(began + at, count);
    history.OnStep(began + at, absl::Milliseconds(i), 2 * count);
    tokens[absl::ToInt64Seconds(at)] += count;
    ReplicaSnapshot look;
    history.Fill(began + at, &look);
    const int64_t present = absl::ToInt64Seconds(at);
    ASSERT_EQ(look.seconds.size(), static_cast<size_t>(std::min<int64_t>(present, ReplicaSnapshot::kSeconds)));
    for (size_t s = 0; s < look.seconds.size(); ++s) {
      const int64_t number = present - static_cast<int64_t>(look.seconds.size() - s);
      ASSERT_EQ(look.seconds[s].tokens, tokens.count(number) > 0 ? tokens[number] : 0) << number;
      ASSERT_EQ(look.seconds[s].positions, 2 * look.seconds[s].tokens);
    }
  }
  ReplicaSnapshot look;
  history.Fill(began + at, &look);
  EXPECT_EQ(look.steps, 2000);
  EXPECT_NEAR(absl::ToDoubleMilliseconds(look.step_p50), 2000 - 128, 2);  // of the last 256
  EXPECT_NEAR(absl::ToDoubleMilliseconds(look.step_p95), 2000 - 13, 2);
}

TEST(ReplicaHistoryTest, KeepsTheLastEndsLatestFirst) {
  ReplicaHistory history(absl::UnixEpoch());
  for (int i = 0; i < 100; ++i) {
    RequestSnapshot row;
    row.name = absl::StrCat("r", i);
    row.state = i % 2 == 0 ? RequestState::kFinished : RequestState::kFailed;
    row.met.ttft = i % 4 == 0;
    history.OnEnd(absl::UnixEpoch() + absl::Seconds(i), row);
  }
  ReplicaSnapshot look;
  history.Fill(absl::UnixEpoch() + absl::Seconds(100), &look);
  ASSERT_EQ(look.ended.size(), ReplicaSnapshot::kMostEnded);
  EXPECT_EQ(look.ended[0].name, "r99");
  EXPECT_EQ(look.ended[0].ended, absl::Seconds(1));
  EXPECT_EQ(look.ended.back().name, absl::StrCat("r", 100 - ReplicaSnapshot::kMostEnded));
  EXPECT_EQ(look.slo.ttft, (TargetTally{25, 75}));
  EXPECT_EQ(look.slo.finished, 50);
  EXPECT_EQ(look.slo.goodput, 25);
}

}  // namespace
}  // namespace interlace
