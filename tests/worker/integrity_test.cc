// Never a wrong token from KV state: damage below the device is found, computed again, counted; or the request ends
// with a status.
#include <filesystem>

#include "tests/worker/pipeline_replica.h"
#include "tests/worker/streams.h"
#include "tests/worker/tiny_file.h"

namespace interlace {
namespace {

using ::testing::_;
using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr int32_t kLayers = 5, kVocab = 290, kBlockTokens = 8;
const int64_t kSlotBytes = KvBlockShape{kBlockTokens, 2, 16}.bytes();
const int64_t kStoredBytes = kSlotBytes + 64;

const std::vector<Ask>& Asks() {
  static const auto* asks = new std::vector<Ask>(RandomAsks(5, 10, 90, 12, kVocab, 21));
  return *asks;
}

Config TinyConfig() {
  static const TinyFile file({.layers = kLayers});
  Config config = OneThreadConfig(file.path(), kBlockTokens);
  config.kv.keep_layers = "0";
  config.kv.device_bytes.value = 1000 * kSlotBytes;
  config.kv.host_bytes.value = 100000 * kStoredBytes;
  config.kv.read_timeout = absl::Seconds(30);
  config.sched.chunk_tokens = 32;
  config.sched.max_recomputes = 1000000;
  return config;
}

// A replica for one test; at the end the ranks must hold nothing.
class Rig {
 public:
  explicit Rig(const Config& config, const std::string& points = "", uint64_t seed = 1)
      : faults_(*FaultPoints::Parse(points, seed)),
        replica_(*PipelineReplica::Create(config, clock_, *faults_)),
        clients_(replica_->engine(), clock_) {}
  ~Rig() {
    const Holding held = replica_->AwaitNothingHeld(clock_);
    EXPECT_EQ(held.sequences, 0);
    EXPECT_EQ(held.scheduled_blocks, 0);
  }
  Clients& clients() { return clients_; }
  FaultPoints& faults() { return *faults_; }
  double Total(const char* metric) { return replica_->metrics().Total(metric); }

 private:
  RealClock clock_;
  std::unique_ptr<FaultPoints> faults_;
  std::unique_ptr<PipelineReplica> replica_;
  Clients clients_;
};

const std::vector<Answer>& Clean() {
  static const auto* clean = [] {
    Config config = TinyConfig();
    config.kv.keep_layers = std::to_string(kLayers);
    Rig rig(config);
    return new std::vector<Answer>(rig.clients().Run(Asks(), false));
  }();
  return *clean;
}

int32_t Recomputes(const std::vector<Answer>& answers) {
  int32_t sum = 0;
  for (const Answer& answer : answers) sum += answer.explanation.recomputes;
  return sum;
}

TEST(WorkerIntegrityTest, DamageNeverShowsInAStream) {
  for (absl::string_view point : kFaultPoints) {
    // What a run meets hangs on when its copies end: a block that is read again before it has left is never damaged. So
    // the runs of a point are counted together.
    int64_t fired = 0, recomputes = 0;
    double found = 0, recomputed = 0;
    for (const double probability : {0.02, 0.25}) {
      for (const int stages : {1, 2}) {
        Config config = TinyConfig();
        config.cluster.stages = stages;
        // Prompts cut into chunks need what is below; with much damage they would never get through.
        if (probability > 0.1) config.sched.chunk_tokens = config.sched.step_tokens = 1024;
        const std::string points = absl::StrCat(point, ":", probability);
        Rig rig(config, points, 3 + stages);
        const std::vector<Answer> answers = rig.clients().Run(Asks(), true);
        ExpectSameStreams(Clean(), answers, absl::StrCat(points, " stages=", stages));
        const bool lost = point == "kv.read_lost";
        fired += static_cast<int64_t>(rig.faults().fired(point));
        found += rig.Total(lost ? "interlace_kv_block_missing_total" : "interlace_kv_block_corrupt_total");
        recomputes += Recomputes(answers);
        recomputed += rig.Total("interlace_recomputed_tokens_total");
      }
    }
    EXPECT_GT(fired, 0) << point;
    EXPECT_GT(found, 0) << point;
    EXPECT_GT(recomputes, 0) << point;
    EXPECT_GT(recomputed, 0) << point;
  }
}

TEST(WorkerIntegrityTest, EveryFaultAtOnceOnScarceDevices) {
  const std::string points =
      "kv.flip_at_rest:0.003,kv.flip_in_flight:0.003,kv.swap_layer:0.003,kv.swap_request:0.003,kv.read_lost:0.003";
  for (const char* tiers : {"", "rocksdb"}) {
    for (const int stages : {1, 3}) {
      for (const int slots : {25, 80, 300}) {
        Config config = TinyConfig();
        config.kv.keep_layers = "auto";
        config.kv.tiers = tiers;
        config.kv.device_bytes.value = slots * kSlotBytes;
        config.kv.rocksdb_dir = TestPath("rocksdb");
        config.kv.rocksdb_bytes.value = 64 << 20;
        if (!config.kv.tiers.empty()) config.kv.host_bytes.value = 100 * kStoredBytes;
        config.cluster.stages = stages;
        config.sched.chunk_tokens = 13;
        std::filesystem::remove_all(config.kv.rocksdb_dir);
        {
          Rig rig(config, points, 5);
          ExpectSameStreams(Clean(), rig.clients().Run(Asks(), true),
                            absl::StrCat("tiers=", tiers, " stages=", stages, " slots=", slots));
        }
        std::filesystem::remove_all(config.kv.rocksdb_dir);
      }
    }
  }
}

// Ranks that share a stage damage and lose blocks each for itself. What one has lost is worth nothing on the others,
// whose sums hold its parts: had they gone on, or sealed what follows, other streams would come of it.
TEST(WorkerIntegrityTest, WhatOneRankOfAStageLosesAllHaveLost) {
  const std::string points =
      "kv.flip_at_rest:0.004,kv.flip_in_flight:0.004,kv.swap_layer:0.004,kv.swap_request:0.004,kv.read_lost:0.004";
  const auto shared = [](int stages, const char* keep) {
    Config config = TinyConfig();
    config.kv.keep_layers = keep;
    config.cluster.stages = stages;
    config.cluster.tensor_ranks = 2;
    config.sched.chunk_tokens = 13;
    return config;
  };
  Rig clean(shared(1, "5"));
  const std::vector<Answer> expected = clean.clients().Run(Asks(), false);
  int32_t recomputes = 0;
  for (const char* tiers : {"", "rocksdb"}) {
    for (const int stages : {1, 2}) {
      for (const int slots : {50, 300}) {
        Config config = shared(stages, "auto");
        config.kv.tiers = tiers;
        config.kv.device_bytes.value = slots * kSlotBytes / 2;  // a rank has half of the heads
        config.kv.rocksdb_dir = TestPath("rocksdb");
        config.kv.rocksdb_bytes.value = 64 << 20;
        if (!config.kv.tiers.empty()) config.kv.host_bytes.value = 100 * kStoredBytes;
        std::filesystem::remove_all(config.kv.rocksdb_dir);
        {
          Rig rig(config, points, 5);
          const std::vector<Answer> answers = rig.clients().Run(Asks(), true);
          ExpectSameStreams(expected, answers, absl::StrCat("tiers=", tiers, " stages=", stages, " slots=", slots));
          recomputes += Recomputes(answers);
        }
        std::filesystem::remove_all(config.kv.rocksdb_dir);
      }
    }
  }
  EXPECT_GT(recomputes, 0) << "nothing was lost: this shows nothing";
}

TEST(WorkerIntegrityTest, HopelessDamageEndsWithAStatus) {
  for (absl::string_view point : kFaultPoints) {
    Config config = TinyConfig();
    config.kv.device_bytes.value = 25 * kSlotBytes;  // blocks have to leave
    config.sched.max_recomputes = 3;
    Rig rig(config, absl::StrCat(point, ":1"));
    const std::vector<Answer> answers = rig.clients().Run(Asks(), true);
    int hopeless = 0;
    for (size_t i = 0; i < answers.size(); ++i) {
      const std::string what = absl::StrCat(point, ", request ", i);
      ExpectPrefix(Clean()[i], answers[i], what);
      // A block that is read again before it has left meets no damage; nor is there always another request's block.
      if (answers[i].status.ok() && answers[i].explanation.recomputes == 0) continue;
      ++hopeless;
      EXPECT_THAT(answers[i].status, StatusIs(absl::StatusCode::kDataLoss, HasSubstr("max_recomputes=3"))) << what;
      EXPECT_EQ(answers[i].explanation.recomputes, 4) << what;
      EXPECT_FALSE(answers[i].explanation.decisions.empty());
    }
    EXPECT_GT(hopeless, 0) << point;
  }
}

TEST(WorkerIntegrityTest, AnArenaTooSmallRefusesAtOnce) {
  for (const char* keep : {"auto", "0", "5"}) {
    Config config = TinyConfig();
    config.kv.keep_layers = keep;
    config.kv.device_bytes.value = 3 * kSlotBytes;
    Rig rig(config);
    for (const Answer& answer : rig.clients().Run(Asks(), true)) {
      EXPECT_THAT(answer.status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("kv.device_bytes")));
      EXPECT_TRUE(answer.tokens.empty());
    }
  }
  Config config = TinyConfig();
  config.kv.device_bytes.value = kSlotBytes - 1;
  RealClock clock;
  FaultPoints faults;
  EXPECT_THAT(PipelineReplica::Create(config, clock, faults), StatusIs(absl::StatusCode::kResourceExhausted, _));
}

// Blocks that the host does not take stay on the device, for as long as it has room.
TEST(WorkerIntegrityTest, ScarceHost) {
  int finished = 0, refused = 0;
  for (const int stored : {1, 8, 60}) {
    for (const int slots : {30, 60, 120, 1000}) {
      for (const char* keep : {"0", "auto"}) {
        Config config = TinyConfig();
        config.kv.keep_layers = keep;
        config.kv.host_bytes.value = stored * kStoredBytes;
        config.kv.device_bytes.value = slots * kSlotBytes;
        config.sched.max_recomputes = 8;
        const std::string what = absl::StrCat("stored=", stored, " slots=", slots, " keep=", keep);
        Rig rig(config);
        const std::vector<Answer> answers = rig.clients().Run(Asks(), true);
        for (size_t i = 0; i < answers.size(); ++i) {
          ExpectPrefix(Clean()[i], answers[i], what);
          if (answers[i].status.ok()) {
            ++finished;
            EXPECT_EQ(answers[i].tokens, Clean()[i].tokens) << what;
          } else {
            ++refused;
            // It can never run, or lost its room too often.
            EXPECT_TRUE(absl::IsFailedPrecondition(answers[i].status) || absl::IsResourceExhausted(answers[i].status))
                << what << ": " << answers[i].status;
            EXPECT_TRUE(slots < 1000 || keep == std::string("0")) << what << ": " << answers[i].status;
          }
        }
      }
    }
  }
  EXPECT_GT(finished, 0);
  std::printf("%d requests finished, %d were refused\n", finished, refused);
}

TEST(WorkerIntegrityTest, NoHostAtAll) {
  Config config = TinyConfig();
  config.kv.keep_layers = "auto";
  config.kv.host_bytes.value = 0;
  Rig rig(config);
  ExpectSameStreams(Clean(), rig.clients().Run(Asks(), true), "no host");
}

// Clients that leave at any moment, or have enough, take everything of theirs along and disturb nobody: what the ranks
// were told to go on with is dropped.
TEST(WorkerIntegrityTest, CancelledRequestsLeaveNothing) {
  for (const int stages : {1, 2, 3}) {
    Config config = TinyConfig();
    config.cluster.stages = stages;
    config.sched.chunk_tokens = 8;
    Rig rig(config, "kv.read_lost:0.01");
    Random random(stages);
    std::vector<std::pair<size_t, size_t>> staying;  // index of the ask, of the request
    for (int round = 0; round < 6; ++round) {
      std::vector<std::pair<size_t, size_t>> leaving;
      for (size_t i = 0; i < Asks().size(); ++i) {
        const size_t index = rig.clients().Submit(Asks()[i]);
        (random.Below(2) == 0 ? staying : leaving).emplace_back(i, index);
      }
      if (!leaving.empty()) rig.clients().WaitForTokens(leaving[0].second, random.Below(8));
      for (const auto& [ask, index] : leaving) {
        if (random.Below(2) == 0) {
          rig.clients().Cancel(index);
          continue;
        }
        rig.clients().Stop(index);
        const Answer answer = rig.clients().Finish(index);
        ASSERT_OK(answer.status);
        ExpectPrefix(Clean()[ask], answer, absl::StrCat("stopped, stages=", stages));
      }
    }
    for (const auto& [ask, index] : staying) {
      const Answer answer = rig.clients().Finish(index);
      ASSERT_OK(answer.status);
      EXPECT_EQ(answer.tokens, Clean()[ask].tokens);
    }
  }
}

}  // namespace
}  // namespace interlace
