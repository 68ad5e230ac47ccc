// Python's two ways to put values into a text, as far as templates use them.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "text/jinja/value.h"

namespace interlace::jinja {

class Evaluator;

// format % values: %s %r %d %i %x %X %o %e %f %g %c %% with flags, width and precision.
absl::StatusOr<Text> FormatPercent(Evaluator& evaluator, const Text& format, const Value& values);
// str.format: {} {0} {name} {name.attribute} {0[key]} !s !r and the format specification of texts and numbers.
absl::StatusOr<Text> FormatBraces(Evaluator& evaluator, const Text& format, const Arguments& arguments);
// A time as strftime writes it in UTC; InvalidArgument names a directive that is not built in.
absl::StatusOr<std::string> FormatTime(absl::string_view format, int64_t wall_seconds);

}  // namespace interlace::jinja
