// The table of backends.
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_backend.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const BackendOptions& options);

namespace {

struct Entry {
  absl::string_view name;
  MakeBackend make;
};
constexpr Entry kBackends[] = {
    {"cpu", &MakeCpuBackend},
    {"cuda", &MakeCudaBackend},
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(absl::string_view name, const BackendOptions& options) {
  std::string known;
  for (const Entry& entry : kBackends) {
    if (entry.name == name) return entry.make(options);
    absl::StrAppend(&known, known.empty() ? "" : ", ", entry.name);
  }
  return absl::NotFoundError(absl::StrCat("backend \"", name, "\" is unknown; known: ", known));
}

}  // namespace interlace
