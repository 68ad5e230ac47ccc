#include "common/state_file.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace interlace {

absl::StatusOr<std::string> ReadStateFile(const std::string& path, size_t most) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return absl::NotFoundError(absl::StrCat("there is no file ", path));
  if (!std::filesystem::is_regular_file(path, error)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a file"));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(most + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad() || (!file.is_open())) {
    return absl::FailedPreconditionError(absl::StrCat(path, " cannot be read: ", std::strerror(errno)));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > most) return absl::FailedPreconditionError(absl::StrCat(path, " is larger than ", most, " bytes"));
  return text;
}

absl::Status ReplaceStateFile(const std::string& path, absl::string_view text) {
  const std::string half = absl::StrCat(path, ".part");
  std::ofstream file(half, std::ios::binary | std::ios::trunc);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(half, path, error);
  if (file && !error) return absl::OkStatus();
  std::error_code ignored;
  std::filesystem::remove(half, ignored);
  return absl::PermissionDeniedError(
      absl::StrCat(path, " cannot be written: ", error ? error.message() : std::string(std::strerror(errno))));
}

absl::Status RemoveStateFile(const std::string& path) {
  std::error_code error;
  std::filesystem::remove(path, error);
  if (!error) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat(path, " cannot be removed: ", error.message()));
}

}  // namespace interlace
