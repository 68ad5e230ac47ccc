#include "model/arch/archs.h"

#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

struct Row {
  absl::string_view name;  // general.architecture
  absl::StatusOr<std::unique_ptr<ModelArch>> (*make)(const ArchInput&);
};

// The table of architectures.
constexpr Row kArchs[] = {
    {"llama", &MakeLlama},
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelArch>> MakeArch(const ArchInput& input) {
  std::string known;
  for (const Row& row : kArchs) {
    if (row.name == input.spec->architecture) return row.make(input);
    absl::StrAppend(&known, known.empty() ? "" : ", ", row.name);
  }
  return absl::UnimplementedError(
      absl::StrCat("architecture '", input.spec->architecture, "' is not built in; known: ", known));
}

}  // namespace interlace
