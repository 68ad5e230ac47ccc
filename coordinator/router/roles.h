// Roles: prompts computed by some replicas and answers by others (prefill and decode apart). Pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/router/routing_policy.h"

namespace interlace {

// What a replica is sent of a request.
enum class RoutePart : uint8_t {
  kWhole,
  kPrompt,  // it hands the request over behind its first token
  kAnswer,  // what comes behind the first token, which another one has made
};

// Why one replica does all of a request although replicas have roles.
enum class WholeCause : uint8_t {
  kNone,
  kShort,      // computing its prompt where it decodes is predicted to cost no more than bringing it there
  kHeld,       // a decode replica, or the tier, has its prompt but for less than two blocks
  kOneToken,   // nothing would be left to decode
  kNotShared,  // no tier that all reach: KV would have to be computed twice
  kNoPrefill,  // no replica that computes prompts is there
  kNoDecode,   // no replica that decodes is there
};
inline constexpr size_t kWholeCauses = 7;
absl::string_view NameOf(ReplicaRole role);     // "prefill"
absl::string_view NameOf(WholeCause cause);     // "no_decode"
absl::string_view MeaningOf(WholeCause cause);  // "no replica that decodes is there"

struct RouteDecision {
  int32_t replica = -1;  // none is ready
  RoutePart part = RoutePart::kWhole;
  WholeCause cause = WholeCause::kNone;
};

// Of the setting router.roles, "prefill:2,decode:2": roles in the order of the replicas' numbers, and how many have
// each. Empty: each does both. InvalidArgument says what a list looks like.
absl::StatusOr<std::vector<ReplicaRole>> ParseRoles(absl::string_view text, int32_t replicas);

// Whether some replica does not do everything.
bool Apart(absl::Span<const ReplicaView> replicas);

// The replica for the request, or for the part of it that is next. A new request goes to a replica that computes
// prompts, unless the prediction says that a decode replica has its prompt sooner by itself; one whose prompt is
// computed goes to a decode replica. `policy` chooses among those of a side, as if there were no others. A side that
// has nobody is done by the other one. -1 iff none is ready.
RouteDecision DecideRoute(const RoutingPolicy& policy, const RouteView& view);

}  // namespace interlace
