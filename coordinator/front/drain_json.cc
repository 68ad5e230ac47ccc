#include "coordinator/front/drain_json.h"

#include <cmath>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/json_fields.h"

namespace interlace {
namespace {

constexpr double kLongest = 365.0 * 24 * 3600;  // seconds

absl::Status ReadReplica(const Json& json, std::optional<int32_t>* replica) {
  std::optional<int64_t> number;
  RETURN_IF_ERROR(Read(json, "replica", &number));
  if (!number) return absl::OkStatus();
  if (*number < 0 || *number > std::numeric_limits<int32_t>::max()) {
    return BadField("replica", absl::StrCat(*number, " is none: they are numbered from 0"));
  }
  *replica = static_cast<int32_t>(*number);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DrainAsked> ParseDrain(absl::string_view body) {
  DrainAsked asked;
  if (absl::StripAsciiWhitespace(body).empty()) return asked;
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  for (const auto& [name, value] : json.items()) {
    if (name == "timeout_seconds" || name == "replica") continue;
    return BadField(name.substr(0, 200), "is not known: timeout_seconds is, and replica");
  }
  RETURN_IF_ERROR(ReadReplica(json, &asked.replica));
  std::optional<double> seconds;
  RETURN_IF_ERROR(Read(json, "timeout_seconds", &seconds));
  if (!seconds) return asked;
  if (asked.replica) {
    return BadField("timeout_seconds",
                    "is of the whole server; leave it out: the requests of a replica go on at the others");
  }
  if (!(*seconds >= 0 && *seconds <= kLongest)) {
    return BadField("timeout_seconds", absl::StrCat(*seconds, " is out of range: it must be 0 to ", kLongest));
  }
  asked.timeout = absl::Seconds(*seconds);
  return asked;
}

absl::StatusOr<std::optional<int32_t>> ParseResume(absl::string_view body) {
  std::optional<int32_t> replica;
  if (absl::StripAsciiWhitespace(body).empty()) return replica;
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  for (const auto& [name, value] : json.items()) {
    if (name != "replica") return BadField(name.substr(0, 200), "is not known: replica is");
  }
  RETURN_IF_ERROR(ReadReplica(json, &replica));
  return replica;
}

std::string DrainJson(const DrainState& state, absl::Span<const ReplicaDrain> replicas) {
  Json json;
  json["draining"] = state.draining;
  json["stopping"] = state.stopping;
  json["requests_left"] = state.left;
  json["requests_cut"] = state.cut;
  json["seconds_until_cut"] = state.until_cut ? Json(absl::ToDoubleSeconds(*state.until_cut)) : Json();
  for (const ReplicaDrain& replica : replicas) {
    json["replicas"].push_back({{"draining", replica.draining}, {"requests_left", replica.left}});
  }
  return json.dump();
}

absl::Status ForStopping(absl::Status status) {
  if (!absl::IsFailedPrecondition(status)) return status;
  return WithCode(absl::AlreadyExistsError(status.message()), "server_stopping");
}

}  // namespace interlace
