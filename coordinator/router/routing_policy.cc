#include "coordinator/router/routing_policy.h"

#include <algorithm>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

// Tokens of the prompt that are not there and may be fetched.
int64_t BelowTokens(const RouteView& view, const ReplicaView& replica) {
  if (view.shared == 0) return 0;
  const int64_t held = HeldTokens(view, replica);
  return std::clamp<int64_t>(int64_t{view.shared} * view.block_tokens - held, 0, std::max(0, view.prompt - 1) - held);
}

// Tokens by which a replica may be ahead of kMostOfMean: of a few requests a mean says little.
constexpr double kGrace = 8192;

// The first token comes soonest; of two replicas where it comes about as soon, the one that has less to compute for it,
// since that time is taken from others.
constexpr double kOwnWork = 2;
double CostOfPrefix(const RouteView& view, const ReplicaView& replica, int32_t) {
  return TokensToFirst(view, replica) +
         kOwnWork * static_cast<double>(view.prompt - HeldTokens(view, replica) - BelowTokens(view, replica));
}

double CostOfLoad(const RouteView&, const ReplicaView& replica, int32_t) { return static_cast<double>(replica.queued); }

// Among those that give the first token in time, the one with the most to do, so that the others stay free for who has
// less time; if none does, the one that is late the least. PolyServe's rule.
double CostOfSlack(const RouteView& view, const ReplicaView& replica, int32_t) {
  const double late = TokensToFirst(view, replica) - view.slack_tokens;
  return late > 0 ? late : -static_cast<double>(replica.queued) - replica.open;
}

uint64_t Mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// Rendezvous hashing: a replica that comes or goes moves its own conversations and no others.
double CostOfSession(const RouteView& view, const ReplicaView&, int32_t number) {
  return static_cast<double>(Mix(view.session ^ Mix(static_cast<uint64_t>(number))) >> 11);
}

double CostOfTurn(const RouteView&, const ReplicaView& replica, int32_t) { return static_cast<double>(replica.turn); }

constexpr RoutingPolicy kPolicies[] = {
    {"prefix", &CostOfPrefix, true, true},      {"load", &CostOfLoad, false, false},
    {"slack", &CostOfSlack, false, true},       {"session", &CostOfSession, true, false},
    {"round_robin", &CostOfTurn, false, false},
};

}  // namespace

int64_t HeldTokens(const RouteView& view, const ReplicaView& replica) {
  if (replica.held.blocks == 0) return 0;  // as at most of many
  return std::min<int64_t>(int64_t{replica.held.blocks} * view.block_tokens, std::max(0, view.prompt - 1));
}

double OwnWork(const RouteView& view, const ReplicaView& replica) {
  const int64_t held = HeldTokens(view, replica), below = BelowTokens(view, replica);
  const double fetched = below == 0 ? 0 : static_cast<double>(below) / view.block_tokens * view.below_block;
  const double computed = static_cast<double>(view.prompt - held - below);
  return computed + fetched + replica.held.host * view.host_block;
}

double TokensToFirst(const RouteView& view, const ReplicaView& replica) {
  return static_cast<double>(replica.queued) + OwnWork(view, replica);
}

absl::Span<const RoutingPolicy> RoutingPolicies() { return kPolicies; }

absl::StatusOr<const RoutingPolicy*> FindRoutingPolicy(absl::string_view name) {
  std::string known;
  for (const RoutingPolicy& policy : kPolicies) {
    if (policy.name == name) return &policy;
    absl::StrAppend(&known, known.empty() ? "" : ", ", policy.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("router.policy='", name, "' is not known; one of ", known));
}

int32_t ChooseReplica(const RoutingPolicy& policy, const RouteView& view) {
  double most = 0;
  if (policy.bounded) {
    double assigned = 0;
    int32_t ready = 0;
    for (const ReplicaView& replica : view.replicas) {
      assigned += replica.ready ? replica.assigned : 0;
      ready += replica.ready ? 1 : 0;
    }
    most = ready > 0 ? kMostOfMean * assigned / ready + kGrace : 0;
  }
  int32_t best = -1;
  std::tuple<double, int32_t, int64_t> least;
  for (int32_t r = 0; r < static_cast<int32_t>(view.replicas.size()); ++r) {
    const ReplicaView& replica = view.replicas[static_cast<size_t>(r)];
    if (!replica.ready || (policy.bounded && replica.queued > 0 && replica.assigned > most)) continue;
    const double cost = policy.cost(view, replica, r);
    if (best >= 0 && cost > std::get<0>(least)) continue;
    const std::tuple own(cost, replica.open, replica.turn);
    if (best >= 0 && own >= least) continue;
    best = r;
    least = own;
  }
  return best;
}

}  // namespace interlace
