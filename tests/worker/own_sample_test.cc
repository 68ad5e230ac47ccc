// Streams that go on with the token that the last stage sampled, before anybody else has seen it.
#include <atomic>
#include <map>

#include "common/log.h"
#include "kernels/modular/modular.h"
#include "tests/kernels/random_tensor.h"
#include "tests/worker/pipeline_ranks.h"
#include "tests/worker/tiny_file.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kLayers = 6, kVocab = 290, kBlockTokens = 8, kStreams = 4, kOutputs = 20;

Config ConfigOf(int32_t stages) {
  static const TinyFile file({.layers = kLayers});
  Config config = OneThreadConfig(file.path(), kBlockTokens);
  config.cluster.stages = stages;
  config.kv.device_bytes.value = 1 << 24;
  config.kv.host_bytes.value = 1 << 22;
  config.kv.tiers = "";
  config.sched.step_tokens = 256;
  return config;
}

// Plan 1 computes the prompts, each one behind it a token of every stream. Every second stream samples.
std::vector<StepPlan> Plans() {
  Random random(8);
  std::vector<StepPlan> plans(kOutputs);
  for (int32_t p = 0; p < kOutputs; ++p) {
    plans[p].epoch = PipelineRanks::kEpoch;
    plans[p].id = PlanId{static_cast<uint64_t>(p) + 1};
  }
  for (int32_t i = 0; i < kStreams; ++i) {
    const auto prompt = static_cast<int32_t>(random.Between(kBlockTokens + 1, 40));
    for (int32_t p = 0; p < kOutputs; ++p) {
      PlanSequence& s = plans[p].sequences.emplace_back();
      s.request = RequestId{static_cast<uint64_t>(i) + 1};
      s.attempt = 1;
      s.sample = true;
      s.sample_index = p;
      s.start = p == 0 ? 0 : prompt + p - 1;
      s.tokens = {kLastSample};
      if (p > 0) continue;
      s.tokens.clear();
      for (int32_t t = 0; t < prompt; ++t) s.tokens.push_back(static_cast<int32_t>(random.Below(kVocab)));
      s.opening.emplace();
      s.opening->sampling.seed = random.Next();
      s.opening->sampling.temperature = i % 2 == 0 ? 0 : 0.9f;
      s.opening->sampling.repetition_penalty = 1.3f;  // looks at tokens that the scheduler has not seen
      s.kept = LayerSet::Range(0, kLayers);
      s.names = SealedNames{0, {BlockId{static_cast<uint64_t>(i) + 1, 1}}};
    }
  }
  return plans;
}

using Streams = std::map<uint64_t, std::vector<int32_t>>;  // by request

Streams StreamsOf(const std::vector<StepResult>& results) {
  Streams streams;
  for (const StepResult& result : results) {
    for (const SampledToken& t : result.sampled) streams[Value(t.request)].push_back(t.token);
  }
  return streams;
}

MakeBackend BackendOf(const std::string& name) { return name == "modular" ? &MakeModularBackend : nullptr; }

class OwnSampleTest : public ::testing::TestWithParam<std::tuple<std::string, int32_t>> {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  }
  void TearDown() override { SetLogSink(nullptr, LogLevel::kInfo); }
  static const std::string& backend() { return std::get<0>(GetParam()); }
  static int32_t stages() { return std::get<1>(GetParam()); }

  const Streams& Want() {
    static auto* all = new std::map<std::string, Streams>;
    Streams& want = (*all)[backend()];
    if (want.empty()) want = StreamsOf(PipelineRanks(ConfigOf(1), BackendOf(backend())).Run(Plans())[0]);
    EXPECT_EQ(want.size(), static_cast<size_t>(kStreams));
    return want;
  }
};

TEST_P(OwnSampleTest, TheSameTokensAsOnOneStage) {
  PipelineRanks ranks(ConfigOf(stages()), BackendOf(backend()));
  const auto results = ranks.Run(Plans());
  for (const std::vector<StepResult>& stage : results) {
    for (const StepResult& result : stage) {
      ASSERT_OK(result.status);
      EXPECT_TRUE(result.lost.empty()) << result.ToString();
    }
  }
  EXPECT_EQ(StreamsOf(results.back()), Want());
}

// A stream that pauses for some plans finds the token of its latest one all the same.
TEST_P(OwnSampleTest, StreamsThatTakeTurns) {
  std::vector<StepPlan> plans = {Plans()[0]};
  for (int32_t p = 1; p < kOutputs; ++p) {
    for (int32_t i = 0; i < kStreams; ++i) {
      StepPlan plan = Plans()[p];
      plan.id = PlanId{plans.size() + 1};
      plan.sequences = {plan.sequences[(i * 3 + p) % kStreams]};
      plans.push_back(plan);
    }
  }
  PipelineRanks ranks(ConfigOf(stages()), BackendOf(backend()));
  EXPECT_EQ(StreamsOf(ranks.Run(plans).back()), Want());
}

// A plan that gives the token, since the scheduler has seen it meanwhile, and one that asks for it again.
TEST_P(OwnSampleTest, KnownTokensAndOwnOnesMix) {
  std::vector<StepPlan> plans = Plans();
  Random random(3);
  for (int32_t p = 1; p < kOutputs; ++p) {
    for (PlanSequence& s : plans[p].sequences) {
      if (random.Below(2) == 0) s.tokens[0] = Want().at(Value(s.request))[p - 1];
    }
  }
  PipelineRanks ranks(ConfigOf(stages()), BackendOf(backend()));
  EXPECT_EQ(StreamsOf(ranks.Run(plans).back()), Want());
}

// One stage loses a stream in the midst of plans that are all sent: it says so once, nobody samples for it any more,
// and the others go on. A new attempt begins among those plans.
TEST_P(OwnSampleTest, AStreamThatOneStageLosesStopsEverywhere) {
  for (int32_t where = 0; where < stages(); ++where) {
    PipelineRanks ranks(ConfigOf(stages()), BackendOf(backend()));
    std::vector<StepPlan> plans = Plans();
    const RankInfo& info = ranks.info(where);
    constexpr int32_t kLost = 5, kAgain = 12;  // plans
    const BlockId block = plans[0].sequences[1].names->ids[0];
    const LayerSet layers = LayerSet::Range(info.layer_begin, info.layer_end);
    plans[kLost].moves = {{block, MoveKind::kDropDevice, layers}, {block, MoveKind::kDropHost, layers}};
    // The new attempt gives the prompt once more, under another name for its first block.
    plans[kAgain].releases.push_back({RequestId{2}, std::nullopt});
    for (int32_t p = kAgain; p < kOutputs; ++p) {
      PlanSequence& s = plans[p].sequences[1];
      s = plans[p - kAgain].sequences[1];
      s.attempt = 2;
      if (p == kAgain) s.names->ids[0].high += 100;
    }
    const auto results = ranks.Run(plans);
    for (int32_t s = 0; s < stages(); ++s) {
      ASSERT_EQ(results[s].size(), plans.size());
      for (int32_t p = 0; p < kOutputs; ++p) {
        ASSERT_OK(results[s][p].status);
        EXPECT_EQ(results[s][p].lost.size(), s == where && p == kLost ? 1u : 0u)
            << "lost on " << where << ": " << results[s][p].ToString();
      }
    }
    Streams want = Want();
    std::vector<int32_t>& second = want.at(2);
    second.resize(kLost);
    second.insert(second.end(), Want().at(2).begin(), Want().at(2).begin() + (kOutputs - kAgain));
    EXPECT_EQ(StreamsOf(results.back()), want) << "lost on " << where;
  }
}

TEST_P(OwnSampleTest, ADamagedTokenFailsTheFirstStage) {
  std::atomic<int> sent = 0;
  PipelineRanks ranks(ConfigOf(stages()), BackendOf(backend()),
                      [&sent](Channel channel, std::string*, std::vector<SharedBytes>* parts) {
                        if (channel != kSampleChannel || ++sent != 4) return;  // the opening, then plans
                        std::string body = *parts->at(0);
                        body[body.size() / 2] ^= 4;
                        parts->at(0) = std::make_shared<const std::string>(std::move(body));
                      });
  const std::vector<StepPlan> plans = Plans();
  const std::vector<StepPlan> before(plans.begin(), plans.begin() + 3);
  ranks.Run(before);
  const std::vector<StepResult> results = ranks.RunStage(0, {plans[3]});
  EXPECT_THAT(results[0].status, StatusIs(absl::StatusCode::kDataLoss, HasSubstr("sampled tokens of plan 3")));
}

TEST_P(OwnSampleTest, ATokenOutsideTheVocabularyFailsTheFirstStage) {
  // The message is whole: only the stage that sampled can have chosen such a token.
  PipelineRanks ranks(ConfigOf(stages()), BackendOf(backend()));
  const std::vector<StepPlan> plans = Plans();
  ranks.RunStage(0, {plans[0]});
  ActivationChannel& last = ranks.activations(stages() - 1);
  ASSERT_OK(last.SendSamples(PipelineRanks::kEpoch, PlanId{1}, {{RequestId{1}, 1, 0, ranks.info(0).vocab, {}}}));
  const std::vector<StepResult> results = ranks.RunStage(0, {plans[1]});
  EXPECT_THAT(results[0].status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("vocabulary")));
}

TEST_P(OwnSampleTest, TheEndOfEitherEndIsNoticed) {
  const std::vector<StepPlan> plans = Plans();
  const std::vector<StepPlan> first(plans.begin(), plans.begin() + 2);
  {
    PipelineRanks ranks(ConfigOf(stages()), BackendOf(backend()));
    ranks.Run(first);
    ranks.RunStage(0, {plans[2]});
    ranks.Kill(stages() - 1);
    EXPECT_THAT(ranks.RunStage(0, {plans[3]}).back().status,
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("stage is gone")));
  }
  PipelineRanks ranks(ConfigOf(stages()), BackendOf(backend()));
  ranks.Run(first);
  ranks.Kill(0);
  EXPECT_THAT(ranks.RunStage(1, {plans[2]}).back().status,
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("stage is gone")));
}

TEST_P(OwnSampleTest, AStreamThatSampledNothingIsRefused) {
  PipelineRanks ranks(ConfigOf(stages()), BackendOf(backend()));
  std::vector<StepPlan> plans = Plans();
  plans.resize(2);
  plans[0].sequences[0].sample = false;
  const auto results = ranks.Run(plans);
  ASSERT_EQ(results[0][1].lost.size(), 1u);
  EXPECT_EQ(results[0][1].lost[0].cause, LossCause::kRefused);
  EXPECT_THAT(results[0][1].lost[0].detail, HasSubstr("sampled none"));
  EXPECT_EQ(StreamsOf(results.back()).count(1), 0u);
  EXPECT_EQ(StreamsOf(results.back()).at(2).size(), 2u);
}

INSTANTIATE_TEST_SUITE_P(Stages, OwnSampleTest,
                         ::testing::Combine(::testing::Values("cpu", "modular"), ::testing::Values(2, 3)),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param), std::get<1>(info.param));
                         });

}  // namespace
}  // namespace interlace
