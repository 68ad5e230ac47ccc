// A prefix that was computed for one request serves the next ones, wherever it lies by then, and changes no stream:
// each is the one that the same request has alone on a fresh replica.
#include <filesystem>
#include <map>

#include "cli/in_process_replica.h"
#include "kernels/modular/modular.h"
#include "tests/test_model.h"
#include "tests/worker/pipeline_replica.h"
#include "tests/worker/streams.h"
#include "tests/worker/tiny_file.h"

namespace interlace {
namespace {

constexpr int32_t kLayers = 6, kVocab = 290, kBlockTokens = 8, kPrefix = 64;
constexpr int32_t kAmple = 6000;  // slots, frames

struct Place {
  std::string keep = "auto";
  int32_t stages = 1;
  int32_t slots = kAmple;
  int32_t frames = kAmple;
  int32_t drafts = 0;
  std::string folder;  // of RocksDB; empty: no tier
  std::string ToString() const {
    return absl::StrCat("keep=", keep, " stages=", stages, " slots=", slots, " frames=", frames, " drafts=", drafts,
                        folder.empty() ? "" : " rocksdb");
  }
};

// A folder that is empty at first and goes away with the test.
class TierFolder {
 public:
  explicit TierFolder(absl::string_view name) : path_(TestPath(name)) { std::filesystem::remove_all(path_); }
  ~TierFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

// `count` requests whose prompts begin with the same `shared` tokens and go on each in its own way.
std::vector<Ask> AsksWithPrefix(int count, int32_t shared, int32_t max_tokens, int32_t vocab, uint64_t seed) {
  std::vector<Ask> asks = RandomAsks(count, 3, 40, max_tokens, vocab, seed);
  Random random(seed + 1000);
  std::vector<int32_t> prefix(shared);
  for (int32_t& token : prefix) token = static_cast<int32_t>(random.Below(vocab));
  for (Ask& ask : asks) ask.prompt.insert(ask.prompt.begin(), prefix.begin(), prefix.end());
  return asks;
}

class WorkerSharedPrefixTest : public ::testing::TestWithParam<std::string> {
 protected:
  static Config ConfigOf(const Place& place) {
    static const TinyFile file({.layers = kLayers});
    static const int64_t slot_bytes = KvBlockShape{kBlockTokens, 2, 16}.bytes();
    Config config = OneThreadConfig(file.path(), kBlockTokens);
    config.cluster.stages = place.stages;
    config.kv.keep_layers = place.keep;
    config.kv.device_bytes.value = place.slots * slot_bytes;
    config.kv.host_bytes.value = place.frames * (slot_bytes + 64);
    config.kv.read_timeout = absl::Seconds(30);
    config.kv.rocksdb_dir = place.folder;
    config.kv.rocksdb_bytes.value = int64_t{256} << 20;
    if (!place.folder.empty()) config.kv.tiers = "rocksdb";
    config.sched.chunk_tokens = 32;
    config.sched.step_tokens = 64;
    return config;
  }
  static MakeBackend Backend() { return GetParam() == "modular" ? &MakeModularBackend : nullptr; }

  std::unique_ptr<PipelineReplica> Make(const Place& place) {
    auto replica = PipelineReplica::Create(ConfigOf(place), clock_, faults_, Backend(), place.drafts);
    EXPECT_OK(replica);
    return *std::move(replica);
  }
  // Each request alone on a replica of its own.
  std::vector<Answer> Alone(const std::vector<Ask>& asks) {
    std::vector<Answer> answers;
    for (const Ask& ask : asks) {
      const std::unique_ptr<PipelineReplica> replica = Make({.keep = "6"});
      answers.push_back(Clients(replica->engine(), clock_).Run({ask}, false)[0]);
    }
    return answers;
  }
  void ExpectNothingHeld(PipelineReplica& replica, const std::string& what) {
    const Holding held = replica.AwaitNothingHeld(clock_);
    EXPECT_TRUE(held.nothing()) << what << ": " << held.sequences << " sequences, " << held.scheduled_blocks
                                << " blocks are left";
  }

  RealClock clock_;
  FaultPoints faults_;
};
INSTANTIATE_TEST_SUITE_P(Backends, WorkerSharedPrefixTest, ::testing::Values("cpu", "modular"),
                         [](const auto& info) { return info.param; });

// Where nothing is scarce, kept layers find the prefix on the device and the others find it on the host.
TEST_P(WorkerSharedPrefixTest, AdoptedWhereItLies) {
  const std::vector<Ask> asks = AsksWithPrefix(4, kPrefix, 12, kVocab, 31);
  const std::vector<Answer> alone = Alone(asks);
  for (const char* keep : {"0", "3", "6", "auto"}) {
    for (const int stages : {1, 2}) {
      for (const bool together : {false, true}) {
        const Place place{.keep = keep, .stages = stages};
        const std::string what = absl::StrCat(place.ToString(), together ? " together" : "");
        const std::unique_ptr<PipelineReplica> replica = Make(place);
        const std::vector<Answer> answers = Clients(replica->engine(), clock_).Run(asks, together);
        ExpectSameStreams(alone, answers, what);
        for (size_t i = 1; i < answers.size(); ++i) {
          EXPECT_GE(answers[i].explanation.end.cached_tokens, kPrefix) << what << ", request " << i;
        }
        ExpectNothingHeld(*replica, what);
      }
    }
  }
}

// Others drove the prefix off the device.
TEST_P(WorkerSharedPrefixTest, AdoptedFromTheHostAfterEviction) {
  const std::vector<Ask> asks = AsksWithPrefix(2, kPrefix, 12, kVocab, 32);
  const std::vector<Ask> others = RandomAsks(4, 80, 120, 8, kVocab, 33);
  const std::vector<Answer> alone = Alone(asks), others_alone = Alone(others);
  for (const int stages : {1, 2}) {
    const Place place{.stages = stages, .slots = 150 / stages};
    const std::unique_ptr<PipelineReplica> replica = Make(place);
    Clients clients(replica->engine(), clock_);
    ExpectSameStreams({alone[0]}, clients.Run({asks[0]}, false), place.ToString());
    ExpectSameStreams(others_alone, clients.Run(others, false), place.ToString());
    const double moved = replica->metrics().Total("interlace_transfer_bytes_total");
    EXPECT_GT(moved, 0) << "nothing left the device";
    const std::vector<Answer> second = clients.Run({asks[1]}, false);
    ExpectSameStreams({alone[1]}, second, place.ToString());
    EXPECT_GE(second[0].explanation.end.cached_tokens, kPrefix) << place.ToString();
    EXPECT_GT(replica->metrics().Total("interlace_transfer_bytes_total"), moved) << "the prefix did not come back";
    ExpectNothingHeld(*replica, place.ToString());
  }
}

TEST_P(WorkerSharedPrefixTest, AdoptedFromRocksdbByANewReplica) {
  const std::vector<Ask> asks = AsksWithPrefix(3, kPrefix, 12, kVocab, 34);
  const std::vector<Answer> alone = Alone(asks);
  for (const char* keep : {"0", "3", "auto"}) {
    for (const int stages : {1, 2}) {
      const TierFolder folder("prefix_rocksdb");
      const Place place{.keep = keep, .stages = stages, .folder = folder.path()};
      {
        const std::unique_ptr<PipelineReplica> first = Make(place);
        ExpectSameStreams({alone[0]}, Clients(first->engine(), clock_).Run({asks[0]}, false), place.ToString());
        const int64_t extents = static_cast<int64_t>(asks[0].prompt.size()) / kBlockTokens * (kLayers / stages);
        ASSERT_TRUE(first->AwaitStored(clock_, extents)) << place.ToString();
      }
      const std::unique_ptr<PipelineReplica> second = Make(place);
      const std::vector<Answer> answers = Clients(second->engine(), clock_).Run({asks[1], asks[2]}, false);
      ExpectSameStreams({alone[1], alone[2]}, answers, place.ToString());
      EXPECT_GE(answers[0].explanation.end.cached_tokens, kPrefix) << place.ToString();
      EXPECT_EQ(answers[0].explanation.recomputes, 0) << absl::StrJoin(answers[0].explanation.Texts(), "\n");
      EXPECT_GE(second->metrics().Total("interlace_kv_fetched_blocks_total"), kPrefix / kBlockTokens);
      ExpectNothingHeld(*second, place.ToString());
    }
  }
}

// A replica without a process around its rank answers for its tiers as well, though no plan asks it.
TEST_P(WorkerSharedPrefixTest, AdoptedFromRocksdbInOneProcess) {
  const std::vector<Ask> asks = AsksWithPrefix(2, kPrefix, 12, kVocab, 35);
  const std::vector<Answer> alone = Alone(asks);
  const TierFolder folder("prefix_in_process");
  const Config config = ConfigOf({.folder = folder.path()});
  for (const int i : {0, 1}) {
    auto replica = InProcessReplica::Create(
        config, clock_, faults_, nullptr, [](int64_t, int64_t) {}, Backend());
    ASSERT_OK(replica);
    const std::vector<Answer> answers = Clients((*replica)->engine(), clock_).Run({asks[i]}, false);
    ExpectSameStreams({alone[i]}, answers, absl::StrCat("replica ", i));
    if (i == 1) {
      EXPECT_GE(answers[0].explanation.end.cached_tokens, kPrefix);
    }
    const absl::Time late = clock_.Now() + absl::Seconds(20);
    const int64_t extents = kPrefix / kBlockTokens * kLayers;
    while ((*replica)->rank().pool().tiers().Usage()[0].blocks < extents) ASSERT_LT(clock_.Now(), late);
  }
}

// What a rank reports beside its results counts: a damaged block of a tier is found while no plan runs.
TEST_P(WorkerSharedPrefixTest, DamageBelowIsCountedAndComputedInstead) {
  const std::vector<Ask> asks = AsksWithPrefix(2, kPrefix, 12, kVocab, 41);
  const std::vector<Answer> alone = Alone(asks);
  for (const int stages : {1, 2}) {
    const TierFolder folder("prefix_damaged");
    const Place place{.stages = stages, .folder = folder.path()};
    {
      const std::unique_ptr<PipelineReplica> first = Make(place);
      ExpectSameStreams({alone[0]}, Clients(first->engine(), clock_).Run({asks[0]}, false), "first");
      ASSERT_TRUE(first->AwaitStored(clock_, kPrefix / kBlockTokens * (kLayers / stages)));
    }
    const std::unique_ptr<FaultPoints> faults = *FaultPoints::Parse("kv.flip_at_rest:1", 1);
    auto second = PipelineReplica::Create(ConfigOf(place), clock_, *faults, Backend());
    ASSERT_OK(second);
    ExpectSameStreams({alone[1]}, Clients((*second)->engine(), clock_).Run({asks[1]}, false), place.ToString());
    EXPECT_GT(faults->fired("kv.flip_at_rest"), 0);
    EXPECT_GT((*second)->metrics().Total("interlace_kv_block_corrupt_total"), 0) << place.ToString();
    ExpectNothingHeld(**second, place.ToString());
  }
}

// Fetches that come too late are as good as none.
TEST_P(WorkerSharedPrefixTest, LateFetchesAreComputedInstead) {
  const std::vector<Ask> asks = AsksWithPrefix(2, kPrefix, 12, kVocab, 36);
  const std::vector<Answer> alone = Alone(asks);
  const TierFolder folder("prefix_late");
  const Place place{.folder = folder.path()};
  {
    const std::unique_ptr<PipelineReplica> first = Make(place);
    ExpectSameStreams({alone[0]}, Clients(first->engine(), clock_).Run({asks[0]}, false), "first");
    ASSERT_TRUE(first->AwaitStored(clock_, kPrefix / kBlockTokens * kLayers));
  }
  Config config = ConfigOf(place);
  config.kv.read_timeout = absl::Nanoseconds(1);
  auto second = PipelineReplica::Create(config, clock_, faults_, Backend());
  ASSERT_OK(second);
  ExpectSameStreams({alone[1]}, Clients((*second)->engine(), clock_).Run({asks[1]}, false), "second");
  ExpectNothingHeld(**second, "late");
}

TEST_P(WorkerSharedPrefixTest, IdenticalPrompts) {
  std::vector<Ask> asks(8, AsksWithPrefix(1, kPrefix, 16, kVocab, 37)[0]);
  for (size_t i = 4; i < asks.size(); ++i) asks[i].sampling = {.temperature = 0.9f, .seed = i};
  const std::vector<Answer> alone = Alone(asks);
  for (const char* keep : {"0", "3", "auto"}) {
    for (const int stages : {1, 2}) {
      for (const int slots : {180, kAmple}) {
        const Place place{.keep = keep, .stages = stages, .slots = slots};
        const std::unique_ptr<PipelineReplica> replica = Make(place);
        const std::vector<Answer> answers = Clients(replica->engine(), clock_).Run(asks, true);
        ExpectSameStreams(alone, answers, place.ToString());
        for (size_t i = 1; i < answers.size(); ++i) {
          EXPECT_GE(answers[i].explanation.end.cached_tokens, kPrefix) << place.ToString() << ", request " << i;
        }
        ExpectNothingHeld(*replica, place.ToString());
      }
    }
  }
}

// Eight streams where few have room: they give layers up, are parked, run on from where they stopped.
TEST_P(WorkerSharedPrefixTest, ParkedAndPromoted) {
  std::vector<Ask> asks = AsksWithPrefix(3, kPrefix, 40, kVocab, 38);
  // Short prompts find room at once and grow together until it is used up, however fast the requests come.
  for (Ask& ask : RandomAsks(5, 5, 20, 100, kVocab, 39)) asks.push_back(std::move(ask));
  const std::vector<Answer> alone = Alone(asks);
  double parks = 0, promotions = 0;
  for (const int stages : {1, 2}) {
    for (const int slots : {90, 240, 480}) {
      for (const int frames : {250, kAmple}) {
        const Place place{.stages = stages, .slots = slots / stages, .frames = frames / stages};
        const std::unique_ptr<PipelineReplica> replica = Make(place);
        ExpectSameStreams(alone, Clients(replica->engine(), clock_).Run(asks, true), place.ToString());
        ExpectNothingHeld(*replica, place.ToString());
        parks += replica->metrics().Total("interlace_request_parks_total");
        promotions += replica->metrics().Total("interlace_request_promotions_total");
        EXPECT_EQ(replica->metrics().Total("interlace_kv_block_missing_total"), 0) << place.ToString();
      }
    }
  }
  EXPECT_GT(parks, 0);
  EXPECT_GT(promotions, 0);
}

// Guesses, right or wrong, change how many steps a stream takes and nothing else.
TEST_P(WorkerSharedPrefixTest, Drafts) {
  std::vector<Ask> asks = RandomAsks(6, 10, 30, 40, kVocab, 40);
  for (Ask& ask : asks) {  // what was said is said again, and greedy streams soon repeat themselves
    const std::vector<int32_t> said = ask.prompt;
    for (int i = 0; i < 2; ++i) ask.prompt.insert(ask.prompt.end(), said.begin(), said.end());
    ask.sampling.temperature = 0;
  }
  const std::vector<Answer> alone = Alone(asks);
  double planned[2] = {};
  for (const char* keep : {"0", "3", "auto"}) {
    for (const int stages : {1, 2}) {
      for (const int slots : {240, kAmple}) {
        for (const int drafts : {0, 4}) {
          const Place place{.keep = keep, .stages = stages, .slots = slots, .drafts = drafts};
          const std::unique_ptr<PipelineReplica> replica = Make(place);
          ExpectSameStreams(alone, Clients(replica->engine(), clock_).Run(asks, true), place.ToString());
          ExpectNothingHeld(*replica, place.ToString());
          planned[drafts > 0] += replica->metrics().Total("interlace_planned_tokens_total");
        }
      }
    }
  }
  EXPECT_GT(planned[1], planned[0]) << "nothing was guessed";
}

}  // namespace
}  // namespace interlace
