#include "checkpoint/adapter_folder.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "checkpoint/gguf_values.h"  // Quoted
#include "common/status_macros.h"

namespace interlace {
namespace {

namespace fs = std::filesystem;

bool LeadsOut(const fs::path& relative) { return relative.empty() || *relative.begin() == ".."; }

// From one of the roots on; empty: it is below none.
fs::path Below(const fs::path& path, const fs::path& root, const fs::path& real_root) {
  if (path.is_relative()) return path.lexically_normal();
  for (const fs::path& from : {root, real_root}) {
    fs::path relative = path.lexically_normal().lexically_relative(from);
    if (!LeadsOut(relative)) return relative;
  }
  return {};
}

}  // namespace

absl::StatusOr<std::string> AdapterRoot(const std::string& root) {
  std::error_code error;
  const fs::path real = fs::canonical(root, error);
  if (!error && fs::is_directory(real, error)) return real.string();
  return absl::FailedPreconditionError(absl::StrCat("model.adapter_dir=", root, " is no folder that can be read",
                                                    error ? ": " : "", error ? error.message() : ""));
}

absl::StatusOr<AdapterFolder> FindAdapterFolder(const std::string& root, const std::string& path) {
  std::error_code error;
  const fs::path given(path);
  if (path.find('\0') != std::string::npos) return absl::InvalidArgumentError("lora_path holds a NUL");
  ASSIGN_OR_RETURN(const std::string root_here, AdapterRoot(root));
  const fs::path real_root(root_here);
  const auto outside = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(path), " leads out of model.adapter_dir=", root, "; put the adapter's folder there"));
  };
  const fs::path below = Below(given, fs::absolute(root).lexically_normal(), real_root);
  if (LeadsOut(below)) return outside();
  // Every link is followed before anything is read.
  const auto find = [&](const fs::path& from_root) -> absl::StatusOr<fs::path> {
    std::error_code failed;
    fs::path real = fs::weakly_canonical(real_root / from_root, failed);
    if (failed || LeadsOut(real.lexically_relative(real_root))) return outside();
    if (!fs::exists(real, failed)) {
      return absl::NotFoundError(absl::StrCat("there is no ", (fs::path(root) / from_root).string()));
    }
    return real;
  };
  const absl::StatusOr<fs::path> folder = find(below);
  if (!folder.ok()) return folder.status();
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
    const absl::StatusOr<fs::path> file = find(below / name);
    if (!file.ok()) return file.status();
    if (fs::is_regular_file(*file, error)) continue;
    return absl::InvalidArgumentError(absl::StrCat((fs::path(root) / below / name).string(), " is no file"));
  }
  return AdapterFolder{below.string(), folder->string()};
}

}  // namespace interlace
