// What a request reached and whether that met its targets: single ends, and histories whose sinks measure for
// themselves.
#include "coordinator/slo_outcome.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "coordinator/scheduler.h"
#include "tests/coordinator/fake_replica.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

constexpr absl::Duration kMs = absl::Milliseconds(1);

// Asks for 100 ms, 20 ms, 50 ms and 1 s.
Request Asking() {
  Request request;
  request.arrival = absl::UnixEpoch();
  request.deadline = request.arrival + absl::Seconds(1);
  request.targets = {.ttft = 100 * kMs, .tpot = 20 * kMs, .largest_gap = 50 * kMs};
  return request;
}

RequestEnd Ended(absl::Status status, int32_t tokens, absl::Duration first, absl::Duration tpot, absl::Duration gap,
                 absl::Duration total) {
  RequestEnd end{.status = std::move(status), .completion_tokens = tokens};
  end.timing = {absl::ZeroDuration(), first, total, tpot, gap};
  return end;
}

TEST(OutcomeTest, WhatEndedWellIsMetUpToTheTargetItself) {
  const auto at = [](int32_t first, int32_t tpot, int32_t gap, int32_t total) {
    return OutcomeOf(Asking(), Ended(absl::OkStatus(), 9, first * kMs, tpot * kMs, gap * kMs, total * kMs));
  };
  EXPECT_EQ(at(100, 20, 50, 1000), (TargetsMet{true, true, true, true}));
  EXPECT_EQ(at(101, 20, 50, 1000), (TargetsMet{false, true, true, true}));
  EXPECT_EQ(at(100, 21, 50, 1000), (TargetsMet{true, false, true, true}));
  EXPECT_EQ(at(100, 20, 51, 1000), (TargetsMet{true, true, false, true}));
  EXPECT_EQ(at(100, 20, 50, 1001), (TargetsMet{true, true, true, false}));
}

TEST(OutcomeTest, WhoAsksForNothingIsToldNothing) {
  Request request = Asking();
  request.targets = {};
  request.deadline = absl::InfiniteFuture();
  const RequestEnd end = Ended(absl::OkStatus(), 9, 100 * kMs, 20 * kMs, 50 * kMs, 900 * kMs);
  EXPECT_EQ(OutcomeOf(request, end), TargetsMet());
  EXPECT_TRUE(IsGoodput(end));
}

TEST(OutcomeTest, WithoutASecondTokenThereIsNoGapToMiss) {
  RequestEnd end = Ended(absl::OkStatus(), 1, 90 * kMs, {}, {}, 90 * kMs);
  EXPECT_EQ(OutcomeOf(Asking(), end), (TargetsMet{true, true, true, true}));
  end = Ended(absl::OkStatus(), 0, {}, {}, {}, 90 * kMs);  // its first token was a stop token
  EXPECT_EQ(OutcomeOf(Asking(), end), (TargetsMet{true, true, true, true}));
  end.timing.total = 110 * kMs;
  EXPECT_EQ(OutcomeOf(Asking(), end).ttft, false);
}

TEST(OutcomeTest, AFailureMissesWhatItHadNotReached) {
  const absl::Status lost = absl::DataLossError("kv");
  EXPECT_EQ(OutcomeOf(Asking(), Ended(lost, 0, {}, {}, {}, 5 * kMs)), (TargetsMet{false, false, false, false}));
  EXPECT_EQ(OutcomeOf(Asking(), Ended(lost, 5, 9 * kMs, 9 * kMs, 9 * kMs, 60 * kMs)),
            (TargetsMet{true, false, false, false}));
  const absl::Status late = absl::DeadlineExceededError("late");
  EXPECT_EQ(OutcomeOf(Asking(), Ended(late, 5, 9 * kMs, 9 * kMs, 9 * kMs, 1000 * kMs)).deadline, false);
}

TEST(OutcomeTest, AClientThatLeavesSettlesOnlyWhatWasSettled) {
  const absl::Status left = absl::CancelledError("gone");
  const auto unknown = std::nullopt;
  EXPECT_EQ(OutcomeOf(Asking(), Ended(left, 0, {}, {}, {}, 99 * kMs)),
            (TargetsMet{unknown, unknown, unknown, unknown}));
  // It waited for longer than it was promised, and then left.
  EXPECT_EQ(OutcomeOf(Asking(), Ended(left, 0, {}, {}, {}, 101 * kMs)).ttft, false);
  EXPECT_EQ(OutcomeOf(Asking(), Ended(left, 1, 9 * kMs, {}, 51 * kMs, 60 * kMs)),
            (TargetsMet{true, unknown, false, unknown}));
  EXPECT_EQ(OutcomeOf(Asking(), Ended(left, 5, 9 * kMs, 9 * kMs, 40 * kMs, 90 * kMs)),
            (TargetsMet{true, true, true, unknown}));
}

TEST(OutcomeTest, GoodputIsWhatEndedWellAndMissedNothing) {
  RequestEnd end{.status = absl::OkStatus()};
  end.met = {true, std::nullopt, true, true};
  EXPECT_TRUE(IsGoodput(end));
  end.status = absl::CancelledError("gone");
  EXPECT_FALSE(IsGoodput(end));
  end.status = absl::OkStatus();
  for (std::optional<bool> TargetsMet::*missed :
       {&TargetsMet::ttft, &TargetsMet::tpot, &TargetsMet::largest_gap, &TargetsMet::deadline}) {
    end.met = {true, true, true, true};
    end.met.*missed = false;
    EXPECT_FALSE(IsGoodput(end));
  }
}

// Reads the clock itself whenever a token is delivered.
class TimedSink final : public TokenSink {
 public:
  explicit TimedSink(Clock& clock) : clock_(clock) {}
  void OnTokens(absl::Span<const int32_t> tokens) override { times.insert(times.end(), tokens.size(), clock_.Now()); }
  void OnEnd(const RequestEnd& e) override { end = e; }
  std::vector<absl::Time> times;
  std::optional<RequestEnd> end;

 private:
  Clock& clock_;
};

// Requests with targets by chance, on ranks that take their time and lose KV; every choice follows from the seed.
class TargetHistory {
 public:
  explicit TargetHistory(uint64_t seed)
      : entropy_(MakeSeededEntropy(seed)), chance_(entropy_->Fork("ranks")), replica_(*chance_) {
    replica_.loss_permille = Chance(*entropy_, 50) ? 10 : 0;
    Scheduler::Options options;
    options.context = 100;
    options.max_running = Draw(*entropy_, 1, 4);
    options.max_recomputes = 1000;
    options.draft_tokens = Chance(*entropy_, 30) ? 3 : 0;
    scheduler_ = std::make_unique<Scheduler>(options, &FcfsBefore, clock_, metrics_, replica_);
    const std::vector<RankInfo> ranks = MakeRanks(2, 1, 8, 40, 20);
    replica_.Start(Epoch{1}, ranks);
    scheduler_->OnFormed(Epoch{1}, ranks);
  }

  void Run() {
    for (int step = 0; step < 20000 && (clients_.size() < 8 || !scheduler_->idle()); ++step) {
      if (Chance(*entropy_, 20)) clock_.Advance(absl::Milliseconds(Draw(*entropy_, 0, 60)));
      if (clients_.size() < 8 && Chance(*entropy_, 10)) Admit();
      if (!clients_.empty() && Chance(*entropy_, 1)) {
        const Request& request = clients_[entropy_->Next() % clients_.size()].request;
        scheduler_->Cancel(request.id, Chance(*entropy_, 50) ? absl::OkStatus() : absl::CancelledError("gone"));
      }
      if (std::optional<StepResult> result = replica_.Turn()) scheduler_->OnResult(*std::move(result));
      scheduler_->RunOnce();
    }
    ASSERT_TRUE(scheduler_->idle());
    for (const Client& client : clients_) Check(client);
    CheckCounters();
  }

  int32_t met = 0, missed = 0;

 private:
  struct Client {
    Request request;
    std::shared_ptr<TimedSink> sink;
  };

  std::optional<absl::Duration> DrawTarget(int32_t most) {
    if (Chance(*entropy_, 30)) return std::nullopt;
    return absl::Milliseconds(Draw(*entropy_, 1, most));
  }

  void Admit() {
    Client client{.sink = std::make_shared<TimedSink>(clock_)};
    Request& request = client.request;
    request.id = RequestId{clients_.size() + 1};
    request.name = absl::StrCat("r", clients_.size());
    request.prompt.assign(Draw(*entropy_, 1, 40), Draw(*entropy_, 0, kVocab - 1));
    request.max_tokens = Draw(*entropy_, 1, 30);
    if (Chance(*entropy_, 30)) request.stop_tokens = {Draw(*entropy_, 0, kVocab - 1)};
    request.arrival = clock_.Now();
    request.deadline =
        Chance(*entropy_, 30) ? request.arrival + absl::Milliseconds(Draw(*entropy_, 1, 3000)) : absl::InfiniteFuture();
    request.targets = {.ttft = DrawTarget(1000), .tpot = DrawTarget(60), .largest_gap = DrawTarget(300)};
    request.sink = client.sink;
    clients_.push_back(client);
    scheduler_->Admit(std::move(request));
  }

  // Against what the sink saw.
  void Check(const Client& client) {
    const std::vector<absl::Time>& times = client.sink->times;
    ASSERT_TRUE(client.sink->end);
    const RequestEnd& end = *client.sink->end;
    ASSERT_EQ(end.completion_tokens, static_cast<int32_t>(times.size()));
    absl::Duration gap;
    for (size_t i = 1; i < times.size(); ++i) gap = std::max(gap, times[i] - times[i - 1]);
    if (!end.status.ok() && !times.empty()) {
      gap = std::max(gap, client.request.arrival + end.timing.total - times.back());
    }
    EXPECT_EQ(end.timing.largest_gap, gap);
    const absl::Duration first = times.empty() ? absl::ZeroDuration() : times.front() - client.request.arrival;
    EXPECT_EQ(end.timing.first_token, first);
    const size_t gaps = times.size() < 2 ? 0 : times.size() - 1;
    EXPECT_EQ(end.timing.tpot, gaps == 0 ? absl::ZeroDuration() : (times.back() - times.front()) / gaps);
    EXPECT_EQ(end.met, OutcomeOf(client.request, end));
    const absl::StatusOr<Explanation> explanation = scheduler_->Explain(client.request.name);
    ASSERT_OK(explanation);
    EXPECT_EQ(explanation->targets, client.request.targets);
    EXPECT_EQ(explanation->deadline, client.request.deadline - client.request.arrival);
    EXPECT_EQ(explanation->end.met, end.met);
    EXPECT_EQ(explanation->end.timing.largest_gap, gap);
    for (const std::optional<bool>& one : {end.met.ttft, end.met.tpot, end.met.largest_gap, end.met.deadline}) {
      met += one == true;
      missed += one == false;
    }
    good_ += IsGoodput(end);
  }

  void CheckCounters() {
    EXPECT_EQ(metrics_.Total("interlace_slo_requests_total"), met + missed);
    EXPECT_EQ(metrics_.Total("interlace_slo_goodput_requests_total"), good_);
    double counted_met = 0;
    for (const char* target : {"ttft", "tpot", "largest_gap", "deadline"}) {
      counted_met += CountOf(absl::StrCat("{model_name=\"test\",met=\"true\",target=\"", target, "\"} "));
    }
    EXPECT_EQ(counted_met, met);
  }
  double CountOf(const std::string& series) const {
    const std::string text = metrics_.Text();
    const size_t at = text.find(series);
    return at == std::string::npos ? 0 : std::stod(text.substr(at + series.size()));
  }

  std::unique_ptr<Entropy> entropy_, chance_;
  ManualClock clock_;
  Metrics metrics_{"test"};
  FakeReplica replica_;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<Client> clients_;
  int32_t good_ = 0;
};

TEST(TargetHistoryTest, EndsExplanationsAndCountersSayWhatTheSinkSaw) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  int32_t met = 0, missed = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    TargetHistory history(seed);
    history.Run();
    met += history.met;
    missed += history.missed;
    if (testing::Test::HasFailure()) break;
  }
  EXPECT_GT(met, 500);
  EXPECT_GT(missed, 500);
  SetLogSink(nullptr, LogLevel::kInfo);
}

}  // namespace
}  // namespace interlace
