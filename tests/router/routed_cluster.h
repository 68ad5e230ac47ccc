// Replicas that a test turns by hand, and the router over them.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "coordinator/router/router.h"
#include "tests/router/stepped_replica.h"
#include "tests/status_matchers.h"

namespace interlace {

inline constexpr int32_t kContext = 120;
inline constexpr int32_t kBlock = 8;

// With roles the replicas share a tier, unless it says otherwise.
struct RoutedShape {
  int32_t replicas = 2;
  std::string policy = "prefix";
  int32_t slots = 400;
  std::string roles = {};  // as router.roles
  bool shares_tier = true;
};

// Of one series, `name{label="value"}` without the model's name.
inline double CountOf(const Metrics& metrics, absl::string_view name, absl::string_view label,
                      absl::string_view value) {
  const std::string text = metrics.Text();
  const std::string line = absl::StrCat("\n", name, "{", label < "model_name" ? "" : "model_name=\"test\",", label,
                                        "=\"", value, "\"", label < "model_name" ? ",model_name=\"test\"" : "", "} ");
  const size_t at = text.find(line);
  return at == std::string::npos ? 0 : std::atof(text.c_str() + at + line.size());
}

// Owned by the test; its thread.
class RoutedCluster {
 public:
  RoutedCluster(uint64_t seed, const RoutedShape& shape)
      : entropy_(MakeSeededEntropy(seed)), shape_(shape), directory_(shape.replicas) {
    Scheduler::Options options;
    options.context = kContext;
    options.chunk_tokens = 16;
    options.max_running = 6;
    options.max_losses = 3;
    options.secret = "secret";
    options.hands_over = true;
    router_ = std::make_unique<Router>(Router::Options{.policy = *FindRoutingPolicy(shape.policy),
                                                       .roles = *ParseRoles(shape.roles, shape.replicas),
                                                       .secret = options.secret,
                                                       .reform_timeout = absl::Seconds(15),
                                                       .wake = [this] { ++wakes_; }},
                                       shape.replicas, directory_, clock_, metrics_);
    std::vector<Engine*> engines;
    for (int32_t r = 0; r < shape.replicas; ++r) {
      options.kv_observer = &directory_.observer(r);
      chances_.push_back(entropy_->Fork(absl::StrCat("ranks ", r)));
      views_.push_back(std::make_unique<Metrics>(metrics_, "replica", absl::StrCat(r)));
      replicas_.push_back(
          std::make_unique<SteppedReplica>(options, **FindPolicy("slack"), clock_, *views_.back(), *chances_.back()));
      if (!shape.roles.empty() && shape.shares_tier && r > 0) replica(r).ranks().ShareTier(replica(0).ranks());
      engines.push_back(replicas_.back().get());
      Form(r);
    }
    router_->Connect(std::move(engines));
  }
  ~RoutedCluster() {
    replicas_.clear();  // before the router, as ReplicaSet does
  }

  void Form(int32_t replica) {
    std::vector<RankInfo> ranks = MakeRanks(2, 1, kBlock, shape_.slots, 0);
    if (!shape_.roles.empty() && shape_.shares_tier) ranks[0].tiers = {"remote"};
    replicas_[static_cast<size_t>(replica)]->Form(ranks);
  }
  SteppedReplica& replica(int32_t r) { return *replicas_[static_cast<size_t>(r)]; }
  Router& router() { return *router_; }
  ManualClock& clock() { return clock_; }
  Metrics& metrics() { return metrics_; }
  double hand_overs(absl::string_view reason) {
    return CountOf(metrics_, "interlace_router_hand_overs_total", "reason", reason);
  }
  double sent_to(int32_t r) { return CountOf(metrics_, "interlace_router_requests_total", "replica", absl::StrCat(r)); }
  PrefixDirectory& directory() { return directory_; }
  Entropy& entropy() { return *entropy_; }

  // The next one, named "r1", "r2", ..
  Request Make(std::vector<int32_t> prompt, int32_t max_tokens) {
    Request request{.id = RequestId{++next_}, .max_tokens = max_tokens, .name = absl::StrCat("r", next_)};
    request.prompt = std::move(prompt);
    request.arrival = clock_.Now();
    request.deadline = absl::InfiniteFuture();
    return request;
  }
  std::shared_ptr<WatchedSink> Submit(std::vector<int32_t> prompt, int32_t max_tokens, absl::Status* status = nullptr) {
    auto sink = std::make_shared<WatchedSink>();
    Request request = Make(std::move(prompt), max_tokens);
    request.sink = sink;
    const absl::Status submitted = router_->Submit(std::move(request));
    if (status != nullptr) *status = submitted;
    if (status == nullptr) {
      EXPECT_OK(submitted);
    }
    return sink;
  }
  RequestId last() const { return RequestId{next_}; }
  void Turn() {
    clock_.Advance(absl::Milliseconds(1));
    for (const auto& replica : replicas_) replica->Turn();
    router_->Settle();
  }
  // Until nothing is left; a request that a replica gives back is in no load until that is delivered.
  void Run() {
    for (int32_t step = 0, idle = 0; step < 20000 && idle < 3; ++step) {
      const EngineLoad load = router_->Load();
      idle = load.running + load.waiting > 0 ? 0 : idle + 1;
      Turn();
    }
  }

 private:
  ManualClock clock_;
  std::unique_ptr<Entropy> entropy_;
  const RoutedShape shape_;
  Metrics metrics_{"test"};
  int32_t wakes_ = 0;
  PrefixDirectory directory_;
  std::vector<std::unique_ptr<Entropy>> chances_;
  std::vector<std::unique_ptr<Metrics>> views_;
  std::unique_ptr<Router> router_;
  std::vector<std::unique_ptr<SteppedReplica>> replicas_;
  uint64_t next_ = 0;
};

// What it must get.
inline std::vector<int32_t> StreamOf(std::vector<int32_t> tokens, int32_t max_tokens) {
  std::vector<int32_t> out;
  while (static_cast<int32_t>(out.size()) < max_tokens && static_cast<int32_t>(tokens.size()) < kContext) {
    tokens.push_back(NextToken(tokens));
    out.push_back(tokens.back());
  }
  return out;
}

inline std::vector<int32_t> Prompt(int32_t first, int32_t count) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < count; ++i) prompt.push_back((first + 7 * i) % kVocab);
  return prompt;
}

// Histories lose and drain replicas, each of which the log would tell.
class QuietRouterTest : public testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  }
  void TearDown() override { SetLogSink(nullptr, LogLevel::kInfo); }
};

}  // namespace interlace
