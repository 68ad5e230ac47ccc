// What a coordinator does for its index beside asking it: settings, the file of those who lead by turns, metrics.
#include "coordinator/skip_index/skip_keeper.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "common/log.h"
#include "coordinator/skip_index/skip_records.h"
#include "coordinator/skip_index/skip_settings.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

constexpr int32_t kLayers = 8, kWidth = 4;
constexpr int64_t kBytes = 1 << 20;

class SkipKeeperTest : public testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
    path_ = testing::TempDir() + "/skips-" + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove(path_);
  }
  void TearDown() override { SetLogSink(nullptr, LogLevel::kInfo); }

  static SkipAdvisor Advisor() {
    return SkipAdvisor({.model_digest = "model", .layers = kLayers, .most_bytes = kBytes}, MakeSeededEntropy(1));
  }
  // One entry more.
  static void Teach(SkipAdvisor& advisor, uint64_t id) {
    SkipRecords records;
    SkipEntryRecord& record = records.entries.emplace_back();
    record.entry = {.id = id, .scope = {1, 2}, .plan = SkipPlan::Evenly(3, kLayers), .acceptance = Acceptance(9, 8)};
    record.key = {1, 0, 0, 0};
    ASSERT_OK(advisor.Import(EncodeSkips(records, {"model", kLayers, kWidth})));
  }

  std::string path_;
  absl::Time now_ = absl::UnixEpoch();
  Metrics metrics_{"test"};
};

TEST_F(SkipKeeperTest, WhoLeadsWritesAndWhoTakesTheLeadReads) {
  SkipAdvisor first = Advisor(), second = Advisor();
  Metrics others("test");
  SkipKeeper leader(first, path_, kBytes, metrics_), standby(second, path_, kBytes, others);
  Teach(first, 1);
  leader.Tick(now_, true);
  standby.Tick(now_, false);
  now_ += absl::Minutes(4);
  standby.Tick(now_, false);
  EXPECT_FALSE(std::filesystem::exists(path_)) << "who does not lead writes nothing";
  leader.Tick(now_, true);
  EXPECT_TRUE(std::filesystem::exists(path_));
  EXPECT_EQ(metrics_.Total("interlace_skip_index_entries"), 1);
  EXPECT_GT(metrics_.Total("interlace_skip_index_bytes"), 0);
  standby.Tick(now_, false);
  EXPECT_EQ(others.Total("interlace_skip_index_entries"), 0);
  leader.Tick(now_, false);
  standby.Tick(now_, true);
  EXPECT_EQ(others.Total("interlace_skip_index_entries"), 1);
  Teach(first, 2);
  leader.Close(false);
  SkipAdvisor third = Advisor();
  SkipKeeper next(third, path_, kBytes, others);
  EXPECT_EQ(third.counts().entries, 1);
  Teach(second, 3);
  standby.Close(true);
  SkipAdvisor fourth = Advisor();
  SkipKeeper last(fourth, path_, kBytes, others);
  EXPECT_EQ(fourth.counts().entries, 2);
}

TEST_F(SkipKeeperTest, ADamagedFileIsCountedAndWrittenAnew) {
  SkipAdvisor advisor = Advisor();
  {
    SkipKeeper keeper(advisor, path_, kBytes, metrics_);
    Teach(advisor, 1);
    keeper.Close(true);
  }
  std::filesystem::resize_file(path_, std::filesystem::file_size(path_) - 3);
  SkipAdvisor next = Advisor();
  SkipKeeper keeper(next, path_, kBytes, metrics_);
  EXPECT_EQ(next.counts().entries, 0);
  EXPECT_EQ(metrics_.Total("interlace_skip_index_refused_total"), 1);
  keeper.Tick(now_, true);
  EXPECT_EQ(metrics_.Total("interlace_skip_index_refused_total"), 1) << "it is counted once";
  Teach(next, 1);
  keeper.Close(true);
  SkipAdvisor third = Advisor();
  SkipKeeper reader(third, path_, kBytes, metrics_);
  EXPECT_EQ(third.counts().entries, 1);
}

TEST(SkipSettingsTest, AnAdvisorIsMadeWhereSomebodyWouldAskIt) {
  const auto makes = [](auto change, int32_t layers = 30) {
    Config config;
    config.sched.speculate = "self";
    change(config);
    return MakeSkipAdvisor(config, "model", layers, MakeSeededEntropy(1)) != nullptr;
  };
  EXPECT_TRUE(makes([](Config&) {}));
  EXPECT_TRUE(makes([](Config& c) { c.sched.speculate = "auto"; }));
  EXPECT_FALSE(makes([](Config& c) { c.sched.speculate = "ngram"; }));
  EXPECT_FALSE(makes([](Config& c) { c.sched.speculate = "off"; }));
  EXPECT_FALSE(makes([](Config& c) { c.skip.index = false; }));
  EXPECT_FALSE(makes([](Config& c) { c.sched.draft_tokens = 0; }));
  EXPECT_FALSE(makes([](Config& c) { c.sched.speculate = "auto", c.cluster.stages = 2; }));
  EXPECT_FALSE(makes([](Config&) {}, 2)) << "no sublayer may be passed over";
}

TEST(SkipSettingsTest, TheFileLiesBesideTheOtherState) {
  Config config;
  EXPECT_EQ(SkipFilePath(config), "");
  config.coordinator.state = "/var/lib/interlace/costs";
  EXPECT_EQ(SkipFilePath(config), "/var/lib/interlace/costs.skip");
  config.skip.file = "/data/skips";
  EXPECT_EQ(SkipFilePath(config), "/data/skips");
}

}  // namespace
}  // namespace interlace
