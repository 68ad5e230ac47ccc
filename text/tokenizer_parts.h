// TokenizerParts: what a Tokenizer is made of, whichever file it came from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/special_tokens.h"
#include "text/token_model.h"
#include "text/tokenizer.h"

namespace interlace {

// Filled by the loaders, then owned by the Tokenizer. Text takes this way: special tokens are cut out; what is between
// them is normalised, searched for special tokens that are known in their normal form only, cut into pieces, encoded.
struct Tokenizer::Parts {
  SpecialTokens specials;
  Normalizer normalizer;
  SpecialTokens normal_specials;
  Pretokenizer pretokenizer;
  std::unique_ptr<TokenModel> model;

  std::vector<std::string> pieces;  // bytes of each token
  std::vector<bool> control;
  bool keeps_bytes = false;        // the pretokenizer drops and changes none
  size_t longest_piece = 0;        // bytes
  bool drops_first_space = false;  // encoding puts a space before a text, so decoding a whole text drops one
  int32_t bos = -1, eos = -1;
  bool add_bos = false, add_eos = false;
  std::vector<int32_t> stop_tokens;

  // From eos and the texts by which families end a turn. Call once specials and eos are there.
  void CollectStopTokens();
  // generation_config.json may name more, as Llama 3's does. InvalidArgument names the file.
  absl::Status AddEndTokens(const TokenizerFiles& files);
  // A text has so many tokens at least, told by its bytes alone; 0 where they do not tell.
  size_t FewestTokens(absl::string_view text) const;
  void EncodePlain(absl::string_view text, bool at_start, std::vector<int32_t>* ids) const;
};

// A tokenizer out of one of a folder's files; Tokenizer::Load chooses.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizerJson(const TokenizerFiles& files);
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTekken(const TokenizerFiles& files);
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePiece(const TokenizerFiles& files);

// The mark that SentencePiece puts in the place of a space.
inline constexpr absl::string_view kSpaceMark = "\u2581";
inline constexpr size_t kMostTokens = 1 << 24;

}  // namespace interlace
