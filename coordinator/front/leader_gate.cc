#include "coordinator/front/leader_gate.h"

#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "coordinator/front/api_error.h"

namespace interlace {
namespace {

constexpr absl::string_view kHttp = "interlace/leader-http";
constexpr absl::string_view kGrpc = "interlace/leader-grpc";
constexpr absl::Duration kAskAgain = absl::Milliseconds(250);  // while nobody leads, or its ranks are missing

}  // namespace

absl::Status NotLeader(const std::optional<LeadRecord>& leader) {
  const std::string text = leader
                               ? absl::StrCat("this coordinator stands by; the one that leads the cluster is at http ",
                                              leader->http, ", grpc ", leader->grpc)
                               : "this coordinator does not lead the cluster, and none is known to; ask again";
  absl::Status status = WithRetryAfter(WithCode(absl::UnavailableError(text), "not_leader"), kAskAgain);
  if (!leader) return status;
  status.SetPayload(kHttp, absl::Cord(leader->http));
  status.SetPayload(kGrpc, absl::Cord(leader->grpc));
  return status;
}

std::optional<LeaderDoors> LeaderOf(const absl::Status& status) {
  const absl::optional<absl::Cord> http = status.GetPayload(kHttp), grpc = status.GetPayload(kGrpc);
  if (!http || !grpc) return std::nullopt;
  return LeaderDoors{std::string(*http), std::string(*grpc)};
}

absl::Status LeaderGate::Submit(Request request) {
  if (!window_.Holds()) return NotLeader(window_.leader());
  const absl::Status status = engine_.Submit(std::move(request));
  return absl::IsUnavailable(status) ? WithRetryAfter(status, kAskAgain) : status;  // its ranks are on their way to it
}

absl::Status LeaderGate::DrainReplica(int32_t replica, bool drains) {
  if (!window_.Holds()) return NotLeader(window_.leader());
  return engine_.DrainReplica(replica, drains);
}

EngineLoad LeaderGate::Load() {
  EngineLoad load = engine_.Load();
  if (!window_.Holds()) load.ranks_ready = load.replicas_ready = 0;
  return load;
}

}  // namespace interlace
