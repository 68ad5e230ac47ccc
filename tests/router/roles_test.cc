// Where requests go when replicas are for prompts or for answers: a table of cases, and what holds of every view.
#include "coordinator/router/roles.h"

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

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int32_t kSeeds = 3000;
constexpr int32_t kBlock = 16;

int64_t Draw(Entropy& entropy, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(entropy.Next() % static_cast<uint64_t>(high - low + 1));
}

TEST(RolesTest, AreReadInTheOrderOfTheReplicas) {
  EXPECT_THAT(*ParseRoles("prefill:1,decode:2,both:1", 4),
              ElementsAre(ReplicaRole::kPrefill, ReplicaRole::kDecode, ReplicaRole::kDecode, ReplicaRole::kBoth));
  EXPECT_THAT(*ParseRoles("", 2), ElementsAre(ReplicaRole::kBoth, ReplicaRole::kBoth));
}

TEST(RolesTest, WhatIsNoListOfRolesIsRefusedAndSaysWhy) {
  for (const auto& [text, why] : {std::pair<const char*, const char*>{"prefill", "prefill for ''"},
                                  {"prefill:1,decode", "decode for ''"},
                                  {"prefil:1,decode:1", "the role 'prefil'"},
                                  {"prefill:0,decode:2", "prefill for '0'"},
                                  {"prefill:1,decode:2", "of 3 replicas"},
                                  {"prefill:1", "of 1 replicas"},
                                  {"prefill:1,,decode:1", "the role ''"},
                                  {"prefill:99999999999,decode:1", "for '99999999999'"},
                                  {"prefill:2", "nobody to decode"},
                                  {"decode:2", "nobody to compute prompts"}}) {
    EXPECT_THAT(ParseRoles(text, 2).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, testing::AllOf(HasSubstr("router.roles"), HasSubstr(why))))
        << text;
  }
}

// Replica 0 computes prompts, 1 and 2 decode; computing a block takes 16 tokens' time, fetching it 2.
struct Case {
  RouteView view{.prompt = 1000, .block_tokens = kBlock, .below_block = 2, .tier_shared = true, .hand_over = 64};
  std::vector<ReplicaView> replicas;
  Case() {
    view.slack_tokens = std::numeric_limits<double>::infinity();
    replicas.resize(3);
    for (ReplicaView& replica : replicas) replica.ready = true;
    replicas[0].role = ReplicaRole::kPrefill;
    replicas[1].role = replicas[2].role = ReplicaRole::kDecode;
  }
  RouteDecision Decide(absl::string_view policy = "prefix") {
    view.replicas = replicas;
    return DecideRoute(**FindRoutingPolicy(policy), view);
  }
};

void Expect(const RouteDecision& got, int32_t replica, RoutePart part, WholeCause cause = WholeCause::kNone) {
  EXPECT_EQ(got.replica, replica);
  EXPECT_EQ(got.part, part);
  EXPECT_EQ(NameOf(got.cause), NameOf(cause));
}

TEST(RolesTest, ANewRequestGoesWherePromptsAreComputedAndThenWhereAnswersAre) {
  Case c;
  c.replicas[0].queued = 5000;  // it is not a race: what waits there does not send prompts to who decodes
  Expect(c.Decide(), 0, RoutePart::kPrompt);
  c.view.prompt_done = true;
  c.replicas[1].open = 3;
  Expect(c.Decide(), 2, RoutePart::kAnswer);
  c.replicas[1].held.blocks = 60;
  c.replicas[2].open = 1;
  Expect(c.Decide(), 1, RoutePart::kAnswer);  // who has its prefix need not fetch it
}

TEST(RolesTest, WhatADecodeReplicaHasSoonerByItselfGoesStraightThere) {
  Case c;
  c.view.prompt = 60;
  Expect(c.Decide(), 1, RoutePart::kWhole, WholeCause::kShort);
  c.view.prompt = 1000;
  c.replicas[2].held.blocks = 62;
  Expect(c.Decide(), 2, RoutePart::kWhole, WholeCause::kHeld);
  c.replicas[2].held.blocks = 0;
  c.view.shared = 62;  // in the tier
  Expect(c.Decide(), 1, RoutePart::kWhole, WholeCause::kHeld);
  c.view.shared = 31;
  Expect(c.Decide(), 0, RoutePart::kPrompt);  // half of it is to be computed
  c.view.below_block = kBlock;                // fetching is as slow as computing
  Expect(c.Decide(), 1, RoutePart::kWhole, WholeCause::kShort);
}

TEST(RolesTest, ASideThatIsMissingIsDoneByTheOther) {
  Case c;
  c.replicas[0].ready = false;
  Expect(c.Decide(), 1, RoutePart::kWhole, WholeCause::kNoPrefill);
  c.replicas[0].ready = true;
  c.replicas[1].ready = c.replicas[2].ready = false;
  Expect(c.Decide(), 0, RoutePart::kWhole, WholeCause::kNoDecode);
  c.view.prompt_done = true;
  Expect(c.Decide(), 0, RoutePart::kWhole, WholeCause::kNoDecode);
  c.replicas[0].ready = false;
  EXPECT_EQ(c.Decide().replica, -1);
}

TEST(RolesTest, WithoutATierThatAllReachAnyReplicaDoesAllOfIt) {
  Case c;
  c.view.tier_shared = false;
  c.replicas[0].queued = c.replicas[1].queued = 500;
  Expect(c.Decide(), 2, RoutePart::kWhole, WholeCause::kNotShared);
}

TEST(RolesTest, WhatEndsWithItsFirstTokenStaysWherePromptsAreComputed) {
  Case c;
  c.view.one_token = true;
  Expect(c.Decide(), 0, RoutePart::kWhole, WholeCause::kOneToken);
}

TEST(RolesTest, AReplicaForBothKeepsWhatItHasBegun) {
  Case c;
  c.replicas[1].role = ReplicaRole::kBoth;
  c.replicas[0].queued = 5000;
  Expect(c.Decide(), 1, RoutePart::kWhole);
}

TEST(RolesTest, EveryDecisionIsReadyFollowsFromTheViewAndFitsTheRoleOrSaysWhy) {
  std::set<absl::string_view> seen;
  for (const RoutingPolicy& policy : RoutingPolicies()) {
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
      Case c;
      c.view.prompt = static_cast<int32_t>(Draw(*entropy, 1, 3000));
      c.view.below_block = static_cast<double>(Draw(*entropy, 0, kBlock));
      c.view.host_block = static_cast<double>(Draw(*entropy, 0, kBlock));
      c.view.hand_over = static_cast<double>(Draw(*entropy, 0, 300));
      c.view.tier_shared = Draw(*entropy, 0, 5) > 0;
      c.view.prompt_done = Draw(*entropy, 0, 2) == 0;
      c.view.one_token = Draw(*entropy, 0, 9) == 0;
      c.view.shared = c.view.tier_shared ? static_cast<int32_t>(Draw(*entropy, 0, c.view.prompt / kBlock)) : 0;
      c.replicas.resize(static_cast<size_t>(Draw(*entropy, 2, 6)));
      bool prefills = false, decodes = false, apart = false;
      for (ReplicaView& replica : c.replicas) {
        replica.role = static_cast<ReplicaRole>(Draw(*entropy, 0, 2));
        replica.ready = Draw(*entropy, 0, 2) > 0;
        replica.queued = Draw(*entropy, 0, 1) * Draw(*entropy, 0, 9000);
        replica.assigned = static_cast<double>(Draw(*entropy, 0, 40000));
        replica.open = static_cast<int32_t>(Draw(*entropy, 0, 40));
        replica.held.blocks = static_cast<int32_t>(Draw(*entropy, 0, c.view.prompt / kBlock));
        replica.held.host = static_cast<int32_t>(Draw(*entropy, 0, replica.held.blocks));
        prefills |= replica.ready && replica.role != ReplicaRole::kDecode;
        decodes |= replica.ready && replica.role != ReplicaRole::kPrefill;
        apart |= replica.role != ReplicaRole::kBoth;
      }
      SCOPED_TRACE(testing::Message() << policy.name << ", seed " << seed);
      const RouteDecision got = c.Decide(policy.name);
      ASSERT_EQ(got.replica >= 0, prefills || decodes);
      if (got.replica < 0) continue;
      const ReplicaView& chosen = c.replicas[static_cast<size_t>(got.replica)];
      EXPECT_TRUE(chosen.ready);
      seen.insert(NameOf(got.cause));
      const RouteDecision again = c.Decide(policy.name);
      EXPECT_TRUE(again.replica == got.replica && again.part == got.part && again.cause == got.cause);
      if (got.part == RoutePart::kPrompt) {
        EXPECT_TRUE(chosen.role == ReplicaRole::kPrefill && decodes && c.view.tier_shared && !c.view.prompt_done);
        EXPECT_FALSE(c.view.one_token);
      }
      if (got.part == RoutePart::kAnswer) {
        EXPECT_TRUE(chosen.role != ReplicaRole::kPrefill && c.view.prompt_done);
      }
      if (c.view.prompt_done && decodes && apart) {
        EXPECT_EQ(got.part, RoutePart::kAnswer);
      }
      const bool wrong_side =
          chosen.role == ReplicaRole::kPrefill ? got.part == RoutePart::kAnswer : got.part == RoutePart::kPrompt;
      EXPECT_FALSE(wrong_side);
      if (!apart) {
        EXPECT_EQ(got.cause, WholeCause::kNone);
      }
      if (got.cause == WholeCause::kNoDecode) {
        EXPECT_FALSE(decodes);
      }
      if (got.cause == WholeCause::kNoPrefill) {
        EXPECT_FALSE(prefills);
      }
      if (got.cause == WholeCause::kNotShared) {
        EXPECT_FALSE(c.view.tier_shared);
      }
    }
  }
  EXPECT_EQ(seen.size(), kWholeCauses) << "a cause that no view has";
}

TEST(RolesTest, TheBookTellsPartAndCauseOfAChoice) {
  const std::vector<ReplicaRole> roles = *ParseRoles("prefill:1,decode:1", 2);
  RouteBook book(**FindRoutingPolicy("prefix"), 2, roles);
  const std::vector<ReplicaFacts> facts(2, {.ready = true, .token_seconds = 1e-3, .below_block_seconds = 1e-3});
  const std::vector<HeldPrefix> held(2);
  RouteAsked asked{.prompt = 500, .block_tokens = kBlock, .tier_shared = true};
  const RouteChoice prompt = book.Choose(asked, facts, held, absl::UnixEpoch());
  EXPECT_EQ(prompt.part, RoutePart::kPrompt);
  EXPECT_THAT(RouteText(prompt, asked), HasSubstr("replica 0 for its prompt: 0 of 500 tokens"));
  asked.prompt_done = true;
  const RouteChoice answer = book.Choose(asked, facts, held, absl::UnixEpoch());
  EXPECT_THAT(RouteText(answer, asked), HasSubstr("replica 1 for its answer:"));
  asked = {.prompt = 5, .block_tokens = kBlock, .tier_shared = true};
  const RouteChoice small = book.Choose(asked, facts, held, absl::UnixEpoch());
  EXPECT_THAT(RouteText(small, asked), HasSubstr("replica 1 for all of it, since its prompt is computed there"));
}

}  // namespace
}  // namespace interlace
