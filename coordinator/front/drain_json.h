// The bodies of /debug/drain and /debug/resume; pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/engine.h"
#include "coordinator/front/drain_gate.h"

namespace interlace {

// What is to be drained: the server, or one of several replicas.
struct DrainAsked {
  absl::Duration timeout = absl::InfiniteDuration();  // how long what runs may go on; of the server alone
  std::optional<int32_t> replica;                     // none: the server
};
// Of a body, which may be empty. InvalidArgument names the member.
absl::StatusOr<DrainAsked> ParseDrain(absl::string_view body);
// The replica that takes requests again; none: the server does. Likewise.
absl::StatusOr<std::optional<int32_t>> ParseResume(absl::string_view body);
// `replicas`: of several, each; else empty.
std::string DrainJson(const DrainState& state, absl::Span<const ReplicaDrain> replicas);
// A status of DrainGate as a client is told: that it is closed for good is a conflict (409).
absl::Status ForStopping(absl::Status status);

}  // namespace interlace
