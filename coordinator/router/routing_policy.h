// Routing policies: which of several replicas a request goes to. Pure functions, in one table.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace interlace {

// The blocks of a prompt that one replica holds, from the first on without a gap.
struct HeldPrefix {
  int32_t blocks = 0;
  int32_t host = 0;    // of these, in host memory alone
  int32_t coming = 0;  // of these, neither: requests that were sent there before are about to compute them
  friend bool operator==(const HeldPrefix&, const HeldPrefix&) = default;
};

// What a replica is for, where prompts and answers are computed apart (coordinator/router/roles.h).
enum class ReplicaRole : uint8_t { kBoth, kPrefill, kDecode };

// One replica as a policy sees it.
struct ReplicaView {
  bool ready = false;  // it takes requests, and has not refused this one
  ReplicaRole role = ReplicaRole::kBoth;
  int64_t queued = 0;   // tokens of prompts that it must compute before their first tokens, by what was held then
  double assigned = 0;  // tokens that it was given to compute of late, of prompts and answers, fading
  int32_t open = 0;     // requests that were sent there and have not ended
  int64_t turn = 0;     // in which it was chosen last; 0: not yet
  HeldPrefix held;
};

// The request and what all replicas have in common.
struct RouteView {
  int32_t prompt = 0;  // tokens, of an answer that has begun too
  int32_t block_tokens = 16;
  int32_t shared = 0;       // blocks of it that a tier which all reach is likely to have, since a replica holds them
  double host_block = 0;    // bringing a block from the host takes as long as computing so many tokens of a prompt
  double below_block = 0;   // likewise of fetching one from that tier
  double slack_tokens = 0;  // tokens that are computed until its first token is due; infinite: it has no target
  uint64_t session = 0;     // equal for requests of one conversation
  int64_t turn = 0;         // counts requests
  // Where replicas have roles.
  bool tier_shared = false;  // all reach a tier, through which KV gets from one to another
  bool prompt_done = false;  // a replica has computed its prompt and gave it back for its answer
  bool one_token = false;    // it ends with its prompt, or with its first token
  double hand_over = 0;      // what a hand-over takes besides moving blocks, in tokens' time
  absl::Span<const ReplicaView> replicas;
};

// A replica where prompts wait gets no more of them while it was given more than this many times what replicas were
// given of late on the average.
inline constexpr double kMostOfMean = 1.3;

// Tokens that the replica computes before the request's first one, those of others that wait there among them, and what
// brings its prefix from the host and from below in as many tokens' time.
double TokensToFirst(const RouteView& view, const ReplicaView& replica);
// Tokens of the prompt that the replica need not compute.
int64_t HeldTokens(const RouteView& view, const ReplicaView& replica);
// What the request itself takes there until its first token, in tokens' time: computed and fetched, nobody waited for.
double OwnWork(const RouteView& view, const ReplicaView& replica);

struct RoutingPolicy {
  absl::string_view name;
  // The replica with the lowest cost gets the request, of those that are ready; where costs are equal, the one with
  // fewer open requests, then the one that was chosen longest ago.
  double (*cost)(const RouteView& view, const ReplicaView& replica, int32_t number);
  bool bounded;         // by kMostOfMean
  bool reads_prefixes;  // ReplicaView::held decides
};

absl::Span<const RoutingPolicy> RoutingPolicies();
// Of the setting router.policy. InvalidArgument lists the names.
absl::StatusOr<const RoutingPolicy*> FindRoutingPolicy(absl::string_view name);

// The replica for the request; -1: none is ready. Pure.
int32_t ChooseReplica(const RoutingPolicy& policy, const RouteView& view);

}  // namespace interlace
