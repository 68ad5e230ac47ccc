// Any text as a constraint: the first byte chooses the kind, the rest is the text. What is not refused is followed
// along its masks for a while.
#include <cstdint>
#include <string>
#include <vector>

#include "common/check.h"
#include "constraint/constraint_check.h"
#include "constraint/grammar.h"

namespace {

interlace::Vocabulary Letters() {
  interlace::Vocabulary vocabulary;
  for (int c = 1; c < 256; ++c) vocabulary.pieces.emplace_back(1, static_cast<char>(c));
  for (const char* word : {"{\"", "\": ", "\"}", "true", "null", "foo", ", \""}) vocabulary.pieces.emplace_back(word);
  vocabulary.end_tokens = {static_cast<int32_t>(vocabulary.pieces.size())};
  vocabulary.pieces.emplace_back();
  return vocabulary;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace interlace;
  static const auto* const vocabulary = new Vocabulary(Letters());
  static const auto* const compiler = GrammarCompiler::Make(*vocabulary)->release();
  if (size == 0) return 0;
  Constraint constraint{
      static_cast<ConstraintKind>(data[0] % 6), {data + 1, data + size}, (data[0] & 64) != 0, vocabulary->end_tokens};
  if (!CheckConstraint(constraint).ok()) return 0;
  const absl::StatusOr<Grammar> grammar = compiler->Compile(constraint);
  if (!grammar.ok()) {
    CHECK(absl::IsInvalidArgument(grammar.status()) || absl::IsInternal(grammar.status()));
    return 0;
  }
  absl::StatusOr<TokenMatcher> matcher = TokenMatcher::Make(*grammar, vocabulary->end_tokens);
  CHECK(matcher.ok());
  std::vector<int32_t> output;
  std::vector<uint32_t> bits(MaskWords(vocabulary->pieces.size()));
  for (size_t step = 0; step < 20 && !matcher->ended(); ++step) {
    if (!matcher->FillMask(absl::MakeSpan(bits)).ok()) break;
    std::vector<int32_t> allowed;
    for (size_t t = 0; t < vocabulary->pieces.size(); ++t) {
      if ((bits[t / 32] >> (t % 32) & 1) != 0) allowed.push_back(static_cast<int32_t>(t));
    }
    if (allowed.empty()) break;
    output.push_back(allowed[data[step % size] * 7 % allowed.size()]);
    CHECK(matcher->Follow(output));
    if (step % 5 == 4) {
      output.resize(output.size() / 2);
      CHECK(matcher->Follow(output));
    }
  }
  return 0;
}
