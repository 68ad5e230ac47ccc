// FimMarks: the tokens by which a vocabulary marks a text whose middle is to be filled in.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "text/tokenizer.h"

namespace interlace {

// A prompt is [prefix] what comes before [suffix] what comes behind [middle], and the model goes on with what lies
// between. With Qwen2.5-Coder: <|fim_prefix|>def add(a, b):<|fim_suffix|>return c<|fim_middle|>.
struct FimMarks {
  int32_t prefix = -1, suffix = -1, middle = -1;
  std::vector<int32_t> ends;  // tokens that end the middle besides those that end a turn
};

// InvalidArgument of the field suffix if the vocabulary has no such marks.
absl::StatusOr<FimMarks> FindFimMarks(const Tokenizer& tokenizer);

}  // namespace interlace
