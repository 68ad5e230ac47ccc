// Pretokenizer: cuts text into the pieces within which byte pairs merge.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// One or more regular expressions applied one after another: each isolates its matches within the pieces of the one
// before. Immutable; any thread. Owned by the Tokenizer. The trap: white space is Unicode's White_Space, which is not
// quite what \s is to the regex library.
class Pretokenizer {
 public:
  // "smollm", "llama-bpe", "gpt-2", "default", as tokenizer.ggml.pre spells them. Unimplemented lists the known names.
  static absl::StatusOr<std::unique_ptr<Pretokenizer>> Make(absl::string_view name);
  ~Pretokenizer();
  // Pieces of text, in order, covering every byte; never empty ones. Each part that is not UTF-8 is a piece of its own.
  std::vector<absl::string_view> Split(absl::string_view text) const;

 private:
  struct Stages;
  explicit Pretokenizer(std::unique_ptr<Stages> stages);
  std::unique_ptr<Stages> stages_;
};

}  // namespace interlace
