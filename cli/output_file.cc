#include "cli/output_file.h"

#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"

namespace interlace {

absl::Status CanWrite(absl::string_view flag, const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  const std::string folder = std::filesystem::absolute(path).parent_path().string();
  if (!std::filesystem::is_directory(path) && access(folder.c_str(), W_OK) == 0) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat(flag, " ", path, " cannot be written; make the folder ", folder, " or give another file"));
}

}  // namespace interlace
