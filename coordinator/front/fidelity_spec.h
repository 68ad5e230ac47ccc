// FidelitySpec: the fidelity that a client asks for, as it writes it; checked, and turned into what the scheduler
// takes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/fidelity.h"

namespace interlace {

// Names are those of the body's field `fidelity` (docs/http.md). Unset: exact.
struct FidelitySpec {
  std::optional<std::string> mode;    // exact, bounded, off
  std::optional<double> agreement;    // of bounded: share of steps that are to give the whole model's token
  std::optional<int64_t> exit_layer;  // of bounded: no layer from this one on but the last is run
};

// What the server allows.
struct FidelityRule {
  std::string why_not_bounded = "this server allows none";  // empty: bounded may be asked for
  double least_agreement = 1;                               // the least that may be asked for, and the default
  int32_t layers = 0;                                       // of the model
};
// Of the settings skip.*: `ranks` hold the model together.
FidelityRule RuleOf(bool bounded, const std::string& least_agreement, int64_t ranks, int32_t layers);

// InvalidArgument names the field and the value.
absl::StatusOr<Fidelity> FidelityOf(const FidelitySpec& spec, const FidelityRule& rule);

}  // namespace interlace
