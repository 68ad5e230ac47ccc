// The JSON of /ui/state, both ways; pure functions. docs/ui.md lists the fields.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/snapshot.h"

namespace interlace {

struct UiState {
  std::string model, version;
  ReplicaSnapshot replica;
  friend bool operator==(const UiState&, const UiState&) = default;
};

std::string UiStateJson(const UiState& state);
// What UiStateJson printed, durations to a microsecond. InvalidArgument: it is something else.
absl::StatusOr<UiState> ParseUiState(absl::string_view json);

}  // namespace interlace
