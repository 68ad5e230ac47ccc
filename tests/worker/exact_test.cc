// Exact by default: where KV lives, how prompts are cut, who runs beside whom and on how many ranks never changes a
// stream. On real arithmetic, and on that modulo a prime, where a block of KV that is not the right one shows for
// certain.
#include <filesystem>
#include <map>

#include "absl/strings/ascii.h"
#include "cli/in_process_replica.h"
#include "kernels/modular/modular.h"
#include "kvstore/remote/store_server.h"
#include "tests/kernels/cuda/emulated_device.h"
#include "tests/test_model.h"
#include "tests/worker/pipeline_replica.h"
#include "tests/worker/streams.h"
#include "tests/worker/tiny_file.h"
#include "text/tokenizer.h"

namespace interlace {
namespace {

constexpr int32_t kAmple = 6000;  // slots

// One way to run the same requests.
struct Variant {
  std::string keep = "auto";
  std::string tiers;  // below the host
  int32_t frames = 100000;
  int32_t slots = kAmple;
  int32_t chunk = 512;
  bool together = true;
  int32_t threads = 1;
  int32_t stages = 1;
  int32_t tensor_ranks = 1;
  int32_t drafts = 0;  // in each step of a stream that has any
  Speculate speculate = Speculate::kNgram;
  std::string draft_model;               // of another model, or the same
  int64_t draft_kv = int64_t{64} << 20;  // bytes
  std::string ToString() const {
    return absl::StrCat("keep=", keep, " tiers=", tiers, " frames=", frames, " slots=", slots, " chunk=", chunk,
                        together ? " together" : " alone", " threads=", threads, " stages=", stages,
                        " tensor_ranks=", tensor_ranks, " drafts=", drafts, " by ", static_cast<int>(speculate), " ",
                        draft_model, " ", draft_kv);
  }
};

class Model {
 public:
  Model(std::string path, int32_t block_tokens, std::vector<Ask> asks, MakeBackend make_backend = nullptr,
        DType kv = DType::kF16)
      : path_(std::move(path)),
        block_tokens_(block_tokens),
        asks_(std::move(asks)),
        make_backend_(make_backend),
        kv_(kv) {
    const auto file = GgufFile::Open(path_);
    EXPECT_OK(file);
    const auto spec = ReadModelSpec(**file);
    EXPECT_OK(spec);
    slot_bytes_ = KvBlockShape{block_tokens, spec->kv_heads, spec->head_dim, kv_}.bytes();
  }

  Config ConfigOf(const Variant& variant) const {
    Config config;
    config.model.path = path_;
    config.cluster.stages = variant.stages;
    config.cluster.tensor_ranks = variant.tensor_ranks;
    config.engine.threads = variant.threads;
    config.engine.draft_model = variant.draft_model;
    config.engine.draft_kv.value = variant.draft_kv;
    config.kv.block_tokens = block_tokens_;
    config.kv.dtype = absl::AsciiStrToLower(TraitsOf(kv_).name);
    config.kv.keep_layers = variant.keep;
    const int64_t slot_bytes = slot_bytes_ / variant.tensor_ranks;  // a rank has its heads alone
    config.kv.device_bytes.value = variant.slots * slot_bytes;
    config.kv.host_bytes.value = variant.frames * (slot_bytes + 64);
    config.kv.tiers = variant.tiers;
    config.kv.read_timeout = absl::Seconds(30);
    config.kv.rocksdb_dir = TestPath("rocksdb");
    config.kv.rocksdb_bytes.value = int64_t{256} << 20;
    config.sched.chunk_tokens = variant.chunk;
    config.sched.step_tokens = std::max(variant.chunk, 16);
    return config;
  }

  // `watch` may look at the engine in the middle of the run instead of sending all requests in the usual way.
  using Watch = std::function<std::vector<Answer>(Clients&)>;
  std::vector<Answer> Run(const Variant& variant, const Watch& watch = nullptr) const {
    const Config config = ConfigOf(variant);
    std::filesystem::remove_all(config.kv.rocksdb_dir);
    RealClock clock;
    FaultPoints faults;
    std::vector<Answer> answers;
    const auto run = [&](Engine& engine) {
      Clients clients(engine, clock);
      answers = watch ? watch(clients) : clients.Run(asks_, variant.together);
    };
    if (variant.stages > 1 || variant.tensor_ranks > 1 || variant.drafts > 0) {
      auto replica = PipelineReplica::Create(config, clock, faults, make_backend_, variant.drafts, variant.speculate);
      EXPECT_OK(replica);
      run((*replica)->engine());
      const Holding held = (*replica)->AwaitNothingHeld(clock);
      EXPECT_TRUE(held.nothing()) << variant.ToString() << ": " << held.sequences << " sequences, "
                                  << held.scheduled_blocks << " blocks are left";
    } else {
      auto replica = InProcessReplica::Create(
          config, clock, faults, nullptr, [](int64_t, int64_t) {}, make_backend_);
      EXPECT_OK(replica);
      run((*replica)->engine());
    }
    std::filesystem::remove_all(config.kv.rocksdb_dir);
    return answers;
  }

  const std::vector<Answer>& Baseline() const {
    if (baseline_.empty()) {
      baseline_ = Run({.together = false, .threads = 1});
      size_t distinct = 0, streams = 0;
      std::map<std::vector<int32_t>, int> seen;
      for (size_t i = 0; i < baseline_.size(); ++i) {
        EXPECT_OK(baseline_[i].status);
        EXPECT_EQ(baseline_[i].tokens.size(), static_cast<size_t>(asks_[i].max_tokens));
        const size_t scored = asks_[i].prompt_logprobs >= 0 ? asks_[i].prompt.size() - 1 : 0;
        EXPECT_EQ(baseline_[i].ranks.size(), scored);
        EXPECT_EQ(baseline_[i].prompt_scores.size(), scored * (1 + std::max(0, asks_[i].prompt_logprobs)));
        EXPECT_EQ(baseline_[i].pooled.empty(), !asks_[i].pooled);
        streams += asks_[i].max_tokens > 0 ? 1 : 0;
        if (asks_[i].max_tokens > 0) distinct += seen[baseline_[i].tokens]++ == 0 ? 1 : 0;
      }
      EXPECT_EQ(distinct, streams) << "streams that are alike show nothing";
    }
    return baseline_;
  }
  void Check(const Variant& variant) const { ExpectSameStreams(Baseline(), Run(variant), variant.ToString()); }
  const std::string& path() const { return path_; }
  const std::vector<Ask>& asks() const { return asks_; }
  MakeBackend make_backend() const { return make_backend_; }

 private:
  const std::string path_;
  const int32_t block_tokens_;
  const std::vector<Ask> asks_;
  const MakeBackend make_backend_;
  const DType kv_;
  int64_t slot_bytes_ = 0;
  mutable std::vector<Answer> baseline_;
};

constexpr int32_t kTinyLayers = 6, kTinyVocab = 290;

// Streams, and beside them prompts that are scored, with an answer or without, and prompts that are pooled. Some of
// these ask of a prompt that others have put into the cache.
std::vector<Ask> MixedAsks() {
  std::vector<Ask> asks = RandomAsks(8, 3, 120, 24, kTinyVocab, 11);
  asks[1].prompt_logprobs = 0;
  asks[6].prompt_logprobs = 5;
  const std::vector<Ask> more = RandomAsks(2, 60, 100, 0, kTinyVocab, 12);
  for (const Ask& ask : {asks[2], asks[3], more[0], more[1]}) {
    for (const bool pooled : {false, true}) {
      Ask& added = asks.emplace_back(ask);
      added.max_tokens = 0;
      added.prompt_logprobs = pooled ? -1 : 3;
      added.pooled = pooled;
    }
  }
  return asks;
}

class WorkerExactTest : public ::testing::TestWithParam<std::string> {
 protected:
  static const Model& Tiny() {
    static const TinyFile file({.layers = kTinyLayers});
    static const std::vector<Ask> asks = MixedAsks();
    static const Model real(file.path(), 8, asks), modular(file.path(), 8, asks, &MakeModularBackend, DType::kF32);
    return GetParam() == "modular" ? modular : real;
  }
};
INSTANTIATE_TEST_SUITE_P(Backends, WorkerExactTest, ::testing::Values("cpu", "modular"),
                         [](const auto& info) { return info.param; });

TEST_P(WorkerExactTest, KeptLayersAndTiers) {
  for (const char* keep : {"0", "1", "3", "6"}) {
    for (const char* tiers : {"", "rocksdb"}) {
      for (const int32_t frames : {150, 100000}) Tiny().Check({.keep = keep, .tiers = tiers, .frames = frames});
    }
  }
}

TEST_P(WorkerExactTest, ChunksBatchesThreads) {
  for (int32_t chunk : {1, 16, 512}) {
    for (bool together : {false, true}) {
      for (int32_t threads : {1, 2}) {
        Tiny().Check({.keep = "3", .chunk = chunk, .together = together, .threads = threads});
      }
    }
  }
}

TEST_P(WorkerExactTest, RemoteTier) {
  auto server = StoreServer::Start({.host_bytes = int64_t{64} << 20});
  ASSERT_OK(server);
  const std::unique_ptr<Transport> transport = *MakeUcxTransport({.host = "127.0.0.1"});
  for (const char* keep : {"0", "6"}) {
    const Variant variant{.keep = keep, .tiers = "remote", .frames = 150};
    Config config = Tiny().ConfigOf(variant);
    config.kv.remote = (*server)->address();
    RealClock clock;
    FaultPoints faults;
    auto replica = InProcessReplica::Create(
        config, clock, faults, transport.get(), [](int64_t, int64_t) {}, Tiny().make_backend());
    ASSERT_OK(replica);
    Clients clients((*replica)->engine(), clock);
    ExpectSameStreams(Tiny().Baseline(), clients.Run(Tiny().asks(), true), variant.ToString());
  }
}

// Too few slots for all: requests take turns, lose layers, are preempted.
TEST_P(WorkerExactTest, ScarceDevice) {
  for (int32_t slots : {40, 60, 150, 400}) {
    Tiny().Check({.slots = slots});
    Tiny().Check({.slots = slots, .chunk = 16, .stages = 2});
  }
  for (int32_t slots : {40, 60, 150}) Tiny().Check({.keep = "0", .slots = slots, .chunk = 16});
}

// A stream that had the device for itself gives layers up when others arrive.
TEST_P(WorkerExactTest, LoweredWhileRunning) {
  int lowered = 0;
  for (int32_t slots : {100, 140, 200}) {
    for (int32_t stages : {1, 2}) {
      const Variant variant{.slots = slots / stages, .stages = stages};
      const std::vector<Answer> answers = Tiny().Run(variant, [&](Clients& clients) {
        for (size_t i = 0; i < Tiny().asks().size(); ++i) {
          clients.Submit(Tiny().asks()[i]);
          clients.WaitForTokens(i, 2);
        }
        std::vector<Answer> all;
        for (size_t i = 0; i < Tiny().asks().size(); ++i) all.push_back(clients.Finish(i));
        return all;
      });
      for (const Answer& answer : answers) {
        EXPECT_EQ(answer.explanation.recomputes, 0) << absl::StrJoin(answer.explanation.Texts(), "\n");
        for (const std::string& note : answer.explanation.Texts()) {
          if (note.find("layers from now on") != std::string::npos) ++lowered;
        }
      }
      ExpectSameStreams(Tiny().Baseline(), answers, variant.ToString());
    }
  }
  EXPECT_GT(lowered, 0);
}

TEST_P(WorkerExactTest, Stages) {
  for (int32_t stages : {1, 2, 3, 6}) {
    for (const char* keep : {"0", "3", "6"}) Tiny().Check({.keep = keep, .chunk = 16, .stages = stages});
  }
  Tiny().Check({.keep = "0", .together = false, .stages = 3});
}

// Ranks that share the layers of a stage add up their parts: modulo a prime what they give is what one rank gives. In
// floating point a sum of parts has bits of its own, and they are the same however else the replica runs.
TEST_P(WorkerExactTest, TensorRanks) {
  std::vector<Answer> expected = Tiny().Baseline();
  if (GetParam() != "modular") {
    expected = Tiny().Run({.together = false, .tensor_ranks = 2});
    for (const Answer& answer : expected) EXPECT_OK(answer.status);
  }
  const Variant variants[] = {{.tensor_ranks = 2},
                              {.keep = "0", .chunk = 16, .tensor_ranks = 2},
                              {.keep = "3", .tiers = "rocksdb", .frames = 150, .threads = 2, .tensor_ranks = 2},
                              {.slots = 60, .tensor_ranks = 2},
                              {.slots = 40, .chunk = 7, .stages = 2, .tensor_ranks = 2},
                              {.keep = "2", .chunk = 16, .stages = 3, .tensor_ranks = 2}};
  for (const Variant& variant : variants) ExpectSameStreams(expected, Tiny().Run(variant), variant.ToString());
}

// Guessed ahead, by what a stream said before or by passes over some layers, on whatever is on the device.
TEST_P(WorkerExactTest, Drafts) {
  for (const Speculate by : {Speculate::kSelf, Speculate::kAuto}) {
    for (const char* keep : {"0", "3", "6"}) Tiny().Check({.keep = keep, .chunk = 16, .drafts = 3, .speculate = by});
    Tiny().Check({.keep = "2", .tiers = "rocksdb", .frames = 150, .together = false, .drafts = 5, .speculate = by});
    for (const int32_t slots : {40, 150}) Tiny().Check({.slots = slots, .chunk = 7, .drafts = 4, .speculate = by});
  }
  for (const Speculate by : {Speculate::kNgram, Speculate::kAuto}) {
    for (const char* keep : {"0", "3"}) {
      Tiny().Check({.keep = keep, .chunk = 16, .stages = 2, .drafts = 3, .speculate = by});
    }
    Tiny().Check(
        {.slots = 60, .chunk = 7, .tensor_ranks = GetParam() == "modular" ? 2 : 1, .drafts = 3, .speculate = by});
  }
}

// Guessed by a second model: the same, and a smaller one; with room for its KV, and with hardly any.
TEST_P(WorkerExactTest, DraftsOfAnotherModel) {
  static const TinyFile small({.seed = 9, .layers = 2, .width = 32, .head_dim = 8, .feed_forward = 64});
  for (const Speculate by : {Speculate::kModel, Speculate::kAuto}) {
    for (const std::string& draft : {Tiny().path(), small.path()}) {
      const auto check = [&](Variant variant) {
        variant.drafts = 3;
        variant.speculate = by;
        variant.draft_model = draft;
        Tiny().Check(variant);
      };
      check({.keep = "3", .chunk = 16});
      check({.slots = 40, .chunk = 7});
      check({.keep = "2", .tiers = "rocksdb", .frames = 150, .draft_kv = 300'000});
    }
  }
}

TEST(WorkerDraftModelTest, OneThatIsToGuessMustBeThere) {
  const TinyFile file({.layers = 2});
  RealClock clock;
  FaultPoints faults;
  Config config = OneThreadConfig(file.path(), 8);
  config.sched.speculate = "draft-model";
  const auto make = [&] {
    return InProcessReplica::Create(config, clock, faults, nullptr, [](int64_t, int64_t) {}).status();
  };
  EXPECT_THAT(make(), StatusIs(absl::StatusCode::kFailedPrecondition, ::testing::HasSubstr("engine.draft_model=PATH")));
  config.engine.draft_model = file.path();
  EXPECT_OK(make());
}

TEST_P(WorkerExactTest, AnyCombination) {
  Random random(5);
  const auto one_of = [&](auto... options) {
    const std::vector<std::common_type_t<decltype(options)...>> all{options...};
    return all[random.Below(static_cast<int64_t>(all.size()))];
  };
  for (int i = 0; i < 20; ++i) {
    Variant variant;
    variant.keep = one_of("auto", "0", "2", "3", "5", "6");
    variant.tiers = one_of("", "rocksdb");
    variant.frames = one_of(150, 300, 100000);
    variant.slots = variant.keep == "auto" ? one_of(30, 70, 200, kAmple) : one_of(900, kAmple);
    variant.chunk = one_of(1, 3, 7, 16, 512);
    variant.together = random.Below(4) != 0;
    variant.threads = one_of(1, 2);
    variant.stages = one_of(1, 1, 2, 3);
    Tiny().Check(variant);
    if (HasFatalFailure()) return;
  }
}

// Many models have more rows of embeddings than their tokenizer has pieces. Their ids may be asked for and sampled like
// any other, and have no text.
TEST(WorkerExactVocabularyTest, RowsBeyondTheTokenizer) {
  constexpr int32_t kExtra = 600;
  const TinyFile file({.layers = kTinyLayers, .extra_rows = kExtra});
  const auto gguf = GgufFile::Open(file.path());
  ASSERT_OK(gguf);
  const auto tokenizer = Tokenizer::Load(**gguf);
  ASSERT_OK(tokenizer);
  const int32_t pieces = (*tokenizer)->vocab_size();
  const Model model(file.path(), 8, RandomAsks(6, 3, 90, 20, pieces + kExtra, 11));
  int beyond = 0;
  for (const Answer& answer : model.Baseline()) {
    Detokenizer text(**tokenizer);
    for (const int32_t token : answer.tokens) {
      ASSERT_LT(token, pieces + kExtra);
      const std::string said = text.Push(token);
      if (token < pieces) continue;
      ++beyond;
      EXPECT_EQ(said, "");
    }
  }
  EXPECT_GT(beyond, 10);
  model.Check({.keep = "0", .tiers = "rocksdb", .frames = 300});
  model.Check({.keep = "3", .chunk = 16, .stages = 2});
}

// Ops that are queued and run late, as on a device: what waits too little gives other streams.
TEST(WorkerExactDeviceTest, EmulatedDevice) {
  const TinyFile file({.layers = kTinyLayers});
  const Model model(file.path(), 8, RandomAsks(5, 3, 90, 12, kTinyVocab, 11), &MakeEmulatedBackend);
  for (const char* keep : {"0", "3"}) model.Check({.keep = keep, .tiers = "rocksdb", .frames = 150});
  for (const int32_t stages : {2, 3}) model.Check({.keep = "1", .chunk = 16, .stages = stages});
  for (const int32_t slots : {40, 100}) model.Check({.slots = slots, .chunk = 16});
  for (const char* keep : {"2", "6"})
    model.Check({.keep = keep, .chunk = 16, .drafts = 3, .speculate = Speculate::kSelf});
}

TEST(WorkerExactRealTest, RealModel) {
  const Model model(TestModelPath(), 16, RandomAsks(5, 20, 70, 10, 49152, 3));
  for (const char* keep : {"0", "15", "30"}) model.Check({.keep = keep});
  model.Check({.keep = "0", .tiers = "rocksdb", .chunk = 16, .together = false});
  model.Check({.keep = "15", .tiers = "rocksdb", .frames = 300, .chunk = 16});
  model.Check({.keep = "30", .chunk = 1, .threads = 2});
  model.Check({.slots = 150, .chunk = 16});
  model.Check({.slots = 80, .chunk = 16, .stages = 2});
  model.Check({.keep = "15", .tiers = "rocksdb", .stages = 3});
  for (const char* keep : {"15", "30"}) {
    model.Check({.keep = keep, .chunk = 16, .drafts = 4, .speculate = Speculate::kSelf});
  }
  model.Check({.slots = 150, .chunk = 16, .drafts = 3, .speculate = Speculate::kAuto});
  model.Check({.keep = "15", .chunk = 16, .stages = 2, .drafts = 3, .speculate = Speculate::kNgram});
}

// Guesses are made without the constraint's mask, and judged with it.
TEST(WorkerExactRealTest, DraftsUnderAConstraint) {
  std::vector<Ask> asks = RandomAsks(3, 20, 40, 14, 49152, 5);
  for (Ask& ask : asks)
    ask.sampling.constraint = Constraint{ConstraintKind::kRegex, "([a-z]{1,6} ){1,200}", false, {2}};
  const Model model(TestModelPath(), 16, std::move(asks));
  for (const Speculate by : {Speculate::kSelf, Speculate::kNgram}) {
    model.Check({.keep = "15", .chunk = 16, .drafts = 4, .speculate = by});
  }
}

// Prompts that begin alike share blocks of the real model, whether its layers are kept or streamed.
TEST(WorkerExactRealTest, SharedPrefix) {
  std::vector<Ask> asks = RandomAsks(4, 5, 30, 8, 49152, 9);
  for (size_t i = 1; i < asks.size(); ++i) {
    const std::vector<Ask> prefix = RandomAsks(1, 40, 40, 1, 49152, 10);
    asks[i].prompt.insert(asks[i].prompt.begin(), prefix[0].prompt.begin(), prefix[0].prompt.end());
  }
  // The baseline keeps what it computed, so each request there that could adopt a prefix is alone on its own replica.
  const auto model_of = [](std::vector<Ask> some) { return Model(TestModelPath(), 16, std::move(some)); };
  std::vector<Answer> alone;
  for (const Ask& ask : asks) alone.push_back(model_of({ask}).Run({})[0]);
  const Model model = model_of(asks);
  for (const char* keep : {"0", "15", "30", "auto"}) {
    const Variant variant{.keep = keep, .stages = keep == std::string("15") ? 2 : 1};
    const std::vector<Answer> answers = model.Run(variant);
    ExpectSameStreams(alone, answers, variant.ToString());
    for (size_t i = 2; i < asks.size(); ++i) {
      EXPECT_GE(answers[i].explanation.end.cached_tokens, 32) << variant.ToString() << ", request " << i;
    }
  }
}

// KV of BF16, which has attention of its own where the CPU has products of BF16.
TEST(WorkerExactRealTest, Bf16Kv) {
  const Model model(TestModelPath(), 32, RandomAsks(5, 20, 70, 10, 49152, 3), nullptr, DType::kBF16);
  model.Check({.keep = "0"});
  model.Check({.keep = "30", .chunk = 1, .threads = 2});
  model.Check({.slots = 80, .chunk = 16, .stages = 2});
}

}  // namespace
}  // namespace interlace
