// What answers are worth that the model gives one way or another, measured on texts.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "bench/study/layerkv_study.h"
#include "cli/skip_ways.h"

namespace interlace {

struct SkipQualityOptions {
  SkipWayOptions ways;
  int32_t outputs = 32;  // tokens behind each text, at most, until one is another than the whole model's
  uint64_t seed = 1;     // of random plans
};

// Each text of the second halves (HalvesOf) by every way. What a way computes begins with the last token of the text's
// first half, which the whole model has computed, as a bounded stream has its prompt; so every distribution that is
// compared is the way's. Greedy decoding begins likewise behind the whole text. Requires: `result` has the texts'
// profiles.
absl::Status MeasureQuality(SkipModel& model, absl::Span<const SkipText> texts, const SkipQualityOptions& options,
                            const StudyProgress& progress, SkipResult* result);

}  // namespace interlace
