// Logits of two runs of the same positions, compared. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace interlace {

// Log probabilities of rows of logits, [rows, vocab].
std::vector<float> LogSoftmax(absl::Span<const float> logits, int64_t vocab);
// By how much probability the first choice of one row of logits leads the second: 0 to 1.
double LeadOf(absl::Span<const float> logits);
// The largest; the lowest of equal ones.
int32_t FirstChoice(absl::Span<const float> logits);

struct RowDifference {
  double kl = 0;      // KL(a || b), nats
  bool same = false;  // both choose the same
};
// Of rows of log probabilities, [rows, vocab] both.
std::vector<RowDifference> CompareRows(absl::Span<const float> a, absl::Span<const float> b, int64_t vocab);

}  // namespace interlace
