// What `interlace bench skip` measures on a model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/study/layerkv_study.h"
#include "bench/study/skip_study.h"
#include "cli/skip_model.h"
#include "cli/skip_ways.h"
#include "common/clock.h"

namespace interlace {

struct SkipProfileOptions {
  int32_t rows = 48;                                   // positions of a text at which distributions are compared
  std::vector<double> shares = {0.1, 0.2, 0.3, 0.45};  // of the inner sublayers that draft plans pass over
  int32_t depth = 4;                                   // guesses of a step
  int32_t outputs = 32;                                // tokens that are decoded behind each text
  uint64_t seed = 1;                                   // of random plans
};

// What each sublayer is worth on one text, at most `rows` of its positions looked at. Requires: the text fits one run.
absl::StatusOr<SkipPrompt> ProfileText(SkipModel& model, const SkipText& text, int32_t rows);

// The profile of every text, without drafts. InvalidArgument: a text has less than 8 tokens, or more than fit one run.
absl::StatusOr<SkipResult> ProfileTexts(SkipModel& model, absl::Span<const SkipText> texts,
                                        const SkipProfileOptions& options, const StudyProgress& progress);

// Of each task, the second half of its texts is decoded with drafts by plans of every method. Static plans are those of
// the first half (HalvesOf), so that they are measured on texts that they were not made from. Requires: `result` has
// the texts' profiles.
absl::Status MeasureDrafts(SkipModel& model, absl::Span<const SkipText> texts, const SkipProfileOptions& options,
                           Clock& clock, const StudyProgress& progress, SkipResult* result);

}  // namespace interlace
