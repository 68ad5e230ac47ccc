// What the HTTP door accepts, as OpenAPI 3.1 describes it, for programs that make clients or requests of it.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace interlace {

// A member of a body that is described by its type alone, and one value of a wrong type, which is 400 by the member's
// name.
struct OpenApiField {
  absl::string_view name;
  absl::string_view schema;  // JSON
  absl::string_view wrong;   // JSON; empty: any value is taken
};

struct OpenApiPath {
  absl::string_view method, path;
  absl::string_view what;
  absl::string_view example;              // of a body that is accepted; empty: there is no body
  absl::Span<const OpenApiField> own;     // members of the body
  absl::Span<const OpenApiField> shared;  // and those that others have too
  absl::Span<const absl::string_view> required;
  bool runtime_adapters = false;  // it is there where adapters may come and go
};

absl::Span<const OpenApiPath> OpenApiPaths();
std::string OpenApiJson(absl::string_view version, bool runtime_adapters);

}  // namespace interlace
