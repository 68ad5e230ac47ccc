#include "coordinator/fidelity.h"

namespace interlace {
namespace {

constexpr absl::string_view kNames[] = {"exact", "bounded", "off"};

}  // namespace

absl::string_view FidelityName(FidelityMode mode) { return kNames[static_cast<size_t>(mode)]; }

std::optional<FidelityMode> ParseFidelity(absl::string_view text) {
  for (const FidelityMode mode : {FidelityMode::kExact, FidelityMode::kBounded, FidelityMode::kOff}) {
    if (text == FidelityName(mode)) return mode;
  }
  return std::nullopt;
}

}  // namespace interlace
