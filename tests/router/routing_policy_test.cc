// What routing policies promise, each over seeded views; every row of the table is walked.
#include "coordinator/router/routing_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <vector>

#include "common/entropy.h"
#include "coordinator/router/route_book.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

constexpr int32_t kSeeds = 2000;
constexpr int32_t kBlock = 16;
constexpr double kGrace = 8192;  // tokens: of a few requests a mean says little

int64_t Draw(Entropy& entropy, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(entropy.Next() % static_cast<uint64_t>(high - low + 1));
}

struct Drawn {
  std::vector<ReplicaView> replicas;
  RouteView view;
};

Drawn DrawView(uint64_t seed) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
  Drawn drawn;
  drawn.view.prompt = static_cast<int32_t>(Draw(*entropy, 1, 4000));
  drawn.view.block_tokens = kBlock;
  drawn.view.host_block = static_cast<double>(Draw(*entropy, 0, kBlock));
  drawn.view.slack_tokens = Draw(*entropy, 0, 2) == 0 ? std::numeric_limits<double>::infinity()
                                                      : static_cast<double>(Draw(*entropy, -100, 9000));
  drawn.view.session = entropy->Next();
  for (int64_t r = Draw(*entropy, 1, 9); r > 0; --r) {
    ReplicaView& replica = drawn.replicas.emplace_back();
    replica.ready = Draw(*entropy, 0, 3) > 0;
    replica.queued = Draw(*entropy, 0, 1) * Draw(*entropy, 0, 9000);
    replica.assigned = static_cast<double>(Draw(*entropy, 0, 20000));
    replica.open = static_cast<int32_t>(Draw(*entropy, 0, 40));
    replica.turn = Draw(*entropy, 0, 1000);
    replica.held.blocks = static_cast<int32_t>(Draw(*entropy, 0, drawn.view.prompt / kBlock));
    replica.held.host = static_cast<int32_t>(Draw(*entropy, 0, replica.held.blocks));
  }
  return drawn;
}

int32_t ChooseIn(const RoutingPolicy& policy, Drawn& drawn) {
  drawn.view.replicas = drawn.replicas;
  return ChooseReplica(policy, drawn.view);
}

const RoutingPolicy& Named(absl::string_view name) { return **FindRoutingPolicy(name); }

TEST(RoutingPolicyTest, EveryNameOfTheTableIsFoundAndOthersAreToldTheNames) {
  std::set<absl::string_view> names;
  for (const RoutingPolicy& policy : RoutingPolicies()) {
    EXPECT_TRUE(names.insert(policy.name).second) << policy.name << " twice";
    EXPECT_EQ(*FindRoutingPolicy(policy.name), &policy);
  }
  EXPECT_THAT(FindRoutingPolicy("random").status(),
              StatusIs(absl::StatusCode::kInvalidArgument, testing::HasSubstr("round_robin")));
}

TEST(RoutingPolicyTest, AChoiceIsReadyAndFollowsFromTheViewAlone) {
  for (const RoutingPolicy& policy : RoutingPolicies()) {
    int32_t none = 0;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      Drawn drawn = DrawView(seed), again = DrawView(seed);
      const int32_t chosen = ChooseIn(policy, drawn);
      EXPECT_EQ(chosen, ChooseIn(policy, again)) << policy.name << ", seed " << seed;
      bool any = false;
      for (const ReplicaView& replica : drawn.replicas) any |= replica.ready;
      ASSERT_EQ(chosen >= 0, any) << policy.name << ", seed " << seed;
      none += any ? 0 : 1;
      if (!any) continue;
      EXPECT_TRUE(drawn.replicas[static_cast<size_t>(chosen)].ready) << policy.name << ", seed " << seed;
    }
    EXPECT_GT(none, 0) << "no view without a replica was drawn";
  }
}

TEST(RoutingPolicyTest, WhereAllHaveTheSameToDoTheHolderOfTheLongestPrefixGetsTheRequest) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Drawn drawn = DrawView(seed);
    int32_t longest = -1;
    for (ReplicaView& replica : drawn.replicas) {
      replica.queued = 500;
      replica.assigned = 500;
      replica.held.host = 0;
      if (replica.ready) longest = std::max(longest, replica.held.blocks);
    }
    const int32_t chosen = ChooseIn(Named("prefix"), drawn);
    if (chosen < 0) continue;
    // A whole prompt counts as all but its last token, which is computed again.
    drawn.view.replicas = drawn.replicas;
    ReplicaView best;
    best.held.blocks = longest;
    EXPECT_EQ(HeldTokens(drawn.view, drawn.replicas[static_cast<size_t>(chosen)]), HeldTokens(drawn.view, best));
  }
}

TEST(RoutingPolicyTest, ABlockOnTheDeviceIsWorthMoreThanOneOnTheHostAndThatMoreThanNone) {
  Drawn drawn;
  drawn.view.prompt = 1000;
  drawn.view.block_tokens = kBlock;
  drawn.view.host_block = 4;
  drawn.replicas.resize(3);
  for (ReplicaView& replica : drawn.replicas) replica.ready = true;
  drawn.replicas[0].held = {};
  drawn.replicas[1].held = {.blocks = 40, .host = 40};
  drawn.replicas[2].held = {.blocks = 40, .host = 0};
  EXPECT_EQ(ChooseIn(Named("prefix"), drawn), 2);
  drawn.replicas[2].ready = false;
  EXPECT_EQ(ChooseIn(Named("prefix"), drawn), 1);
  drawn.replicas[1].queued = 3000;  // waiting there costs more than it saves
  EXPECT_EQ(ChooseIn(Named("prefix"), drawn), 0);
}

// What all can fetch is worth little of a queue; without such a tier it is worth computing it.
TEST(RoutingPolicyTest, WhereAllReachATierAHolderIsPreferredLess) {
  Drawn drawn;
  drawn.view.prompt = 1000;
  drawn.view.block_tokens = kBlock;
  drawn.view.below_block = 2;
  drawn.replicas.resize(2);
  for (ReplicaView& replica : drawn.replicas) replica.ready = true;
  drawn.replicas[0].held.blocks = 60;
  drawn.replicas[0].queued = 300;
  EXPECT_EQ(ChooseIn(Named("prefix"), drawn), 0);
  drawn.view.shared = 60;
  EXPECT_EQ(ChooseIn(Named("prefix"), drawn), 1);
  drawn.replicas[0].queued = 60;
  EXPECT_EQ(ChooseIn(Named("prefix"), drawn), 0) << "fetching is not free";
}

TEST(RoutingPolicyTest, WherePromptsWaitNobodyGetsMoreThanTheBoundAllows) {
  for (const RoutingPolicy& policy : RoutingPolicies()) {
    if (!policy.bounded) continue;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      Drawn drawn = DrawView(seed);
      const int32_t chosen = ChooseIn(policy, drawn);
      if (chosen < 0) continue;
      double all = 0;
      int32_t ready = 0;
      for (const ReplicaView& replica : drawn.replicas) {
        all += replica.ready ? replica.assigned : 0;
        ready += replica.ready ? 1 : 0;
      }
      const ReplicaView& taken = drawn.replicas[static_cast<size_t>(chosen)];
      EXPECT_TRUE(taken.queued == 0 || taken.assigned <= kMostOfMean * all / ready + kGrace + 1e-9)
          << policy.name << ", seed " << seed;
    }
  }
}

TEST(RoutingPolicyTest, AConversationStaysWhereItIsWhenAnotherReplicaComesOrGoes) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Drawn drawn = DrawView(seed);
    for (ReplicaView& replica : drawn.replicas) replica.queued = 0;
    const int32_t before = ChooseIn(Named("session"), drawn);
    if (before < 0) continue;
    for (size_t other = 0; other < drawn.replicas.size(); ++other) {
      if (static_cast<int32_t>(other) == before) continue;
      Drawn less = drawn;
      less.replicas[other].ready = false;
      EXPECT_EQ(ChooseIn(Named("session"), less), before);
    }
  }
}

TEST(RoutingPolicyTest, SlackTakesTheBusiestThatIsInTime) {
  Drawn drawn;
  drawn.view.prompt = 100;
  drawn.view.slack_tokens = 600;
  drawn.replicas.resize(3);
  for (ReplicaView& replica : drawn.replicas) replica.ready = true;
  drawn.replicas[0].queued = 0;
  drawn.replicas[1].queued = 400;
  drawn.replicas[2].queued = 700;
  EXPECT_EQ(ChooseIn(Named("slack"), drawn), 1);
  drawn.view.slack_tokens = 50;  // nobody is
  EXPECT_EQ(ChooseIn(Named("slack"), drawn), 0);
}

TEST(RouteBookTest, RoundRobinTakesTurnsAndLoadTakesTheShortestQueue) {
  const std::vector<ReplicaFacts> facts(3, ReplicaFacts{.ready = true});
  const std::vector<HeldPrefix> held(3);
  RouteBook turns(Named("round_robin"), 3);
  for (int32_t i = 0; i < 9; ++i) {
    EXPECT_EQ(turns.Choose({.prompt = 100}, facts, held, absl::UnixEpoch()).replica, i % 3);
  }
  RouteBook load(Named("load"), 3);
  const RouteChoice first = load.Choose({.prompt = 100}, facts, held, absl::UnixEpoch());
  EXPECT_EQ(first.replica, 0);
  EXPECT_EQ(load.Choose({.prompt = 50}, facts, held, absl::UnixEpoch()).replica, 1);
  EXPECT_EQ(load.Choose({.prompt = 60}, facts, held, absl::UnixEpoch()).replica, 2);
  EXPECT_EQ(load.Choose({.prompt = 70}, facts, held, absl::UnixEpoch()).replica, 1);
  load.OnFirstToken(first);
  EXPECT_EQ(load.Choose({.prompt = 10}, facts, held, absl::UnixEpoch()).replica, 0);
}

// What was sent, began and ended, or was refused, leaves nothing in the book but what fades.
TEST(RouteBookTest, TheBookBalances) {
  for (const RoutingPolicy& policy : RoutingPolicies()) {
    const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(7);
    RouteBook book(policy, 4);
    const std::vector<ReplicaFacts> facts(4, ReplicaFacts{.ready = true});
    struct Sent {
      RouteChoice choice;
      bool begun = false;
    };
    std::vector<Sent> sent;
    absl::Time now = absl::UnixEpoch();
    for (int32_t i = 0; i < 3000; ++i) {
      now += absl::Milliseconds(Draw(*entropy, 0, 40));
      const int64_t roll = Draw(*entropy, 0, 9);
      if (roll < 4 || sent.empty()) {
        std::vector<HeldPrefix> held(4);
        for (HeldPrefix& prefix : held) prefix.blocks = static_cast<int32_t>(Draw(*entropy, 0, 10));
        const RouteChoice choice =
            book.Choose({.prompt = static_cast<int32_t>(Draw(*entropy, 1, 400))}, facts, held, now);
        ASSERT_GE(choice.replica, 0);
        EXPECT_GT(choice.fresh, 0) << "the last token is always computed";
        if (roll == 0) {
          book.Undo(choice);
        } else {
          sent.push_back({choice});
        }
        continue;
      }
      const size_t at = static_cast<size_t>(Draw(*entropy, 0, static_cast<int64_t>(sent.size()) - 1));
      if (!sent[at].begun) {
        book.OnFirstToken(sent[at].choice);
        sent[at].begun = true;
      } else {
        book.OnEnd(sent[at].choice, 10, now);
        sent.erase(sent.begin() + static_cast<ptrdiff_t>(at));
      }
    }
    for (Sent& one : sent) {
      if (!one.begun) book.OnFirstToken(one.choice);
      book.OnEnd(one.choice, 10, now);
    }
    for (const ReplicaView& replica : book.replicas()) {
      EXPECT_EQ(replica.queued, 0) << policy.name;
      EXPECT_EQ(replica.open, 0) << policy.name;
      EXPECT_GE(replica.assigned, 0) << policy.name;
    }
  }
}

}  // namespace
}  // namespace interlace
