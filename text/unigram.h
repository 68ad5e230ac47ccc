// Unigram: SentencePiece's unigram model, the most probable cut of a text into tokens.
// Source: Kudo, "Subword regularization: improving neural network translation models with multiple subword candidates",
// 2018.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "text/byte_fallback.h"
#include "text/token_model.h"

namespace interlace {

// Immutable once filled; any thread. Owned by the Tokenizer. The trap: a character that no token covers costs ten less
// than the least probable token, so all tokens must be there before the first Encode.
class Unigram : public TokenModel {
 public:
  static constexpr size_t kLongestToken = 1024;  // bytes; a step of the search walks at most that far

  // InvalidArgument if the text is empty, too long or not UTF-8.
  absl::Status AddToken(absl::string_view text, int32_t id, double log_probability);
  // The unknown token, its neighbours fused into one, unless every byte has a token.
  ByteFallback& fallback() { return fallback_; }
  // O(n * kLongestToken) at worst, in the bytes of the piece. Of equal cuts the one with the longest last token wins,
  // which is what the search of transformers' tokenizers finds.
  void Encode(absl::string_view piece, std::vector<int32_t>* out) const override;

 private:
  struct Node {
    int32_t id = -1;  // -1: no token ends here
    double score = 0;
  };
  static uint64_t EdgeOf(uint32_t node, char byte) { return uint64_t{node} << 8 | static_cast<unsigned char>(byte); }

  std::vector<Node> nodes_ = std::vector<Node>(1);  // a trie over bytes; 0 is the root
  absl::flat_hash_map<uint64_t, uint32_t> edges_;
  double least_score_ = 0;
  ByteFallback fallback_;
};

}  // namespace interlace
