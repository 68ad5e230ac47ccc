// SpmBpe: SentencePiece's BPE, which merges neighbours in the order of the scores of what they become.
// Source: Kudo, Richardson, "SentencePiece: A simple and language independent subword tokenizer", 2018.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "text/byte_fallback.h"
#include "text/token_model.h"

namespace interlace {

// Immutable once filled; any thread. Owned by the Tokenizer. The trap: merges are not listed; any two neighbours whose
// joint text is a token may merge, so control and byte tokens must not be added as tokens.
class SpmBpe : public TokenModel {
 public:
  // `unused`: the token takes part in merging but never comes out; it is cut back into what it came from.
  void AddToken(absl::string_view text, int32_t id, float score, bool unused = false);
  ByteFallback& fallback() { return fallback_; }
  // O(n log n) in the characters of the piece. A part that is not UTF-8 goes to the fallback.
  void Encode(absl::string_view piece, std::vector<int32_t>* out) const override;

 private:
  struct Entry {
    int32_t id;
    float score;
    bool unused;
  };
  struct Run;
  absl::flat_hash_map<std::string, Entry> tokens_;
  size_t longest_ = 0;  // bytes
  ByteFallback fallback_;
};

}  // namespace interlace
