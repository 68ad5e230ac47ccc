// What `interlace bench skip` measures on a model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/study/layerkv_study.h"
#include "bench/study/skip_study.h"
#include "cli/skip_model.h"
#include "common/clock.h"

namespace interlace {

struct SkipText {
  std::string task;
  std::vector<int32_t> tokens;
};

struct SkipProfileOptions {
  int32_t rows = 48;                                   // positions of a text at which distributions are compared
  std::vector<double> shares = {0.1, 0.2, 0.3, 0.45};  // of the inner sublayers that draft plans pass over
  int32_t depth = 4;                                   // guesses of a step
  int32_t outputs = 32;                                // tokens that are decoded behind each text
  uint64_t seed = 1;                                   // of random plans
};

// The profile of every text; then, of each task, the second half of its texts is decoded with drafts by plans of every
// method. Static plans are those of the first half, so that they are measured on texts that they were not made from; a
// task with one text is calibrated on that. InvalidArgument: a text has less than 8 tokens, or more than fit one run.
absl::StatusOr<SkipResult> MeasureSkips(SkipModel& model, absl::Span<const SkipText> texts,
                                        const SkipProfileOptions& options, Clock& clock, const StudyProgress& progress);

}  // namespace interlace
