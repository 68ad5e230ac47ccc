// One rank driven by hand-made plans: where KV lies, how prompts are cut, what is adopted, guessed, parked and promoted
// never changes a token.
#include <cmath>
#include <map>

#include "kernels/modular/modular.h"
#include "tests/kernels/cuda/emulated_device.h"
#include "tests/worker/plan_maker.h"
#include "tests/worker/tiny_file.h"
#include "worker/rank.h"

namespace interlace {
namespace {

constexpr int32_t kLayers = 6, kVocab = 290, kBlockTokens = 8, kOutputs = 24;

struct World {
  explicit World(const std::string& backend, int64_t host_bytes = 1 << 24, int64_t device_bytes = 1 << 24) {
    static const TinyFile file({.layers = kLayers});
    Config config = OneThreadConfig(file.path(), kBlockTokens);
    config.kv.device_bytes.value = device_bytes;
    config.kv.host_bytes.value = host_bytes;
    config.kv.tiers = "";
    config.sched.step_tokens = 1024;
    config.sched.max_running = 32;
    MakeBackend make = nullptr;
    if (backend == "modular") make = &MakeModularBackend;
    if (backend == "emulated") make = &MakeEmulatedBackend;
    rank = *Rank::Create(
        config, 1, clock, faults, nullptr, [](int64_t, int64_t) {}, make);
    maker = std::make_unique<PlanMaker>(rank->runner(), rank->info());
  }
  RealClock clock;
  FaultPoints faults;
  std::unique_ptr<Rank> rank;
  std::unique_ptr<PlanMaker> maker;
};

// Every second one samples, every third with penalties and bad words; half of them share a beginning.
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
    if (i % 3 != 0) continue;
    r.sampling.repetition_penalty = 1.2f;
    r.sampling.frequency_penalty = 0.3f;
    for (int b = 0; b < 100; ++b) {
      r.sampling.bad_words.push_back(
          {static_cast<int32_t>(random.Below(kVocab)), static_cast<int32_t>(random.Below(kVocab))});
    }
  }
  return requests;
}

class RankStreamsTest : public ::testing::TestWithParam<std::string> {
 protected:
  static const std::vector<MakerRequest>& Asked() {
    static const auto* requests = new std::vector<MakerRequest>(Requests(7, 5));
    return *requests;
  }
  // All layers kept, one request after another, each prompt at once.
  const std::vector<std::vector<int32_t>>& Want() {
    static auto* all = new std::map<std::string, std::vector<std::vector<int32_t>>>;
    std::vector<std::vector<int32_t>>& want = (*all)[GetParam()];
    if (want.empty()) {
      World world(GetParam());
      want = world.maker->Run(Asked(), kOutputs, {.together = false});
      EXPECT_EQ(world.maker->bytes_in(), 0);
    }
    return want;
  }
  static LayerSet Layers(std::initializer_list<int32_t> list) {
    LayerSet layers;
    for (int32_t l : list) layers.Add(LayerId{l});
    return layers;
  }
};

TEST_P(RankStreamsTest, KeptLayersAndChunks) {
  for (const LayerSet& kept : {LayerSet(), Layers({1}), Layers({0, 2, 5}), LayerSet::Range(0, kLayers)}) {
    for (const int32_t chunk : {1, 7, 16, 1000}) {
      if (GetParam() == "emulated" && chunk == 1) continue;
      World world(GetParam());
      MakerOptions options{.kept = kept, .chunk = chunk};
      // Left alone, it is a matter of timing whether a block is still on the device when it is needed again.
      if (chunk == 16) options.after_plan = [&] { world.rank->pool().Drain(); };
      ASSERT_EQ(world.maker->Run(Asked(), kOutputs, options), Want()) << kept.ToString() << " chunk " << chunk;
      if (chunk == 16) {
        ASSERT_EQ(world.maker->bytes_in() > 0, kept.size() < kLayers);
      }
    }
  }
}

TEST_P(RankStreamsTest, AdoptedBlocksNamedEarlyOrLate) {
  for (const LayerSet& kept : {LayerSet(), Layers({0, 2, 5}), LayerSet::Range(0, kLayers)}) {
    for (const int32_t late : {0, 1, 3}) {
      World world(GetParam());
      const MakerOptions options{.kept = kept, .chunk = 16, .together = false, .adopt = true, .names_late = late};
      ASSERT_EQ(world.maker->Run(Asked(), kOutputs, options), Want()) << kept.ToString() << " late " << late;
      ASSERT_EQ(world.maker->Run(Asked(), kOutputs, {.kept = kept, .adopt = true}), Want());
      EXPECT_GT(world.maker->adopted(), 20);
    }
  }
}

TEST_P(RankStreamsTest, ItsOwnLastSample) {
  World world(GetParam());
  ASSERT_EQ(world.maker->Run(Asked(), kOutputs, {.kept = Layers({1, 4}), .chunk = 16, .last_sample = true}), Want());
}

// Guesses that the rank makes itself, by any plan, wherever KV lies and while it moves.
TEST_P(RankStreamsTest, OwnDrafts) {
  Random random(19);
  int64_t accepted = 0;
  const auto some = [&] {
    LayerSet layers;
    const int64_t of_eight = random.Below(9);
    for (int32_t l = 0; l < kLayers; ++l) {
      if (random.Below(8) < of_eight) layers.Add(LayerId{l});
    }
    return layers;
  };
  for (const LayerSet& kept : {LayerSet(), Layers({0, 2, 5}), LayerSet::Range(0, kLayers)}) {
    for (const bool together : {false, true}) {
      World world(GetParam());
      MakerOptions options{.kept = kept, .chunk = 16, .together = together, .drafts = 3};
      options.skip = [&] { return SkipPlan{some(), some()}; };
      options.moves = together ? 0 : 7;
      ASSERT_EQ(world.maker->Run(Asked(), kOutputs, options), Want()) << kept.ToString() << " together " << together;
      accepted += world.maker->accepted_drafts();
      world.maker->DropAll();
      world.rank->pool().Drain();
      EXPECT_EQ(world.rank->arena().used(), 0);
    }
  }
  EXPECT_GT(accepted, 0) << "no plan guessed a token: this shows little";
}

// A plan that passes nothing over computes what the step computes: each guess is right.
TEST_P(RankStreamsTest, OwnDraftsByTheWholeModelAreAllRight) {
  World world(GetParam());
  MakerOptions options{.drafts = 3};
  options.skip = [] { return SkipPlan(); };
  ASSERT_EQ(world.maker->Run(Asked(), kOutputs, options), Want());
  // Of 24 tokens one comes with the prompt; then steps give 4 each, the last one what is left.
  EXPECT_EQ(world.maker->accepted_drafts(), static_cast<int64_t>(Asked().size()) * (kOutputs - 1 - 6));
}

// The key of a prompt is the same to the last bit however the prompt is cut and wherever KV lies, and taking it changes
// no token.
TEST_P(RankStreamsTest, KeysOfPrompts) {
  for (const int32_t layer : {0, 3, kLayers - 1}) {
    std::vector<std::vector<float>> keys;
    for (const LayerSet& kept : {LayerSet(), Layers({0, 2, 5}), LayerSet::Range(0, kLayers)}) {
      for (const int32_t chunk : {7, 16, 1000}) {
        World world(GetParam());
        const MakerOptions options{
            .kept = kept, .chunk = chunk, .together = chunk != 7, .key_layer = layer, .key_tokens = 20};
        ASSERT_EQ(world.maker->Run(Asked(), kOutputs, options), Want()) << kept.ToString() << " chunk " << chunk;
        if (keys.empty()) keys = world.maker->keys();
        ASSERT_EQ(world.maker->keys(), keys) << "layer " << layer << " kept " << kept.ToString() << " chunk " << chunk;
        for (const std::vector<float>& key : keys) ASSERT_FALSE(key.empty());
      }
    }
  }
}

// Of prompts that adopt blocks it is the mean of what they compute.
TEST_P(RankStreamsTest, KeysOfWhatIsComputed) {
  World world(GetParam());
  MakerOptions options{.chunk = 16, .together = false, .adopt = true, .key_layer = 1, .key_tokens = 1000};
  for (int round = 0; round < 2; ++round) ASSERT_EQ(world.maker->Run(Asked(), kOutputs, options), Want());
  ASSERT_GT(world.maker->adopted(), 20);
  for (const std::vector<float>& key : world.maker->keys()) EXPECT_FALSE(key.empty());
}

// What stands behind a position does not change its hidden state, so the mean over the last ones of a prompt is that of
// the keys of its prefixes, of one position each.
TEST(RankKeysTest, AKeyIsTheMeanOfItsPositions) {
  constexpr int32_t kPositions = 9;
  World world("cpu");
  const std::vector<int32_t> prompt = Requests(7, 5)[1].prompt;
  ASSERT_GT(prompt.size(), static_cast<size_t>(kPositions));
  world.maker->Run({{prompt, {}}}, 1, {.chunk = 4, .key_layer = 2, .key_tokens = kPositions});
  const std::vector<float> key = world.maker->keys().at(0);
  std::vector<MakerRequest> prefixes;
  for (int32_t p = 0; p < kPositions; ++p) prefixes.push_back({{prompt.begin(), prompt.end() - p}, {}});
  world.maker->Run(prefixes, 1, {.key_layer = 2, .key_tokens = 1});
  std::vector<double> mean(key.size());
  for (const std::vector<float>& one : world.maker->keys()) {
    ASSERT_EQ(one.size(), key.size());
    for (size_t d = 0; d < key.size(); ++d) mean[d] += one[d] / kPositions;
  }
  for (size_t d = 0; d < key.size(); ++d) EXPECT_NEAR(key[d], mean[d], 1e-6 + 1e-5 * std::abs(mean[d])) << d;
}

// Guesses that are all right, all wrong, and both.
TEST_P(RankStreamsTest, Drafts) {
  for (const int wrong : {0, 1, 3}) {
    MakerOptions options{.kept = Layers({1, 4}), .chunk = 16, .names_late = 0, .drafts = 3, .guesses = Want()};
    Random random(9);
    for (std::vector<int32_t>& guesses : options.guesses) {
      for (int32_t& token : guesses) {
        if (random.Below(3) < wrong) token = static_cast<int32_t>((token + 1 + random.Below(kVocab - 1)) % kVocab);
      }
    }
    World world(GetParam());
    ASSERT_EQ(world.maker->Run(Asked(), kOutputs, options), Want()) << wrong << " of 3 are wrong";
    EXPECT_EQ(world.maker->accepted_drafts() > 0, wrong < 3);
    world.maker->DropAll();
    world.rank->pool().Drain();
    EXPECT_EQ(world.rank->arena().used(), 0);
  }
}

TEST_P(RankStreamsTest, ParkedPromotedAndChangedAtRandom) {
  int64_t in = 0;
  const uint64_t seeds = GetParam() == "emulated" ? 2 : 10;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    World world(GetParam());
    Random random(seed);
    for (int round = 0; round < 2; ++round) {
      const MakerOptions options{
          .kept = LayerSet::Interleaved(static_cast<int32_t>(random.Below(kLayers + 1)), kLayers),
          .chunk = static_cast<int32_t>(random.Between(3, 40)),
          .adopt = true,
          .names_late = static_cast<int32_t>(random.Below(3)),
          .moves = seed};
      ASSERT_EQ(world.maker->Run(Asked(), kOutputs, options), Want()) << "seed " << seed;
    }
    in += world.maker->bytes_in();
    world.maker->DropAll();
    world.rank->pool().Drain();
    EXPECT_EQ(world.rank->arena().used(), 0);
    EXPECT_EQ(world.rank->frames().used(), 0);
  }
  EXPECT_GT(in, 0);
}

// Without host memory nothing can leave the device, and nothing needs to.
TEST_P(RankStreamsTest, NoHostFrames) {
  World world(GetParam(), /*host_bytes=*/0);
  EXPECT_EQ(world.rank->info().host_frames, 0);
  ASSERT_EQ(world.maker->Run(Asked(), kOutputs, {.chunk = 16, .adopt = true}), Want());
}

INSTANTIATE_TEST_SUITE_P(Backends, RankStreamsTest, ::testing::Values("cpu", "modular", "emulated"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace interlace
