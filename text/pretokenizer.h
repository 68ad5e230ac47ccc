// Pretokenizer: cuts text into the pieces within which tokens are made.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// Steps applied one after another, each to the pieces of the one before. Immutable once filled; any thread. Owned by
// the Tokenizer. The trap: some steps change the text, so pieces need not be parts of it.
class Pretokenizer {
 public:
  // What becomes of a match.
  enum class Behaviour { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  // Which pieces get the mark of a space put before them.
  enum class Prefix { kNever, kFirst, kAlways };
  struct Pieces {
    std::vector<absl::string_view> views;  // parts of the text or of `changed`
    std::deque<std::string> changed;
  };

  // What else tokenizer.ggml.pre says: of the text before it is cut, and of the merges after.
  struct Ways {
    bool bos = false;                 // a text begins with bos, unless the file says otherwise
    bool whole_pieces_first = false;  // Bpe::set_whole_pieces_first
    bool nfc = false;                 // text is normalised so
  };

  // What byte-level vocabularies cut by if nothing else is said.
  static const char* const kByteLevelPattern;

  // By tokenizer.ggml.pre: "smollm", "llama-bpe", "qwen2", "gpt-2", "default", ... Unimplemented lists the known names.
  static absl::StatusOr<std::unique_ptr<Pretokenizer>> Make(absl::string_view name);
  static Ways WaysOf(absl::string_view name);  // of a name that Make knows
  Pretokenizer();
  Pretokenizer(Pretokenizer&&) noexcept;
  Pretokenizer& operator=(Pretokenizer&&) noexcept;
  ~Pretokenizer();

  // Cuts at what `pattern` matches, or at what it does not if `invert`. See TextPattern::Compile for what is refused.
  absl::Status AddPattern(absl::string_view pattern, Behaviour behaviour = Behaviour::kIsolated, bool invert = false);
  // A space before each piece that does not begin with one.
  void AddSpacePrefix();
  // Spaces become U+2581, one is put before the pieces that `prefix` says, and each begins a piece if `cut`.
  void AddSpaceMarks(Prefix prefix, bool cut);

  // Pieces of `text`, in order, covering every byte that no step removes; never empty ones. Each part that is not UTF-8
  // is a piece of its own. `at_start`: nothing comes before `text`.
  void Split(absl::string_view text, bool at_start, Pieces* pieces) const;
  // The same. Requires: no step that changes text.
  std::vector<absl::string_view> Split(absl::string_view text) const;

 private:
  struct Step;
  struct Run;
  std::vector<std::unique_ptr<Step>> steps_;
};

}  // namespace interlace
