#include "cli/drain_progress.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace interlace {

absl::StatusOr<DrainProgress> ParseDrainProgress(absl::string_view text) {
  using Json = nlohmann::json;
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::InvalidArgumentError("/debug/drain answers no JSON");
  try {
    DrainProgress progress{json.at("draining"), json.at("stopping"), json.at("requests_left"), json.at("requests_cut")};
    const Json& until = json.at("seconds_until_cut");
    if (!until.is_null()) progress.until_cut = absl::Seconds(until.get<double>());
    for (const Json& replica : json.value("replicas", Json::array())) {
      progress.replicas.push_back({replica.at("draining"), replica.at("requests_left")});
    }
    return progress;
  } catch (const Json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("/debug/drain answers something else: ", e.what()));
  }
}

std::string DrainLine(const DrainProgress& progress) {
  if (!progress.draining) return "open: new requests are taken";
  std::string line = absl::StrCat(progress.stopping ? "stopping" : "draining", ": ", progress.left,
                                  progress.left == 1 ? " request left" : " requests left");
  if (progress.left > 0 && progress.until_cut) {
    absl::StrAppendFormat(&line, ", cut in %.0f s", absl::ToDoubleSeconds(*progress.until_cut));
  }
  if (progress.cut > 0) absl::StrAppend(&line, ", ", progress.cut, " cut so far");
  return line;
}

std::string ReplicaLine(size_t number, const ReplicaProgress& replica) {
  if (!replica.draining) return absl::StrCat("replica ", number, ": open, new requests are taken");
  if (replica.left == 0) return absl::StrCat("replica ", number, ": drained");
  return absl::StrCat("replica ", number, ": draining, ", replica.left,
                      replica.left == 1 ? " request left" : " requests left");
}

}  // namespace interlace
