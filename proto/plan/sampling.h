// Sampling: how a request's tokens are chosen, as plans carry it; and what the model held of the chosen ones.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace interlace {

struct LogitBias {
  int32_t token = 0;
  float bias = 0;
  friend bool operator==(const LogitBias&, const LogitBias&) = default;
};

enum class ConstraintKind : uint8_t {
  kJsonObject,  // any JSON object; no text
  kJsonSchema,  // the text of a JSON schema
  kRegex,       // matches the whole output
  kEbnf,        // xgrammar's EBNF, which GBNF is a part of; its first rule is named root
  kLark,        // Lark's syntax; its first rule is named start
  kStructure,   // xgrammar's structural tags, as JSON
};

// What the whole output must be, up to the token that ends it. What texts mean: constraint/grammar.h.
struct Constraint {
  ConstraintKind kind{};
  std::string text;
  bool compact = false;             // JSON without white space that the client did not ask for
  std::vector<int32_t> end_tokens;  // may be chosen where the output may end, and nowhere else
  friend bool operator==(const Constraint&, const Constraint&) = default;
};

// A constraint that all choices of a request and their sequences share; empty: there is none. Compares what is inside.
class SharedConstraint {
 public:
  SharedConstraint() = default;
  SharedConstraint(Constraint constraint)  // NOLINT: as std::optional
      : value_(std::make_shared<const Constraint>(std::move(constraint))) {}
  explicit operator bool() const { return value_ != nullptr; }
  const Constraint& operator*() const { return *value_; }
  const Constraint* operator->() const { return value_.get(); }
  friend bool operator==(const SharedConstraint& a, const SharedConstraint& b) {
    return a.value_ == b.value_ || (a.value_ != nullptr && b.value_ != nullptr && *a.value_ == *b.value_);
  }

 private:
  std::shared_ptr<const Constraint> value_;
};

// Order and meaning of the steps: kernels/sample/sample.h. Penalties and bad words look at the request's tokens, which
// the rank that samples keeps from the plans of the attempt: repetition at prompt and output, the others at the output.
struct Sampling {
  float temperature = 0;  // 0: greedy
  int32_t top_k = 0;      // 0: off
  float top_p = 1;
  uint64_t seed = 0;
  float min_p = 0;      // 0: off
  float typical_p = 1;  // 1: off
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  int32_t logprobs = -1;              // -1: none; N: of the chosen token and the N most likely
  int32_t min_tokens = 0;             // of the output, before one of end_tokens may be chosen
  std::vector<int32_t> end_tokens;    // filled only if min_tokens > 0
  std::vector<LogitBias> logit_bias;  // each token once
  std::vector<std::vector<int32_t>>
      bad_words;                        // none empty; the last token is masked where the output ends with the rest
  std::vector<int32_t> allowed_tokens;  // empty: all; else no other one may be chosen
  SharedConstraint constraint;          // end tokens that it names are allowed whatever allowed_tokens says
  bool penalises() const { return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0; }
  friend bool operator==(const Sampling&, const Sampling&) = default;
};

// The natural logarithm of a token's probability in the model's own distribution, before any step of Sampling.
struct TokenScore {
  int32_t token = 0;
  float logprob = 0;
  friend bool operator==(const TokenScore&, const TokenScore&) = default;
};

inline constexpr int32_t kMostLogprobs = 20;

}  // namespace interlace
