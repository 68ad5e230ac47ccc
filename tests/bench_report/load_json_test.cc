#include "bench/serve/load_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "bench/serve/load_figures.h"
#include "tests/bench_report/queue_model.h"

namespace interlace {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

QueueModel Eventful() {
  QueueModel model;
  model.shed_after = 0.5;
  model.fail_chance = 0.05;
  model.cancel_chance = 0.05;
  return model;
}

void ExpectSame(const LoadRun& a, const LoadRun& b) {
  EXPECT_EQ(a.label, b.label);
  EXPECT_EQ(a.server, b.server);
  EXPECT_EQ(a.model, b.model);
  EXPECT_EQ(a.dataset, b.dataset);
  EXPECT_EQ(a.arrivals, b.arrivals);
  EXPECT_EQ(a.offered_rate, b.offered_rate);
  EXPECT_EQ(a.concurrency, b.concurrency);
  EXPECT_EQ(a.seed, b.seed);
  EXPECT_EQ(a.began, b.began);
  EXPECT_EQ(a.elapsed, b.elapsed);
  EXPECT_EQ(a.over_saturated, b.over_saturated);
  EXPECT_EQ(a.stopped_because, b.stopped_because);
  EXPECT_EQ(a.unsent, b.unsent);
  ASSERT_EQ(a.records.size(), b.records.size());
  for (size_t i = 0; i < a.records.size(); ++i) {
    const RequestRecord &x = a.records[i], &y = b.records[i];
    EXPECT_EQ(x.index, y.index);
    EXPECT_EQ(x.request_id, y.request_id);
    EXPECT_EQ(x.session, y.session);
    EXPECT_EQ(x.turn, y.turn);
    EXPECT_EQ(x.tenant, y.tenant);
    EXPECT_EQ(x.priority, y.priority);
    EXPECT_EQ(x.targets, y.targets);
    EXPECT_EQ(x.due, y.due);
    EXPECT_EQ(x.sent, y.sent);
    EXPECT_EQ(x.chunks, y.chunks);
    EXPECT_EQ(x.chunk_tokens, y.chunk_tokens);
    EXPECT_EQ(x.ended, y.ended);
    EXPECT_EQ(x.outcome, y.outcome);
    EXPECT_EQ(x.http_status, y.http_status);
    EXPECT_EQ(x.error, y.error);
    EXPECT_EQ(x.finish_reason, y.finish_reason);
    EXPECT_EQ(x.prompt_tokens, y.prompt_tokens);
    EXPECT_EQ(x.completion_tokens, y.completion_tokens);
    EXPECT_EQ(x.cached_tokens, y.cached_tokens);
    EXPECT_EQ(x.shared_prefix_tokens, y.shared_prefix_tokens);
    EXPECT_EQ(x.retry_after, y.retry_after);
    EXPECT_EQ(x.text, y.text);
  }
}

TEST(LoadJson, HasTheKeysOfVllm) {
  const LoadRun run = Eventful().Run(20, 1, 200);
  const LoadFigures f = FiguresOf(run);
  const json out = json::parse(LoadReportJson({.runs = {run}}));
  for (const char* key : {"date",
                          "endpoint_type",
                          "backend",
                          "label",
                          "model_id",
                          "tokenizer_id",
                          "num_prompts",
                          "request_rate",
                          "burstiness",
                          "max_concurrency",
                          "duration",
                          "completed",
                          "failed",
                          "total_input_tokens",
                          "total_output_tokens",
                          "request_throughput",
                          "request_goodput",
                          "output_throughput",
                          "total_token_throughput",
                          "input_lens",
                          "output_lens",
                          "ttfts",
                          "itls",
                          "start_times",
                          "generated_texts",
                          "errors",
                          "max_output_tokens_per_s",
                          "max_concurrent_requests"}) {
    EXPECT_TRUE(out.contains(key)) << key;
  }
  for (const char* metric : {"ttft", "tpot", "itl", "e2el"}) {
    for (const char* stat : {"mean", "median", "std", "p99"}) {
      EXPECT_TRUE(out.contains(absl::StrCat(stat, "_", metric, "_ms"))) << stat << " " << metric;
    }
  }
  EXPECT_EQ(out["num_prompts"], 200);
  EXPECT_EQ(out["completed"], f.completed());
  EXPECT_EQ(out["burstiness"], 1.0);
  EXPECT_EQ(out["request_rate"], 20.0);
  EXPECT_DOUBLE_EQ(out["mean_ttft_ms"], f.ttft.mean * 1e3);
  EXPECT_DOUBLE_EQ(out["p99_itl_ms"], f.itl.p99 * 1e3);
  EXPECT_EQ(out["ttfts"].size(), 200u);
  EXPECT_EQ(out["interlace"]["figures"]["outcomes"]["shed"], f.shed());
}

TEST(LoadJson, AFigureThatDoesNotExistIsNull) {
  QueueModel model;
  model.tokens = 1;
  model.targets = {};
  LoadRun run = model.Run(5, 1, 10);
  run.offered_rate = 0;
  const json out = json::parse(LoadReportJson({.runs = {run}}, {.detailed = false}));
  EXPECT_TRUE(out["mean_tpot_ms"].is_null());
  EXPECT_TRUE(out["request_goodput"].is_null());
  EXPECT_EQ(out["request_rate"], "inf");
  EXPECT_FALSE(out.contains("itls"));
}

TEST(LoadJson, ComesBackAsItWas) {
  std::vector<LoadRun> runs;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    LoadRun run = Eventful().Run(5 * static_cast<double>(seed), seed, 60);
    run.seed = seed == 4 ? ~uint64_t{0} : seed;
    run.concurrency = static_cast<int>(seed);
    run.over_saturated = seed == 2;
    run.stopped_because = seed == 2 ? "TTFT and concurrency grew" : "";
    run.unsent = static_cast<int64_t>(seed);
    RequestRecord& r = run.records[3];
    r.session = 7;
    r.turn = 2;
    r.tenant = "a\"b\n";
    r.priority = -1;
    r.text = "größer \xe2\x9c\x93";
    r.targets = {.e2el = absl::Seconds(3)};
    if (!r.chunk_tokens.empty()) r.chunk_tokens[0] = 3;
    runs.push_back(run);
  }
  const LoadEnvironment environment = {"abc123", "2 x CPU", "interlace bench serve --rate 5,10"};
  for (const bool one : {true, false}) {
    const LoadReport written = {environment, one ? std::vector<LoadRun>{runs[1]} : runs};
    const absl::StatusOr<LoadReport> read = ParseLoadReport(LoadReportJson(written), "a.json");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->environment, environment);
    ASSERT_EQ(read->runs.size(), written.runs.size());
    for (size_t i = 0; i < written.runs.size(); ++i) ExpectSame(written.runs[i], read->runs[i]);
  }
}

TEST(LoadJson, KeepsTheSearchForTheCapacity) {
  LoadReport report = {.runs = {QueueModel().Run(5, 1, 5)}};
  report.capacity = CapacityResult{.rate = 4,
                                   .low = 3,
                                   .high = std::numeric_limits<double>::infinity(),
                                   .at_least = true,
                                   .stopped_because = "the most holds",
                                   .seeds = {{1, 4, std::numeric_limits<double>::infinity()}},
                                   .steps = {{.seed = 1, .rate = 4, .share = 1, .holds = true, .why = "holds"}}};
  for (const bool several : {false, true}) {
    if (several) report.runs.push_back(report.runs[0]);
    const absl::StatusOr<LoadReport> read = ParseLoadReport(LoadReportJson(report), "a.json");
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_TRUE(read->capacity.has_value());
    EXPECT_EQ(read->capacity->rate, 4);
    EXPECT_EQ(read->capacity->low, 3);
    EXPECT_EQ(read->capacity->high, std::numeric_limits<double>::infinity());
    EXPECT_TRUE(read->capacity->at_least);
    EXPECT_EQ(read->capacity->seeds[0].high, std::numeric_limits<double>::infinity());
    EXPECT_EQ(read->capacity->steps[0].why, "holds");
    EXPECT_TRUE(read->capacity->steps[0].holds);
  }
}

TEST(LoadJson, BytesThatAreNoUtf8DoNotStopIt) {
  LoadRun run = QueueModel().Run(5, 1, 10);
  run.records[0].error = "garbage \xff\xfe\x80";
  run.records[1].text = std::string("\x00\xc3", 2);
  const absl::StatusOr<LoadReport> read = ParseLoadReport(LoadReportJson({.runs = {run}}), "a.json");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_THAT(read->runs[0].records[0].error, HasSubstr("garbage"));
  const std::string lines = RequestJsonLines(run);
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 10);
}

TEST(LoadJson, ReadsVllmsOwnResult) {
  const LoadRun ours = QueueModel().Run(5, 1, 50);
  json vllm = json::parse(LoadReportJson({.runs = {ours}}));
  vllm.erase("interlace");
  vllm["start_times"][0] = 1000.0;  // of a clock with another origin
  const double shift = 1000 - absl::ToDoubleSeconds(ours.records[0].sent);
  for (size_t i = 1; i < 50; ++i) vllm["start_times"][i] = vllm["start_times"][i].get<double>() + shift;
  const absl::StatusOr<LoadReport> read = ParseLoadReport(vllm.dump(), "v.json");
  ASSERT_TRUE(read.ok()) << read.status();
  const LoadFigures a = FiguresOf(ours), b = FiguresOf(read->runs[0]);
  EXPECT_NEAR(a.ttft.mean, b.ttft.mean, 1e-6);
  EXPECT_NEAR(a.tpot.p99, b.tpot.p99, 1e-6);
  EXPECT_NEAR(a.itl.p99, b.itl.p99, 1e-6);
  EXPECT_NEAR(a.output_throughput, b.output_throughput, 1e-3);
  vllm.erase("itls");
  EXPECT_THAT(ParseLoadReport(vllm.dump(), "v.json").status().ToString(), HasSubstr("--save-detailed"));
}

TEST(LoadJson, NamesTheFieldThatIsWrong) {
  const std::string good = LoadReportJson({.runs = {QueueModel().Run(5, 1, 3)}});
  const auto error = [](const std::string& text) { return ParseLoadReport(text, "a.json").status().ToString(); };
  EXPECT_THAT(error("{"), HasSubstr("a.json: is no JSON"));
  EXPECT_THAT(error("[]"), HasSubstr("a.json: must be an object"));
  EXPECT_THAT(error("{}"), HasSubstr("a.json.ttfts: missing"));
  EXPECT_THAT(error(R"({"runs": []})"), HasSubstr("a.json.runs: is empty"));
  EXPECT_THAT(error(R"({"runs": 3})"), HasSubstr("a.json.runs: must be an array"));
  EXPECT_THAT(error(R"({"interlace": {"format": 2}})"), HasSubstr("this version reads format 1"));
  EXPECT_THAT(error(absl::StrReplaceAll(good, {{"\"outcome\":\"ok\"", "\"outcome\":\"fine\""}})),
              HasSubstr("a.json.interlace.records[0].outcome: \"fine\" is none"));
  EXPECT_THAT(error(absl::StrReplaceAll(good, {{"\"seed\":1", "\"seed\":-1"}})), HasSubstr("integer in range"));
  EXPECT_THAT(error(absl::StrReplaceAll(good, {{"\"prompt_tokens\":256", "\"prompt_tokens\":99999999999"}})),
              HasSubstr("records[0].prompt_tokens"));
}

// Damage anywhere is an error or another run, never a crash.
TEST(LoadJson, SurvivesDamage) {
  const std::string good = LoadReportJson({.runs = {Eventful().Run(20, 1, 12)}});
  std::mt19937_64 random(7);
  int refused = 0;
  for (int i = 0; i < 400; ++i) {
    std::string bad = good;
    for (int k = 0; k < 3; ++k) bad[random() % bad.size()] = "0\"{}[],:-e1nx"[random() % 13];
    if (i % 4 == 0) bad.resize(random() % bad.size());
    const absl::StatusOr<LoadReport> read = ParseLoadReport(bad, "a.json");
    if (!read.ok()) ++refused;
    if (read.ok()) FiguresOf(read->runs[0]);
  }
  EXPECT_GT(refused, 100);
}

TEST(LoadFiles, ALineARequestAndARowARun) {
  const LoadRun run = Eventful().Run(20, 1, 100);
  const std::string lines = RequestJsonLines(run);
  int good = 0;
  for (const absl::string_view line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    const json object = json::parse(line.begin(), line.end());
    if (object["good"] == true) ++good;
    EXPECT_EQ(object["ttft_ms"].is_null(), object["outcome"] != "ok" && object["outcome"] != "cancelled");
  }
  EXPECT_EQ(good, FiguresOf(run).good);

  LoadRun quoted = run;
  quoted.label = "a, \"b\"";
  const std::vector<std::string> rows = absl::StrSplit(LoadCsv({run, quoted}), "\r\n", absl::SkipEmpty());
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(std::count(rows[0].begin(), rows[0].end(), ','), std::count(rows[1].begin(), rows[1].end(), ','));
  EXPECT_THAT(rows[2], testing::StartsWith("\"a, \"\"b\"\"\",http"));
  EXPECT_THAT(rows[0], HasSubstr("ttft_p99_ms"));
}

}  // namespace
}  // namespace interlace
