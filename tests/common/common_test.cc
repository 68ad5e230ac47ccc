#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <vector>

#include "common/bounded_queue.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "common/executor.h"
#include "common/fault.h"
#include "common/gate.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

TEST(BoundedQueueTest, KeepsOrderAndBound) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.TryPush(1));
  EXPECT_TRUE(queue.TryPush(2));
  EXPECT_FALSE(queue.TryPush(3));
  EXPECT_EQ(queue.Pop(), 1);
  queue.Close();
  EXPECT_FALSE(queue.TryPush(4));
  EXPECT_EQ(queue.Pop(), 2);  // what was there before Close still comes
  EXPECT_EQ(queue.Pop(), std::nullopt);
}

TEST(BoundedQueueTest, TheFrontIsWhatTheNextPopTakes) {
  BoundedQueue<int> queue(3);
  EXPECT_EQ(queue.Front(), nullptr);
  EXPECT_TRUE(queue.Push(1));
  const int* const front = queue.Front();
  ASSERT_NE(front, nullptr);
  EXPECT_TRUE(queue.Push(2) && queue.Push(3));
  queue.Close();
  EXPECT_EQ(*front, 1);  // whatever comes behind it
  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_EQ(*queue.Front(), 2);
}

TEST(BoundedQueueTest, EveryValueArrivesOnceUnderManyThreads) {
  BoundedQueue<int> queue(3);
  std::atomic<int64_t> sum{0};
  {
    std::vector<Thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back("taker", [&] {
        while (std::optional<int> value = queue.Pop()) sum += *value;
      });
    }
    {
      std::vector<Thread> givers;
      for (int t = 0; t < 3; ++t) {
        givers.emplace_back("giver", [&] {
          for (int i = 1; i <= 1000; ++i) ASSERT_TRUE(queue.Push(i));
        });
      }
    }
    queue.Close();
  }
  EXPECT_EQ(sum, 3 * 500500);
}

TEST(GateTest, RefusesOnceShutAndWaitsForZero) {
  Gate gate;
  ASSERT_TRUE(gate.TryEnter());
  gate.Shut();
  EXPECT_FALSE(gate.TryEnter());
  Thread leaver("leaver", [&] { gate.Leave(); });
  gate.Close();
  EXPECT_EQ(gate.in_flight(), 0);
}

TEST(GateDeathTest, DyingWithWorkInFlightIsABug) {
  EXPECT_DEATH(
      {
        Gate gate;
        gate.TryEnter();
      },
      "in flight");
}

TEST(EntropyTest, SameSeedSameStreamAndForksDiffer) {
  auto a = MakeSeededEntropy(5), b = MakeSeededEntropy(5), c = MakeSeededEntropy(6);
  std::set<uint64_t> seen;
  for (int i = 0; i < 100; ++i) {
    const uint64_t word = a->Next();
    EXPECT_EQ(word, b->Next());
    EXPECT_NE(word, c->Next());
    EXPECT_TRUE(seen.insert(word).second);
  }
  EXPECT_EQ(a->Fork("x")->Next(), b->Fork("x")->Next());
  EXPECT_NE(a->Fork("x")->Next(), b->Fork("y")->Next());
}

TEST(ExecutorTest, RunsInOrderAndFinishesBeforeItDies) {
  std::vector<int> ran;
  {
    ThreadExecutor executor("test");
    for (int i = 0; i < 100; ++i) EXPECT_TRUE(executor.Post([&ran, i] { ran.push_back(i); }));
  }
  ASSERT_EQ(ran.size(), 100u);
  EXPECT_TRUE(std::is_sorted(ran.begin(), ran.end()));
}

TEST(FaultPointsTest, FireAsOftenAsTheirProbabilitySays) {
  FaultPoints none;
  EXPECT_FALSE(none.Fires("kv.flip_at_rest"));
  const auto points = FaultPoints::Parse("kv.flip_at_rest:0.25,kv.read_lost:1", 3);
  ASSERT_OK(points);
  for (int i = 0; i < 4000; ++i) (*points)->Fires("kv.flip_at_rest");
  EXPECT_NEAR(static_cast<double>((*points)->fired("kv.flip_at_rest")), 1000, 120);
  EXPECT_TRUE((*points)->Fires("kv.read_lost"));
  EXPECT_FALSE((*points)->Fires("kv.swap_layer"));
  EXPECT_THAT(FaultPoints::Parse("kv.flip:1", 1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv.swap_layer")));
  EXPECT_THAT(FaultPoints::Parse("kv.read_lost:2", 1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("[0, 1]")));
}

TEST(MetricsTest, TextHoldsEverySeriesWithoutLabelsFromTheStart) {
  Metrics metrics("some-model");
  metrics.Add("vllm:generation_tokens_total", 3);
  metrics.Add("interlace_transfer_bytes_total", 5, {{"direction", "in"}});
  metrics.Add("interlace_transfer_bytes_total", 7, {{"direction", "out"}});
  const std::string text = metrics.Text();
  for (const MetricRow& row : kMetrics) {
    if (row.labels.empty()) {
      EXPECT_THAT(text, HasSubstr(std::string(row.name)));
    }
  }
  EXPECT_THAT(text, HasSubstr("vllm:generation_tokens_total{model_name=\"some-model\"} 3"));
  EXPECT_EQ(metrics.Total("interlace_transfer_bytes_total"), 12);
}

TEST(MetricsTest, AHandleIsTheSeriesOfItsNameAndLabels) {
  Metrics metrics("m");
  const Metrics::Counter in = metrics.counter("interlace_transfer_bytes_total", {{"direction", "in"}});
  const Metrics::Counter copy = in;
  in.Add(2);
  copy.Add(3);
  copy.Add(-1);  // a counter never falls
  metrics.Add("interlace_transfer_bytes_total", 4, {{"direction", "in"}});
  metrics.counter("interlace_transfer_bytes_total", {{"direction", "out"}}).Add(100);
  metrics.gauge("interlace_kv_tier_blocks", {{"stage", "0"}, {"tier", "host"}}).Set(7);
  metrics.Set("interlace_kv_tier_blocks", 8, {{"tier", "host"}, {"stage", "0"}});  // the order of labels is free
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("interlace_transfer_bytes_total{model_name=\"m\",direction=\"in\"} 9\n"));
  EXPECT_THAT(text, HasSubstr("interlace_transfer_bytes_total{model_name=\"m\",direction=\"out\"} 100\n"));
  EXPECT_THAT(text, HasSubstr("interlace_kv_tier_blocks{model_name=\"m\",stage=\"0\",tier=\"host\"} 8\n"));
  EXPECT_EQ(metrics.Total("interlace_kv_tier_blocks"), 8);
}

TEST(MetricsTest, ObservationsFallIntoCumulativeBuckets) {
  Metrics metrics("m");
  const Metrics::Histogram steps = metrics.histogram("interlace_step_seconds");
  for (double seconds : {0.0005, 0.001, 0.002, 59.0, 61.0}) steps.Observe(seconds);
  const std::string text = metrics.Text();
  const auto bucket = [](const char* bound, int count) {
    return absl::StrCat("interlace_step_seconds_bucket{model_name=\"m\",le=\"", bound, "\"} ", count, "\n");
  };
  EXPECT_THAT(text, HasSubstr(bucket("0.001", 2)));
  EXPECT_THAT(text, HasSubstr(bucket("0.0025", 3)));
  EXPECT_THAT(text, HasSubstr(bucket("30", 3)));
  EXPECT_THAT(text, HasSubstr(bucket("60", 4)));
  EXPECT_THAT(text, HasSubstr(bucket("+Inf", 5)));
  EXPECT_THAT(text, HasSubstr("interlace_step_seconds_count{model_name=\"m\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("interlace_step_seconds_sum{model_name=\"m\"} 120.00"));
  EXPECT_EQ(metrics.Total("interlace_step_seconds"), 5);
}

TEST(MetricsTest, ThreadsThatRecordAtOnceLoseNothing) {
  Metrics metrics("m");
  {
    std::vector<Thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back("recorder", [&metrics] {
        const Metrics::Counter tokens = metrics.counter("vllm:generation_tokens_total");
        const Metrics::Histogram steps = metrics.histogram("interlace_step_seconds");
        for (int i = 0; i < 20000; ++i) {
          tokens.Add();
          steps.Observe(0.001 * (i % 7));
        }
      });
    }
  }
  EXPECT_EQ(metrics.Total("vllm:generation_tokens_total"), 80000);
  EXPECT_EQ(metrics.Total("interlace_step_seconds"), 80000);
}

TEST(MetricsDeathTest, AHandleOfAnotherKindIsABug) {
  Metrics metrics("m");
  EXPECT_DEATH(metrics.gauge("vllm:generation_tokens_total"), "generation_tokens");
  EXPECT_DEATH(metrics.counter("interlace_transfer_bytes_total"), "transfer_bytes");
}

TEST(MetricsDeathTest, AnUnlistedNameOrLabelIsABug) {
  Metrics metrics("m");
  EXPECT_DEATH(metrics.Add("interlace_surprise_total"), "interlace_surprise_total");
  EXPECT_DEATH(metrics.Add("vllm:generation_tokens_total", 1, {{"colour", "red"}}), "generation_tokens");
}

TEST(LogTest, OneEventIsOneCallWithItsFields) {
  std::vector<LogEvent> events;
  SetLogSink([&events](const LogEvent& event) { events.push_back(event); }, LogLevel::kInfo);
  LOG(DEBUG) << "not this";
  LOG(INFO) << "kv load failed" << Field("layer", 3) << absl::NotFoundError("gone");
  SetLogSink(nullptr, LogLevel::kInfo);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].text, "kv load failed");
  EXPECT_EQ(events[0].fields[0], (std::pair<std::string, std::string>("layer", "3")));
  EXPECT_EQ(events[0].fields[1].second, "NOT_FOUND: gone");
}

}  // namespace
}  // namespace interlace
