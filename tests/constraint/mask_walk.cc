// Outputs that constraints allow, drawn token by token with a seed: for tests and benches that judge them.
//
//   mask_walk < QUESTIONS > ANSWERS      one JSON object a line
//   {"kind": "json_schema", "text": ..., "seed": 1, "compact": false, "tokens": 2000}
//   {"end": "stop", "output": ..., "tokens": 31, "compile_ms": 1.5, "mask_us": 40.1, "slowest_mask_us": 800}
//
// `end` is stop, length (as many tokens as were asked for) or refused, with the reason in `error`. Tokens that are text
// are drawn evenly among those allowed, but what closes a value comes more often, so that outputs end.
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "constraint/constraint_check.h"
#include "constraint/grammar.h"
#include "tests/kernels/random_tensor.h"
#include "tests/test_model.h"

namespace interlace {
namespace {

using Json = nlohmann::json;

ConstraintKind KindOf(const std::string& name) {
  if (name == "json_object") return ConstraintKind::kJsonObject;
  if (name == "regex") return ConstraintKind::kRegex;
  if (name == "ebnf") return ConstraintKind::kEbnf;
  if (name == "lark") return ConstraintKind::kLark;
  return name == "structure" ? ConstraintKind::kStructure : ConstraintKind::kJsonSchema;
}

double Microseconds(absl::Duration time) { return absl::ToDoubleMicroseconds(time); }

int32_t Pick(const std::vector<uint32_t>& bits, const Vocabulary& vocabulary, Random& random) {
  std::vector<int32_t> all, closing;
  for (size_t t = 0; t < bits.size() * 32; ++t) {
    if ((bits[t / 32] >> (t % 32) & 1) == 0) continue;
    all.push_back(static_cast<int32_t>(t));
    const bool ends =
        std::find(vocabulary.end_tokens.begin(), vocabulary.end_tokens.end(), t) != vocabulary.end_tokens.end();
    const std::string& piece = vocabulary.pieces[t];
    if (ends || (!piece.empty() && absl::string_view("\"}],:").find(piece[0]) != absl::string_view::npos)) {
      closing.push_back(static_cast<int32_t>(t));
    }
  }
  if (all.empty()) return -1;
  const std::vector<int32_t>& among = !closing.empty() && random.Below(3) == 0 ? closing : all;
  return among[random.Below(static_cast<int64_t>(among.size()))];
}

Json Walk(const Json& question, const GrammarCompiler& compiler, const Vocabulary& vocabulary) {
  const Constraint constraint{KindOf(question.value("kind", "json_schema")), question.value("text", ""),
                              question.value("compact", false), vocabulary.end_tokens};
  Json answer = {{"end", "refused"}};
  const absl::Time begin = absl::Now();
  absl::Status good = CheckConstraint(constraint);
  const absl::StatusOr<Grammar> grammar = good.ok() ? compiler.Compile(constraint) : absl::StatusOr<Grammar>(good);
  answer["compile_ms"] = Microseconds(absl::Now() - begin) / 1000;
  if (!grammar.ok()) {
    answer["error"] = std::string(grammar.status().message());
    return answer;
  }
  absl::StatusOr<TokenMatcher> matcher = TokenMatcher::Make(*grammar, vocabulary.end_tokens);
  Random random(question.value("seed", uint64_t{0}));
  std::vector<int32_t> output;
  std::vector<uint32_t> bits(MaskWords(vocabulary.pieces.size()));
  absl::Duration masks, slowest;
  std::string text;
  answer["end"] = "length";
  for (int64_t most = question.value("tokens", int64_t{2000}); most > 0; --most) {
    const absl::Time at = absl::Now();
    const bool follows = matcher->Follow(output);
    good = matcher->ended() ? absl::OkStatus() : matcher->FillMask(absl::MakeSpan(bits));
    masks += absl::Now() - at;
    slowest = std::max(slowest, absl::Now() - at);
    const int32_t token = good.ok() && follows ? Pick(bits, vocabulary, random) : -1;
    if (token < 0) {
      answer["end"] = "stuck";
      answer["error"] = follows ? good.ToString() : "an allowed token is not taken";
      break;
    }
    if (vocabulary.pieces[token].empty() &&
        std::find(vocabulary.end_tokens.begin(), vocabulary.end_tokens.end(), token) != vocabulary.end_tokens.end()) {
      answer["end"] = "stop";
      break;
    }
    output.push_back(token);
    text += vocabulary.pieces[token];
  }
  answer["output"] = text;
  answer["tokens"] = output.size();
  answer["mask_us"] = output.empty() ? 0 : Microseconds(masks) / static_cast<double>(output.size());
  answer["slowest_mask_us"] = Microseconds(slowest);
  answer["grammar_bytes"] = grammar->bytes();
  return answer;
}

}  // namespace
}  // namespace interlace

int main() {
  using namespace interlace;
  const absl::StatusOr<Vocabulary> vocabulary = ReadVocabulary(TestModelPath());
  if (!vocabulary.ok()) {
    std::fprintf(stderr, "mask_walk: %s\n", vocabulary.status().ToString().c_str());
    return 1;
  }
  const auto compiler = GrammarCompiler::Make(*vocabulary);
  for (std::string line; std::getline(std::cin, line);) {
    const Json answer = Walk(Json::parse(line), **compiler, *vocabulary);
    std::cout << answer.dump(-1, ' ', true, Json::error_handler_t::replace) << std::endl;
  }
  return 0;
}
