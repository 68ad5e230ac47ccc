// Normalizer: rewrites text before it is cut into pieces.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace interlace {

// Steps applied one after another. Immutable once filled; any thread. Owned by the Tokenizer. The trap: parts that are
// not UTF-8 pass every step unchanged.
class Normalizer {
 public:
  enum class Form { kNfc, kNfd, kNfkc, kNfkd };

  Normalizer();
  Normalizer(Normalizer&&) noexcept;
  Normalizer& operator=(Normalizer&&) noexcept;
  ~Normalizer();

  // Before a text that is not empty.
  void AddPrefix(absl::string_view text);
  void AddReplacement(absl::string_view from, absl::string_view to);
  // Every match of a pattern; see TextPattern::Compile for what is refused.
  absl::Status AddPatternReplacement(absl::string_view pattern, absl::string_view to);
  // Unicode's normalisation forms.
  void AddForm(Form form);
  // Drops white space at the ends.
  void AddStrip(bool left, bool right);
  // What SentencePiece drops or turns into spaces before NFKC: control characters, zero-width spaces and the like.
  void AddControlCleaning();

  bool empty() const { return steps_.empty(); }
  std::string Apply(absl::string_view text) const;

 private:
  struct Step {
    virtual ~Step() = default;
    virtual std::string Apply(absl::string_view text) const = 0;
  };
  struct Prefixing;
  struct Replacing;
  struct PatternReplacing;
  struct Forming;
  struct Stripping;
  struct ControlCleaning;
  std::vector<std::unique_ptr<Step>> steps_;
};

}  // namespace interlace
