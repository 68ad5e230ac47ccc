// Bpe: merges the tokens of single bytes or characters of a piece, lowest rank first, as the vocabulary was trained.
// Source: Sennrich, Haddow, Birch, "Neural machine translation of rare words with subword units", 2016.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "text/byte_fallback.h"
#include "text/token_model.h"

namespace interlace {

// Immutable once filled; any thread. Owned by the Tokenizer. The trap: a vocabulary need not have a token for every
// byte (SmolLM2 lacks 21 that no ordinary text has); such bytes are left out, as transformers and llama.cpp do.
class Bpe : public TokenModel {
 public:
  Bpe() { byte_ids_.fill(-1); }
  // `bytes`: what the token stands for; tokens that never come from merging (control tokens) are left out.
  void AddToken(absl::string_view bytes, int32_t id);
  // False iff a side or the whole is not a token. Of two equal merges the first counts.
  bool AddMerge(absl::string_view left, absl::string_view right, int32_t rank);
  // Merging starts from characters, those that are no tokens going to the fallback, instead of from bytes.
  void set_characters(bool on) { characters_ = on; }
  ByteFallback& fallback() { return fallback_; }
  // A piece that is a token as a whole needs no merging (Llama 3).
  void set_whole_pieces_first(bool on) { whole_pieces_first_ = on; }
  // Appends the tokens of one piece. O(n log n) in its bytes.
  void Encode(absl::string_view piece, std::vector<int32_t>* out) const override;
  bool Covers(unsigned char byte) const override { return !characters_ && byte_ids_[byte] >= 0; }

 private:
  // What merging starts from.
  void Start(absl::string_view piece, std::vector<int32_t>* ids) const;
  struct Merge {
    int32_t rank;
    int32_t id;
  };
  static uint64_t PairOf(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  absl::flat_hash_map<std::string, int32_t> ids_;
  std::array<int32_t, 256> byte_ids_;            // -1: the vocabulary cannot say this byte
  absl::flat_hash_map<uint64_t, Merge> merges_;  // (left, right) -> merged
  ByteFallback fallback_;
  bool characters_ = false;
  bool whole_pieces_first_ = false;
};

}  // namespace interlace
