#include "cli/doctor_cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/metrics.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

ClusterLook GoodLook() {
  ClusterLook look;
  look.url = "http://x";
  look.version = "1.0";
  look.health = "ok";
  look.ranks = look.ranks_ready = 2;
  look.clock_skew = absl::Milliseconds(300);
  look.state.replica.stages = {
      {.layer_begin = 0, .layer_end = 20, .device = {.total = 2000}, .host = {.total = 4000}},
      {.layer_begin = 20, .layer_end = 30, .device = {.total = 1000}, .host = {.total = 2000}}};
  look.state.replica.slo.finished = 100;
  return look;
}

std::vector<Finding> Judge(const ClusterLook& look, const std::string& metrics = "") {
  ClusterLook with = look;
  with.metrics = MetricSamples(metrics);
  return JudgeCluster(with, "1.0");
}

TEST(DoctorClusterTest, AGoodClusterHasNothingToCure) {
  for (const Finding& finding : Judge(GoodLook())) {
    EXPECT_EQ(finding.verdict, Verdict::kOk) << finding.check << ": " << finding.found;
    EXPECT_EQ(finding.cure, "") << finding.check;
  }
}

TEST(DoctorClusterTest, TheSameMemoryForStagesOfUnequalLayersIsNoFault) {
  ClusterLook look = GoodLook();
  look.state.replica.stages[0].device.total = look.state.replica.stages[1].device.total = 1500;
  look.state.replica.stages[0].host.total = look.state.replica.stages[1].host.total = 0;
  for (const Finding& finding : Judge(look)) EXPECT_EQ(finding.verdict, Verdict::kOk) << finding.found;
}

TEST(DoctorClusterTest, EachFaultIsFoundByItsCheckAlone) {
  struct Case {
    const char* check;
    Verdict verdict;
    void (*spoil)(ClusterLook&);
    const char* metrics;
  };
  const auto nothing = [](ClusterLook&) {};
  const Case cases[] = {
      {"version", Verdict::kWarn, [](ClusterLook& l) { l.version = "0.9"; }, ""},
      {"ranks", Verdict::kFail, [](ClusterLook& l) { l.ranks_ready = 1; }, ""},
      {"ranks", Verdict::kFail, [](ClusterLook& l) { l.ranks = l.ranks_ready = 0; }, ""},
      {"ranks", Verdict::kWarn, [](ClusterLook& l) { l.health = "draining"; }, ""},
      {"clock", Verdict::kWarn, [](ClusterLook& l) { l.clock_skew = -absl::Seconds(30); }, ""},
      {"clock", Verdict::kWarn, [](ClusterLook& l) { l.clock_skew.reset(); }, ""},
      {"room of stages", Verdict::kWarn, [](ClusterLook& l) { l.state.replica.stages[1].device.total = 100; }, ""},
      {"room of stages", Verdict::kWarn, [](ClusterLook& l) { l.state.replica.stages[0].host.total = 0; }, ""},
      {"requests", Verdict::kWarn, [](ClusterLook& l) { l.state.replica.slo.failed = 50; }, ""},
      {"tiers", Verdict::kWarn, nothing,
       "interlace_kv_tier_blocks{stage=\"0\",tier=\"rocksdb\"} "
       "3\ninterlace_kv_tier_blocks{stage=\"0\",tier=\"remote\"} 3\n"
       "interlace_kv_tier_blocks{stage=\"1\",tier=\"remote\"} 3\n"},
      {"blocks of tiers", Verdict::kFail, nothing, "interlace_kv_block_corrupt_total 1\n"},
      {"blocks of tiers", Verdict::kWarn, nothing, "interlace_kv_block_missing_total 1\n"},
      {"losses", Verdict::kWarn, nothing, "interlace_replica_losses_total 2\n"},
      {"refused peers", Verdict::kWarn, nothing,
       "interlace_refused_peers_total{cause=\"wrong_key\",port=\"rank-0\"} 2\n"},
      {"steps", Verdict::kWarn, nothing,
       "interlace_step_seconds_count 200\ninterlace_step_seconds_sum 2\ninterlace_step_compute_seconds_count 200\n"
       "interlace_step_compute_seconds_sum 0.4\ninterlace_rank_gap_seconds_count 200\ninterlace_rank_gap_seconds_sum "
       "1.4\n"},
      {"predictions", Verdict::kWarn, nothing,
       "interlace_step_prediction_ratio_count 200\ninterlace_step_prediction_ratio_sum 500\n"},
      {"waits for KV", Verdict::kWarn, nothing,
       "interlace_step_seconds_sum 10\ninterlace_layer_stall_seconds_total 5\n"},
      {"files", Verdict::kWarn, nothing, "interlace_api_keys_stale 1\n"},
      {"state", Verdict::kWarn, [](ClusterLook& l) { l.state_known = absl::PermissionDeniedError("a key"); }, ""},
      {"metrics", Verdict::kWarn, [](ClusterLook& l) { l.metrics_known = absl::PermissionDeniedError("a key"); }, ""},
  };
  for (const Case& one : cases) {
    ClusterLook look = GoodLook();
    one.spoil(look);
    bool found = false;
    for (const Finding& finding : Judge(look, one.metrics)) {
      found |= finding.check == one.check;
      EXPECT_EQ(finding.verdict, finding.check == one.check ? one.verdict : Verdict::kOk)
          << one.check << " / " << finding.check << ": " << finding.found;
      EXPECT_EQ(finding.cure.empty(), finding.verdict == Verdict::kOk) << finding.check;
    }
    EXPECT_TRUE(found) << one.check;
  }
}

// The names that are asked for are those of the catalogue: a series that is renamed there is missed here.
TEST(DoctorClusterTest, TheSeriesThatItReadsExist) {
  Metrics metrics("m");
  for (const char* name : {"interlace_kv_block_corrupt_total", "interlace_kv_block_missing_total",
                           "interlace_replica_losses_total", "interlace_layer_stall_seconds_total"}) {
    metrics.Add(name, 1);
  }
  metrics.Add("interlace_refused_peers_total", 1, {{"port", "rank-0"}, {"cause", "wrong_key"}});
  metrics.Set("interlace_kv_tier_blocks", 1, {{"stage", "0"}, {"tier", "rocksdb"}});
  metrics.Set("interlace_api_keys_stale", 1);
  metrics.Set("interlace_tls_stale", 1);
  for (const char* name : {"interlace_step_seconds", "interlace_step_compute_seconds", "interlace_rank_gap_seconds",
                           "interlace_step_prediction_ratio"}) {
    metrics.Observe(name, 1);
  }
  std::string all;
  for (const Finding& finding : Judge(GoodLook(), metrics.Text())) all += finding.check + ": " + finding.found + "\n";
  EXPECT_THAT(all, HasSubstr("1 corrupt, 1 not given back"));
  EXPECT_THAT(all, HasSubstr("1 times a rank was lost"));
  EXPECT_THAT(all, HasSubstr("1 wrong_key"));
  EXPECT_THAT(all, HasSubstr("rocksdb: 1 blocks"));
  EXPECT_THAT(all, HasSubstr("mean 1000.0 ms"));
  EXPECT_THAT(all, HasSubstr("server.api_keys, server.tls_*"));
  EXPECT_THAT(all, HasSubstr("100.0 % of the time"));
}

}  // namespace
}  // namespace interlace
