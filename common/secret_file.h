// Files that hold secrets: read only if nobody else may read them.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// The file's bytes. NotFound: there is none. FailedPrecondition: it is no file, larger than `most` bytes, readable or
// writable by others than its owner and group, or writable by its group. Errors name `setting` and the path, never what
// the file holds.
absl::StatusOr<std::string> ReadSecretFile(absl::string_view setting, const std::string& path,
                                           size_t most = size_t{64} << 10);

// Makes the file anew, for its owner alone (mode 0600); what was there under this name is gone.
absl::Status WriteSecretFile(const std::string& path, absl::string_view text);

}  // namespace interlace
