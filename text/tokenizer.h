// Tokenizer: text to token ids and back, as GGUF files, tokenizer.json, tekken.json or tokenizer.model describe it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "checkpoint/gguf.h"
#include "text/tokenizer_files.h"

namespace interlace {

// Immutable after Load; any thread. Owned by main. The trap: text from users is encoded with special = false, or a
// prompt could forge the template's control tokens.
class Tokenizer {
 public:
  // From tokenizer.ggml.*: model "gpt2" (byte-level BPE; tokenizer.ggml.pre names the pretokenizer), "llama"
  // (SentencePiece BPE) or "t5" (SentencePiece unigram). Unimplemented names any other; InvalidArgument names the
  // broken field.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const GgufFile& file);
  // From tokenizer.json, models BPE (of bytes, or of characters with a fallback to bytes) and Unigram, with the
  // normalizers, pre-tokenizers, decoders and post-processors of the families served. Unimplemented names any other
  // part; InvalidArgument names file and field. Truncation and padding in the file are of its training and play no
  // part. Where there is no tokenizer.json: from Mistral's tekken.json, or from SentencePiece's tokenizer.model (BPE
  // and unigram without a table of characters) and the added tokens of tokenizer_config.json.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const TokenizerFiles& files);
  ~Tokenizer();

  // `special`: text such as <|im_start|> becomes its control token. User-defined tokens are found either way. Adds no
  // bos. Text need not be UTF-8. Bytes that the vocabulary has no token for become its unknown token or, if it has
  // none, are left out, as in transformers: SmolLM2 lacks 21, control characters and what is never UTF-8.
  std::vector<int32_t> Encode(absl::string_view text, bool special) const;
  // A text that a model continues without a chat template: behind bos, where the vocabulary asks for it.
  std::vector<int32_t> EncodePrompt(absl::string_view text, bool special = false) const;
  // With control tokens, but for those that `data` marks a byte of: it has one byte for each of `text`, not zero for
  // what came from users. What merges across such a border merges.
  std::vector<int32_t> EncodeAround(absl::string_view text, absl::string_view data) const;
  // Whether the text surely has more than `most` tokens, told by its bytes or by its first part: what is looked at
  // grows with `most`, and not with the text. False says nothing. `data`: as in EncodeAround, or empty.
  bool SurelyLonger(absl::string_view text, absl::string_view data, bool special, size_t most) const;
  // Where a part of the text begins whose encoding ends with the last `tokens` tokens of the text; 0: where the text
  // does.
  size_t TailFor(absl::string_view text, size_t tokens) const;
  // The bytes of one token; empty for control tokens unless `special`, and for ids beyond the
  // vocabulary: many models have more rows than their tokenizer has pieces, and one of those may be sampled. Where a
  // space mark begins a token, its space is there even if the token begins a text; see Decode.
  std::string Piece(int32_t token, bool special = false) const;
  // A whole text: the space that some vocabularies put before every text is dropped.
  std::string Decode(absl::Span<const int32_t> tokens, bool special = false) const;
  // Whether Decode drops a space that begins a text.
  bool drops_first_space() const;

  int32_t vocab_size() const;
  int32_t bos() const;  // -1 if none
  int32_t eos() const;  // -1 if none
  bool add_bos() const;
  bool add_eos() const;
  // Tokens that end a turn: eos, and <|im_end|>, <|eot_id|>, <end_of_turn> and the like where the vocabulary has them.
  const std::vector<int32_t>& stop_tokens() const;
  absl::StatusOr<int32_t> Find(absl::string_view piece) const;  // id of a special token by its text

 private:
  friend class TokenizerJson;
  friend class TokenizerGguf;
  friend class TokenizerTekken;
  friend class TokenizerSpm;
  friend class SpmParts;
  struct Parts;
  explicit Tokenizer(std::unique_ptr<Parts> parts);
  std::vector<int32_t> EncodeText(absl::string_view text, absl::string_view data, bool special) const;
  std::unique_ptr<Parts> parts_;
};

// Tokens of one stream to text, never splitting a UTF-8 code point: an incomplete tail is held until it completes.
// Owned by the stream; thread: one at a time. The trap: a stream that goes on after a prompt keeps the space that its
// first token begins with; one that is a whole text does not.
class Detokenizer {
 public:
  enum class Start { kAfterPrompt, kWholeText };
  explicit Detokenizer(const Tokenizer& tokenizer, Start start = Start::kAfterPrompt)
      : tokenizer_(tokenizer), drop_space_(start == Start::kWholeText && tokenizer.drops_first_space()) {}
  // Control tokens whose text is shown all the same; `all`: every one's. Before the first Push.
  void Show(std::vector<int32_t> control, bool all) {
    shown_ = std::move(control);
    show_all_ = all;
  }
  // Text that is complete now; bytes that can never complete come out as U+FFFD.
  std::string Push(int32_t token);
  // What was held, an incomplete tail as U+FFFD.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  bool drop_space_;  // until the first byte
  std::vector<int32_t> shown_;
  bool show_all_ = false;
  std::string held_;
};

}  // namespace interlace
