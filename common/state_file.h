// Small files that outlive a process.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// NotFound: there is none. FailedPrecondition: it is larger than `most` bytes, or no file.
absl::StatusOr<std::string> ReadStateFile(const std::string& path, size_t most);

// Whole or not at all: a reader never sees half of it, and what was there stays until the new text is complete. What a
// crash of the machine leaves is one of the two, or damaged: readers check what they read.
absl::Status ReplaceStateFile(const std::string& path, absl::string_view text);

// OK also if there is none.
absl::Status RemoveStateFile(const std::string& path);

}  // namespace interlace
