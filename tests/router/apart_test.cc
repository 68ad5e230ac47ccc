// Prompts computed by one replica and answers by another, and replicas that are drained: where a request goes, what is
// counted, and that its client notices nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/router/routed_cluster.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

using ApartTest = QuietRouterTest;
using DrainReplicaTest = QuietRouterTest;

RoutedShape Apart(int32_t decoding = 1) {
  return {.replicas = 1 + decoding, .roles = absl::StrCat("prefill:1,decode:", decoding)};
}

// Where its parts ran, in order.
std::vector<std::string> RoutesOf(RoutedCluster& cluster, absl::string_view name) {
  std::vector<std::string> routes;
  const Explanation explanation = *cluster.router().Explain(name);
  for (const Decision& decision : explanation.decisions) {
    if (decision.kind == DecisionKind::kRouted) routes.push_back(decision.detail.substr(0, decision.detail.find(':')));
  }
  return routes;
}

double Wholes(RoutedCluster& cluster, absl::string_view reason) {
  return CountOf(cluster.metrics(), "interlace_router_whole_total", "reason", reason);
}

TEST_F(ApartTest, ALongPromptIsComputedByOneReplicaAndItsAnswerByAnother) {
  RoutedCluster cluster(1, Apart());
  cluster.replica(1).ranks().fetch_percent = 100;
  const std::vector<int32_t> prompt = Prompt(1, 100);
  const auto sink = cluster.Submit(prompt, 15);
  cluster.Run();
  ASSERT_TRUE(sink->end);
  EXPECT_OK(sink->end->status);
  EXPECT_EQ(sink->delivered, StreamOf(prompt, 15));
  EXPECT_EQ(sink->end->completion_tokens, 15);
  EXPECT_THAT(RoutesOf(cluster, "r1"), ElementsAre("replica 0 for its prompt", "replica 1 for its answer"));
  EXPECT_EQ(cluster.hand_overs("decode"), 1);
  EXPECT_EQ(cluster.hand_overs("lost"), 0);
  EXPECT_EQ(cluster.metrics().Total("interlace_router_hand_over_seconds"), 1);
  EXPECT_EQ(cluster.metrics().Total("interlace_router_taken_back_total"), 0) << "nobody was lost";
  EXPECT_GE(cluster.replica(1).ranks().fetched_blocks(), 100 / kBlock) << "its prompt came from the tier";
  const Explanation explanation = *cluster.router().Explain("r1");
  EXPECT_EQ(explanation.spent.Sum(), sink->end->timing.total);
  EXPECT_LE(explanation.recomputed_tokens, 2 * kBlock) << "what no whole block held";
}

TEST_F(ApartTest, ShortPromptsAndThoseThatAreHeldStayWhereTheyAreDecoded) {
  RoutedCluster cluster(2, Apart());
  const auto small = cluster.Submit(Prompt(1, 10), 20);
  cluster.Run();
  EXPECT_EQ(small->delivered, StreamOf(Prompt(1, 10), 20));
  EXPECT_EQ(Wholes(cluster, "short"), 1);
  EXPECT_EQ(cluster.sent_to(0), 0);
  cluster.Submit(Prompt(2, 100), 15);
  cluster.Run();
  cluster.Submit(Prompt(2, 100), 15);
  cluster.Run();
  EXPECT_EQ(Wholes(cluster, "held"), 1);
  EXPECT_EQ(cluster.sent_to(0), 1);
  cluster.Submit(Prompt(3, 100), 1);
  cluster.Run();
  EXPECT_EQ(Wholes(cluster, "one_token"), 1);
  EXPECT_EQ(cluster.hand_overs("decode"), 1);
}

TEST_F(ApartTest, WithoutAnybodyToDecodeTheFirstReplicaGoesOn) {
  RoutedCluster cluster(3, Apart());
  cluster.replica(1).Lose(absl::UnavailableError("scripted loss"));
  const auto before = cluster.Submit(Prompt(1, 100), 18);
  cluster.Run();
  EXPECT_EQ(before->delivered, StreamOf(Prompt(1, 100), 18));
  EXPECT_EQ(Wholes(cluster, "no_decode"), 1);
  cluster.Form(1);
  const auto sink = cluster.Submit(Prompt(2, 100), 18);
  while (cluster.replica(0).Load().running == 0) cluster.Turn();
  cluster.replica(1).Lose(absl::UnavailableError("scripted loss"));  // while the prompt is computed
  cluster.Run();
  EXPECT_EQ(sink->delivered, StreamOf(Prompt(2, 100), 18));
  EXPECT_OK(sink->end->status);
  EXPECT_EQ(Wholes(cluster, "no_decode"), 2);
  EXPECT_EQ(cluster.hand_overs("decode"), 0);
}

TEST_F(ApartTest, WithoutATierOrAnybodyForPromptsOneReplicaDoesItAll) {
  RoutedShape shape = Apart();
  shape.shares_tier = false;
  RoutedCluster alone(4, shape);
  alone.Submit(Prompt(1, 100), 15);
  alone.Run();
  EXPECT_EQ(Wholes(alone, "not_shared"), 1);
  RoutedCluster cluster(5, Apart());
  cluster.replica(0).Lose(absl::UnavailableError("scripted loss"));
  const auto sink = cluster.Submit(Prompt(1, 100), 15);
  cluster.Run();
  EXPECT_EQ(sink->delivered, StreamOf(Prompt(1, 100), 15));
  EXPECT_EQ(Wholes(cluster, "no_prefill"), 1);
}

TEST_F(ApartTest, WhatNobodyWhoDecodesTakesGoesOnWhereItIsAndIsNotAskedAgain) {
  RoutedCluster cluster(6, Apart());
  cluster.replica(1).refuse = absl::ResourceExhaustedError("full");
  const auto sink = cluster.Submit(Prompt(1, 100), 18);
  cluster.Run();
  ASSERT_TRUE(sink->end);
  EXPECT_OK(sink->end->status);
  EXPECT_EQ(sink->delivered, StreamOf(Prompt(1, 100), 18));
  EXPECT_EQ(cluster.hand_overs("decode"), 1);
}

TEST_F(ApartTest, LossesOnEitherSideChangeNoToken) {
  for (const int32_t lost : {0, 1}) {
    for (const size_t at : {size_t{0}, size_t{1}, size_t{9}}) {
      RoutedCluster cluster(7 + at, Apart());
      const auto sink = cluster.Submit(Prompt(1, 100), 18);
      while (cluster.replica(0).Load().running == 0) cluster.Turn();
      while (sink->delivered.size() < at) cluster.Turn();
      cluster.replica(lost).Lose(absl::UnavailableError("scripted loss"));
      cluster.Turn();
      cluster.Form(lost);
      cluster.Run();
      ASSERT_TRUE(sink->end) << lost << " " << at;
      EXPECT_OK(sink->end->status);
      EXPECT_EQ(sink->delivered, StreamOf(Prompt(1, 100), 18)) << lost << " " << at;
    }
  }
}

TEST_F(ApartTest, ScoresOfAPromptComeOnceAndThePooledStays) {
  RoutedCluster cluster(10, Apart());
  const std::vector<int32_t> prompt = Prompt(1, 100);
  Request scored = cluster.Make(prompt, 15);
  scored.prompt_logprobs = 2;
  const auto sink = std::make_shared<WatchedSink>();
  scored.sink = sink;
  ASSERT_OK(cluster.router().Submit(std::move(scored)));
  Request pooled = cluster.Make(prompt, 0);
  pooled.pooled = true;
  const auto mean = std::make_shared<WatchedSink>();
  pooled.sink = mean;
  ASSERT_OK(cluster.router().Submit(std::move(pooled)));
  cluster.Run();
  EXPECT_EQ(sink->ranks.size(), prompt.size() - 1);
  EXPECT_EQ(sink->delivered, StreamOf(prompt, 15));
  EXPECT_EQ(cluster.hand_overs("decode"), 1);
  EXPECT_THAT(mean->pooled, ElementsAre(PooledOf(prompt)));
}

// What a replica has sealed is on its way to the tier: it is waited for as long as computing it would take at most.
TEST_F(ApartTest, BlocksThatReachTheTierLateAreWaitedFor) {
  RoutedCluster cluster(15, Apart());
  cluster.replica(1).ranks().fetch_percent = 100;
  for (const int32_t r : {0, 1}) cluster.replica(r).ranks().row_us = 1000;
  for (int32_t i = 0; i < 6; ++i) cluster.Submit(Prompt(20 + i, 100), 15);  // what steps take is known behind these
  cluster.Run();
  for (const int32_t late : {1, 3}) {
    const std::vector<int32_t> prompt = Prompt(1 + late, 100);
    const int64_t before = cluster.replica(1).ranks().fetched_blocks();
    cluster.replica(1).ranks().late_probes = late;
    const auto sink = cluster.Submit(prompt, 15);
    cluster.Run();
    EXPECT_EQ(sink->delivered, StreamOf(prompt, 15));
    EXPECT_GE(cluster.replica(1).ranks().fetched_blocks() - before, 100 / kBlock) << late;
  }
  cluster.replica(1).ranks().late_probes = 1 << 20;  // what never comes is computed
  const auto sink = cluster.Submit(Prompt(7, 100), 15);
  cluster.Run();
  EXPECT_EQ(sink->delivered, StreamOf(Prompt(7, 100), 15));
}

TEST_F(ApartTest, StopsAndCancelsReachTheRequestWhereverItIs) {
  for (int32_t turns = 0; turns < 60; ++turns) {
    for (const bool stops : {false, true}) {
      RoutedCluster cluster(static_cast<uint64_t>(turns), Apart());
      const auto sink = cluster.Submit(Prompt(1, 100), 18);
      for (int32_t i = 0; i < turns && !sink->end; ++i) cluster.Turn();
      const bool ended = sink->end.has_value();
      if (stops) cluster.router().Stop(cluster.last());
      if (!stops) cluster.router().Cancel(cluster.last());
      cluster.Run();
      ASSERT_TRUE(sink->end);
      const absl::StatusCode expected = stops || ended ? absl::StatusCode::kOk : absl::StatusCode::kCancelled;
      EXPECT_EQ(sink->end->status.code(), expected) << turns;
    }
  }
}

TEST_F(DrainReplicaTest, GivesAwayWhatItHasAndGetsNothingNewUntilItIsTakenBack) {
  RoutedCluster cluster(11, {.policy = "round_robin"});
  std::vector<std::shared_ptr<WatchedSink>> sinks;
  for (int32_t i = 0; i < 8; ++i) sinks.push_back(cluster.Submit(Prompt(i, 20), 60));
  while (sinks[3]->delivered.size() < 5) cluster.Turn();
  ASSERT_GT(cluster.replica(0).Load().running, 0);
  ASSERT_OK(cluster.router().DrainReplica(0, true));
  EXPECT_TRUE(cluster.router().Load().replicas[0].draining);
  for (int32_t i = 0; i < 200 && cluster.router().Load().replicas[0].left > 0; ++i) cluster.Turn();
  EXPECT_EQ(cluster.router().Load().replicas[0].left, 0);
  EXPECT_EQ(cluster.replica(0).Load().running + cluster.replica(0).Load().waiting, 0);
  EXPECT_EQ(cluster.hand_overs("drain"), 4);
  const double sent = cluster.sent_to(0);
  sinks.push_back(cluster.Submit(Prompt(9, 20), 60));
  sinks.push_back(cluster.Submit(Prompt(9, 21), 60));
  EXPECT_EQ(cluster.sent_to(0), sent);
  EXPECT_TRUE(cluster.router().Snapshot()->replicas[0].draining);
  EXPECT_EQ(cluster.router().Load().replicas_ready, 1);
  EXPECT_FALSE(cluster.router().Load().draining) << "the other one serves";
  ASSERT_OK(cluster.router().DrainReplica(0, false));
  cluster.Submit(Prompt(9, 22), 3);
  EXPECT_EQ(cluster.sent_to(0), sent + 1);
  cluster.Run();
  for (size_t i = 0; i < sinks.size(); ++i) {
    ASSERT_TRUE(sinks[i]->end);
    EXPECT_OK(sinks[i]->end->status);
    const auto first = static_cast<int32_t>(i);
    EXPECT_EQ(sinks[i]->delivered, StreamOf(i < 8 ? Prompt(first, 20) : Prompt(9, 12 + first), 60));
  }
}

TEST_F(DrainReplicaTest, TheLastOneFinishesWhatItHasAndRefusesTheRest) {
  RoutedCluster cluster(12, {});
  cluster.replica(1).Lose(absl::UnavailableError("scripted loss"));
  const auto sink = cluster.Submit(Prompt(1, 30), 40);
  while (sink->delivered.size() < 5) cluster.Turn();
  ASSERT_OK(cluster.router().DrainReplica(0, true));
  absl::Status refused;
  cluster.Submit(Prompt(2, 30), 3, &refused);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("--resume")));
  EXPECT_TRUE(cluster.router().Load().draining) << "nobody takes requests";
  for (int32_t i = 0; i < 5; ++i) cluster.Turn();
  EXPECT_EQ(cluster.hand_overs("drain"), 0);
  cluster.Form(1);  // now somebody is there
  cluster.Run();
  EXPECT_EQ(sink->delivered, StreamOf(Prompt(1, 30), 40));
  EXPECT_EQ(cluster.hand_overs("drain"), 1);
}

TEST_F(DrainReplicaTest, WhatNobodyElseTakesStaysAndEndsWell) {
  RoutedCluster cluster(13, {.policy = "round_robin"});
  const auto sink = cluster.Submit(Prompt(1, 30), 40);
  while (sink->delivered.size() < 5) cluster.Turn();
  cluster.replica(1).refuse = absl::ResourceExhaustedError("full");
  ASSERT_OK(cluster.router().DrainReplica(0, true));
  cluster.Run();
  EXPECT_OK(sink->end->status);
  EXPECT_EQ(sink->delivered, StreamOf(Prompt(1, 30), 40));
  EXPECT_EQ(cluster.hand_overs("drain"), 1);
  EXPECT_EQ(cluster.router().Load().replicas[0].left, 0);
}

TEST_F(DrainReplicaTest, AReplicaThatIsNoneIsRefusedByItsName) {
  RoutedCluster cluster(14, {});
  for (const int32_t none : {-1, 2}) {
    EXPECT_THAT(cluster.router().DrainReplica(none, true),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("replica: ")));
  }
}

}  // namespace
}  // namespace interlace
