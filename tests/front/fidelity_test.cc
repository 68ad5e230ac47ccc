// A request's fidelity from body and header to the engine, and what answers say of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/generation.h"
#include "coordinator/front/messages_answer.h"
#include "coordinator/front/openai_json.h"
#include "coordinator/front/openai_reply.h"
#include "coordinator/front/responses_answer.h"
#include "coordinator/front/target_headers.h"
#include "tests/front/text_model.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

FidelityRule Allowing() { return RuleOf(/*bounded=*/true, "0.8", /*ranks=*/1, /*layers=*/30); }

// What a door does with a body's field and a header; what the engine got of each choice.
absl::StatusOr<std::vector<Request>> Submitted(absl::string_view fields, const FidelityRule& rule = Allowing(),
                                               absl::string_view header = "") {
  IntakeRig rig;
  Intake::Options options = rig.intake.options();
  options.fidelity = rule;
  Intake intake(options, *TestText().tokenizer, nullptr, rig.engine, rig.clock, MakeSeededEntropy(1));
  absl::StatusOr<ApiRequest> request = ParseCompletion(absl::StrCat(R"({"prompt":"a")", fields, "}"));
  if (!request.ok()) return request.status();
  ReadFidelityHeader([&](absl::string_view name) { return name == "x-interlace-fidelity" ? header : ""; },
                     &request->spec.fidelity);
  InlineExecutor executor;
  const absl::StatusOr<GenerationRun> run = intake.Start(request->spec, executor, [] {});
  if (!run.ok()) return run.status();
  std::vector<Request> all;
  for (size_t i = 0; i < static_cast<size_t>(request->spec.n); ++i) all.push_back(rig.engine.Await(i));
  return all;
}

TEST(FidelityTest, EveryFormArrives) {
  EXPECT_EQ((*Submitted(""))[0].fidelity.mode, FidelityMode::kExact);
  EXPECT_EQ((*Submitted(R"(,"fidelity":null)"))[0].fidelity.mode, FidelityMode::kExact);
  EXPECT_EQ((*Submitted(R"(,"fidelity":"exact")"))[0].fidelity.mode, FidelityMode::kExact);
  EXPECT_EQ((*Submitted(R"(,"fidelity":"off")"))[0].fidelity.mode, FidelityMode::kOff);
  const auto plain = Submitted(R"(,"fidelity":"bounded")");
  ASSERT_OK(plain);
  EXPECT_EQ((*plain)[0].fidelity.mode, FidelityMode::kBounded);
  EXPECT_FLOAT_EQ((*plain)[0].fidelity.agreement, 0.8f) << "the server's";
  const auto whole = Submitted(R"(,"fidelity":{"mode":"bounded","agreement":0.95,"exit_layer":20})");
  ASSERT_OK(whole);
  EXPECT_FLOAT_EQ((*whole)[0].fidelity.agreement, 0.95f);
  EXPECT_EQ((*whole)[0].fidelity.exit_layer, 20);
}

TEST(FidelityTest, AHeaderCountsWhereTheBodySaysNothing) {
  EXPECT_EQ((*Submitted("", Allowing(), "bounded"))[0].fidelity.mode, FidelityMode::kBounded);
  EXPECT_EQ((*Submitted(R"(,"fidelity":"off")", Allowing(), "bounded"))[0].fidelity.mode, FidelityMode::kOff);
  EXPECT_THAT(Submitted("", Allowing(), "sloppy").status(),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("fidelity"), HasSubstr("sloppy"))));
}

TEST(FidelityTest, RefusedByName) {
  const struct {
    const char *fields, *why;
  } kCases[] = {
      {R"(,"fidelity":"lossy")", "'lossy' is not known"},
      {R"(,"fidelity":7)", "no text"},
      {R"(,"fidelity":{"mode":"bounded","epsilon":0.1})", "has mode, agreement and exit_layer"},
      {R"(,"fidelity":{"mode":"bounded","agreement":0.5})", "fidelity.agreement"},
      {R"(,"fidelity":{"mode":"bounded","agreement":1.5})", "fidelity.agreement"},
      {R"(,"fidelity":{"mode":"exact","agreement":0.9})", "goes with the mode bounded alone"},
      {R"(,"fidelity":{"mode":"bounded","exit_layer":0})", "fidelity.exit_layer"},
      {R"(,"fidelity":{"mode":"bounded","exit_layer":29})", "fidelity.exit_layer"},
      {R"(,"fidelity":"bounded","allowed_token_ids":[5,6])", "constraint"},
      {R"(,"fidelity":"bounded","structured_outputs":{"regex":"[a-z]+"})", "constraint"},
  };
  for (const auto& [fields, why] : kCases) {
    EXPECT_THAT(Submitted(fields).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("fidelity"), HasSubstr(why))))
        << fields;
  }
}

TEST(FidelityTest, TheOperatorDecidesWhetherItIsToBeHad) {
  const auto refused = [](const FidelityRule& rule) { return Submitted(R"(,"fidelity":"bounded")", rule).status(); };
  EXPECT_THAT(refused(RuleOf(false, "0.9", 1, 30)),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("fidelity"), HasSubstr("skip.bounded"))));
  EXPECT_THAT(refused(RuleOf(true, "0.9", 4, 30)), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("4 ranks")));
  EXPECT_THAT(refused(RuleOf(true, "0.9", 1, 2)), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2 layers")));
  EXPECT_THAT(refused(FidelityRule()), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("allows none")));
  for (const char* mode : {"exact", "off"}) {
    EXPECT_OK(Submitted(absl::StrCat(R"(,"fidelity":")", mode, "\""), RuleOf(false, "0.9", 4, 30)).status());
  }
}

TEST(FidelityTest, EachChoiceHasANonceOfItsOwn) {
  const auto requests = Submitted(R"(,"fidelity":"bounded","n":3)");
  ASSERT_OK(requests);
  std::set<uint64_t> nonces;
  for (const Request& request : *requests) nonces.insert(request.fidelity.nonce);
  EXPECT_EQ(nonces.size(), 3u);
  EXPECT_EQ(nonces.count(0), 0u);
}

FidelityReport Report() {
  FidelityReport report{.mode = FidelityMode::kBounded, .target = 0.8f, .layers = 30};
  report.skipped = 90;
  report.whole = 4;
  report.audited = 6;
  report.agreed = 5;
  report.saved = 990;
  return report;
}

void ExpectReported(const Json& json) {
  const Json& fidelity = json.at("interlace").at("fidelity");
  EXPECT_EQ(fidelity.at("mode"), "bounded");
  EXPECT_EQ(fidelity.at("steps_skipped"), 90);
  EXPECT_EQ(fidelity.at("steps_audited"), 6);
  EXPECT_EQ(fidelity.at("audits_agreed"), 5);
  EXPECT_EQ(fidelity.at("agreement"), 0.8333);
  EXPECT_EQ(fidelity.at("sublayers_saved_share"), 0.165);
  EXPECT_EQ(fidelity.at("switched_off"), false);
}

// The data of the last event with `text` in it.
Json DataOf(const Answer::Events& events, const std::string& text) {
  for (const std::string& event : events) {
    if (event.find(text) == std::string::npos) continue;
    return Json::parse(event.substr(event.find("data: ") + 6));
  }
  return Json();
}

TEST(FidelityTest, EveryProtocolTellsIt) {
  const ReplyHead head{.protocol = Protocol::kChat, .name = "n", .model = "m"};
  ReplyChoice choice{.text = "hello", .completion_tokens = 100};
  EXPECT_FALSE(Json::parse(WholeAnswer(head, {&choice, 1}, {})).at("choices")[0].contains("interlace")) << "exact";
  choice.fidelity = Report();
  ExpectReported(Json::parse(WholeAnswer(head, {&choice, 1}, {})).at("choices")[0]);
  ExpectReported(Json::parse(FinishChunk(head, 0, choice, nullptr)).at("choices")[0]);
  MessagesAnswer messages(head);
  ExpectReported(Json::parse(messages.Whole({&choice, 1}, {})));
  messages.Finish(0, choice, {});
  ExpectReported(DataOf(messages.End({}), "message_delta"));
  ResponsesAnswer responses(head);
  ExpectReported(Json::parse(responses.Whole({&choice, 1}, {})));
  responses.Finish(0, choice, {});
  ExpectReported(DataOf(responses.End({}), "response.completed").at("response"));
}

// The engine has run ahead of a stop string; what it last said of the tokens before counts.
TEST(FidelityTest, AStopStringEndsWithTheReport) {
  IntakeRig rig;
  Intake::Options options = rig.intake.options();
  options.fidelity = Allowing();
  Intake intake(options, *TestText().tokenizer, nullptr, rig.engine, rig.clock, MakeSeededEntropy(1));
  GenerationSpec spec;
  spec.prompts = {std::string("a")};
  spec.stop = {"!"};
  spec.fidelity.mode = "bounded";
  InlineExecutor executor;
  const absl::StatusOr<GenerationRun> run = intake.Start(spec, executor, [] {});
  ASSERT_OK(run);
  const Request request = rig.engine.Await(0);
  request.sink->OnFidelity(Report());
  request.sink->OnTokens(TestText().tokenizer->Encode("hello!", false));
  std::optional<RequestEnd> end;
  while (const std::optional<TextEvent> event = run->streams()[0]->Take()) end = event->end;
  ASSERT_TRUE(end);
  EXPECT_EQ(end->reason, FinishReason::kStop);
  EXPECT_EQ(end->fidelity, Report());
}

}  // namespace
}  // namespace interlace
