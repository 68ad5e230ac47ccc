// A rank's draft model: its guesses change no token, whatever model it is, however little room its KV has and whoever
// comes and goes; it has read all of a sequence before it guesses; and what does not fit the rank is refused.
#include "worker/model_drafter.h"

#include <gmock/gmock.h>

#include <map>
#include <optional>

#include "kernels/modular/modular.h"
#include "tests/kernels/cuda/emulated_device.h"
#include "tests/status_matchers.h"
#include "tests/worker/plan_maker.h"
#include "tests/worker/tiny_file.h"
#include "worker/rank.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int32_t kLayers = 6, kVocab = 290, kBlockTokens = 8, kOutputs = 24;
// A block of the small model: K and V of 2 layers, 2 heads of 8.
constexpr int64_t kSmallBlock = 2 * 2 * 2 * 8 * kBlockTokens * 4;

const TinyFile& Model() {
  static const TinyFile file({.layers = kLayers});
  return file;
}
// Other weights, and another shape.
const TinyFile& Small() {
  static const TinyFile file({.seed = 2, .layers = 2, .width = 32, .heads = 4, .head_dim = 8, .feed_forward = 64});
  return file;
}

Config ConfigWith(const std::string& draft) {
  Config config = OneThreadConfig(Model().path(), kBlockTokens);
  config.kv.device_bytes.value = 1 << 24;
  config.kv.host_bytes.value = 1 << 24;
  config.sched.step_tokens = 1024;
  config.sched.max_running = 32;
  config.engine.draft_model = draft;
  config.engine.draft_kv.value = 1 << 23;
  return config;
}

struct World {
  explicit World(const Config& config, const std::string& backend = "cpu") {
    MakeBackend make = nullptr;
    if (backend == "modular") make = &MakeModularBackend;
    if (backend == "emulated") make = &MakeEmulatedBackend;
    auto made = Rank::Create(
        config, 1, clock, faults, nullptr, [](int64_t, int64_t) {}, make);
    EXPECT_OK(made);
    rank = *std::move(made);
    maker = std::make_unique<PlanMaker>(rank->runner(), rank->info());
  }
  size_t sequences() const { return rank->runner().model_drafter()->sequences(); }
  RealClock clock;
  FaultPoints faults;
  std::unique_ptr<Rank> rank;
  std::unique_ptr<PlanMaker> maker;
};

// Every second one samples, every third with penalties; half of them share a beginning.
std::vector<MakerRequest> Requests(int count, uint64_t seed) {
  Random random(seed);
  std::vector<int32_t> common(50);
  for (int32_t& token : common) token = static_cast<int32_t>(random.Below(kVocab));
  std::vector<MakerRequest> requests(count);
  for (int i = 0; i < count; ++i) {
    MakerRequest& r = requests[i];
    if (i % 2 == 0) r.prompt.assign(common.begin(), common.begin() + random.Between(20, 50));
    const int64_t more = random.Between(3, 60);
    for (int64_t t = 0; t < more; ++t) r.prompt.push_back(static_cast<int32_t>(random.Below(kVocab)));
    r.sampling.seed = random.Next();
    r.sampling.temperature = i % 2 == 0 ? 0 : 0.9f;
    if (i % 3 == 0) r.sampling.repetition_penalty = 1.2f;
  }
  return requests;
}

class ModelDrafterTest : public ::testing::TestWithParam<std::string> {
 protected:
  static const std::vector<MakerRequest>& Asked() {
    static const auto* requests = new std::vector<MakerRequest>(Requests(7, 5));
    return *requests;
  }
  // Without a draft model, one request after another.
  const std::vector<std::vector<int32_t>>& Want() {
    static auto* all = new std::map<std::string, std::vector<std::vector<int32_t>>>;
    std::vector<std::vector<int32_t>>& want = (*all)[GetParam()];
    if (want.empty()) want = World(ConfigWith(""), GetParam()).maker->Run(Asked(), kOutputs, {.together = false});
    return want;
  }
};

// A draft model that is the model itself computes what the step computes: each guess is right, whatever was accepted
// before, and with all of a step's streams in its passes.
TEST_P(ModelDrafterTest, TheModelItselfIsAlwaysRight) {
  World world(ConfigWith(Model().path()), GetParam());
  EXPECT_FALSE(world.rank->info().draft_model.empty());
  EXPECT_NEAR(world.rank->info().draft_share, 1, 1e-9);
  const MakerOptions options{.together = false, .drafts = 3, .model_drafts = true};
  ASSERT_EQ(world.maker->Run(Asked(), kOutputs, options), Want());
  // Of 24 tokens one comes with the prompt; then steps give 4 each, the last one what is left.
  EXPECT_EQ(world.maker->accepted_drafts(), static_cast<int64_t>(Asked().size()) * (kOutputs - 1 - 6));
  for (const ModelDrafted& drafted : world.maker->drafted()) EXPECT_EQ(drafted.drafts, 0) << "the last token's step";
  EXPECT_EQ(world.sequences(), 0u) << "of requests that are released nothing is kept";
  // Together they are more than it reads in one step: some guess later.
  ASSERT_EQ(world.maker->Run(Asked(), kOutputs, {.drafts = 3, .model_drafts = true}), Want());
  EXPECT_GT(world.maker->accepted_drafts(), static_cast<int64_t>(Asked().size()) * 3 * (kOutputs - 1 - 6) / 2);
}

TEST_P(ModelDrafterTest, AnotherModelChangesNoToken) {
  int64_t accepted = 0;
  for (const LayerSet& kept : {LayerSet(), LayerSet::Range(0, kLayers)}) {
    for (const bool together : {false, true}) {
      for (const int64_t blocks : {int64_t{1000}, int64_t{25}, int64_t{3}}) {
        Config config = ConfigWith(Small().path());
        config.engine.draft_kv.value = blocks * kSmallBlock;
        World world(config, GetParam());
        EXPECT_LT(world.rank->info().draft_share, 0.5);
        MakerOptions options{.kept = kept, .chunk = 16, .together = together, .drafts = 3, .model_drafts = true};
        options.moves = together ? 0 : 7;
        ASSERT_EQ(world.maker->Run(Asked(), kOutputs, options), Want())
            << kept.ToString() << " together " << together << " blocks " << blocks;
        accepted += world.maker->accepted_drafts();
        EXPECT_EQ(world.sequences(), 0u);
        int32_t no_room = 0;
        for (const ModelDrafted& drafted : world.maker->drafted()) no_room += drafted.room ? 0 : 1;
        if (blocks != 25) {
          EXPECT_EQ(no_room > 0, blocks == 3);
        }
        world.maker->DropAll();
        world.rank->pool().Drain();
        EXPECT_EQ(world.rank->arena().used(), 0);
      }
    }
  }
  EXPECT_GT(accepted, 0) << "no guess was right: this shows little";
}

INSTANTIATE_TEST_SUITE_P(Backends, ModelDrafterTest, ::testing::Values("cpu", "modular", "emulated"),
                         [](const auto& info) { return info.param; });

// A stream by hand: a step of its own newest token, and guesses.
struct Stream {
  RequestId id{};
  std::vector<int32_t> tokens;
  int32_t prompt = 0;
  uint32_t attempt = 1;
};

class ModelDrafterStepsTest : public ::testing::Test {
 protected:
  void Start(const Config& config) { world_.emplace(config); }
  Stream Open(uint64_t id, int32_t length) {
    Random random(id);
    std::vector<int32_t> prompt(length);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random.Below(kVocab));
    return Open(id, prompt);
  }
  Stream Open(uint64_t id, const std::vector<int32_t>& prompt, uint32_t attempt = 1) {
    Stream stream{RequestId{id}, prompt, static_cast<int32_t>(prompt.size()), attempt};
    StepPlan plan = world_->maker->Next();
    PlanSequence& p = plan.sequences.emplace_back();
    p.request = stream.id;
    p.attempt = attempt;
    p.opening.emplace();
    p.kept = LayerSet::Range(0, kLayers);
    p.tokens.assign(stream.tokens.begin(), stream.tokens.end());
    p.sample = true;
    Take(world_->maker->Execute(plan), {&stream});
    return stream;
  }
  static void Add(const Stream& stream, int32_t drafts, StepPlan* plan) {
    PlanSequence& p = plan->sequences.emplace_back();
    p.request = stream.id;
    p.attempt = stream.attempt;
    p.start = static_cast<int32_t>(stream.tokens.size()) - 1;
    p.tokens = {stream.tokens.back()};
    p.tokens.resize(1 + drafts, kOwnDraft);
    p.drafts = drafts;
    p.sample = true;
    p.sample_index = static_cast<int32_t>(stream.tokens.size()) - stream.prompt;
    p.model_drafts = true;
  }
  static void Take(const StepResult& result, std::vector<Stream*> streams) {
    for (Stream* stream : streams) {
      for (const SampledToken& sampled : result.sampled) {
        if (sampled.request == stream->id) stream->tokens.push_back(sampled.token);
      }
    }
  }
  // What the rank says of the step that gives each of them so many guesses.
  std::vector<ModelDrafted> Step(std::vector<Stream*> streams, int32_t drafts) {
    StepPlan plan = world_->maker->Next();
    for (const Stream* stream : streams) Add(*stream, drafts, &plan);
    const StepResult result = world_->maker->Execute(plan);
    Take(result, streams);
    return result.drafted;
  }
  void Release(const Stream& stream) {
    StepPlan plan = world_->maker->Next();
    plan.releases.push_back({stream.id, {}});
    world_->maker->Execute(plan);
  }
  std::optional<World> world_;
};

// A long prompt is read over several steps, whether guesses are asked for or not, and then guessed behind.
TEST_F(ModelDrafterStepsTest, ALongPromptIsReadInPieces) {
  Start(ConfigWith(Model().path()));
  Stream a = Open(1, 600), b = Open(2, 5);
  EXPECT_EQ(Step({&a}, 2), (std::vector<ModelDrafted>{{a.id, 1, 0, kDraftRows, true}}));
  EXPECT_EQ(Step({&a}, 0), (std::vector<ModelDrafted>{{a.id, 1, 0, 2 * kDraftRows, true}}));
  // One that guesses goes before one that is to read alone, whoever comes first.
  StepPlan plan = world_->maker->Next();
  Add(a, 0, &plan);
  Add(b, 3, &plan);
  const StepResult result = world_->maker->Execute(plan);
  EXPECT_EQ(result.drafted, (std::vector<ModelDrafted>{{a.id, 1, 0, static_cast<int32_t>(a.tokens.size()), true}}));
  EXPECT_GT(result.draft_us, 0);
  Take(result, {&a, &b});
  const size_t before = a.tokens.size();
  EXPECT_TRUE(Step({&a, &b}, 3).empty());
  EXPECT_EQ(a.tokens.size(), before + 4) << "the model itself is right";
}

// Of a request that begins anew and says something else, what is still the same is kept, and nothing else.
TEST_F(ModelDrafterStepsTest, TokensAreComparedAndNotCounted) {
  Start(ConfigWith(Model().path()));
  Stream a = Open(1, 40);
  ASSERT_TRUE(Step({&a}, 3).empty());
  std::vector<int32_t> other(a.tokens.begin(), a.tokens.begin() + 42);
  for (int32_t t = 20; t < 42; ++t) other[t] = (other[t] + 1) % kVocab;
  Stream again = Open(1, other, /*attempt=*/2);
  for (int i = 0; i < 3; ++i) {
    const size_t size = again.tokens.size();
    ASSERT_TRUE(Step({&again}, 3).empty());
    EXPECT_EQ(again.tokens.size(), size + 4);
  }
  EXPECT_EQ(world_->sequences(), 1u);
  Release(again);
  EXPECT_EQ(world_->sequences(), 0u);
}

// Where the arena is full, those who drafted of late keep what they have; who did not for some steps gives way.
TEST_F(ModelDrafterStepsTest, WhoHasNotDraftedForLongGivesWay) {
  Config config = ConfigWith(Small().path());
  config.engine.draft_kv.value = 7 * kSmallBlock;
  Start(config);
  Stream a = Open(1, 41), b = Open(2, 41);
  ASSERT_TRUE(Step({&a}, 2).empty());
  const std::vector<ModelDrafted> nothing = {{b.id, 1, 0, 0, false}};
  EXPECT_EQ(Step({&b}, 2), nothing);
  EXPECT_TRUE(Step({&a}, 2).empty()) << "it was not thrown out";
  for (uint64_t i = 0; i < ModelDrafter::kKeptRuns; ++i) EXPECT_EQ(Step({&b}, 2), nothing) << i;
  EXPECT_TRUE(Step({&b}, 2).empty());
  EXPECT_EQ(Step({&a}, 2), (std::vector<ModelDrafted>{{a.id, 1, 0, 0, false}}));
  Release(b);
  EXPECT_TRUE(Step({&a}, 2).empty()) << "it reads all of it again";
}

// A stream that goes on without guesses is caught up with when it is to have some again.
TEST_F(ModelDrafterStepsTest, StepsWithoutItAreReadLater) {
  Start(ConfigWith(Model().path()));
  Stream a = Open(1, 10);
  ASSERT_TRUE(Step({&a}, 3).empty());
  for (int i = 0; i < 20; ++i) {
    StepPlan plan = world_->maker->Next();
    Add(a, 0, &plan);
    plan.sequences[0].model_drafts = false;
    Take(world_->maker->Execute(plan), {&a});
  }
  const size_t size = a.tokens.size();
  EXPECT_TRUE(Step({&a}, 3).empty());
  EXPECT_EQ(a.tokens.size(), size + 4);
}

// What the step cannot compute is not guessed, and others are.
TEST_F(ModelDrafterStepsTest, ALostSequenceIsPassedBy) {
  Start(ConfigWith(Model().path()));
  Stream a = Open(1, 10), b = Open(2, 12);
  StepPlan plan = world_->maker->Next();
  Add(a, 2, &plan);
  Add(b, 2, &plan);
  plan.sequences[0].start += 1;  // behind what was computed
  const StepResult result = world_->rank->runner().Execute(plan);
  ASSERT_OK(result.status);
  ASSERT_EQ(result.lost.size(), 1u);
  EXPECT_TRUE(result.drafted.empty());
  EXPECT_EQ(result.sampled.size(), 3u);
  EXPECT_EQ(world_->sequences(), 1u);
  world_->rank->runner().Reset();
  EXPECT_EQ(world_->sequences(), 0u);
}

TEST(DraftModelTest, ThePositionsOfAShortModelEnd) {
  static const TinyFile file({.seed = 3, .layers = 2, .context = 64});
  World world(ConfigWith(file.path()));
  const std::vector<MakerRequest> asked = {{std::vector<int32_t>(50, 9), {}}};
  const auto want = World(ConfigWith("")).maker->Run(asked, kOutputs, {});
  EXPECT_EQ(world.maker->Run(asked, kOutputs, {.drafts = 3, .model_drafts = true}), want);
  ASSERT_FALSE(world.maker->drafted().empty());
  EXPECT_FALSE(world.maker->drafted().back().room);
}

absl::Status WhyNot(const Config& config) {
  RealClock clock;
  FaultPoints faults;
  return Rank::Create(config, 1, clock, faults, nullptr, [](int64_t, int64_t) {}).status();
}

TEST(DraftModelTest, WhatDoesNotFitIsRefusedByName) {
  const auto refused = [](const Config& config, const auto& what) {
    EXPECT_THAT(WhyNot(config), StatusIs(absl::StatusCode::kInvalidArgument, what));
  };
  static const TinyFile renamed({.layers = 2, .edit = [](GgufWriter& writer) {
                                   std::vector<std::string> tokens = MakeTinyVocabulary().tokens;
                                   std::swap(tokens[280], tokens[281]);
                                   writer.SetTexts("tokenizer.ggml.tokens", tokens);
                                 }});
  refused(ConfigWith(renamed.path()), AllOf(HasSubstr("engine.draft_model"), HasSubstr("token 280"),
                                            HasSubstr(renamed.path()), HasSubstr(Model().path())));
  static const TinyFile wider({.layers = 2, .extra_rows = 6});
  refused(ConfigWith(wider.path()), AllOf(HasSubstr("engine.draft_model"), HasSubstr("306"), HasSubstr("300")));
  Config stages = ConfigWith(Small().path());
  stages.cluster.stages = 2;
  refused(stages, AllOf(HasSubstr("engine.draft_model"), HasSubstr("cluster.stages=1")));
  EXPECT_THAT(WhyNot(ConfigWith("/nowhere.gguf")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("engine.draft_model=/nowhere.gguf")));
  Config small = ConfigWith(Small().path());
  small.engine.draft_kv.value = 100;
  EXPECT_THAT(WhyNot(small), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("engine.draft_kv=100")));
}

}  // namespace
}  // namespace interlace
