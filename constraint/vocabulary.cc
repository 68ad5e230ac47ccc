#include "constraint/vocabulary.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
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

absl::Status CheckSameTokens(const std::string& model, const std::string& other) {
  ASSIGN_OR_RETURN(const ModelText text, LoadModelText(model));
  ASSIGN_OR_RETURN(const ModelText other_text, LoadModelText(other));
  const Tokenizer &ours = *text.tokenizer, &theirs = *other_text.tokenizer;
  if (ours.vocab_size() != theirs.vocab_size()) {
    return absl::InvalidArgumentError(absl::StrCat("the vocabulary of ", other, " has ", theirs.vocab_size(),
                                                   " tokens, that of ", model, " has ", ours.vocab_size()));
  }
  for (int32_t token = 0; token < ours.vocab_size(); ++token) {
    const std::string piece = ours.Piece(token, true), other_piece = theirs.Piece(token, true);
    if (piece == other_piece) continue;
    return absl::InvalidArgumentError(absl::StrCat("token ", token, " is '", absl::CEscape(other_piece), "' in ", other,
                                                   ", and '", absl::CEscape(piece), "' in ", model));
  }
  return absl::OkStatus();
}

}  // namespace interlace
