// What leaves the coordinator about requests: traces of callers, spans, the line of stats.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "common/clock.h"
#include "common/log.h"
#include "coordinator/stats_log.h"
#include "coordinator/telemetry/otlp_exporter.h"
#include "coordinator/telemetry/request_spans.h"
#include "proto/compat/otlp_trace.pb.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

TEST(TraceContext, ReadsWhatTheStandardHas) {
  const auto trace = ParseTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  ASSERT_TRUE(trace);
  EXPECT_EQ(*trace, (TraceContext{0x4bf92f3577b34da6, 0xa3ce929d0e0e4736, 0x00f067aa0ba902b7, true}));
  EXPECT_EQ(TraceIdText(*trace), "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_FALSE(ParseTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")->sampled);
  EXPECT_TRUE(ParseTraceparent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what.comes.later"));
  for (const char* broken : {"", "00", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
                             "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                             "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                             "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                             "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                             "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
                             "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
                             "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more"}) {
    EXPECT_FALSE(ParseTraceparent(broken)) << broken;
  }
}

// A request that was fetched for, ran, was parked in the middle of its answer, and ran to its end.
class SpansTest : public testing::Test {
 protected:
  SpansTest() {
    request_.name = "r1";
    request_.arrival = At(0);
    request_.max_tokens = 7;
    request_.trace = {1, 2, 3, true};
    trace_.Enter(RequestPhase::kWaiting, At(0));
    trace_.Enter(RequestPhase::kFetching, At(10));
    trace_.Enter(RequestPhase::kRunning, At(30));
    trace_.Enter(RequestPhase::kParked, At(90));
    trace_.Enter(RequestPhase::kRunning, At(120));
    explanation_.layers.resize(20);
    for (const int32_t l : {0, 7, 8, 19}) {
      LayerExplanation& layer = explanation_.layers[l];
      layer.bytes_in = 100 + l;
      layer.first_move = absl::Milliseconds(30 + l);
      layer.last_move = absl::Milliseconds(80 + l);
    }
    explanation_.layers[19].stage = 1;
    explanation_.Add({.kind = DecisionKind::kStarted, .at = absl::Milliseconds(10)});
  }
  static absl::Time At(int64_t ms) { return absl::UnixEpoch() + absl::Hours(5) + absl::Milliseconds(ms); }
  std::vector<Span> Spans() {
    uint64_t id = 100;
    return SpansOf({request_, explanation_, trace_, first_token_, At(150)}, "m", [&] { return ++id; });
  }
  Request request_;
  Explanation explanation_;
  RequestTrace trace_;
  absl::Time first_token_ = At(50);
};

TEST_F(SpansTest, ThePartsFollowOneAnotherUnderTheirRequest) {
  const std::vector<Span> spans = Spans();
  struct Part {
    const char* name;
    int64_t begin, end;
  };
  const Part parts[] = {{"llm_request", 0, 150}, {"queue", 0, 10},        {"kv.restore", 10, 30},
                        {"prefill", 30, 50},     {"decode", 50, 90},      {"parked", 90, 120},
                        {"decode", 120, 150},    {"kv.transfer", 30, 87}, {"kv.transfer", 38, 88},
                        {"kv.transfer", 49, 99}};
  ASSERT_EQ(spans.size(), std::size(parts));
  std::set<uint64_t> ids;
  for (size_t i = 0; i < spans.size(); ++i) {
    EXPECT_EQ(spans[i].name, parts[i].name);
    EXPECT_EQ(spans[i].start, At(parts[i].begin)) << spans[i].name;
    EXPECT_EQ(spans[i].end, At(parts[i].end)) << spans[i].name;
    EXPECT_EQ(spans[i].trace.trace_low, 2u);
    EXPECT_EQ(spans[i].trace.parent, i == 0 ? 3 : spans[0].id);
    EXPECT_EQ(spans[i].server, i == 0);
    ids.insert(spans[i].id);
  }
  EXPECT_EQ(ids.size(), spans.size());
  EXPECT_EQ(std::get<std::string>(spans[7].attributes[1].second), "0-7");
  EXPECT_EQ(spans[0].events.at(0).name, "started");
}

TEST_F(SpansTest, WithoutATokenThereIsNoDecode) {
  first_token_ = absl::InfinitePast();
  for (const Span& span : Spans()) EXPECT_NE(span.name, "decode");
}

TEST_F(SpansTest, TheirBytesAreAnExportRequest) {
  explanation_.end.status = absl::InternalError("broken");
  const absl::Time epoch = At(0) - absl::Seconds(1700000000);
  otlp::ExportTraceServiceRequest request;
  ASSERT_TRUE(request.ParseFromString(EncodeSpans(Spans(), "ours", epoch)));
  const otlp::ScopeSpans& scope = request.resource_spans(0).scope_spans(0);
  ASSERT_EQ(scope.spans_size(), 10);
  EXPECT_EQ(scope.spans(0).trace_id(), std::string("\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2", 16));
  EXPECT_EQ(scope.spans(0).parent_span_id(), std::string("\0\0\0\0\0\0\0\3", 8));
  EXPECT_EQ(scope.spans(0).start_time_unix_nano(), 1700000000'000000000u);
  EXPECT_EQ(scope.spans(0).end_time_unix_nano(), 1700000000'150000000u);
  EXPECT_EQ(scope.spans(0).status().code(), otlp::Status::STATUS_CODE_ERROR);
  EXPECT_EQ(scope.spans(1).parent_span_id(), scope.spans(0).span_id());
}

TEST(OtlpEndpoint, FormsOfAnAddress) {
  const auto text = [](const std::string& url) {
    const auto endpoint = ParseOtlpEndpoint(url);
    return endpoint.ok() ? endpoint->host + " " + endpoint->port + " " + endpoint->path
                         : std::string(endpoint.status().message());
  };
  EXPECT_EQ(text("http://collector:4318"), "collector 4318 /v1/traces");
  EXPECT_EQ(text("http://collector/"), "collector 4318 /v1/traces");
  EXPECT_EQ(text("http://10.0.0.1:80/otlp/v1/traces"), "10.0.0.1 80 /otlp/v1/traces");
  EXPECT_EQ(text("http://[::1]:4318"), "::1 4318 /v1/traces");
  for (const char* broken : {"https://collector:4318", "collector:4318", "http://", "http://:4318", "http://a:b"}) {
    EXPECT_THAT(text(broken), HasSubstr("telemetry.otlp_endpoint")) << broken;
  }
}

// A collector that is not there, and more requests than the queue holds: whoever ends requests does not wait, and each
// span is counted.
TEST_F(SpansTest, WhatCannotBeSentIsDroppedAndCounted) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  RealClock clock;
  Metrics metrics("m");
  {
    OtlpExporter exporter(
        {.endpoint = {"127.0.0.1", "1", "/v1/traces"}, .service = "s", .model = "m", .queue = 4, .batch = 4}, clock,
        metrics, MakeSeededEntropy(1));
    for (int i = 0; i < 100; ++i) exporter.OnEnded({request_, explanation_, trace_, first_token_, At(150)});
    request_.trace.sampled = false;
    exporter.OnEnded({request_, explanation_, trace_, first_token_, At(150)});
  }
  SetLogSink(nullptr, LogLevel::kInfo);
  EXPECT_EQ(metrics.Total("interlace_telemetry_spans_total"), 1000);
}

TEST(StatsLog, SpeaksWhileThereIsTraffic) {
  std::vector<std::map<std::string, std::string>> lines;
  SetLogSink([&](const LogEvent& event) { lines.emplace_back(event.fields.begin(), event.fields.end()); },
             LogLevel::kInfo);
  Metrics metrics("m");
  StatsLog stats(metrics);
  const absl::Time begin = absl::UnixEpoch();
  EXPECT_FALSE(stats.Tick(begin, {}));
  EXPECT_FALSE(stats.Tick(begin + absl::Seconds(10), {}));
  metrics.Add("vllm:prompt_tokens_total", 200);
  metrics.Add("vllm:generation_tokens_total", 55);
  metrics.Add("vllm:prefix_cache_queries_total", 200);
  metrics.Add("vllm:prefix_cache_hits_total", 50);
  EXPECT_TRUE(
      stats.Tick(begin + absl::Seconds(20), {.running = 3, .waiting = 4, .parked = 1, .blocks_held = 1, .blocks = 8}));
  EXPECT_TRUE(stats.Tick(begin + absl::Seconds(30), {.running = 1}));
  EXPECT_FALSE(stats.Tick(begin + absl::Seconds(40), {}));
  SetLogSink(nullptr, LogLevel::kInfo);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], (std::map<std::string, std::string>{{"prompt_tokens_per_s", "20.0"},
                                                          {"generation_tokens_per_s", "5.5"},
                                                          {"running", "3"},
                                                          {"waiting", "3"},
                                                          {"parked", "1"},
                                                          {"kv_usage_percent", "12.5"},
                                                          {"prefix_hit_percent", "25.0"}}));
  EXPECT_EQ(lines[1]["generation_tokens_per_s"], "0.0");
}

}  // namespace
}  // namespace interlace
