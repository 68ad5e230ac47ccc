// ByteFallback: what a vocabulary of characters says for a character it lacks.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

namespace interlace {

// The byte of a token written <0xE4>; -1 if it is written otherwise.
int ByteOfToken(absl::string_view token);

// Part of a TokenModel; immutable once filled, any thread.
class ByteFallback {
 public:
  ByteFallback() { byte_ids_.fill(-1); }
  void SetByte(int byte, int32_t id) { byte_ids_[byte] = id; }
  void SetUnknown(int32_t id, bool fuse) { unknown_ = id, fuse_ = fuse; }
  int32_t unknown() const { return unknown_; }
  // Appends the byte tokens of `text`, if there is one for each byte; else the unknown token, if there is one, and none
  // right after one that this made (`after_unknown`) if they fuse. True iff it said unknown.
  bool Append(absl::string_view text, bool after_unknown, std::vector<int32_t>* out) const;

 private:
  std::array<int32_t, 256> byte_ids_;  // -1: none
  int32_t unknown_ = -1;               // -1: none
  bool fuse_ = false;
};

}  // namespace interlace
