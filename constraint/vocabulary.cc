#include "constraint/vocabulary.h"

#include "common/status_macros.h"
#include "text/model_text.h"

namespace interlace {

Vocabulary VocabularyOf(const Tokenizer& tokenizer) {
  Vocabulary vocabulary;
  vocabulary.pieces.reserve(tokenizer.vocab_size());
  for (int32_t token = 0; token < tokenizer.vocab_size(); ++token) vocabulary.pieces.push_back(tokenizer.Piece(token));
  vocabulary.end_tokens = tokenizer.stop_tokens();
  for (const int32_t token : vocabulary.end_tokens) vocabulary.pieces[token].clear();
  return vocabulary;
}

absl::StatusOr<Vocabulary> ReadVocabulary(const std::string& model) {
  ASSIGN_OR_RETURN(const ModelText text, LoadModelText(model));
  return VocabularyOf(*text.tokenizer);
}

}  // namespace interlace
