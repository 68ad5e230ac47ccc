// SpmParts: the parts of a tokenizer whose vocabulary SentencePiece trained, whichever file it came in.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "text/byte_fallback.h"
#include "text/tokenizer_parts.h"

namespace interlace {

// Types of tokens: SentencePiece's numbers, which GGUF took over.
enum SpmTokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

// Lives within Load; thread: its own. First FillSpecials, then FillModel. InvalidArgument begins with `where`, and
// names the token.
class SpmParts {
 public:
  // `types`: of each of parts->pieces, all three of one length. `where` begins messages: "model.gguf: tokenizer.ggml.".
  SpmParts(std::string where, std::vector<int64_t> types, Tokenizer::Parts* parts)
      : where_(std::move(where)), types_(std::move(types)), parts_(parts) {}

  // Control, unknown and user-defined tokens.
  absl::Status FillSpecials();
  struct Rules {
    bool unigram = false;  // else BPE
    bool space_prefix = true;
    bool collapse_spaces = false;  // and none at the ends
    int32_t unknown = -1;          // -1: none
    std::vector<double> scores;    // of each piece
  };
  absl::Status FillModel(const Rules& rules);

 private:
  absl::Status Broken(absl::string_view what) const;
  absl::Status FillNormalizer(const Rules& rules);
  absl::Status FillFallback(int32_t unknown, ByteFallback* fallback);
  absl::Status FillBpe(const Rules& rules);
  absl::Status FillUnigram(const Rules& rules);
  void FindUserDefinedAfterMarking();
  void DropSpaceMarks();

  const std::string where_;
  const std::vector<int64_t> types_;
  Tokenizer::Parts* const parts_;
};

}  // namespace interlace
