// Streams with adapters: each is what it is alone, whoever runs beside it, wherever its KV lies, on however many
// stages; and no KV that was computed with one adapter is used with another or with none.
#include <filesystem>
#include <map>

#include "absl/strings/ascii.h"
#include "kernels/modular/modular.h"
#include "tests/model/tiny_adapter.h"
#include "tests/worker/pipeline_replica.h"
#include "tests/worker/plan_maker.h"
#include "tests/worker/streams.h"
#include "tests/worker/tiny_file.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kVocab = 290;
const TinyGgufOptions kTiny{.layers = 6};

struct Variant {
  std::string keep = "auto";
  std::string tiers;
  int64_t slots = 6000;
  int32_t chunk = 512;
  bool together = true;
  int32_t threads = 1;
  int32_t stages = 1;
  int32_t tensor_ranks = 1;
  int32_t sequence_ranks = 1;
  int32_t drafts = 0;
  Speculate speculate = Speculate::kSelf;
  std::string ToString() const {
    return absl::StrCat("keep=", keep, " tiers=", tiers, " slots=", slots, " chunk=", chunk,
                        together ? " together" : " alone", " threads=", threads, " stages=", stages,
                        " tensor_ranks=", tensor_ranks, " sequence_ranks=", sequence_ranks, " drafts=", drafts);
  }
};

// A tiny model with three adapters.
class WorkerLoraTest : public ::testing::TestWithParam<std::string> {
 protected:
  WorkerLoraTest()
      : model_(kTiny),
        folders_{Folder({.seed = 1}), Folder({.seed = 2, .rank = 9}),
                 Folder({.seed = 3, .rank = 1, .modules = {"k_proj", "down_proj"}})} {
    for (size_t i = 0; i < folders_.size(); ++i) {
      absl::StrAppend(&setting_, i == 0 ? "" : ",", "a", i, "=", folders_[i]->path());
      adapters_.push_back(std::make_shared<const ServedAdapter>(
          ServedAdapter{static_cast<int32_t>(i) + 1, absl::StrCat("a", i), folders_[i]->path(),
                        (*PeftAdapter::Open(folders_[i]->path()))->digest()}));
    }
  }
  static std::unique_ptr<AdapterFolder> Folder(const TinyAdapterOptions& options) {
    return std::make_unique<AdapterFolder>(AdapterShape::Of(kTiny), options);
  }
  MakeBackend make_backend() const { return GetParam() == "modular" ? &MakeModularBackend : nullptr; }

  Config ConfigOf(const Variant& variant) const {
    const DType kv = GetParam() == "modular" ? DType::kF32 : DType::kF16;
    const int64_t slot_bytes = KvBlockShape{8, kTiny.kv_heads, kTiny.head_dim, kv}.bytes() / variant.tensor_ranks;
    Config config;
    config.model.path = model_.path();
    config.model.adapters = setting_;
    config.cluster.stages = variant.stages;
    config.cluster.tensor_ranks = variant.tensor_ranks;
    config.cluster.sequence_ranks = variant.sequence_ranks;
    config.engine.threads = variant.threads;
    config.kv.block_tokens = 8;
    config.kv.dtype = absl::AsciiStrToLower(TraitsOf(kv).name);
    config.kv.keep_layers = variant.keep;
    config.kv.device_bytes.value = variant.slots * slot_bytes;
    config.kv.host_bytes.value = 100000 * (slot_bytes + 64);
    config.kv.tiers = variant.tiers;
    config.kv.read_timeout = absl::Seconds(30);
    config.kv.rocksdb_dir = TestPath("lora_rocksdb");
    config.kv.rocksdb_bytes.value = int64_t{256} << 20;
    config.sched.chunk_tokens = variant.chunk;
    config.sched.step_tokens = std::max(variant.chunk, 16);
    return config;
  }
  std::vector<Answer> Run(const std::vector<Ask>& asks, const Variant& variant) const {
    const Config config = ConfigOf(variant);
    std::filesystem::remove_all(config.kv.rocksdb_dir);
    RealClock clock;
    FaultPoints faults;
    auto replica = PipelineReplica::Create(config, clock, faults, make_backend(), variant.drafts, variant.speculate);
    EXPECT_OK(replica);
    if (!replica.ok()) return {};
    Clients clients((*replica)->engine(), clock);
    std::vector<Answer> answers = clients.Run(asks, variant.together);
    EXPECT_TRUE((*replica)->AwaitNothingHeld(clock).nothing()) << variant.ToString();
    std::filesystem::remove_all(config.kv.rocksdb_dir);
    return answers;
  }
  // Each on a replica of its own.
  std::vector<Answer> Alone(const std::vector<Ask>& asks, const Variant& variant = {}) const {
    std::vector<Answer> answers;
    for (const Ask& ask : asks) {
      answers.push_back(Run({ask}, variant)[0]);
      EXPECT_OK(answers.back().status);
    }
    return answers;
  }
  // Streams, scores and embeddings, of each adapter and of none.
  std::vector<Ask> MixedAsks() const {
    std::vector<Ask> asks = RandomAsks(8, 3, 90, 20, kVocab, 11);
    asks[2].prompt_logprobs = 2;
    asks.push_back(asks[5]);
    asks.back().max_tokens = 0;
    asks.back().pooled = true;
    for (size_t i = 0; i < asks.size(); ++i) asks[i].adapter = i % 4 == 3 ? nullptr : adapters_[i % 4];
    return asks;
  }

  const TinyFile model_;
  const std::vector<std::shared_ptr<AdapterFolder>> folders_;
  std::string setting_;
  std::vector<std::shared_ptr<const ServedAdapter>> adapters_;
};
INSTANTIATE_TEST_SUITE_P(Backends, WorkerLoraTest, ::testing::Values("cpu", "modular"),
                         [](const auto& info) { return info.param; });

TEST_P(WorkerLoraTest, AStreamIsWhatItIsAlone) {
  const std::vector<Ask> asks = MixedAsks();
  const std::vector<Answer> want = Alone(asks);
  std::vector<Ask> plain = asks;
  for (Ask& ask : plain) ask.adapter = nullptr;
  const std::vector<Answer> base = Alone(plain);
  for (size_t i = 0; i < asks.size(); ++i) {
    EXPECT_EQ(want[i].tokens == base[i].tokens && want[i].pooled == base[i].pooled, asks[i].adapter == nullptr) << i;
  }
  const Variant variants[] = {{},
                              {.chunk = 1, .threads = 2},
                              {.keep = "0", .chunk = 16},
                              {.keep = "3", .tiers = "rocksdb", .chunk = 7},
                              {.slots = 60, .chunk = 16},
                              {.keep = "3", .chunk = 16, .stages = 2},
                              {.slots = 60, .chunk = 7, .stages = 2},
                              {.keep = "0", .together = false, .stages = 3},
                              {.sequence_ranks = 2},
                              {.keep = "3", .stages = 2, .sequence_ranks = 3},
                              {.keep = "3", .chunk = 16, .drafts = 3},
                              {.keep = "6", .drafts = 4},
                              {.slots = 150, .chunk = 7, .drafts = 3, .speculate = Speculate::kAuto}};
  for (const Variant& variant : variants) {
    ExpectSameStreams(want, Run(asks, variant), variant.ToString());
    if (HasFatalFailure()) return;
  }
}

// Modulo a prime the parts of several ranks add up to what one rank gives; in floating point to bits of their own,
// which are the same whoever runs beside.
TEST_P(WorkerLoraTest, RanksThatShareAStage) {
  const std::vector<Ask> asks = MixedAsks();
  const std::vector<Answer> want = Alone(asks, {.tensor_ranks = GetParam() == "modular" ? 1 : 2});
  for (const Variant& variant : {Variant{.tensor_ranks = 2},
                                 {.keep = "0", .chunk = 16, .tensor_ranks = 2},
                                 {.slots = 60, .chunk = 7, .stages = 2, .tensor_ranks = 2}}) {
    ExpectSameStreams(want, Run(asks, variant), variant.ToString());
  }
}

// One prompt, asked with each adapter and with none, again and again: what lies in the cache, on the host and in
// RocksDB under the same tokens is another's, but for those who ask with the same adapter.
TEST_P(WorkerLoraTest, NoKvCrossesAdapters) {
  std::vector<Ask> each(4, RandomAsks(1, 100, 100, 12, kVocab, 21)[0]);
  for (size_t i = 0; i < 3; ++i) each[i].adapter = adapters_[i];
  const std::vector<Answer> alone = Alone(each);
  std::vector<Ask> asks;
  std::vector<Answer> want;
  for (int round = 0; round < 3; ++round) {
    asks.insert(asks.end(), each.begin(), each.end());
    want.insert(want.end(), alone.begin(), alone.end());
  }
  for (const Variant& variant : {Variant{.together = false},
                                 {},
                                 {.keep = "0", .together = false},
                                 {.tiers = "rocksdb", .slots = 90, .chunk = 16, .together = false},
                                 {.keep = "3", .chunk = 16, .together = false, .stages = 2}}) {
    const std::vector<Answer> got = Run(asks, variant);
    ExpectSameStreams(want, got, variant.ToString());
    if (variant.together || variant.slots < 6000) continue;
    for (size_t i = 0; i < got.size(); ++i) {
      const int32_t cached = got[i].explanation.end.cached_tokens;
      EXPECT_EQ(cached, i < each.size() ? 0 : 96) << variant.ToString() << ", request " << i;
    }
  }
}

TEST_P(WorkerLoraTest, ARankWithoutTheAdapterRefusesTheRequestAlone) {
  std::vector<Ask> asks = RandomAsks(2, 10, 20, 4, kVocab, 3);
  asks[0].adapter = std::make_shared<const ServedAdapter>(ServedAdapter{1, "x", "/x", "not here"});
  const std::vector<Answer> answers = Run(asks, {});
  EXPECT_THAT(answers[0].status.message(), HasSubstr("opening.adapter: this rank has none of digest not here"));
  EXPECT_OK(answers[1].status);
}

// A pass that leaves nothing out computes what the step computes, so each guess is right if it has the same adapter.
TEST_P(WorkerLoraTest, GuessesOfARankAreMadeWithTheAdapter) {
  RealClock clock;
  FaultPoints faults;
  const auto rank = Rank::Create(
      ConfigOf({}), 1, clock, faults, nullptr, [](int64_t, int64_t) {}, make_backend());
  ASSERT_OK(rank);
  PlanMaker maker((*rank)->runner(), (*rank)->info());
  std::vector<MakerRequest> requests;
  for (const Ask& ask : RandomAsks(4, 10, 40, 1, kVocab, 17)) requests.push_back({.prompt = ask.prompt});
  for (size_t i = 0; i < adapters_.size(); ++i) requests[i].adapter = adapters_[i]->digest;
  constexpr int32_t kOutputs = 24;
  MakerOptions options{.drafts = 3};
  options.skip = [] { return SkipPlan(); };
  maker.Run(requests, kOutputs, options);
  // Of 24 tokens one comes with the prompt; then steps give 4 each, the last one what is left.
  EXPECT_EQ(maker.accepted_drafts(), static_cast<int64_t>(requests.size()) * (kOutputs - 1 - 6));
}

TEST_P(WorkerLoraTest, RanksSayWhichTheyHave) {
  RealClock clock;
  FaultPoints faults;
  Config config = ConfigOf({});
  config.model.adapters = absl::StrCat(setting_, ",again=", folders_[0]->path());
  const auto rank = Rank::Create(
      config, 1, clock, faults, nullptr, [](int64_t, int64_t) {}, make_backend());
  ASSERT_OK(rank);
  std::vector<std::string> digests;
  for (const auto& adapter : adapters_) digests.push_back(adapter->digest);
  EXPECT_THAT((*rank)->info().adapters, ::testing::UnorderedElementsAreArray(digests));
  EXPECT_TRUE(std::is_sorted((*rank)->info().adapters.begin(), (*rank)->info().adapters.end()));
}

// Adapters that come while a rank runs. `root` has folders "0", "1" and "2", of the same contents as the test's.
class RuntimeLoraTest : public WorkerLoraTest {
 protected:
  RuntimeLoraTest() : root_(TestPath("runtime_adapters")) {
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
    for (size_t i = 0; i < folders_.size(); ++i) {
      std::filesystem::copy(folders_[i]->path(), absl::StrCat(root_, "/", i));
    }
  }
  ~RuntimeLoraTest() override { std::filesystem::remove_all(root_); }
  // A rank whose start had those of `setting`.
  std::unique_ptr<Rank> MakeRank(const std::string& setting, int64_t most_rank = 64, int64_t most_bytes = 1 << 30) {
    Config config = ConfigOf({});
    config.model.adapters = setting;
    config.model.runtime_adapters = true;
    config.model.adapter_dir = root_;
    config.model.max_adapter_rank = most_rank;
    config.model.adapter_bytes.value = most_bytes;
    auto rank = Rank::Create(
        config, 1, clock_, faults_, nullptr, [](int64_t, int64_t) {}, make_backend());
    EXPECT_OK(rank);
    return *std::move(rank);
  }
  AdapterList ListOf(std::vector<size_t> which) {
    AdapterList list{++serial_, {}};
    for (const size_t i : which) list.adapters.push_back({absl::StrCat(i), adapters_[i]->digest});
    return list;
  }
  AdapterAnswer Give(Rank& rank, const AdapterList& list) {
    return rank.adapter_loader().Install(rank.adapter_loader().Read(list));
  }
  // What each prompt becomes with each adapter.
  std::vector<std::vector<int32_t>> Streams(Rank& rank) {
    PlanMaker maker(rank.runner(), rank.info());
    std::vector<MakerRequest> requests;
    for (const Ask& ask : RandomAsks(4, 10, 40, 1, kVocab, 17)) requests.push_back({.prompt = ask.prompt});
    for (size_t i = 0; i < adapters_.size(); ++i) requests[i].adapter = adapters_[i]->digest;
    return maker.Run(requests, 12, {});
  }

  const std::string root_;
  RealClock clock_;
  FaultPoints faults_;
  uint64_t serial_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Backends, RuntimeLoraTest, ::testing::Values("cpu", "modular"),
                         [](const auto& info) { return info.param; });

TEST_P(RuntimeLoraTest, ComputeAsThoseOfTheStart) {
  const std::unique_ptr<Rank> from_start = MakeRank(setting_), later = MakeRank("");
  EXPECT_TRUE(Give(*later, ListOf({0, 1, 2})).failures.empty());
  EXPECT_EQ(Streams(*later), Streams(*from_start));
  const std::unique_ptr<Rank> mixed = MakeRank(absl::StrCat("x=", folders_[1]->path()));
  EXPECT_TRUE(Give(*mixed, ListOf({0, 1, 2})).failures.empty());
  EXPECT_EQ(Streams(*mixed), Streams(*from_start));
  EXPECT_TRUE(later->info().adapters.empty()) << "what it registers with is what it started with";
}

TEST_P(RuntimeLoraTest, AListSaysAllThatThereIsAndSequencesKeepWhatTheyUse) {
  const std::unique_ptr<Rank> rank = MakeRank("");
  const int64_t none = rank->adapter_loader().bytes();
  Give(*rank, ListOf({0}));
  const int64_t one = rank->adapter_loader().bytes();
  EXPECT_GT(one, none);
  const auto plan_of = [](uint64_t id, RequestId request, int32_t start, std::optional<Opening> opening) {
    PlanSequence sequence{.request = request, .start = start, .tokens = {start + 1}};
    if (opening) {
      sequence.opening = *std::move(opening);
      sequence.kept = LayerSet::Range(0, kTiny.layers);
    }
    StepPlan plan{.epoch = Epoch{1}, .id = PlanId{id}};
    plan.sequences.push_back(std::move(sequence));
    return plan;
  };
  Opening with;
  with.adapter = adapters_[0]->digest;
  StepResult result = rank->runner().Execute(plan_of(1, RequestId{1}, 0, with));
  EXPECT_OK(result.status);
  EXPECT_TRUE(result.lost.empty()) << result.lost[0].detail;
  EXPECT_TRUE(Give(*rank, ListOf({})).failures.empty());
  EXPECT_EQ(rank->adapter_loader().bytes(), one) << "a sequence uses it";
  result = rank->runner().Execute(plan_of(2, RequestId{1}, 1, std::nullopt));
  EXPECT_TRUE(result.lost.empty()) << "it goes on";
  result = rank->runner().Execute(plan_of(3, RequestId{2}, 0, with));
  EXPECT_OK(result.status);
  ASSERT_EQ(result.lost.size(), 1u) << "a new one is refused, and nobody else";
  EXPECT_EQ(result.lost[0].cause, LossCause::kRefused);
  StepPlan release{.epoch = Epoch{1}, .id = PlanId{4}};
  release.releases.push_back({.request = RequestId{1}});
  release.releases.push_back({.request = RequestId{2}});
  EXPECT_OK(rank->runner().Execute(release).status);
  EXPECT_EQ(rank->adapter_loader().bytes(), none) << "its memory is free";
}

TEST_P(RuntimeLoraTest, SaysWhatItCannotHaveAndKeepsTheRest) {
  const std::unique_ptr<Rank> rank = MakeRank("", /*most_rank=*/8);
  AdapterList list = ListOf({0, 1, 2});  // the second has rank 9
  list.adapters.push_back({"none", "d3"});
  list.adapters.push_back({"../x", "d4"});
  list.adapters.push_back({"0", "another digest"});
  const AdapterAnswer answer = Give(*rank, list);
  EXPECT_EQ(answer.serial, list.serial);
  std::map<std::string, std::string> why;
  for (const AdapterAnswer::Failure& failure : answer.failures)
    why[failure.digest] = std::string(failure.why.message());
  ASSERT_EQ(why.size(), 4u);
  EXPECT_THAT(why[adapters_[1]->digest], HasSubstr("model.max_adapter_rank=8"));
  EXPECT_THAT(why["d3"], HasSubstr("there is no"));
  EXPECT_THAT(why["d4"], HasSubstr("leads out of model.adapter_dir"));
  EXPECT_THAT(why["another digest"], HasSubstr("copy the same folder to each machine"));

  const int64_t all = rank->adapter_loader().bytes();
  const std::unique_ptr<Rank> small = MakeRank("", 64, all - 1);
  const AdapterAnswer full = Give(*small, ListOf({0, 2}));
  ASSERT_EQ(full.failures.size(), 1u);
  EXPECT_THAT(full.failures[0].why.message(), HasSubstr("model.adapter_bytes"));
  EXPECT_LT(small->adapter_loader().bytes(), all);
}

}  // namespace
}  // namespace interlace
