#include "bench/serve/load_record.h"

namespace interlace {

absl::string_view LoadOutcomeName(LoadOutcome outcome) {
  switch (outcome) {
    case LoadOutcome::kOk:
      return "ok";
    case LoadOutcome::kShed:
      return "shed";
    case LoadOutcome::kRefused:
      return "refused";
    case LoadOutcome::kFailed:
      return "failed";
    case LoadOutcome::kTruncated:
      return "truncated";
    case LoadOutcome::kGarbage:
      return "garbage";
    case LoadOutcome::kNoConnection:
      return "no-connection";
    case LoadOutcome::kTimeout:
      return "timeout";
    case LoadOutcome::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

}  // namespace interlace
