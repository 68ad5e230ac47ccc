// Grammars: constraints compiled against a vocabulary, and outputs followed through them, by the library xgrammar.
//
// JSON of kJsonObject and kJsonSchema may have up to kMostSpaces characters of white space between its parts, so that a
// model writes it as it is used to and cannot go on with spaces for ever; `compact` has none but one behind each comma
// and colon. Members come in the order in which the schema names them; where it names any, there are no others.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "constraint/vocabulary.h"
#include "proto/plan/sampling.h"

namespace interlace {

inline constexpr int kMostSpaces = 16;

// A compiled constraint. A value that is cheap to copy; any thread, though who fills masks from it at the same time
// waits for the others: masks of states that were not met before are made on the way, and kept.
class Grammar {
 public:
  struct Parts;
  explicit Grammar(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}
  const Parts& parts() const { return *parts_; }
  size_t bytes() const;  // of memory, about

 private:
  std::shared_ptr<const Parts> parts_;
};

// Owned by a GrammarStore; one thread at a time.
class GrammarCompiler {
 public:
  static absl::StatusOr<std::unique_ptr<GrammarCompiler>> Make(const Vocabulary& vocabulary);
  ~GrammarCompiler();
  // InvalidArgument says what is wrong with the text, or what of a JSON schema would be left out. Takes time and memory
  // that CheckConstraint bounds.
  absl::StatusOr<Grammar> Compile(const Constraint& constraint) const;

 private:
  struct Parts;
  explicit GrammarCompiler(std::unique_ptr<Parts> parts);
  const std::unique_ptr<Parts> parts_;
};

// One output on its way through a grammar. Owned by OutputMasks; one thread at a time.
class TokenMatcher {
 public:
  // Internal if the library takes none of the end tokens.
  static absl::StatusOr<TokenMatcher> Make(const Grammar& grammar, const std::vector<int32_t>& end_tokens);
  ~TokenMatcher();
  TokenMatcher(TokenMatcher&&) noexcept;
  TokenMatcher& operator=(TokenMatcher&&) noexcept;
  // Makes `output` what was taken: what it shares with the output before is kept. False if the grammar does not take
  // all of it; then what it does take was taken.
  bool Follow(absl::Span<const int32_t> output);
  // One of the end tokens was taken: nothing follows.
  bool ended() const;
  // Sets the bits of the tokens that may follow, and clears the others. Internal if the library fails. Requires:
  // !ended(); words for the whole vocabulary at least.
  absl::Status FillMask(absl::Span<uint32_t> bits);

 private:
  struct Parts;
  explicit TokenMatcher(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace interlace
