// The router over replicas that are lost, drained and come back: every request ends once, with the tokens that it would
// have got from one replica that nothing ever happened to.
#include "coordinator/router/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/resumed.h"
#include "tests/router/routed_cluster.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

constexpr int32_t kSeeds = 200;

using RouterTest = QuietRouterTest;

TEST_F(RouterTest, ASharedPrefixGoesToWhoHoldsItAndOthersElsewhere) {
  RoutedCluster cluster(1, {.replicas = 3, .policy = "prefix"});
  cluster.Submit(Prompt(1, 60), 4);
  cluster.Run();
  const double before = cluster.metrics().Total("interlace_router_held_tokens_total");
  std::vector<int32_t> again = Prompt(1, 60);
  again.push_back(5);
  const auto sink = cluster.Submit(again, 4);
  cluster.Run();
  EXPECT_EQ(sink->delivered, StreamOf(again, 4));
  EXPECT_EQ(sink->end->cached_tokens, 56) << "whole blocks of 60 tokens";
  EXPECT_EQ(cluster.metrics().Total("interlace_router_held_tokens_total") - before, 56);
  cluster.Submit(Prompt(50, 60), 4);
  cluster.Run();
  const Explanation first = cluster.router().Explain("r1").value();
  const Explanation second = cluster.router().Explain("r2").value();
  const Explanation third = cluster.router().Explain("r3").value();
  ASSERT_EQ(first.decisions.at(0).kind, DecisionKind::kRouted);
  EXPECT_THAT(DecisionText(first.decisions[0]), testing::HasSubstr("routed to replica 0: 0 of 60 tokens"));
  EXPECT_THAT(DecisionText(second.decisions.at(0)), testing::HasSubstr("routed to replica 0: 56 of 61 tokens"));
  EXPECT_THAT(DecisionText(third.decisions.at(0)), testing::HasSubstr("routed to replica 1: 0 of 60 tokens"));
}

TEST_F(RouterTest, RequestsThatBeginAlikeMeetBeforeTheFirstOfThemIsComputed) {
  RoutedCluster cluster(2, {.replicas = 3, .policy = "prefix"});
  std::vector<std::shared_ptr<WatchedSink>> sinks;
  for (int32_t i = 0; i < 3; ++i) {
    std::vector<int32_t> prompt = Prompt(1, 64);
    prompt.push_back(i);
    sinks.push_back(cluster.Submit(prompt, 3));
  }
  EXPECT_EQ(cluster.metrics().Total("interlace_router_held_tokens_total"), 2 * 64);
  cluster.Run();
  for (const char* name : {"r1", "r2", "r3"}) {
    EXPECT_THAT(DecisionText(cluster.router().Explain(name)->decisions.at(0)),
                testing::HasSubstr("routed to replica 0:"));
  }
}

TEST_F(RouterTest, TenantsWithOtherSaltsShareNothing) {
  RoutedCluster cluster(3, {.replicas = 2, .policy = "prefix"});
  for (const char* salt : {"a", "b"}) {
    Request request{.id = RequestId{salt[0] == 'a' ? 101u : 102u}, .max_tokens = 2, .name = salt};
    request.prompt = Prompt(1, 40);
    request.sink = std::make_shared<WatchedSink>();
    request.arrival = cluster.clock().Now();
    request.deadline = absl::InfiniteFuture();
    request.salt = salt;
    EXPECT_OK(cluster.router().Submit(std::move(request)));
    cluster.Run();
  }
  EXPECT_EQ(cluster.metrics().Total("interlace_router_held_tokens_total"), 0);
}

TEST_F(RouterTest, AdaptersShareNothing) {
  RoutedCluster cluster(3, {.replicas = 2, .policy = "prefix"});
  const auto adapter = std::make_shared<const ServedAdapter>(ServedAdapter{1, "a", "/a", "digest of a"});
  double held = 0;
  for (const uint64_t id : {101, 102, 103, 104}) {  // with none, with it, and again
    Request request{.id = RequestId{id}, .max_tokens = 2, .name = absl::StrCat("r", id)};
    request.prompt = Prompt(1, 40);
    request.sink = std::make_shared<WatchedSink>();
    request.arrival = cluster.clock().Now();
    request.deadline = absl::InfiniteFuture();
    if (id % 2 == 0) request.adapter = adapter;
    EXPECT_OK(cluster.router().Submit(std::move(request)));
    cluster.Run();
    const double now = cluster.metrics().Total("interlace_router_held_tokens_total");
    EXPECT_EQ(now > held, id > 102);
    held = now;
  }
}

TEST_F(RouterTest, AStreamOfALostReplicaGoesOnElsewhere) {
  RoutedCluster cluster(4, {.replicas = 2, .policy = "prefix"});
  const std::vector<int32_t> prompt = Prompt(3, 30);
  const auto sink = cluster.Submit(prompt, 40);
  while (sink->delivered.size() < 11) cluster.Turn();
  const int32_t at = cluster.replica(0).Load().running > 0 ? 0 : 1;
  cluster.replica(at).Lose(absl::UnavailableError("scripted loss"));
  cluster.Run();
  ASSERT_TRUE(sink->end.has_value());
  EXPECT_OK(sink->end->status);
  EXPECT_EQ(sink->delivered, StreamOf(prompt, 40));
  EXPECT_EQ(sink->end->completion_tokens, 40);
  EXPECT_EQ(cluster.metrics().Total("interlace_router_taken_back_total"), 1);
  const Explanation explanation = cluster.router().Explain("r1").value();
  std::vector<absl::string_view> kinds;
  for (const Decision& decision : explanation.decisions) kinds.push_back(DecisionName(decision.kind));
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "routed"), 2);
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "handed_over"), 1);
  EXPECT_EQ(explanation.spent.Sum(), sink->end->timing.total);
}

TEST_F(RouterTest, WhileNoReplicaIsThereRequestsWaitAndThenGoOn) {
  RoutedCluster cluster(5, {.replicas = 2, .policy = "load"});
  const std::vector<int32_t> prompt = Prompt(3, 30);
  const auto sink = cluster.Submit(prompt, 20), late = cluster.Submit(prompt, 20);
  while (sink->delivered.size() < 5) cluster.Turn();
  for (int32_t r = 0; r < 2; ++r) cluster.replica(r).Lose(absl::UnavailableError("scripted loss"));
  cluster.Turn();
  EXPECT_EQ(cluster.router().Load().waiting, 2);
  absl::Status refused;
  cluster.Submit(prompt, 3, &refused);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kUnavailable, testing::HasSubstr("no replica is ready")));
  cluster.clock().Advance(absl::Seconds(10));
  cluster.Form(1);
  cluster.Run();
  EXPECT_EQ(sink->delivered, StreamOf(prompt, 20));
  EXPECT_EQ(late->delivered, StreamOf(prompt, 20));
}

TEST_F(RouterTest, RequestsThatFindNoReplicaInTimeEndWithTheReason) {
  RoutedCluster cluster(6, {.replicas = 2, .policy = "prefix"});
  const auto sink = cluster.Submit(Prompt(3, 30), 20), gone = cluster.Submit(Prompt(4, 30), 20);
  const RequestId cancelled = cluster.last();
  while (sink->delivered.size() < 5) cluster.Turn();
  for (int32_t r = 0; r < 2; ++r) cluster.replica(r).Lose(absl::UnavailableError("scripted loss"));
  cluster.Turn();
  cluster.router().Cancel(cancelled);
  cluster.Turn();
  EXPECT_THAT(gone->end->status, StatusIs(absl::StatusCode::kCancelled, testing::_));
  EXPECT_FALSE(sink->end.has_value());
  EXPECT_LE(cluster.router().Settle(), cluster.clock().Now() + absl::Seconds(15));
  cluster.clock().Advance(absl::Seconds(16));
  cluster.Turn();
  EXPECT_THAT(sink->end->status, StatusIs(absl::StatusCode::kUnavailable, testing::HasSubstr("scripted loss")));
  EXPECT_EQ(sink->end->completion_tokens, static_cast<int32_t>(sink->delivered.size()));
  EXPECT_EQ(cluster.router().Load().waiting, 0);
}

TEST_F(RouterTest, WhatOneReplicaRefusesAnotherMayTakeAndWhatAllRefuseIsRefused) {
  RoutedCluster cluster(7, {.replicas = 2, .policy = "round_robin"});
  cluster.replica(0).refuse = absl::ResourceExhaustedError("full");
  const auto sink = cluster.Submit(Prompt(3, 30), 5);
  cluster.Run();
  EXPECT_EQ(sink->delivered, StreamOf(Prompt(3, 30), 5));
  cluster.replica(1).refuse = absl::ResourceExhaustedError("full too");
  absl::Status refused;
  cluster.Submit(Prompt(3, 30), 5, &refused);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted, testing::_));
  EXPECT_EQ(cluster.router().Load().running + cluster.router().Load().waiting, 0);
}

// A replica that counts what it is asked, and takes every request or none.
class CountingReplica final : public Engine {
 public:
  absl::Status Submit(Request request) override {
    ++submits;
    sink = std::move(request.sink);
    return refuse;
  }
  void Cancel(RequestId) override {}
  void Stop(RequestId) override {}
  absl::StatusOr<Explanation> Explain(absl::string_view) override { return absl::NotFoundError("none"); }
  absl::StatusOr<ReplicaSnapshot> Snapshot() override { return ReplicaSnapshot{}; }
  EngineLoad Load() override {
    ++loads;
    EngineLoad load;
    load.ranks = 1;
    load.ranks_ready = 1;
    load.names = names;
    return load;
  }

  const std::shared_ptr<const ChainSeed> names = std::make_shared<const ChainSeed>(ChainSeed{.block_tokens = kBlock});
  absl::Status refuse;
  int32_t submits = 0, loads = 0;
  std::shared_ptr<TokenSink> sink;  // of the latest
};

struct CountedReplicas {
  explicit CountedReplicas(int32_t count) : directory(count), replicas(static_cast<size_t>(count)) {
    router = std::make_unique<Router>(Router::Options{.policy = *FindRoutingPolicy("prefix"), .wake = [] {}}, count,
                                      directory, clock, metrics);
    std::vector<Engine*> engines;
    for (CountingReplica& replica : replicas) engines.push_back(&replica);
    router->Connect(std::move(engines));
  }
  ~CountedReplicas() {
    for (CountingReplica& replica : replicas) replica.sink.reset();
  }
  absl::Status Submit() {
    Request request{.id = RequestId{++next}, .max_tokens = 5};
    request.prompt = Prompt(3, 30);
    request.deadline = absl::InfiniteFuture();
    request.sink = std::make_shared<WatchedSink>();
    return router->Submit(std::move(request));
  }
  int32_t Sum(int32_t CountingReplica::*of) const {
    int32_t sum = 0;
    for (const CountingReplica& replica : replicas) sum += replica.*of;
    return sum;
  }
  ManualClock clock;
  Metrics metrics{"test"};
  PrefixDirectory directory;
  std::unique_ptr<Router> router;
  std::vector<CountingReplica> replicas;
  uint64_t next = 0;
};

TEST_F(RouterTest, RequestsOfOneMomentAskTheReplicasForTheirLoadOnce) {
  constexpr int32_t kReplicas = 200;
  CountedReplicas cluster(kReplicas);
  for (int32_t i = 0; i < 50; ++i) EXPECT_OK(cluster.Submit());
  EXPECT_EQ(cluster.Sum(&CountingReplica::loads), kReplicas);
  cluster.clock.Advance(absl::Milliseconds(1));
  EXPECT_OK(cluster.Submit());
  EXPECT_EQ(cluster.Sum(&CountingReplica::loads), 2 * kReplicas);
}

TEST_F(RouterTest, WhereAllAreFullARequestIsRefusedBeforeAllWereAsked) {
  constexpr int32_t kReplicas = 200;
  CountedReplicas cluster(kReplicas);
  for (CountingReplica& replica : cluster.replicas) replica.refuse = absl::ResourceExhaustedError("full");
  EXPECT_THAT(cluster.Submit(), StatusIs(absl::StatusCode::kResourceExhausted, testing::_));
  EXPECT_LE(cluster.Sum(&CountingReplica::submits), 16);
  for (CountingReplica& replica : cluster.replicas) replica.refuse = absl::UnavailableError("lost");
  cluster.replicas[150].refuse = absl::OkStatus();
  EXPECT_OK(cluster.Submit()) << "what was lost since it was looked at is passed over, however many";
}

// A request that brings down each replica it runs on is ended and named before it has brought down more than three.
TEST_F(RouterTest, ARequestThatKillsReplicasIsEnded) {
  RoutedCluster cluster(8, {.replicas = 5, .policy = "load"});
  const auto bad = cluster.Submit(Prompt(1, 20), 20);
  int32_t killed = 0;
  for (int32_t round = 0; round < 10 && !bad->end; ++round) {
    cluster.router().Settle();
    for (int32_t r = 0; r < 5; ++r) {
      if (!cluster.replica(r).formed() || cluster.replica(r).Load().running + cluster.replica(r).Load().waiting == 0)
        continue;
      cluster.replica(r).scheduler().RunOnce();  // it is in a plan
      cluster.replica(r).Lose(absl::UnavailableError("it died"));
      ++killed;
    }
  }
  ASSERT_TRUE(bad->end.has_value());
  EXPECT_THAT(bad->end->status, StatusIs(absl::StatusCode::kAborted, testing::HasSubstr("3 losses")));
  EXPECT_EQ(killed, 3);
}

TEST_F(RouterTest, TheViewIsTheSumOfTheReplicas) {
  RoutedCluster cluster(9, {.replicas = 2, .policy = "round_robin"});
  const auto one = cluster.Submit(Prompt(1, 30), 50), two = cluster.Submit(Prompt(2, 30), 50);
  while (one->delivered.empty() || two->delivered.empty()) cluster.Turn();
  const EngineLoad load = cluster.router().Load();
  EXPECT_EQ(load.ranks, 2);
  EXPECT_EQ(load.ranks_ready, 2);
  EXPECT_EQ(load.replicas_ready, 2);
  EXPECT_EQ(load.running, 2);
  const ReplicaSnapshot look = cluster.router().Snapshot().value();
  ASSERT_EQ(look.replicas.size(), 2u);
  EXPECT_EQ(look.replicas[0].running, 1);
  EXPECT_EQ(look.replicas[1].running, 1);
  EXPECT_EQ(look.running, 2);
  ASSERT_EQ(look.requests.size(), 2u);
  EXPECT_NE(look.requests[0].replica, look.requests[1].replica);
  EXPECT_EQ(look.prompt_tokens, 60);
  EXPECT_EQ(look.tokens, static_cast<int64_t>(one->delivered.size() + two->delivered.size()));
  cluster.replica(0).Lose(absl::UnavailableError("scripted loss"));
  EXPECT_EQ(cluster.router().Load().replicas_ready, 1);
  cluster.Run();
}

TEST_F(RouterTest, WhatIsHandedBackToAStandbyEndsWithItsLeader) {
  RoutedCluster cluster(10, {.replicas = 2, .policy = "prefix"});
  const auto sink = cluster.Submit(Prompt(1, 30), 5);
  cluster.router().Follow(absl::UnavailableError("another leads"));
  for (int32_t r = 0; r < 2; ++r) cluster.replica(r).Lose(absl::UnavailableError("scripted loss"));
  cluster.Run();
  ASSERT_TRUE(sink->end);
  EXPECT_THAT(sink->end->status, StatusIs(absl::StatusCode::kUnavailable, testing::HasSubstr("another leads")));
}

struct Tally {
  int64_t moved = 0, ended_ok = 0;
  double lost = 0, decoded = 0, drained = 0;  // hand-overs by reason
};

// One history: requests come, replicas are lost, drained and come back, clients leave. Every choice follows from the
// seed.
void RunHistory(uint64_t seed, Tally* tally) {
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  const std::unique_ptr<Entropy> dice = MakeSeededEntropy(seed * 31 + 1);
  const auto policies = RoutingPolicies();
  const int32_t count = Draw(*dice, 2, 4);
  RoutedShape shape{.replicas = count, .policy = std::string(policies[seed % policies.size()].name)};
  shape.slots = Chance(*dice, 50) ? 400 : 48;
  if (seed % 2 == 1) shape.roles = absl::StrCat("prefill:1,decode:", count - 1);
  shape.shares_tier = seed % 7 != 0;
  RoutedCluster cluster(seed, shape);
  // With this a hand-over is predicted to take as long as 10 tokens.
  for (int32_t r = 0; r < count; ++r) cluster.replica(r).ranks().row_us = 1000;
  std::vector<bool> drained(static_cast<size_t>(count));
  struct Client {
    RequestId id;
    std::vector<int32_t> prompt;
    int32_t max_tokens = 0;
    std::shared_ptr<WatchedSink> sink;
    bool left = false, stopped = false;
    absl::Time deadline = absl::InfiniteFuture();
  };
  std::vector<Client> clients;
  int32_t to_come = Draw(*dice, 3, 25);
  const bool bad_days = seed % 3 != 0;
  absl::Time none_since = absl::InfiniteFuture();
  bool none_too_long = false;
  int32_t lost = 0;
  for (int32_t step = 0; step < 60000; ++step) {
    const int32_t roll = Draw(*dice, 0, 999);
    if (roll < 60 && to_come > 0) {
      --to_come;
      Client client{.id = RequestId{1000u + clients.size()}};
      client.prompt = Prompt(Draw(*dice, 0, 3), Draw(*dice, 1, 80));
      client.max_tokens = Draw(*dice, 1, 30);
      client.sink = std::make_shared<WatchedSink>();
      if (Chance(*dice, 10)) client.deadline = cluster.clock().Now() + absl::Milliseconds(Draw(*dice, 1, 3000));
      Request request{.id = client.id, .max_tokens = client.max_tokens, .name = absl::StrCat("c", clients.size())};
      request.prompt = client.prompt;
      request.sink = client.sink;
      request.arrival = cluster.clock().Now();
      request.deadline = client.deadline;
      if (cluster.router().Submit(std::move(request)).ok()) clients.push_back(std::move(client));
    } else if (roll < 120) {
      cluster.clock().Advance(absl::Milliseconds(Draw(*dice, 0, 60)));
    } else if (bad_days && roll < 124 && step < 4000) {
      const int32_t r = Draw(*dice, 0, count - 1);
      if (cluster.replica(r).formed()) {
        cluster.replica(r).Lose(absl::UnavailableError("scripted loss"));
        ++lost;
      }
    } else if (roll < 128) {
      const int32_t r = Draw(*dice, 0, count - 1);
      drained[static_cast<size_t>(r)] = step < 4000 && Chance(*dice, 50);
      EXPECT_OK(cluster.router().DrainReplica(r, drained[static_cast<size_t>(r)]));
    } else if (roll < 150) {
      const int32_t r = Draw(*dice, 0, count - 1);
      if (!cluster.replica(r).formed()) cluster.Form(r);
    } else if (roll < 152 && !clients.empty()) {
      Client& client = clients[dice->Next() % clients.size()];
      if (!client.sink->end && !client.stopped) client.left = true;
      if (client.left) cluster.router().Cancel(client.id);
    } else if (roll < 154 && !clients.empty()) {
      Client& client = clients[dice->Next() % clients.size()];
      if (!client.sink->end && !client.left) client.stopped = true;
      if (client.stopped) cluster.router().Stop(client.id);
    } else {
      cluster.replica(Draw(*dice, 0, count - 1)).Turn();
    }
    if (Chance(*dice, 30)) cluster.router().Settle();
    bool any = false;
    for (int32_t r = 0; r < count; ++r) any |= cluster.replica(r).formed() && !drained[static_cast<size_t>(r)];
    if (any) none_since = absl::InfiniteFuture();
    if (!any && none_since == absl::InfiniteFuture()) none_since = cluster.clock().Now();
    none_too_long |= none_since + absl::Seconds(15) <= cluster.clock().Now();
    if (to_come > 0) continue;
    if (std::all_of(clients.begin(), clients.end(), [](const Client& c) { return c.sink->end.has_value(); })) break;
  }
  for (const Client& client : clients) {
    ASSERT_TRUE(client.sink->end.has_value()) << "request " << Value(client.id) << " never ended";
    const RequestEnd& end = *client.sink->end;
    const std::vector<int32_t> expected = StreamOf(client.prompt, client.max_tokens);
    const std::vector<int32_t>& got = client.sink->delivered;
    ASSERT_LE(got.size(), expected.size());
    EXPECT_TRUE(std::equal(got.begin(), got.end(), expected.begin())) << "a wrong token for " << Value(client.id);
    EXPECT_EQ(end.completion_tokens, static_cast<int32_t>(got.size()));
    EXPECT_EQ(end.prompt_tokens, static_cast<int32_t>(client.prompt.size()));
    switch (end.status.code()) {
      case absl::StatusCode::kOk:
        ++tally->ended_ok;
        EXPECT_TRUE(client.stopped || got == expected);
        break;
      case absl::StatusCode::kCancelled:
        EXPECT_TRUE(client.left);
        break;
      case absl::StatusCode::kDeadlineExceeded:
        EXPECT_LT(client.deadline, absl::InfiniteFuture());
        break;
      case absl::StatusCode::kUnavailable:
        EXPECT_TRUE(none_too_long) << end.status;
        break;
      case absl::StatusCode::kAborted:
        EXPECT_GE(lost, 3) << end.status;
        break;
      default:
        ADD_FAILURE() << end.status;
    }
  }
  tally->moved += static_cast<int64_t>(cluster.metrics().Total("interlace_router_taken_back_total"));
  tally->lost += cluster.hand_overs("lost");
  tally->decoded += cluster.hand_overs("decode");
  tally->drained += cluster.hand_overs("drain");
  cluster.Run();
  const EngineLoad load = cluster.router().Load();
  EXPECT_EQ(load.running + load.waiting, 0);
  EXPECT_EQ(load.blocks_held, 0);
  // What the directory says is what the replicas hold.
  for (int32_t r = 0; r < count; ++r) {
    if (cluster.replica(r).formed()) cluster.replica(r).Lose(absl::UnavailableError("the end"));
  }
  EXPECT_EQ(cluster.directory().blocks(), 0u) << "of replicas that are gone, or expected for ever";
}

TEST_F(RouterTest, EveryHistoryEndsEachRequestOnceWithTheRightTokens) {
  Tally tally;
  for (int32_t seed = 0; seed < kSeeds && !HasFailure(); ++seed) RunHistory(static_cast<uint64_t>(seed), &tally);
  EXPECT_GT(tally.moved, kSeeds / 2);
  EXPECT_GT(tally.ended_ok, kSeeds * 5);
  EXPECT_GT(tally.decoded, kSeeds / 2);
  EXPECT_GT(tally.drained, kSeeds / 2);
  std::printf(
      "%d histories: %.0f requests lost their replica, %.0f left one for another that decodes, %.0f a drained "
      "one; %ld ended well\n",
      kSeeds, tally.lost, tally.decoded, tally.drained, tally.ended_ok);
}

}  // namespace
}  // namespace interlace
