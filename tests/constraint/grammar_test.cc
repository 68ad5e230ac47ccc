// Grammars over the vocabulary of SmolLM2. What masks allow is judged by jsonschema in walk_test.py; here it is held
// against what a matcher takes, forth and back.
#include "constraint/grammar.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "checkpoint/gguf.h"
#include "tests/kernels/random_tensor.h"
#include "tests/status_matchers.h"
#include "tests/test_model.h"
#include "text/tokenizer.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

constexpr char kPerson[] =
    R"({"type":"object","properties":{"name":{"type":"string"},"tags":{"type":"array","items":{"enum":["a","b"]}}},)"
    R"("required":["name"],"additionalProperties":false})";

class GrammarTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto file = GgufFile::Open(TestModelPath());
    ASSERT_OK(file);
    auto tokenizer = Tokenizer::Load(**file);
    ASSERT_OK(tokenizer);
    tokenizer_ = tokenizer->release();
    vocabulary_ = new Vocabulary(VocabularyOf(*tokenizer_));
    auto compiler = GrammarCompiler::Make(*vocabulary_);
    ASSERT_OK(compiler);
    compiler_ = compiler->release();
  }
  static TokenMatcher Matcher(Constraint constraint) {
    constraint.end_tokens = vocabulary_->end_tokens;
    const absl::StatusOr<Grammar> grammar = compiler_->Compile(constraint);
    EXPECT_OK(grammar);
    return *TokenMatcher::Make(*grammar, vocabulary_->end_tokens);
  }
  static bool Takes(const Constraint& constraint, absl::string_view text) {
    std::vector<int32_t> tokens = tokenizer_->Encode(text, /*special=*/false);
    tokens.push_back(vocabulary_->end_tokens[0]);
    TokenMatcher matcher = Matcher(constraint);
    return matcher.Follow(tokens) && matcher.ended();
  }
  static std::vector<uint32_t> MaskOf(TokenMatcher& matcher) {
    std::vector<uint32_t> bits(MaskWords(vocabulary_->pieces.size()));
    EXPECT_OK(matcher.FillMask(absl::MakeSpan(bits)));
    return bits;
  }
  static bool Allows(const std::vector<uint32_t>& bits, int32_t token) {
    return (bits[token / 32] >> (token % 32) & 1) != 0;
  }
  static int32_t AnyOf(const std::vector<uint32_t>& bits, Random& random) {
    std::vector<int32_t> allowed;
    for (int32_t t = 0; t < static_cast<int32_t>(vocabulary_->pieces.size()); ++t) {
      if (Allows(bits, t)) allowed.push_back(t);
    }
    return allowed.empty() ? -1 : allowed[random.Below(static_cast<int64_t>(allowed.size()))];
  }

  static Tokenizer* tokenizer_;
  static Vocabulary* vocabulary_;
  static GrammarCompiler* compiler_;
};
Tokenizer* GrammarTest::tokenizer_ = nullptr;
Vocabulary* GrammarTest::vocabulary_ = nullptr;
GrammarCompiler* GrammarTest::compiler_ = nullptr;

TEST_F(GrammarTest, EachKindTakesWhatItSays) {
  const Constraint person{ConstraintKind::kJsonSchema, kPerson};
  EXPECT_TRUE(Takes(person, R"({"name": "Ann", "tags": ["a", "b"]})"));
  EXPECT_TRUE(Takes(person, "{\n  \"name\": \"A\\u00e9 \\\"é\"\n}"));
  EXPECT_FALSE(Takes(person, R"({"tags": []})"));
  EXPECT_FALSE(Takes(person, R"({"name": "Ann", "more": 1})"));
  EXPECT_FALSE(Takes(person, R"({"name": "Ann")"));
  EXPECT_FALSE(Takes(person, "{\"name\":" + std::string(100, ' ') + "\"Ann\"}"));
  const Constraint compact{ConstraintKind::kJsonSchema, kPerson, /*compact=*/true};
  EXPECT_TRUE(Takes(compact, R"({"name": "Ann", "tags": ["a"]})"));
  EXPECT_FALSE(Takes(compact, "{\n\"name\": \"Ann\"}"));
  // A name that is written twice would be valid in one place and not in the other.
  const Constraint open{ConstraintKind::kJsonSchema,
                        R"({"type":"object","properties":{"größe":{"type":"string"}},)"
                        R"("required":["größe"],"additionalProperties":{"type":"integer"}})"};
  EXPECT_TRUE(Takes(open, R"({"größe": "x"})"));
  EXPECT_FALSE(Takes(open, R"({"größe": "x", "größe": 2})"));
  const Constraint object{ConstraintKind::kJsonObject, ""};
  EXPECT_TRUE(Takes(object, R"({"a": [1, {"b": null}], "c": -1.5e3})"));
  EXPECT_FALSE(Takes(object, "[1]"));
  EXPECT_TRUE(Takes({ConstraintKind::kRegex, "(\\d{3}-)+[a-z]?"}, "123-456-x"));
  EXPECT_FALSE(Takes({ConstraintKind::kRegex, "(\\d{3}-)+[a-z]?"}, "123-45"));
  EXPECT_TRUE(Takes({ConstraintKind::kEbnf, "root ::= \"x\" root | \"é\""}, "xxé"));
  EXPECT_TRUE(Takes({ConstraintKind::kLark, "start: \"x\"+ word\nword: /[a-c]+/"}, "xxabc"));
  EXPECT_TRUE(
      Takes({ConstraintKind::kStructure, R"({"type":"structural_tag","format":{"type":"tag","begin":"<a>","content":)"
                                         R"({"type":"json_schema","json_schema":{"type":"integer"}},"end":"</a>"}})"},
            "<a>15</a>"));
}

TEST_F(GrammarTest, BrokenTextsAreRefusedWithAReason) {
  const std::pair<Constraint, const char*> cases[] = {
      {{ConstraintKind::kRegex, "(a"}, ""},
      {{ConstraintKind::kRegex, "(?=a)b"}, "ookahead"},
      {{ConstraintKind::kEbnf, "root ::= a"}, "a"},
      {{ConstraintKind::kEbnf, "root ::= "}, ""},
      {{ConstraintKind::kLark, "nothing"}, ""},
      {{ConstraintKind::kJsonSchema, "{"}, ""},
      {{ConstraintKind::kJsonSchema, R"({"type":"number","multipleOf":0.5})"}, "multipleOf"},
      {{ConstraintKind::kJsonSchema, R"({"oneOf":[{"type":"integer"},{"type":"number"}]})"}, "oneOf"},
      {{ConstraintKind::kStructure, "{}"}, ""},
      {{ConstraintKind::kEbnf, "root ::= root"}, "no text"},
      {{static_cast<ConstraintKind>(77), ""}, "kind"},
  };
  for (const auto& [constraint, why] : cases) {
    Constraint tried = constraint;
    tried.end_tokens = vocabulary_->end_tokens;
    EXPECT_THAT(compiler_->Compile(tried), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(why)))
        << constraint.text;
  }
}

// A token is allowed by a mask if and only if the matcher takes it, at every state of a walk.
TEST_F(GrammarTest, MasksAllowWhatTheMatcherTakes) {
  const Constraint constraints[] = {{ConstraintKind::kJsonSchema, kPerson},
                                    {ConstraintKind::kRegex, "(foo|bä)[a-z]{2,4}(\\d|x)*"},
                                    {ConstraintKind::kEbnf, "root ::= \"(\" root \")\" | [a-z]+ \" \" [0-9]"}};
  for (const Constraint& constraint : constraints) {
    for (uint64_t seed = 0; seed < 3; ++seed) {
      Random random(seed);
      TokenMatcher matcher = Matcher(constraint), other = Matcher(constraint);
      std::vector<int32_t> output;
      for (int step = 0; step < 12; ++step) {
        ASSERT_TRUE(matcher.Follow(output));
        if (matcher.ended()) break;
        const std::vector<uint32_t> bits = MaskOf(matcher);
        for (int probe = 0; probe < 200; ++probe) {
          const bool likely = random.Below(2) == 0;
          const int32_t token =
              likely ? AnyOf(bits, random)
                     : static_cast<int32_t>(random.Below(static_cast<int64_t>(vocabulary_->pieces.size())));
          std::vector<int32_t> tried = output;
          tried.push_back(token);
          ASSERT_EQ(other.Follow(tried), Allows(bits, token))
              << vocabulary_->pieces[token] << " after " << output.size();
        }
        output.push_back(AnyOf(bits, random));
      }
    }
  }
}

// Outputs that grow, are taken back, and are taken back and grow otherwise: the mask is that of a fresh matcher.
TEST_F(GrammarTest, FollowingForthAndBackChangesNoMask) {
  const Constraint constraint{ConstraintKind::kJsonSchema, kPerson};
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Random random(seed);
    TokenMatcher matcher = Matcher(constraint);
    std::vector<int32_t> output;
    for (int step = 0; step < 30; ++step) {
      if (random.Below(4) == 0) output.resize(random.Below(static_cast<int64_t>(output.size()) + 1));
      ASSERT_TRUE(matcher.Follow(output));
      TokenMatcher fresh = Matcher(constraint);
      ASSERT_TRUE(fresh.Follow(output));
      ASSERT_EQ(matcher.ended(), fresh.ended());
      if (matcher.ended()) {
        output.pop_back();
        continue;
      }
      const std::vector<uint32_t> bits = MaskOf(matcher);
      ASSERT_EQ(bits, MaskOf(fresh)) << "seed " << seed << " step " << step;
      output.push_back(AnyOf(bits, random));
    }
  }
}

TEST_F(GrammarTest, EndTokensAreAllowedWhereTheGrammarMayEndAndNowhereElse) {
  TokenMatcher matcher = Matcher({ConstraintKind::kEbnf, "root ::= \"a\" \"b\"*"});
  const int32_t end = vocabulary_->end_tokens[0];
  EXPECT_FALSE(Allows(MaskOf(matcher), end));
  ASSERT_TRUE(matcher.Follow(tokenizer_->Encode("a", false)));
  EXPECT_TRUE(Allows(MaskOf(matcher), end));
  TokenMatcher only = Matcher({ConstraintKind::kEbnf, "root ::= \"a\""});
  ASSERT_TRUE(only.Follow(tokenizer_->Encode("a", false)));
  const std::vector<uint32_t> bits = MaskOf(only);
  for (int32_t t = 0; t < static_cast<int32_t>(vocabulary_->pieces.size()); ++t) {
    const bool ends = std::count(vocabulary_->end_tokens.begin(), vocabulary_->end_tokens.end(), t) > 0;
    ASSERT_EQ(Allows(bits, t), ends) << t;
  }
  std::vector<int32_t> ended = tokenizer_->Encode("a", false);
  ended.push_back(end);
  EXPECT_TRUE(only.Follow(ended));
  EXPECT_TRUE(only.ended());
  ended.push_back(5);
  EXPECT_FALSE(only.Follow(ended));  // a step that was planned before the end was known
  EXPECT_TRUE(only.ended());
}

TEST_F(GrammarTest, ControlTokensAreNoText) {
  const absl::StatusOr<int32_t> control = tokenizer_->Find("<|im_start|>");
  ASSERT_OK(control);
  TokenMatcher matcher = Matcher({ConstraintKind::kRegex, "[\\s\\S]*"});
  EXPECT_FALSE(Allows(MaskOf(matcher), *control));
}

}  // namespace
}  // namespace interlace
