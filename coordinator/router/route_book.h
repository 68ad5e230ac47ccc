// RouteBook: what replicas were given to do, and the choice among them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/router/roles.h"
#include "coordinator/router/routing_policy.h"

namespace interlace {

// What a replica says of itself when a request is routed.
struct ReplicaFacts {
  bool ready = false;
  double token_seconds = 0;       // as in EngineLoad; 0: not known
  double host_block_seconds = 0;  // likewise
  double below_block_seconds = 0;
};

struct RouteAsked {
  int32_t prompt = 0;  // tokens, those of an answer that has begun too
  int32_t block_tokens = 16;
  absl::Duration slack = absl::InfiniteDuration();  // until its next token is due
  uint64_t session = 0;
  int32_t shared = 0;  // blocks that a tier which all replicas reach is likely to have
  // As in RouteView.
  bool tier_shared = false;
  bool prompt_done = false;
  bool one_token = false;
};

struct RouteChoice {
  int32_t replica = -1;  // none is ready
  int32_t fresh = 0;     // tokens of the prompt that it must compute, by what is held now
  HeldPrefix held;       // there
  double expected = 0;   // TokensToFirst
  RoutePart part = RoutePart::kWhole;
  WholeCause cause = WholeCause::kNone;
};

// Owned by Router, which calls it under its lock, or by a study in virtual time. No clock: the time is given. Each
// choice counts as sent there until OnFirstToken, and until OnEnd; both are told once for each, in that order.
class RouteBook {
 public:
  static constexpr absl::Duration kOfLate = absl::Seconds(30);          // what was given loses e-fold in this time,
  static constexpr absl::Duration kFadeStep = absl::Milliseconds(100);  // in steps

  // `roles`: of each replica; empty: each does both.
  RouteBook(const RoutingPolicy& policy, int32_t replicas, absl::Span<const ReplicaRole> roles = {});

  // `facts` and `held`: of each replica.
  RouteChoice Choose(const RouteAsked& asked, absl::Span<const ReplicaFacts> facts, absl::Span<const HeldPrefix> held,
                     absl::Time now);
  void OnFirstToken(const RouteChoice& choice) { View(choice).queued -= choice.fresh; }
  // `answer`: tokens of it that the replica made.
  void OnEnd(const RouteChoice& choice, int32_t answer, absl::Time now);
  // It was refused there: as if it had not been chosen.
  void Undo(const RouteChoice& choice);

  const std::vector<ReplicaView>& replicas() const { return views_; }

 private:
  ReplicaView& View(const RouteChoice& choice) { return views_[static_cast<size_t>(choice.replica)]; }
  void Fade(absl::Time now);

  const RoutingPolicy& policy_;
  std::vector<ReplicaView> views_;
  bool apart_ = false;  // they have roles
  absl::Time faded_ = absl::InfinitePast();
  int64_t turn_ = 0;
};

// "replica 1: 320 of 352 tokens of its prompt are there, 32 of them on the host; 500 tokens to compute until its
// first".
std::string RouteText(const RouteChoice& choice, const RouteAsked& asked);

}  // namespace interlace
