#include "cli/metric_samples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/metrics.h"

namespace interlace {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

// The text that our own registry writes is read back.
TEST(MetricSamplesTest, ReadsWhatTheServerWrites) {
  Metrics metrics("a \"model\" of\\mine");
  metrics.Add("interlace_transfer_bytes_total", 5, {{"direction", "in"}});
  metrics.Add("interlace_transfer_bytes_total", 7, {{"direction", "out"}});
  metrics.Observe("interlace_step_seconds", 0.25);
  metrics.Observe("interlace_step_seconds", 0.75);
  const MetricSamples samples(metrics.Text());
  EXPECT_EQ(samples.Sum("interlace_transfer_bytes_total"), 12);
  const std::vector<MetricSample> bytes = samples.Of("interlace_transfer_bytes_total");
  ASSERT_EQ(bytes.size(), 2u);
  EXPECT_THAT(bytes[0].labels, ElementsAre(Pair("direction", "in"), Pair("model_name", "a \"model\" of\\mine")));
  EXPECT_EQ(samples.Mean("interlace_step_seconds"), 0.5);
  EXPECT_EQ(samples.Sum("interlace_step_seconds_count"), 2);
  EXPECT_EQ(samples.Sum("never_heard_of"), 0);
  EXPECT_EQ(samples.Mean("never_heard_of"), 0);
}

TEST(MetricSamplesTest, WhatIsNoSampleIsLeftOut) {
  const MetricSamples samples(
      "# HELP a b\n# TYPE a counter\n\na 1\n  b{x=\"1\"} 2 1700000000\nc{x=\"1} 3\nd{x} 4\ne\nf nonsense\n<html>\ng{} "
      "5");
  EXPECT_EQ(samples.size(), 3u);
  EXPECT_EQ(samples.Sum("a"), 1);
  EXPECT_EQ(samples.Sum("b"), 2);
  EXPECT_EQ(samples.Sum("g"), 5);
}

}  // namespace
}  // namespace interlace
