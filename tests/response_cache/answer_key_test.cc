// Whatever an answer follows from gives it another key.
#include "coordinator/response_cache/answer_key.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

namespace interlace {
namespace {

Request Plain() {
  Request request;
  request.prompt = {1, 2, 3};
  request.max_tokens = 16;
  request.stop_tokens = {0};
  request.salt = "salt";
  request.targets.tenant = "a";
  request.caching = std::make_shared<const CacheTerms>(CacheTerms{.shape = "shape"});
  return request;
}

std::shared_ptr<const ServedAdapter> Adapter(const std::string& digest) {
  return std::make_shared<const ServedAdapter>(ServedAdapter{1, "name", "folder", digest});
}

struct Change {
  std::string name;
  std::function<void(Request&)> make;
};

std::vector<Change> Changes() {
  const auto shape = [](const std::string& text) {
    return [text](Request& r) { r.caching = std::make_shared<const CacheTerms>(CacheTerms{.shape = text}); };
  };
  const auto constraint = [](ConstraintKind kind, const std::string& text, bool compact, std::vector<int32_t> ends) {
    return [=](Request& r) { r.sampling.constraint = SharedConstraint(Constraint{kind, text, compact, ends}); };
  };
  return {
      {"nothing", [](Request&) {}},
      {"tenant", [](Request& r) { r.targets.tenant = "b"; }},
      {"no tenant", [](Request& r) { r.targets.tenant = ""; }},
      {"salt", [](Request& r) { r.salt = "other"; }},
      {"no salt", [](Request& r) { r.salt = ""; }},
      {"tenant and salt run together", [](Request& r) { r.targets.tenant = "as", r.salt = "alt"; }},
      {"adapter", [](Request& r) { r.adapter = Adapter("one"); }},
      {"another adapter", [](Request& r) { r.adapter = Adapter("two"); }},
      {"max_tokens", [](Request& r) { r.max_tokens = 17; }},
      {"max_tokens is a default", [](Request& r) { r.max_tokens_given = false; }},
      {"stop token", [](Request& r) { r.stop_tokens = {4}; }},
      {"no stop token", [](Request& r) { r.stop_tokens = {}; }},
      {"choices", [](Request& r) { r.choices = 2; }},
      {"prompt_logprobs", [](Request& r) { r.prompt_logprobs = 1; }},
      {"shape", shape("another")},
      {"no shape", shape("")},
      {"temperature", [](Request& r) { r.sampling.temperature = 0.5; }},
      {"top_k", [](Request& r) { r.sampling.top_k = 5; }},
      {"top_p", [](Request& r) { r.sampling.top_p = 0.5; }},
      {"top_p, nearly", [](Request& r) { r.sampling.top_p = std::nextafter(0.5F, 0.0F); }},
      {"min_p", [](Request& r) { r.sampling.min_p = 0.5; }},
      {"typical_p", [](Request& r) { r.sampling.typical_p = 0.5; }},
      {"repetition", [](Request& r) { r.sampling.repetition_penalty = 1.5; }},
      {"presence", [](Request& r) { r.sampling.presence_penalty = 0.5; }},
      {"frequency", [](Request& r) { r.sampling.frequency_penalty = 0.5; }},
      {"logprobs", [](Request& r) { r.sampling.logprobs = 1; }},
      {"min_tokens", [](Request& r) { r.sampling.min_tokens = 3; }},
      {"end_tokens", [](Request& r) { r.sampling.end_tokens = {9}; }},
      {"logit_bias",
       [](Request& r) {
         r.sampling.logit_bias = {{5, 1}};
       }},
      {"logit_bias of another",
       [](Request& r) {
         r.sampling.logit_bias = {{6, 1}};
       }},
      {"another logit_bias",
       [](Request& r) {
         r.sampling.logit_bias = {{5, 2}};
       }},
      {"bad_words",
       [](Request& r) {
         r.sampling.bad_words = {{5, 6}};
       }},
      {"bad_words cut elsewhere",
       [](Request& r) {
         r.sampling.bad_words = {{5}, {6}};
       }},
      {"allowed_tokens", [](Request& r) { r.sampling.allowed_tokens = {5}; }},
      {"constraint", constraint(ConstraintKind::kRegex, "a", false, {0})},
      {"text of a constraint", constraint(ConstraintKind::kRegex, "b", false, {0})},
      {"kind of a constraint", constraint(ConstraintKind::kEbnf, "a", false, {0})},
      {"compact constraint", constraint(ConstraintKind::kRegex, "a", true, {0})},
      {"end of a constraint", constraint(ConstraintKind::kRegex, "a", false, {1})},
  };
}

TEST(AnswerKeyTest, NoTwoRequestsThatDifferInAnyFieldShareAScope) {
  std::set<SkipScope> scopes, prompts;
  size_t made = 0;
  for (const std::string model : {"model", "other model", ""}) {
    for (const Change& change : Changes()) {
      Request request = Plain();
      change.make(request);
      const AnswerKey key = KeyOf(request, model);
      EXPECT_TRUE(scopes.insert(key.scope).second) << model << ": " << change.name;
      EXPECT_TRUE(prompts.insert(key.prompt).second) << model << ": " << change.name;
      ++made;
    }
  }
  EXPECT_EQ(scopes.size(), made);
}

TEST(AnswerKeyTest, PromptsOfOneScopeHaveKeysOfTheirOwn) {
  const AnswerKey plain = KeyOf(Plain(), "model");
  for (const std::vector<int32_t>& prompt :
       std::vector<std::vector<int32_t>>{{1, 2}, {1, 2, 4}, {1, 2, 3, 3}, {3, 2, 1}}) {
    Request request = Plain();
    request.prompt = prompt;
    const AnswerKey key = KeyOf(request, "model");
    EXPECT_EQ(key.scope, plain.scope);
    EXPECT_NE(key.prompt, plain.prompt);
  }
}

TEST(AnswerKeyTest, ADefaultLengthIsNoneOfTheScope) {
  Request a = Plain(), b = Plain();
  a.max_tokens_given = b.max_tokens_given = false;
  b.max_tokens = 99;
  EXPECT_EQ(KeyOf(a, "model").scope, KeyOf(b, "model").scope);
  EXPECT_NE(KeyOf(a, "model").prompt, KeyOf(b, "model").prompt);
}

TEST(AnswerKeyTest, WhoAsksWhenAndByWhichNameDoesNotMatter) {
  Request other = Plain();
  other.id = RequestId{7};
  other.name = "name";
  other.arrival = absl::UnixEpoch();
  other.deadline = absl::InfiniteFuture();
  other.targets.ttft = absl::Seconds(1);
  other.targets.priority = 3;
  other.sampling.seed = 5;  // greedy decoding draws nothing
  EXPECT_EQ(KeyOf(other, "model").scope, KeyOf(Plain(), "model").scope);
  EXPECT_EQ(KeyOf(other, "model").prompt, KeyOf(Plain(), "model").prompt);
}

}  // namespace
}  // namespace interlace
