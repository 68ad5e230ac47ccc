// Tokenizer: text to token ids and back; byte-level BPE as GGUF files carry it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/text/gguf.h"

namespace interlace {

// Immutable after Load; any thread. Owned by main. The trap: text from users is encoded with special = false, or a
// prompt could forge the template's control tokens.
class Tokenizer {
 public:
  // From tokenizer.ggml.*: model "gpt2" (byte-level BPE) with pretokenizer "smollm", "llama-bpe", "gpt-2" or "default".
  // Unimplemented names any other; InvalidArgument names the broken field.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const GgufFile& file);
  ~Tokenizer();

  // `special`: text such as <|im_start|> becomes its control token. User-defined tokens are found either way. Adds no
  // bos. Text need not be UTF-8. Bytes that the vocabulary has no token for are left out, as in transformers: SmolLM2
  // lacks 21, control characters and what is never UTF-8.
  std::vector<int32_t> Encode(absl::string_view text, bool special) const;
  // The bytes of one token; empty for control tokens unless `special`. Requires: a valid id.
  std::string Piece(int32_t token, bool special = false) const;
  std::string Decode(absl::Span<const int32_t> tokens, bool special = false) const;

  int32_t vocab_size() const;
  int32_t bos() const;  // -1 if none
  int32_t eos() const;  // -1 if none
  bool add_bos() const;
  // Tokens that end a turn: eos, and <|im_end|>, <|eot_id|>, <|endoftext|>, <|end_of_text|> where the vocabulary has
  // them.
  const std::vector<int32_t>& stop_tokens() const;
  absl::StatusOr<int32_t> Find(absl::string_view piece) const;  // id of a control token by its text

 private:
  struct Tables;
  explicit Tokenizer(std::unique_ptr<Tables> tables);
  std::unique_ptr<Tables> tables_;
};

// Tokens of one stream to text, never splitting a UTF-8 code point: an incomplete tail is held until it completes.
// Owned by the stream; thread: one at a time.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  // Text that is complete now; bytes that can never complete come out as U+FFFD.
  std::string Push(int32_t token);
  // What was held, an incomplete tail as U+FFFD.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  std::string held_;
};

}  // namespace interlace
