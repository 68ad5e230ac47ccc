// A request's targets from body, headers and defaults to the engine.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/generation.h"
#include "coordinator/front/openai_json.h"
#include "coordinator/front/server_json.h"
#include "coordinator/front/target_headers.h"
#include "tests/front/text_model.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using Headers = std::map<std::string, std::string, std::less<>>;

absl::Status ReadHeaders(const Headers& headers, TargetSpec* spec) {
  return ReadTargetHeaders(
      [&](absl::string_view name) -> absl::string_view {
        const auto found = headers.find(std::string(name));
        return found == headers.end() ? absl::string_view() : found->second;
      },
      spec);
}

absl::StatusOr<TargetSpec> FromBody(absl::string_view fields) {
  const absl::StatusOr<ApiRequest> chat =
      ParseChat(absl::StrCat(R"({"messages":[{"role":"user","content":"a"}],)", fields, "}"));
  const absl::StatusOr<ApiRequest> completion = ParseCompletion(absl::StrCat(R"({"prompt":"a",)", fields, "}"));
  EXPECT_EQ(chat.status(), completion.status());
  if (!chat.ok()) return chat.status();
  return chat->spec.targets;
}

// What a door does with a body and headers, on an intake with `defaults`; what the engine got.
absl::StatusOr<Request> Submitted(absl::string_view body, const Headers& headers, const Targets& defaults = {}) {
  IntakeRig rig;
  Intake::Options options = rig.intake.options();
  options.default_targets = defaults;
  Intake intake(options, *TestText().tokenizer, nullptr, rig.engine, rig.clock, MakeSeededEntropy(1));
  absl::StatusOr<ApiRequest> request = ParseCompletion(absl::StrCat(R"({"prompt":"a")", body, "}"));
  if (!request.ok()) return request.status();
  const absl::Status status = ReadHeaders(headers, &request->spec.targets);
  if (!status.ok()) return status;
  InlineExecutor executor;
  const absl::StatusOr<GenerationRun> run = intake.Start(request->spec, executor, [] {});
  if (!run.ok()) return run.status();
  return rig.engine.Await(0);
}

TEST(TargetsTest, EveryFieldOfABodyArrives) {
  const absl::StatusOr<Request> request = Submitted(
      R"(,"slo":{"ttft_ms":250,"tpot_ms":12.5,"largest_gap_ms":1e3},"deadline_ms":9000,"priority":-3,
      "fairness_id":"acme","cache_salt":"salt")",
      {});
  ASSERT_OK(request);
  const Targets expected = {.ttft = absl::Milliseconds(250),
                            .tpot = absl::Microseconds(12500),
                            .largest_gap = absl::Seconds(1),
                            .priority = -3,
                            .tenant = "acme"};
  EXPECT_EQ(request->targets, expected);
  EXPECT_EQ(request->deadline - request->arrival, absl::Seconds(9));
  EXPECT_EQ(request->salt, "salt");  // of its own: who shares fairly may share KV too
}

TEST(TargetsTest, EveryHeaderArrives) {
  const absl::StatusOr<Request> request = Submitted("", {{"x-llm-d-slo-ttft-ms", "250"},
                                                         {"x-llm-d-slo-tpot-ms", " 12.5 "},
                                                         {"x-llm-d-slo-largest-gap-ms", "1000"},
                                                         {"x-interlace-deadline-ms", "9000"},
                                                         {"x-interlace-priority", "-3"},
                                                         {"x-llm-d-inference-fairness-id", "acme"},
                                                         {"x-llm-d-inference-objective", "premium"}});
  ASSERT_OK(request);
  const Targets expected = {.ttft = absl::Milliseconds(250),
                            .tpot = absl::Microseconds(12500),
                            .largest_gap = absl::Seconds(1),
                            .priority = -3,
                            .tenant = "acme",
                            .objective = "premium"};
  EXPECT_EQ(request->targets, expected);
  EXPECT_EQ(request->deadline - request->arrival, absl::Seconds(9));
  EXPECT_EQ(request->salt, "");
}

TEST(TargetsTest, OlderNamesOfHeadersCountWhereTheNewOnesAreAbsent) {
  Headers headers = {{"x-slo-ttft-ms", "1"},
                     {"x-slo-tpot-ms", "2"},
                     {"x-gateway-inference-fairness-id", "old"},
                     {"x-gateway-inference-objective", "older"}};
  TargetSpec spec;
  ASSERT_OK(ReadHeaders(headers, &spec));
  EXPECT_EQ(spec.ttft_ms, 1);
  EXPECT_EQ(spec.tpot_ms, 2);
  EXPECT_EQ(spec.fairness_id, "old");
  EXPECT_EQ(spec.objective, "older");
  headers["x-llm-d-slo-ttft-ms"] = "3";
  headers["x-slo-ttft-ms"] = "what nobody looks at";
  headers["x-llm-d-inference-fairness-id"] = "new";
  spec = {};
  ASSERT_OK(ReadHeaders(headers, &spec));
  EXPECT_EQ(spec.ttft_ms, 3);
  EXPECT_EQ(spec.fairness_id, "new");
}

TEST(TargetsTest, BodyBeforeHeaderBeforeServer) {
  const Targets defaults = {.ttft = absl::Seconds(7), .tpot = absl::Seconds(8), .largest_gap = absl::Seconds(9)};
  const Headers headers = {{"x-llm-d-slo-ttft-ms", "100"},
                           {"x-llm-d-slo-tpot-ms", "200"},
                           {"x-interlace-deadline-ms", "300"},
                           {"x-interlace-priority", "4"},
                           {"x-llm-d-inference-fairness-id", "them"}};
  const absl::StatusOr<Request> request = Submitted(
      R"(,"slo":{"ttft_ms":1,"tpot_ms":null},"deadline_ms":2,"priority":0,"fairness_id":"us")", headers, defaults);
  ASSERT_OK(request);
  const Targets expected = {.ttft = absl::Milliseconds(1),
                            .tpot = absl::Milliseconds(200),
                            .largest_gap = absl::Seconds(9),
                            .priority = 0,
                            .tenant = "us"};
  EXPECT_EQ(request->targets, expected);
  EXPECT_EQ(request->deadline - request->arrival, absl::Milliseconds(2));

  const absl::StatusOr<Request> silent = Submitted("", {}, defaults);
  ASSERT_OK(silent);
  EXPECT_EQ(silent->targets, defaults);
  EXPECT_EQ(silent->deadline - silent->arrival, absl::Seconds(600));
}

TEST(TargetsTest, TheEarlierOfTwoDeadlinesCounts) {
  for (const auto& [call, written] : {std::pair(3, 2000), std::pair(2, 3000)}) {
    IntakeRig rig;
    GenerationSpec spec;
    spec.prompts.emplace_back(std::vector<int32_t>{5});
    spec.deadline = absl::Seconds(call);
    spec.targets.deadline_ms = written;
    InlineExecutor executor;
    ASSERT_OK(rig.intake.Start(spec, executor, [] {}));
    const Request request = rig.engine.Await(0);
    EXPECT_EQ(request.deadline - request.arrival, absl::Seconds(2));
  }
}

TEST(TargetsTest, ADeadlineOfNothingHasPassed) {
  EXPECT_THAT(Submitted(R"(,"deadline_ms":0)", {}), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("passed")));
  EXPECT_THAT(Submitted("", {{"x-interlace-deadline-ms", "0"}}),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("passed")));
}

TEST(TargetsTest, ABadFieldIsRefusedWithItsNameAndValue) {
  struct Case {
    const char *param, *body, *value;
  };
  for (const Case& c :
       std::vector<Case>{{"slo.ttft_ms", R"("slo":{"ttft_ms":0})", "0 is out of range"},
                         {"slo.ttft_ms", R"("slo":{"ttft_ms":-5})", "-5 is out of range"},
                         {"slo.tpot_ms", R"("slo":{"tpot_ms":1e-9})", "1e-09 is out of range"},
                         {"slo.largest_gap_ms", R"("slo":{"largest_gap_ms":31536000001})", "out of range"},
                         {"slo.largest_gap_ms", R"("slo":{"largest_gap_ms":1e300})", "1e+300 is out of range"},
                         {"slo.ttft_ms", R"("slo":{"ttft_ms":"soon"})", R"("soon" is not a number)"},
                         {"slo.tpot_ms", R"("slo":{"tpot_ms":[1]})", "[1] is not a number"},
                         {"slo.tpot_ms", R"("slo":{"tpot_ms":true})", "true is not a number"},
                         {"slo", R"("slo":{"ttlt_ms":5})", R"("ttlt_ms" is not known)"},
                         {"slo", R"("slo":{"\u0000\ud83d\ude42":5})", "is not known"},
                         {"slo", R"("slo":7)", "7 is not an object"},
                         {"slo", R"("slo":[])", "[] is not an object"},
                         {"deadline_ms", R"("deadline_ms":-1)", "-1 is out of range"},
                         {"deadline_ms", R"("deadline_ms":31536000001)", "out of range"},
                         {"deadline_ms", R"("deadline_ms":"1s")", R"(not "1s")"},
                         {"priority", R"("priority":2147483648)", "2147483648 is out of range"},
                         {"priority", R"("priority":-2147483649)", "-2147483649 is out of range"},
                         {"priority", R"("priority":1.5)", "not 1.5"},
                         {"priority", R"("priority":"high")", R"(not "high")"},
                         {"fairness_id", R"("fairness_id":7)", "must be a string"},
                         {"fairness_id", R"("fairness_id":"a\nb")", R"(a\nb)"},
                         {"fairness_id", R"("fairness_id":"ü")", R"(\xc3\xbc)"}}) {
    const absl::Status status = Submitted(absl::StrCat(",", c.body), {}).status();
    EXPECT_EQ(ToApiError(status).param, c.param) << c.body;
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.value))) << c.body;
  }
  EXPECT_EQ(ToApiError(Submitted(absl::StrCat(R"(,"fairness_id":")", std::string(129, 'x'), "\""), {}).status()).param,
            "fairness_id");
}

TEST(TargetsTest, ABadHeaderIsRefusedWithItsNameAndValue) {
  for (const auto& [name, value, text] : std::vector<std::tuple<std::string, std::string, std::string>>{
           {"x-llm-d-slo-ttft-ms", "soon", "'soon' is not a number of milliseconds"},
           {"x-llm-d-slo-ttft-ms", "0", "0 is out of range"},
           {"x-slo-ttft-ms", "-4", "-4 is out of range"},
           {"x-llm-d-slo-tpot-ms", "nan", "nan is out of range"},
           {"x-slo-tpot-ms", "inf", "inf is out of range"},
           {"x-llm-d-slo-largest-gap-ms", "5s", "'5s' is not"},
           {"x-interlace-deadline-ms", "-1", "-1 is out of range"},
           {"x-interlace-deadline-ms", "nan", "out of range"},
           {"x-interlace-priority", "1.5", "'1.5' is not an integer"},
           {"x-interlace-priority", "2147483648", "2147483648 is out of range"},
           {"x-interlace-priority", "99999999999999999999", "is not an integer"},
           {"x-llm-d-inference-fairness-id", "a\xff", R"(a\xff)"},
           {"x-gateway-inference-objective", std::string(129, 'o'), "at most 128"}}) {
    TargetSpec spec;
    const absl::Status status = ReadHeaders({{name, value}}, &spec);
    EXPECT_EQ(ToApiError(status).param, name) << value;
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr(name), HasSubstr(text))));
  }
}

// gRPC's fields hold what JSON cannot write.
TEST(TargetsTest, NumbersThatAreNoneAreRefused) {
  const double bad[] = {std::nan(""), -std::nan(""), HUGE_VAL, -HUGE_VAL, -1, -0.1};
  const std::pair<const char*, std::optional<double> TargetSpec::*> fields[] = {
      {"slo.ttft_ms", &TargetSpec::ttft_ms},
      {"slo.tpot_ms", &TargetSpec::tpot_ms},
      {"slo.largest_gap_ms", &TargetSpec::largest_gap_ms},
      {"deadline_ms", &TargetSpec::deadline_ms}};
  for (const auto& [name, field] : fields) {
    for (const double value : bad) {
      TargetSpec spec;
      spec.*field = value;
      EXPECT_EQ(ToApiError(CheckTargets(spec)).param, name) << value;
    }
    TargetSpec spec;
    spec.*field = 31536000000.0;
    EXPECT_OK(CheckTargets(spec));
  }
}

TEST(TargetsTest, AbsentAndNullAskForNothing) {
  for (const char* fields : {R"("x":1)", R"("slo":null,"deadline_ms":null,"priority":null,"fairness_id":null)",
                             R"("slo":{})", R"("slo":{"ttft_ms":null,"tpot_ms":null,"largest_gap_ms":null})"}) {
    const absl::StatusOr<TargetSpec> spec = FromBody(fields);
    ASSERT_OK(spec);
    EXPECT_EQ(TargetsOf(*spec, {}), Targets()) << fields;
    EXPECT_FALSE(spec->deadline_ms) << fields;
  }
}

TEST(TargetsTest, AnExplanationShowsWhatWasAskedAndReached) {
  Explanation explanation;
  explanation.targets = {.ttft = absl::Milliseconds(250), .priority = -2, .tenant = "acme", .objective = "premium"};
  explanation.deadline = absl::Seconds(600);
  explanation.end.completion_tokens = 2;
  explanation.end.timing = {.first_token = absl::Milliseconds(300),
                            .total = absl::Milliseconds(500),
                            .tpot = absl::Microseconds(12500),
                            .largest_gap = absl::Milliseconds(40)};
  explanation.end.met = {.ttft = false, .deadline = true};
  std::string json = ExplanationJson(explanation);
  EXPECT_THAT(json, HasSubstr(R"("ttft":{"asked_ms":250.0,"reached_ms":300.0,"met":false})"));
  EXPECT_THAT(json, HasSubstr(R"("tpot":{"asked_ms":null,"reached_ms":12.5,"met":null})"));
  EXPECT_THAT(json, HasSubstr(R"("largest_gap":{"asked_ms":null,"reached_ms":40.0,"met":null})"));
  EXPECT_THAT(json, HasSubstr(R"("deadline":{"asked_ms":600000.0,"reached_ms":500.0,"met":true})"));
  EXPECT_THAT(json, HasSubstr(R"("priority":-2,"fairness_id":"acme","objective":"premium")"));
  explanation.spent[Spending::kDecode] = absl::Milliseconds(500);
  for (int i = 0; i < 3; ++i) {
    explanation.Add({.kind = DecisionKind::kSatOut, .at = i * absl::Milliseconds(250), .figures = {8192, 100 + i}});
  }
  json = ExplanationJson(explanation);
  EXPECT_THAT(json, HasSubstr(R"("decode_seconds":0.5,"parked_seconds":0.0)"));
  EXPECT_THAT(json, HasSubstr(R"("decisions":[{"kind":"sat_out","text":"sits a step out: it would read 8192 bytes )"
                              R"(from the host, the step has 102 left","at_seconds":0.0,"until_seconds":0.5,)"
                              R"("times":3}])"));
  json = ExplanationJson({});
  EXPECT_THAT(json, HasSubstr(R"("ttft":{"asked_ms":null,"reached_ms":null,"met":null})"));
  EXPECT_THAT(json, HasSubstr(R"("deadline":{"asked_ms":null,"reached_ms":null,"met":null})"));
}

}  // namespace
}  // namespace interlace
