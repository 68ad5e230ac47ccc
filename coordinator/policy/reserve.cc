#include "coordinator/policy/reserve.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace interlace {
namespace {

// The sum of the sequences' needs is near a normal one: mean and variance of each decide.
int64_t Quantile(const StepView& view) {
  double mean = 0, variance = 0;
  for (const SequenceView* sequence : view.running) {
    const int32_t fill = sequence->known % view.block_tokens;
    const int32_t until = (view.block_tokens - fill) % view.block_tokens + 1;  // tokens until it needs one block more
    if (sequence->generated() + until > sequence->max_tokens) continue;
    const double reaches = view.lengths->Reaching(sequence->generated(), until);
    mean += reaches;
    variance += reaches * (1 - reaches);
  }
  return static_cast<int64_t>(std::ceil(mean + 1.645 * std::sqrt(variance)));
}

}  // namespace

int64_t ReservedBlocks(const StepView& view) {
  const auto running = static_cast<int64_t>(view.running.size());
  if (running == 0) return 0;
  switch (view.options.reserve) {
    case ReserveRule::kNone:
      return 0;
    case ReserveRule::kShare: {
      const double share = view.options.reserve_factor * static_cast<double>(running) / view.block_tokens;
      return std::min(static_cast<int64_t>(std::ceil(share)), view.device_blocks / 8);
    }
    case ReserveRule::kCap:
      return static_cast<double>(view.device_blocks) / static_cast<double>(running) > view.options.reserve_factor
                 ? 0
                 : view.device_blocks;
    case ReserveRule::kQuantile:
      return std::min(Quantile(view), view.device_blocks / 8);
  }
  return 0;
}

absl::Status ParseReserve(absl::string_view text, PolicyOptions* options) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  const absl::string_view name = parts[0];
  double factor = 0;
  const bool number = parts.size() == 2 && absl::SimpleAtod(parts[1], &factor) && std::isfinite(factor) && factor >= 0;
  const bool plain = parts.size() == 1 && (name == "none" || name == "quantile");
  if (!plain && !(number && (name == "share" || name == "cap"))) {
    return absl::InvalidArgumentError(
        absl::StrCat("sched.reserve='", text,
                     "' is no rule; known: none, share:NUMBER, cap:NUMBER (numbers not below 0), quantile"));
  }
  options->reserve = name == "none"    ? ReserveRule::kNone
                     : name == "share" ? ReserveRule::kShare
                     : name == "cap"   ? ReserveRule::kCap
                                       : ReserveRule::kQuantile;
  options->reserve_factor = factor;
  return absl::OkStatus();
}

}  // namespace interlace
