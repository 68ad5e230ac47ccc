// Vocabulary: what grammars know of a tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "text/tokenizer.h"

namespace interlace {

// A value.
struct Vocabulary {
  std::vector<std::string> pieces;  // the bytes of each token, by id; empty: it is no text, and a grammar must name it
  std::vector<int32_t> end_tokens;  // of the model; a Constraint has its own
};
Vocabulary VocabularyOf(const Tokenizer& tokenizer);
// Of the tokenizer in a GGUF file or a model folder.
absl::StatusOr<Vocabulary> ReadVocabulary(const std::string& model);
// Whether ids mean the same in two models: InvalidArgument names both and the first token of which they do not.
absl::Status CheckSameTokens(const std::string& model, const std::string& other);

// Words of a mask with a bit for each of `tokens`: bit t % 32 of word t / 32 is token t's.
constexpr size_t MaskWords(size_t tokens) { return (tokens + 31) / 32; }

}  // namespace interlace
