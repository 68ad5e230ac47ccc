// How many questions the model answers right, one way or another.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "bench/study/layerkv_study.h"
#include "cli/skip_tasks.h"
#include "cli/skip_ways.h"
#include "text/tokenizer.h"

namespace interlace {

// A test as the model sees it.
struct TokenTest {
  struct Item {
    std::vector<int32_t> prompt;
    std::vector<std::vector<int32_t>> choices;  // what follows the prompt; empty: it decodes
  };
  SkipTestSet set;
  std::vector<SkipText> calibration;
  std::vector<Item> items;
  int32_t most_tokens = 0;  // of an item, with what follows
};
// `most`: tokens of a calibration text, which keeps its end. A choice follows its prompt behind a space, unless the
// prompt ends with one; where text merges across the border, the prompt ends before it. InvalidArgument: an item has
// more tokens than `context`, or a choice more than fit one run.
absl::StatusOr<TokenTest> TokenTestOf(SkipTestSet set, const Tokenizer& tokenizer, int32_t most, int32_t context);

struct SkipAccuracyOptions {
  SkipWayOptions ways;
  bool own = false;         // plans of each item's own prompt too: a profile each
  int32_t own_tokens = 64;  // of the prompt's end, that is profiled
  int32_t rows = 48;        // as of SkipProfileOptions
  uint64_t seed = 1;
};

// Adds the test and a sample of it for the whole model and for each way. "static" plans are those of the profiled texts
// in `result`, "task" ones of the test's calibration texts. Prompts are computed whole but for their last token.
absl::Status MeasureAccuracy(SkipModel& model, const Tokenizer& tokenizer, absl::Span<const SkipText> texts,
                             const TokenTest& test, const SkipAccuracyOptions& options, const StudyProgress& progress,
                             SkipResult* result);

}  // namespace interlace
