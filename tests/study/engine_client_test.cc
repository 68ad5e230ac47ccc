// EngineClient: what an engine is asked, with everything on and with parts left out.
#include "bench/study/engine_client.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_join.h"
#include "tests/bench_serve/virtual_run.h"

namespace interlace {
namespace {

// Answers after as long as the prompt is, token t being t more than the sum of the prompt: an answer depends on all
// tokens before it, as a model's does.
class ScriptedEngine final : public Engine {
 public:
  explicit ScriptedEngine(VirtualLoop& loop) : loop_(loop) {}

  absl::Status Submit(Request request) override {
    EXPECT_TRUE(ids_.insert(request.id).second) << "an id twice";
    if (refuse) return absl::ResourceExhaustedError("full");
    seen.push_back(request);
    most_open = std::max(most_open, ++open_);
    if (open_ == 1) ++batches;
    const absl::Duration took = absl::Milliseconds(static_cast<int64_t>(request.prompt.size()));
    auto shared = std::make_shared<Request>(std::move(request));
    sinks_[shared->id] = shared->sink;
    loop_.At(loop_.Now() + took, [this, shared] { Answer(*shared); });
    return absl::OkStatus();
  }
  void Cancel(RequestId id) override {
    loop_.Post([this, id] { End(id, absl::CancelledError("cancelled"), 0); });
  }
  void Stop(RequestId) override {}
  absl::StatusOr<Explanation> Explain(absl::string_view) override { return absl::NotFoundError(""); }
  absl::StatusOr<ReplicaSnapshot> Snapshot() override { return ReplicaSnapshot{}; }
  EngineLoad Load() override { return {}; }

  std::vector<Request> seen;
  int open_ = 0, most_open = 0;
  int batches = 0;  // times that a request came when none ran
  bool refuse = false;

 private:
  void Answer(const Request& request) {
    const auto it = sinks_.find(request.id);
    if (it == sinks_.end()) return;
    std::vector<int32_t> all = request.prompt;
    for (int32_t t = 0; t < request.max_tokens; ++t) {
      int32_t next = 1;
      for (const int32_t token : all) next = (next * 31 + token) % 10007;
      all.push_back(next);
      it->second->OnTokens({&next, 1});
    }
    End(request.id, absl::OkStatus(), static_cast<int32_t>(request.prompt.size()));
  }
  void End(RequestId id, absl::Status status, int32_t prompt) {
    const auto it = sinks_.find(id);
    if (it == sinks_.end()) return;
    const std::shared_ptr<TokenSink> sink = it->second;
    sinks_.erase(it);
    --open_;
    sink->OnEnd({.status = std::move(status), .reason = FinishReason::kLength, .prompt_tokens = prompt});
  }

  VirtualLoop& loop_;
  std::set<RequestId> ids_;
  std::map<RequestId, std::shared_ptr<TokenSink>> sinks_;
};

struct Made {
  LoadRun run;
  std::vector<Request> seen;
  int most_open = 0, batches = 0;
};

LoadPlanSpec Spec(uint64_t seed, int64_t requests) {
  LoadPlanSpec spec;
  spec.seed = seed;
  spec.requests = requests;
  spec.arrivals.process = "closed";
  spec.dataset.input = {.shape = LengthSpec::Shape::kUniform, .a = 1, .b = 30};
  spec.dataset.output = {.shape = LengthSpec::Shape::kUniform, .a = 1, .b = 9};
  return spec;
}

Made RunPlan(const LoadPlanSpec& spec, const EngineClientOptions& options, int32_t concurrency) {
  VirtualLoop loop;
  ScriptedEngine engine(loop);
  ManualClock clock;
  EngineClient client(engine, clock, loop, options);
  const std::unique_ptr<LoadPlan> plan = *LoadPlan::Make(spec);
  LoadRunnerOptions runner_options;
  runner_options.concurrency = concurrency;
  LoadRunner runner(std::move(runner_options), *plan, loop, client);
  Made made{.run = runner.Run()};
  made.seen = std::move(engine.seen);
  made.most_open = engine.most_open;
  made.batches = engine.batches;
  return made;
}

TEST(EngineClient, TheAnswersAreTheSameWhateverIsLeftOut) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const LoadPlanSpec spec = Spec(seed, 17);
    const Made plain = RunPlan(spec, {}, 4);
    ASSERT_EQ(plain.run.records.size(), 17u);
    for (const EngineClientOptions& options :
         {EngineClientOptions{.without_cache = true}, EngineClientOptions{.private_prefixes = true},
          EngineClientOptions{.static_batches = true},
          EngineClientOptions{.without_cache = true, .static_batches = true}}) {
      const Made other = RunPlan(spec, options, 4);
      ASSERT_EQ(other.run.records.size(), 17u);
      for (size_t i = 0; i < 17; ++i) {
        const RequestRecord &a = plain.run.records[i], &b = other.run.records[i];
        EXPECT_EQ(a.outcome, LoadOutcome::kOk);
        EXPECT_EQ(b.outcome, LoadOutcome::kOk) << b.error;
        EXPECT_EQ(a.text, b.text);
        EXPECT_EQ(a.completion_tokens, b.completion_tokens);
        EXPECT_EQ(static_cast<int32_t>(b.chunks.size()), b.completion_tokens);
        EXPECT_GE(b.ended, b.chunks.back());
      }
    }
  }
}

TEST(EngineClient, WithoutACacheEveryTokenAsksForAllBeforeIt) {
  const Made made = RunPlan(Spec(3, 5), {.without_cache = true}, 1);
  int64_t tokens = 0;
  std::set<std::string> salts;
  for (const RequestRecord& record : made.run.records) tokens += record.completion_tokens;
  ASSERT_EQ(static_cast<int64_t>(made.seen.size()), tokens);
  for (const Request& request : made.seen) {
    EXPECT_EQ(request.max_tokens, 1);
    EXPECT_TRUE(!request.salt.empty() && salts.insert(request.salt).second) << "shares blocks with another";
  }
  EXPECT_EQ(made.most_open, 1);
}

TEST(EngineClient, SharesBlocksUnlessToldNotTo) {
  std::set<std::string> salts;
  for (const Request& request : RunPlan(Spec(1, 6), {}, 2).seen) EXPECT_EQ(request.salt, "");
  for (const Request& request : RunPlan(Spec(1, 6), {.private_prefixes = true}, 2).seen) salts.insert(request.salt);
  EXPECT_EQ(salts.size(), 6u);
}

TEST(EngineClient, AStaticBatchBeginsWhenTheOneBeforeHasEnded) {
  for (const int32_t size : {1, 3, 4, 17}) {
    const Made made = RunPlan(Spec(2, 17), {.static_batches = true}, size);
    EXPECT_EQ(made.batches, (17 + size - 1) / size);
    EXPECT_EQ(made.most_open, size);
  }
  EXPECT_LT(RunPlan(Spec(2, 17), {}, 4).batches, 5);
}

TEST(EngineClient, ARefusalIsAnOutcome) {
  VirtualLoop loop;
  ScriptedEngine engine(loop);
  engine.refuse = true;
  ManualClock clock;
  EngineClient client(engine, clock, loop, {});
  const std::unique_ptr<LoadPlan> plan = *LoadPlan::Make(Spec(1, 3));
  LoadRunnerOptions options;
  options.concurrency = 2;
  const LoadRun run = LoadRunner(std::move(options), *plan, loop, client).Run();
  ASSERT_EQ(run.records.size(), 3u);
  for (const RequestRecord& record : run.records) {
    EXPECT_EQ(record.outcome, LoadOutcome::kShed);
    EXPECT_EQ(record.error, "full");
  }
}

TEST(EngineClient, WhatIsGivenUpEnds) {
  for (const bool batches : {false, true}) {
    VirtualLoop loop;
    ScriptedEngine engine(loop);
    ManualClock clock;
    EngineClient client(engine, clock, loop, {.static_batches = batches});
    const std::unique_ptr<LoadPlan> plan = *LoadPlan::Make(Spec(1, 9));
    LoadRunnerOptions options;
    options.concurrency = 3;
    LoadRunner runner(std::move(options), *plan, loop, client);
    loop.At(loop.Now() + absl::Milliseconds(8), [&] { runner.Stop("enough"); });
    const LoadRun run = runner.Run();
    int given_up = 0;
    for (const RequestRecord& record : run.records) {
      if (record.outcome != LoadOutcome::kTimeout) continue;
      ++given_up;
      EXPECT_EQ(record.error, "enough");
    }
    EXPECT_GE(given_up, 1);
    EXPECT_EQ(static_cast<int64_t>(run.records.size()) + run.unsent, 9);
  }
}

}  // namespace
}  // namespace interlace
