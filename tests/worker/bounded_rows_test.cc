// Steps whose rows pass sublayers over: each stream is that of a model which passes over the same, whoever runs beside
// it and wherever its KV lies; an audit's guess is what passing over would have given.
#include <algorithm>
#include <optional>

#include "kernels/modular/modular.h"
#include "tests/kernels/cuda/emulated_device.h"
#include "tests/model/plain_engine.h"
#include "tests/worker/plan_maker.h"
#include "tests/worker/tiny_file.h"
#include "worker/rank.h"

namespace interlace {
namespace {

constexpr int32_t kLayers = 6, kVocab = 290, kBlockTokens = 8, kSteps = 30;

class BoundedRowsTest : public ::testing::TestWithParam<std::string> {
 protected:
  BoundedRowsTest() : file_({.layers = kLayers}) {
    Config config = OneThreadConfig(file_.path(), kBlockTokens);
    config.kv.device_bytes.value = 1 << 24;
    config.kv.host_bytes.value = 1 << 24;
    config.kv.tiers = "";
    config.sched.step_tokens = 256;
    config.sched.max_running = 32;
    MakeBackend make = nullptr;
    if (GetParam() == "modular") make = &MakeModularBackend;
    if (GetParam() == "emulated") make = &MakeEmulatedBackend;
    rank_ = *Rank::Create(
        config, 1, clock_, faults_, nullptr, [](int64_t, int64_t) {}, make);
    gguf_ = *GgufFile::Open(file_.path());
    engine_ = *PlainEngine::Make(*gguf_, {.threads = 1, .block_tokens = kBlockTokens, .make_backend = make});
  }

  // What a sequence computed so far, a step each.
  struct Part {
    std::vector<int32_t> tokens;
    SkipPlan skip;
  };
  struct Stream {
    RequestId id{};
    std::optional<SkipPlan> plan;
    LayerSet kept = LayerSet::Range(0, kLayers);
    std::vector<int32_t> tokens;
    std::vector<Part> parts;
    int32_t prompt = 0, computed = 0, named = 0;
    bool opened = false;
  };

  // The token that a model which passes over `last` in the last step says behind it, all before computed as it was.
  int32_t Expect(std::vector<Part> parts) {
    const int sequence = ++replays_;
    for (const Part& part : parts) {
      engine_->Step({{sequence, part.tokens}}, [&](LayerId layer, bool attention) {
        return attention ? !part.skip.RunsAttention(layer, kLayers) : !part.skip.RunsFeedForward(layer, kLayers);
      });
    }
    return ArgMax(engine_->Logits({static_cast<int32_t>(parts.back().tokens.size()) - 1}).data(),
                  static_cast<int32_t>(engine_->spec().vocab));
  }

  void Add(Stream& s, bool audit, StepPlan* plan) {
    PlanSequence& p = plan->sequences.emplace_back();
    p.request = s.id;
    p.attempt = 1;
    if (!s.opened) {
      p.opening = Opening{};
      p.kept = s.kept;
    }
    p.start = s.computed;
    p.tokens.assign(s.tokens.begin() + s.computed, s.tokens.end());
    p.sample = true;
    p.sample_index = static_cast<int32_t>(s.tokens.size()) - s.prompt;
    Part part{{p.tokens.begin(), p.tokens.end()}, {}};
    if (s.opened && s.plan && !audit) p.skip = *s.plan, part.skip = *s.plan;
    if (s.opened && s.plan && audit) {
      p.own_drafts = *s.plan;
      p.tokens.push_back(kOwnDraft);
      p.drafts = 1;
    }
    s.parts.push_back(std::move(part));
    s.computed = static_cast<int32_t>(s.tokens.size());
    s.opened = true;
    const int32_t full = s.computed / kBlockTokens;
    if (full > s.named) {
      p.names = SealedNames{.first = s.named};
      for (; s.named < full; ++s.named) p.names->ids.push_back({Value(s.id), static_cast<uint64_t>(s.named) + 1});
    }
  }

  void Take(Stream& s, const PlanSequence& p, absl::Span<const SampledToken> sampled) {
    ASSERT_FALSE(sampled.empty());
    const int32_t want = Expect(s.parts);
    ASSERT_EQ(sampled[0].token, want) << "request " << Value(s.id) << " at " << s.computed
                                      << (p.skip ? ", skipped" : "");
    s.tokens.push_back(want);
    if (!p.own_drafts) return;
    std::vector<Part> passed = s.parts;
    passed.back().skip = *s.plan;
    const bool agrees = Expect(passed) == want;
    ASSERT_EQ(sampled.size(), agrees ? 2u : 1u) << "an audit judged another pass than the one that is skipped by";
    (agrees ? agreed_ : differed_) += 1;
    if (!agrees) return;  // the guess's position is forgotten
    s.parts.push_back({{want}, {}});
    s.computed = static_cast<int32_t>(s.tokens.size());
    ASSERT_EQ(sampled[1].token, Expect(s.parts));
    s.tokens.push_back(sampled[1].token);
  }

  void Run(std::vector<Stream>& streams, uint64_t seed) {
    Random random(seed);
    for (size_t i = 0; i < streams.size(); ++i) {
      Stream& s = streams[i];
      s.id = RequestId{i + 1};
      s.tokens.resize(random.Between(3, 40));
      for (int32_t& token : s.tokens) token = static_cast<int32_t>(random.Below(kVocab));
      s.prompt = static_cast<int32_t>(s.tokens.size());
    }
    for (int step = 0; step < kSteps && !HasFatalFailure(); ++step) {
      StepPlan plan{.epoch = Epoch{1}, .id = PlanId{static_cast<uint64_t>(step) + 1}};
      std::vector<Stream*> running;
      for (Stream& s : streams) {
        if (step == 0 || random.Below(5) > 0) running.push_back(&s);
      }
      for (size_t i = running.size(); i > 1; --i) std::swap(running[i - 1], running[random.Below(i)]);
      // An audit sees what is on the device alone.
      for (Stream* s : running) Add(*s, s->kept.size() == kLayers && random.Below(4) == 0, &plan);
      const StepResult result = rank_->runner().Execute(plan);
      ASSERT_OK(result.status);
      ASSERT_TRUE(result.lost.empty()) << result.ToString();
      size_t next = 0;
      for (size_t i = 0; i < running.size() && !HasFatalFailure(); ++i) {
        const size_t first = next;
        while (next < result.sampled.size() && result.sampled[next].request == running[i]->id) ++next;
        Take(*running[i], plan.sequences[i], absl::MakeConstSpan(result.sampled).subspan(first, next - first));
      }
      bytes_in_ += result.bytes_in;
      for (const LayerTraffic& traffic : result.traffic) {
        const Stream& s = streams[Value(traffic.request) - 1];
        const bool passed = s.plan && step > 0 && !s.plan->RunsAttention(traffic.layer, kLayers);
        EXPECT_TRUE(!passed || traffic.bytes_in == 0) << "KV is read that nothing attends to";
      }
    }
  }

  const TinyFile file_;
  RealClock clock_;
  FaultPoints faults_;
  std::unique_ptr<Rank> rank_;
  std::unique_ptr<GgufFile> gguf_;
  std::unique_ptr<PlainEngine> engine_;
  int replays_ = 0, agreed_ = 0, differed_ = 0;
  int64_t bytes_in_ = 0;
};

TEST_P(BoundedRowsTest, MixedStepsEqualModelsThatPassOverTheSame) {
  std::vector<Stream> streams(7);
  streams[1].plan = streams[4].plan = SkipPlan::Evenly(3, kLayers);
  streams[2].plan = SkipPlan::After(3, kLayers);
  streams[3].plan = SkipPlan{LayerSet::Range(0, kLayers), LayerSet()};
  streams[5].plan = SkipPlan{LayerSet(), LayerSet::Range(1, 4)};
  Run(streams, 3);
  if (HasFatalFailure()) return;
  EXPECT_GT(differed_, 3);
  EXPECT_TRUE(GetParam() == "modular" || agreed_ > 0) << "modulo a prime alone nothing is like anything";
}

// Layers on the host: attention that is passed over reads nothing, and writes its K and V all the same.
TEST_P(BoundedRowsTest, LayersOnTheHost) {
  std::vector<Stream> streams(5);
  for (Stream& s : streams) s.kept = LayerSet();
  streams[1].plan = streams[3].plan = SkipPlan::Evenly(5, kLayers);
  streams[2].plan = SkipPlan::After(2, kLayers);
  streams[4].kept.Add(LayerId{3});
  Run(streams, 4);
  EXPECT_GT(bytes_in_, 0);
}

TEST_P(BoundedRowsTest, ThatGoesWithNothingElse) {
  std::vector<Stream> streams(1);
  streams[0].id = RequestId{1};
  streams[0].tokens = {5, 6, 7};
  streams[0].prompt = 3;
  StepPlan plan{.epoch = Epoch{1}, .id = PlanId{1}};
  Add(streams[0], false, &plan);
  plan.sequences[0].skip = SkipPlan::Evenly(3, kLayers);
  plan.sequences[0].pool = Pooling::kGive;
  const StepResult result = rank_->runner().Execute(plan);
  ASSERT_OK(result.status);
  ASSERT_EQ(result.lost.size(), 1u);
  EXPECT_EQ(result.lost[0].cause, LossCause::kRefused);
  EXPECT_THAT(result.lost[0].detail, testing::HasSubstr("skip:"));
}

INSTANTIATE_TEST_SUITE_P(Backends, BoundedRowsTest, ::testing::Values("cpu", "modular", "emulated"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace interlace
