// The headers that say what a request's body leaves unsaid of its targets, set by routers; a pure function.
#pragma once

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "coordinator/front/fidelity_spec.h"
#include "coordinator/front/target_spec.h"

namespace interlace {

// The value of a header by its lower-case name; empty: there is none.
using HeaderLookup = absl::FunctionRef<absl::string_view(absl::string_view)>;

// Fills in what `spec` has not; a header whose field stands in the body is not looked at. InvalidArgument names the
// header and the value.
absl::Status ReadTargetHeaders(HeaderLookup header, TargetSpec* spec);
// Likewise, of its fidelity.
void ReadFidelityHeader(HeaderLookup header, FidelitySpec* spec);

}  // namespace interlace
