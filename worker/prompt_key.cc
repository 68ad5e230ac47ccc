#include "worker/prompt_key.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace interlace {

std::string KeySum::Take(const PlanSequence& planned) {
  const KeyAsk& next = *planned.key;
  const int32_t end = planned.start + static_cast<int32_t>(planned.tokens.size());
  if (planned.drafts > 0) return "key: of tokens that are guesses";
  if (next.first >= end) return absl::StrCat("key.first: ", next.first, " is behind the step's positions");
  if (planned.start <= next.first) {
    sum.clear();
  } else if (to != planned.start || ask.layer != next.layer || ask.first != next.first) {
    return absl::StrCat("key: positions ", next.first, " to ", planned.start, " were not added here behind layer ",
                        Value(next.layer));
  }
  ask = next;
  to = end;
  return std::string();
}

void KeySum::Add(int32_t start, int32_t rows, int32_t width, const float* hidden) {
  sum.resize(static_cast<size_t>(width));
  for (int32_t r = std::max(0, ask.first - start); r < rows; ++r) {
    const float* const row = hidden + int64_t{r} * width;
    for (int32_t d = 0; d < width; ++d) sum[d] += row[d];
  }
}

std::vector<float> KeySum::Mean() const {
  std::vector<float> mean;
  mean.reserve(sum.size());
  for (const double total : sum) mean.push_back(static_cast<float>(total / (to - ask.first)));
  return mean;
}

LayerSet KeyLayers(const StepPlan& plan) {
  LayerSet layers;
  for (const PlanSequence& s : plan.sequences) {
    if (s.key) layers.Add(s.key->layer);
  }
  return layers;
}

}  // namespace interlace
