// What clients constrain answers by: fields of each door, what becomes of them in a request, and what is refused.
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "constraint/grammar.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/constraint_fields.h"
#include "coordinator/front/messages_json.h"
#include "coordinator/front/openai_json.h"
#include "coordinator/front/output_constraint.h"
#include "coordinator/front/output_parser.h"
#include "coordinator/front/responses_json.h"
#include "tests/front/text_model.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

constexpr char kSchema[] =
    R"({"type":"object","properties":{"z":{"type":"integer"},"a":{"type":"string"}},"required":["z","a"]})";

absl::StatusOr<ApiRequest> Chat(const std::string& fields) {
  return ParseChat(absl::StrCat(R"({"messages":[{"role":"user","content":"x"}],)", fields, "}"));
}

TEST(ConstraintFieldsTest, EachFieldIsRead) {
  const std::tuple<std::string, ConstraintKind, std::string> cases[] = {
      {R"("response_format":{"type":"json_object"})", ConstraintKind::kJsonObject, ""},
      {absl::StrCat(R"("response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":)",
                    kSchema, "}}"),
       ConstraintKind::kJsonSchema, kSchema},
      {R"("response_format":{"type":"structural_tag","format":{"type":"any_text"}})", ConstraintKind::kStructure,
       R"({"type":"structural_tag","format":{"type":"any_text"}})"},
      {absl::StrCat("\"guided_json\":", kSchema), ConstraintKind::kJsonSchema, kSchema},
      {R"("guided_json":"{\"type\":\"integer\"}")", ConstraintKind::kJsonSchema, R"({"type":"integer"})"},
      {absl::StrCat("\"structured_outputs\":{\"json\":", kSchema, "}"), ConstraintKind::kJsonSchema, kSchema},
      {R"("structured_outputs":{"regex":"a+","choice":null})", ConstraintKind::kRegex, "a+"},
      {R"("structured_outputs":{"json_object":true})", ConstraintKind::kJsonObject, ""},
      {R"("structured_outputs":{"grammar":"start: \"a\""})", ConstraintKind::kLark, "start: \"a\""},
      {R"("guided_regex":"b")", ConstraintKind::kRegex, "b"},
      {R"("regex":"b")", ConstraintKind::kRegex, "b"},
      {R"("guided_choice":["yes","n\"o","é"])", ConstraintKind::kEbnf, "root ::= \"yes\" | \"n\\\"o\" | \"é\""},
      {R"("guided_grammar":"root ::= \"a\"")", ConstraintKind::kEbnf, "root ::= \"a\""},
      {R"("ebnf":"root ::= \"a\"")", ConstraintKind::kEbnf, "root ::= \"a\""},
      {R"("grammar":"root ::= \"a\"")", ConstraintKind::kEbnf, "root ::= \"a\""},
  };
  for (const auto& [fields, kind, text] : cases) {
    const absl::StatusOr<ApiRequest> request = Chat(fields);
    ASSERT_OK(request) << fields;
    ASSERT_TRUE(request->spec.constraint) << fields;
    EXPECT_EQ(request->spec.constraint->constraint.kind, kind) << fields;
    EXPECT_EQ(request->spec.constraint->constraint.text, text) << fields;
  }
  EXPECT_TRUE(
      Chat(R"("structured_outputs":{"json":{},"disable_any_whitespace":true})")->spec.constraint->constraint.compact);
  EXPECT_EQ(Chat(R"("allowed_token_ids":[5,3])")->spec.allowed_token_ids, (std::vector<int32_t>{5, 3}));
}

TEST(ConstraintFieldsTest, WhatAsksForNothingConstrainsNothing) {
  for (const char* fields : {R"("response_format":{"type":"text"})", R"("response_format":null)",
                             R"("guided_json":null,"guided_choice":[],"regex":"")", R"("structured_outputs":{})",
                             R"("structured_outputs":{"json":null,"json_object":false,"choice":[]})",
                             R"("allowed_token_ids":null,"guided_decoding_backend":"auto")"}) {
    const absl::StatusOr<ApiRequest> request = Chat(fields);
    ASSERT_OK(request) << fields;
    EXPECT_FALSE(request->spec.constraint) << fields;
  }
}

TEST(ConstraintFieldsTest, BadShapesAndTwoConstraintsAreRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {
      {"response_format", R"("response_format":{"type":"xml"})"},
      {"response_format", R"("response_format":"json")"},
      {"response_format.json_schema", R"("response_format":{"type":"json_schema"})"},
      {"response_format.json_schema", R"("response_format":{"type":"json_schema","json_schema":{"name":"n"}})"},
      {"response_format.json_schema.schema",
       R"("response_format":{"type":"json_schema","json_schema":{"name":"n","schema":[1]}})"},
      {"structured_outputs", R"("structured_outputs":[1])"},
      {"structured_outputs", R"("structured_outputs":{"whitespace_pattern":" *","json":{}})"},
      {"structured_outputs.choice", R"("structured_outputs":{"choice":[1]})"},
      {"guided_regex", R"("guided_json":{},"guided_regex":"a")"},
      {"structured_outputs.regex", R"("structured_outputs":{"json":{},"regex":"a"})"},
      {"guided_whitespace_pattern", R"("guided_whitespace_pattern":" ")"},
      {"allowed_token_ids", R"("allowed_token_ids":"a")"},
      {"allowed_token_ids", R"("allowed_token_ids":[])"},
  };
  for (const auto& [field, fields] : cases) EXPECT_EQ(ToApiError(Chat(fields).status()).param, field) << fields;
}

TEST(ConstraintFieldsTest, OtherProtocolsHaveTheirOwnPlaces) {
  const absl::StatusOr<ApiRequest> responses = ParseResponses(
      absl::StrCat(R"({"input":"x","text":{"format":{"type":"json_schema","name":"n","schema":)", kSchema, "}}}"));
  ASSERT_OK(responses);
  EXPECT_EQ(responses->spec.constraint->constraint.text, kSchema);
  EXPECT_EQ(responses->spec.constraint->field, "text.format");
  const std::string message = R"({"max_tokens":5,"messages":[{"role":"user","content":"x"}],)";
  const absl::StatusOr<ApiRequest> messages = ParseMessages(
      absl::StrCat(message, R"("output_config":{"format":{"type":"json_schema","schema":)", kSchema, "}}}"));
  ASSERT_OK(messages);
  EXPECT_EQ(messages->spec.constraint->constraint.text, kSchema);
  const std::string tools =
      R"("tools":[{"name":"f","input_schema":{"type":"object"}},{"name":"g","input_schema":{"type":"object"}}],)";
  EXPECT_EQ(ParseMessages(absl::StrCat(message, tools, R"("tool_choice":{"type":"any"}})"))->spec.forced_call->name,
            "");
  EXPECT_EQ(ParseMessages(absl::StrCat(message, tools, R"("tool_choice":{"type":"tool","name":"g"}})"))
                ->spec.forced_call->name,
            "g");
  EXPECT_EQ(
      ToApiError(ParseMessages(absl::StrCat(message, tools, R"("tool_choice":{"type":"tool","name":"h"}})")).status())
          .param,
      "tool_choice");
}

struct Rig : IntakeRig {
  InlineExecutor executor;
  absl::StatusOr<GenerationRun> Start(Constraint constraint, bool ignore_eos = false) {
    GenerationSpec spec;
    spec.prompts.emplace_back(std::vector<int32_t>(5, 5));
    spec.n = 2;
    spec.ignore_eos = ignore_eos;
    spec.constraint = ConstraintSpec{std::move(constraint), "guided_json"};
    return intake.Start(spec, executor, [] {});
  }
};

TEST(ConstraintIntakeTest, ReachesTheEngineWithItsEndTokens) {
  Rig rig;
  const absl::StatusOr<GenerationRun> run = rig.Start({ConstraintKind::kJsonSchema, kSchema}, /*ignore_eos=*/true);
  ASSERT_OK(run);
  const Request request = rig.engine.Await(0);
  EXPECT_EQ(request.sampling.constraint,
            (Constraint{ConstraintKind::kJsonSchema, kSchema, false, TestText().tokenizer->stop_tokens()}));
  EXPECT_EQ(&*request.sampling.constraint, &*rig.engine.Await(1).sampling.constraint);  // held once
  EXPECT_EQ(request.stop_tokens, TestText().tokenizer->stop_tokens());  // where its grammar may end, it ends
}

TEST(ConstraintIntakeTest, WhatCannotBeCompiledIsRefusedByTheNameOfItsField) {
  Rig rig;
  const std::pair<Constraint, const char*> cases[] = {
      {{ConstraintKind::kJsonSchema, R"({"properties":{"a":{"not":{}}}})"}, "/properties/a: \"not\""},
      {{ConstraintKind::kJsonSchema, "{"}, "not JSON"},
      {{ConstraintKind::kRegex, "(a"}, ""},
      {{ConstraintKind::kRegex, "(a{100}){100}"}, "larger than"},
      {{ConstraintKind::kEbnf, "root ::= root"}, "no text"},
      {{ConstraintKind::kStructure, "[]"}, ""},
  };
  for (const auto& [constraint, why] : cases) {
    const absl::Status status = rig.Start(constraint).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(why))) << constraint.text;
    EXPECT_EQ(ToApiError(status).param, "guided_json");
  }
}

TEST(ConstraintIntakeTest, AllowedTokensAreOfTheVocabulary) {
  Rig rig;
  GenerationSpec spec;
  spec.prompts.emplace_back(std::vector<int32_t>(5, 5));
  spec.allowed_token_ids = {9, 7, 9};
  const absl::StatusOr<GenerationRun> run = rig.intake.Start(spec, rig.executor, [] {});
  ASSERT_OK(run);
  EXPECT_EQ(rig.engine.Await(0).sampling.allowed_tokens, (std::vector<int32_t>{7, 9}));
  spec.allowed_token_ids = {TestText().tokenizer->vocab_size()};
  EXPECT_EQ(ToApiError(rig.intake.Start(spec, rig.executor, [] {}).status()).param, "allowed_token_ids");
}

// ---- calls of tools, by the syntax of each family ----

constexpr char kTools[] = R"([{"type":"function","function":{"name":"get_weather","parameters":)"
                          R"({"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}},)"
                          R"({"type":"function","function":{"name":"now"}}])";

struct Calls {
  GenerationSpec spec;
  OutputForm form;
  explicit Calls(const char* syntax) {
    ChatInput chat;
    chat.messages = "[]";
    chat.tools = kTools;
    spec.prompts.emplace_back(chat);
    spec.tools = form.tools = {"get_weather", "now"};
    form.syntax = *FindToolSyntax(syntax, nullptr);
    spec.forced_call = ForcedCall{};
  }
  // Whether the whole text is one that the constraint takes.
  bool Take(absl::string_view text) const {
    const Tokenizer& tokenizer = *TestText().tokenizer;
    static const auto* const vocabulary = new Vocabulary(VocabularyOf(tokenizer));
    static const auto* const compiler = GrammarCompiler::Make(*vocabulary)->release();
    absl::StatusOr<std::optional<ConstraintSpec>> constraint = ConstraintOf(spec, form, tokenizer);
    EXPECT_OK(constraint);
    (*constraint)->constraint.end_tokens = vocabulary->end_tokens;
    const absl::StatusOr<Grammar> grammar = compiler->Compile((*constraint)->constraint);
    EXPECT_OK(grammar);
    if (!grammar.ok()) return false;
    absl::StatusOr<TokenMatcher> matcher = TokenMatcher::Make(*grammar, vocabulary->end_tokens);
    std::vector<int32_t> tokens = tokenizer.Encode(text, /*special=*/false);
    tokens.push_back(vocabulary->end_tokens[0]);
    return matcher->Follow(tokens) && matcher->ended();
  }
};

TEST(ForcedCallTest, TakesWhatTheParserOfTheFamilyReads) {
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {"hermes", "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>",
       "\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"},
      {"llama3", "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Rome\"}}",
       "; {\"name\": \"now\", \"parameters\": {}}"},
      {"mistral", "[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\"}}",
       ", {\"name\": \"now\", \"arguments\": {}}"},
  };
  for (const auto& [syntax, first, more] : cases) {
    Calls calls(syntax);
    const std::string end = std::string(syntax) == "mistral" ? "]" : "";
    EXPECT_TRUE(calls.Take(absl::StrCat(first, end))) << syntax;
    EXPECT_TRUE(calls.Take(absl::StrCat(first, more, end))) << syntax;
    EXPECT_FALSE(calls.Take("It is sunny.")) << syntax;
    EXPECT_FALSE(calls.Take("")) << syntax;
    OutputParser parser(calls.form);
    OutputDelta read = parser.Push(absl::StrCat(first, more, end));
    EXPECT_EQ(read.text, "") << syntax;
    EXPECT_EQ(read.calls.size(), 2u) << syntax;
    calls.spec.parallel_tool_calls = false;
    EXPECT_FALSE(calls.Take(absl::StrCat(first, more, end))) << syntax;
    calls.spec.forced_call->name = "now";
    EXPECT_FALSE(calls.Take(absl::StrCat(first, end))) << syntax;
  }
}

TEST(ForcedCallTest, ArgumentsFollowTheSchema) {
  const Calls calls("hermes");
  EXPECT_FALSE(calls.Take("<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call>"));
  EXPECT_FALSE(calls.Take("<tool_call>\n{\"name\": \"another\", \"arguments\": {}}\n</tool_call>"));
}

TEST(ForcedCallTest, AFormatLeavesCallsFreeUnlessOneIsForced) {
  Calls calls("hermes");
  calls.spec.forced_call.reset();
  calls.spec.constraint = ConstraintSpec{{ConstraintKind::kJsonSchema, R"({"type":"integer"})"}, "response_format"};
  EXPECT_TRUE(calls.Take("15"));
  EXPECT_TRUE(calls.Take("<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"));
  EXPECT_FALSE(calls.Take("text"));
}

TEST(ForcedCallTest, AThoughtMayComeFirst) {
  Calls calls("hermes");
  calls.spec.forced_call.reset();
  calls.form.syntax = nullptr;
  calls.form.thinks = true;
  calls.spec.constraint = ConstraintSpec{{ConstraintKind::kJsonSchema, R"({"type":"integer"})"}, "response_format"};
  EXPECT_TRUE(calls.Take("15"));
  EXPECT_TRUE(calls.Take("<think>Hm, 7 {or} 8?</think>\n\n15"));
  EXPECT_FALSE(calls.Take("<think>Hm</think>"));
  EXPECT_FALSE(calls.Take("Hm</think>15"));
  calls.form.in_thought = true;
  EXPECT_TRUE(calls.Take("Hm</think>\n15"));
  EXPECT_FALSE(calls.Take("15"));
}

}  // namespace
}  // namespace interlace
