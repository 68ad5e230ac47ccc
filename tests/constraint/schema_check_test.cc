// What is refused before anything is compiled, and how large patterns are told to be.
#include "constraint/schema_check.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "constraint/constraint_check.h"
#include "constraint/pattern_size.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

TEST(SchemaCheckTest, SaysWhereAndWhat) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"properties":{"a":{"items":{"not":{}}}}})", "at /properties/a/items: \"not\""},
      {R"({"$defs":{"x":{"type":"array","uniqueItems":true}}})", "at /$defs/x: \"uniqueItems\""},
      {R"({"anyOf":[{},{"minLength":1}]})", "at /anyOf/1: \"minLength\" needs a \"type\""},
      {R"({"$ref":"#","type":"object"})", "\"type\" beside \"$ref\""},
      {R"({"const":1,"minimum":0})", "\"minimum\" beside \"const\""},
      {R"({"type":"string","maxLength":1e9})", "\"maxLength\" of 1e+09"},
      {R"({"type":"object","required":["a"]})", "\"required\" names \"a\""},
      {R"({"type":"object","required":[1]})", "\"required\" must be a list of strings"},
      {R"({"type":"string","pattern":5})", "\"pattern\" must be a string"},
      {R"({"type":"string","pattern":"(a{1000}){1000}"})", "larger than 500"},
      {R"({"type":"object","patternProperties":{"a":{},"b":{}}})", "patternProperties"},
      {R"({"type":"object","properties":{"a":{}},"patternProperties":{"b":{}}})", "patternProperties"},
      {"{", "not JSON"},
  };
  for (const auto& [schema, why] : cases) {
    EXPECT_THAT(CheckSchema(schema), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(why))) << schema;
  }
}

TEST(SchemaCheckTest, TakesWhatApplicationsWrite) {
  const char* const kSchemas[] = {
      "{}",
      "true",
      R"({"type":"object","properties":{"not":{"type":"string"},"if":{"type":"integer"}},"required":["not"]})",
      R"({"type":"string","enum":["a","b"],"title":"T","default":"a"})",
      R"({"type":"number","enum":[1,1.5]})",
      R"({"type":["string","null"],"enum":["a",null]})",
      R"({"anyOf":[{"type":"string"},{"type":"null"}],"default":null})",
      R"({"type":"string","oneOf":[{"const":"a","title":"A"},{"const":"b"}]})",
      R"({"$ref":"#/$defs/x","$defs":{"x":{"type":"array","items":{"type":"string"},"uniqueItems":false}}})",
  };
  for (const char* schema : kSchemas) EXPECT_OK(CheckSchema(schema)) << schema;
}

TEST(SchemaCheckTest, LargeAndDeepTextsAreRefusedBeforeTheyAreWalked) {
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  EXPECT_THAT(CheckSchema(deep), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("deeper than 64")));
  std::string wide = "{\"enum\":[0";
  for (int i = 0; i < 30000; ++i) absl::StrAppend(&wide, ",", i % 10);
  EXPECT_THAT(CheckSchema(wide + "]}"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at most 20000")));
  const Constraint large{ConstraintKind::kEbnf, std::string(kLongestConstraint + 1, ' ')};
  EXPECT_THAT(CheckConstraint(large), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at most 131072")));
}

TEST(SchemaCheckTest, FindsSchemasWithinStructures) {
  const char* const structure =
      R"({"type":"structural_tag","format":{"type":"sequence","elements":[{"type":"json_schema","json_schema":{"not":{}}}]}})";
  EXPECT_THAT(CheckStructure(structure),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("/format/elements/0/json_schema: \"not\"")));
  EXPECT_THAT(CheckStructure(R"({"format":{"type":"any_text","max_tokens":5}})"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("max_tokens")));
  EXPECT_OK(CheckStructure(R"({"format":{"type":"any_text","max_tokens":null}})"));
}

TEST(PatternSizeTest, CountsWhatRepetitionsWriteOut) {
  const std::tuple<const char*, int64_t, int> cases[] = {
      {"", 0, 0},
      {"abc", 3, 0},
      {"a{3}", 3, 0},
      {"(ab){2,5}c", 11, 1},
      {"[a-z]{4}", 4, 0},
      {"[]x]{2}", 2, 0},
      {"\\d{3,}", 3, 0},
      {"((a{2}){3}){4}", 24, 2},
      {"a{x}", 4, 0},
      {"\\({2}", 2, 0},
      {"(a{200}){200}", kMostAtoms + 1, 1},
      {"a{99999999999999999999}", kMostAtoms + 1, 0},
      {"(((", 0, 3},
      {")", 1, 0},
      {"(a", 1, 1},
      {"[", 1, 0},
      {"\\", 1, 0},
  };
  for (const auto& [pattern, atoms, groups] : cases) {
    EXPECT_EQ(SizeOfPattern(pattern).atoms, atoms) << pattern;
    EXPECT_EQ(SizeOfPattern(pattern).groups, groups) << pattern;
  }
}

TEST(GrammarTextTest, LengthDepthAndCountsAreBounded) {
  EXPECT_OK(CheckGrammarText("root ::= (\"a\" | [b-c]){1,100} \"(((\"", ""));
  for (const std::string& text : {std::string(70000, ' '), "root ::= " + std::string(60, '('),
                                  std::string("root ::= a{1,1000000}"), std::string("start: a~1..1000000")}) {
    EXPECT_THAT(CheckGrammarText(text, ""),
                StatusIs(absl::StatusCode::kInvalidArgument, testing::AnyOf(HasSubstr("at most"), HasSubstr("deeper"))))
        << text.substr(0, 40);
  }
}

}  // namespace
}  // namespace interlace
