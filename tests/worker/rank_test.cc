// A rank refuses plans that it cannot execute, and forgets everything when told to.
#include "worker/rank.h"

#include <functional>

#include "tests/model/tiny_checkpoints.h"
#include "tests/status_matchers.h"
#include "tests/worker/tiny_file.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int32_t kLayers = 3;

class RankTest : public testing::Test {
 protected:
  RankTest() {
    Config config;
    config.model.path = file_.path();
    config.engine.threads = 1;
    config.kv.block_tokens = 8;
    config.kv.device_bytes.value = 1 << 20;
    config.kv.host_bytes.value = 1 << 20;
    config.sched.step_tokens = 32;
    config.sched.max_running = 4;
    auto rank = Rank::Create(config, 1, clock_, faults_, nullptr, [](int64_t, int64_t) {});
    EXPECT_OK(rank);
    rank_ = *std::move(rank);
  }
  static PlanSequence Sequence(uint64_t request, int32_t start, int32_t tokens) {
    PlanSequence s{.request = RequestId{request}, .attempt = 1, .generation = Generation{request}, .start = start};
    for (int32_t i = 0; i < tokens; ++i) s.tokens.push_back((start + i) % 200 + 3);
    s.residency = {kLayers, 1};
    return s;
  }
  StepResult Execute(std::vector<PlanSequence> sequences, std::vector<RequestId> releases = {}) {
    StepPlan plan{.epoch = Epoch{1}, .id = PlanId{++plans_}};
    plan.sequences = std::move(sequences);
    plan.releases = std::move(releases);
    return rank_->runner().Execute(plan);
  }
  const TinyFile file_{{.layers = kLayers}};
  RealClock clock_;
  FaultPoints faults_;
  std::unique_ptr<Rank> rank_;
  uint64_t plans_ = 0;
};

TEST_F(RankTest, RefusesPlansThatItCannotExecute) {
  struct Case {
    const char* what;
    std::function<void(std::vector<PlanSequence>&)> spoil;
  };
  const Case cases[] = {
      {"outside the vocabulary", [](auto& s) { s[0].tokens[2] = -1; }},
      {"outside the vocabulary", [](auto& s) { s[1].tokens[0] = 1 << 20; }},
      {"sched.step_tokens", [](auto& s) { s[0] = Sequence(1, 0, 40); }},
      {"sched.max_running",
       [](auto& s) {
         s.clear();
         for (uint64_t i = 1; i <= 5; ++i) s.push_back(Sequence(i, 0, 2)), s.back().sample = true;
       }},
      {"twice", [](auto& s) { s[1].request = s[0].request; }},
      {"twice",
       [](auto& s) {
         s[1].request = s[0].request;
         s[1].attempt = 2;
       }},
      {"start", [](auto& s) { s[0].start = -8; }},
      {"no tokens", [](auto& s) { s[1].tokens.clear(); }},
      {"sample_index", [](auto& s) { s[0].sample_index = 9; }},
      {"sample_index", [](auto& s) { s[0].sample_index = -1; }},
      {"logprobs", [](auto& s) { s[0].sampling.logprobs = 21; }},
      {"end_tokens",
       [](auto& s) {
         s[0].sampling.end_tokens = {3, -1};
       }},
      {"logit_bias",
       [](auto& s) {
         s[0].sampling.logit_bias = {{1 << 20, 1}};
       }},
      {"bad_words",
       [](auto& s) {
         s[0].sampling.bad_words = {{3, 1 << 20}};
       }},
      {"bad_words", [](auto& s) { s[0].sampling.bad_words = {{}}; }},
      {"layers", [](auto& s) { s[0].residency.layers = 0; }},
      {"layers", [](auto& s) { s[0].residency.layers = kLayers + 1; }},
      {"layers", [](auto& s) { s[0].residency.keep = kLayers + 1; }},
      {"layers", [](auto& s) { s[0].residency.keep = -1; }},
  };
  for (const Case& c : cases) {
    std::vector<PlanSequence> sequences = {Sequence(1, 0, 9), Sequence(2, 0, 3)};
    sequences[0].sample = true;
    c.spoil(sequences);
    EXPECT_THAT(Execute(sequences).status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.what)));
  }
  EXPECT_OK(Execute({Sequence(1, 0, 9), Sequence(2, 0, 3)}).status);
  EXPECT_EQ(rank_->runner().window().sequences(), 2);
  EXPECT_OK(Execute({}, {RequestId{1}, RequestId{2}, RequestId{77}}).status);
  EXPECT_EQ(rank_->runner().window().sequences(), 0);
}

TEST_F(RankTest, AnUnknownTypeOfKvIsNamed) {
  Config config;
  config.model.path = file_.path();
  config.kv.dtype = "f8";
  EXPECT_THAT(Rank::Create(config, 1, clock_, faults_, nullptr, [](int64_t, int64_t) {}),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("kv.dtype"), HasSubstr("f16"))));
}

// Greedy tokens of one request on a rank of its own, `keep` layers of it on the device.
std::vector<int32_t> Stream(const std::string& model, const std::string& dtype, bool keep_all, int32_t chunk,
                            int64_t* slot_bytes) {
  RealClock clock;
  FaultPoints faults;
  Config config;
  config.model.path = model;
  config.engine.threads = 1;
  config.kv.block_tokens = 8;
  config.kv.dtype = dtype;
  config.kv.device_bytes.value = 4 << 20;
  config.kv.host_bytes.value = 16 << 20;
  auto rank = Rank::Create(config, 1, clock, faults, nullptr, [](int64_t, int64_t) {});
  EXPECT_OK(rank);
  if (!rank.ok()) return {};
  *slot_bytes = (*rank)->info().slot_bytes;
  const int32_t layers = (*rank)->spec().layers, vocab = (*rank)->spec().vocab;
  std::vector<int32_t> tokens(50), answer;
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 37 + 5) % vocab;
  uint64_t plans = 0;
  for (int32_t done = 0; answer.size() < 12;) {
    const int32_t count = std::min(chunk, static_cast<int32_t>(tokens.size()) - done);
    StepPlan plan{.epoch = Epoch{1}, .id = PlanId{++plans}};
    plan.sequences.push_back({.request = RequestId{1}, .attempt = 1, .generation = Generation{1}, .start = done});
    PlanSequence& s = plan.sequences[0];
    s.tokens.assign(tokens.begin() + done, tokens.begin() + done + count);
    s.residency = {layers, keep_all ? layers : 0};
    done += count;
    s.sample = done == static_cast<int32_t>(tokens.size());
    const StepResult result = (*rank)->runner().Execute(plan);
    EXPECT_OK(result.status);
    EXPECT_TRUE(result.lost.empty());
    if (!result.status.ok() || !result.lost.empty()) return answer;
    if (!s.sample) continue;
    answer.push_back(result.sampled.at(0).token);
    tokens.push_back(answer.back());
  }
  return answer;
}

class ArchsOnARankTest : public testing::TestWithParam<TinyCheckpoint> {};

TEST_P(ArchsOnARankTest, StreamsAreTheSameWhereverTheirKvIs) {
  int64_t f32_bytes = 0;
  for (const std::string dtype : {"f32", "f16", "bf16", "i8"}) {
    int64_t bytes = 0;
    const std::vector<int32_t> want = Stream(GetParam().Gguf(), dtype, /*keep_all=*/true, 50, &bytes);
    EXPECT_EQ(want.size(), 12u);
    EXPECT_EQ(Stream(GetParam().Gguf(), dtype, /*keep_all=*/false, 50, &bytes), want) << dtype;
    EXPECT_EQ(Stream(GetParam().Gguf(), dtype, /*keep_all=*/false, 13, &bytes), want) << dtype;
    if (dtype == "f32") f32_bytes = bytes;
    if (dtype == "f16" || dtype == "bf16") {
      EXPECT_EQ(2 * bytes, f32_bytes);
    } else if (dtype == "i8") {
      EXPECT_LT(2 * bytes, f32_bytes);
    }
  }
}

TEST_P(ArchsOnARankTest, AFolderServesAsAFile) {
  int64_t bytes = 0;
  EXPECT_EQ(Stream(GetParam().Hf(), "f32", true, 50, &bytes), Stream(GetParam().Gguf(), "f32", true, 50, &bytes));
}

INSTANTIATE_TEST_SUITE_P(All, ArchsOnARankTest, testing::ValuesIn(kTinyCheckpoints),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_F(RankTest, ResetForgetsEverything) {
  for (int round = 0; round < 20; ++round) {
    EXPECT_OK(Execute({Sequence(1, 0, 20), Sequence(2, 0, 10)}).status);
    EXPECT_OK(Execute({Sequence(1, 20, 7)}).status);
    rank_->runner().Reset();
    const StepResult report = rank_->runner().Report(Epoch{2});
    EXPECT_EQ(rank_->runner().window().sequences(), 0);
    EXPECT_EQ(report.arena_used, 0);
    ASSERT_EQ(report.tiers.size(), 1);
    EXPECT_EQ(report.tiers[0].blocks, 0);
  }
}

}  // namespace
}  // namespace interlace
