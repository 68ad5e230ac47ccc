#include "cli/cluster_look.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/clock.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

using Json = nlohmann::json;

Json Parsed(const std::string& body) {
  Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json : Json::object();
}

std::string Text(const Json& json, const char* name) {
  return json.contains(name) && json[name].is_string() ? json[name].get<std::string>() : std::string();
}

int32_t Number(const Json& json, const char* name) {
  return json.contains(name) && json[name].is_number_integer() ? json[name].get<int32_t>() : 0;
}

// The server's date minus ours, halfway between question and answer.
std::optional<absl::Duration> SkewOf(const HttpResult& answer, absl::Duration round_trip) {
  absl::Time date;
  std::string error;
  if (!absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", std::string(answer.header("date")), &date, &error)) {
    return std::nullopt;
  }
  // Dates are cut to a second, so the middle of that second is the best guess.
  return date + absl::Milliseconds(500) - (WallTime() - round_trip / 2);
}

}  // namespace

absl::StatusOr<ClusterLook> LookAtCluster(const HttpDoor& door) {
  ClusterLook look;
  look.url = door.url();
  const absl::Time asked = absl::Now();
  ASSIGN_OR_RETURN(const HttpResult health, door.Ask("GET", "/health"));
  look.round_trip = absl::Now() - asked;
  look.clock_skew = SkewOf(health, look.round_trip);
  const Json told = Parsed(health.body);
  look.health = Text(told, "status");
  look.ranks = Number(told, "ranks");
  look.ranks_ready = Number(told, "ranks_ready");
  if (look.health.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(door.url(), "/health is not that of an Interlace cluster (it answers ", health.status, ")"));
  }
  ASSIGN_OR_RETURN(const HttpResult version, door.Ask("GET", "/version"));
  look.version = Text(Parsed(version.body), "version");
  const absl::StatusOr<std::string> models = door.Get("/v1/models");
  if (models.ok()) {
    const Json list = Parsed(*models);
    if (list.contains("data") && list["data"].is_array() && !list["data"].empty()) {
      look.model = Text(list["data"][0], "id");
      look.context = Number(list["data"][0], "max_model_len");
    }
  }
  const absl::StatusOr<std::string> state = door.Get("/ui/state");
  look.state_known = state.status();
  if (state.ok()) {
    absl::StatusOr<UiState> parsed = ParseUiState(*state);
    look.state_known = parsed.status();
    if (parsed.ok()) look.state = *std::move(parsed);
  }
  const absl::StatusOr<std::string> metrics = door.Get("/metrics");
  look.metrics_known = metrics.status();
  if (metrics.ok()) look.metrics = MetricSamples(*metrics);
  return look;
}

}  // namespace interlace
