// Files that a command writes at its end.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace interlace {

// Asked before the work: a result that cannot be written after an hour is lost. An empty path is never written.
absl::Status CanWrite(absl::string_view flag, const std::string& path);

}  // namespace interlace
