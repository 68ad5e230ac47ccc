// A rank refuses what it cannot execute, sequence by sequence, forgets what it is told to, and says what it is.
#include "worker/rank.h"

#include <functional>

#include "tests/model/tiny_checkpoints.h"
#include "tests/worker/plan_maker.h"
#include "tests/worker/tiny_file.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int32_t kLayers = 3, kBlockTokens = 8;

Config TinyConfig(const std::string& path) {
  Config config = OneThreadConfig(path, kBlockTokens);
  config.kv.device_bytes.value = 1 << 20;
  config.kv.host_bytes.value = 1 << 20;
  config.kv.tiers = "";
  config.sched.step_tokens = 32;
  config.sched.max_running = 4;
  return config;
}

class RankTest : public testing::Test {
 protected:
  RankTest() {
    auto rank = Rank::Create(TinyConfig(file_.path()), 9, clock_, faults_, nullptr, [](int64_t, int64_t) {});
    EXPECT_OK(rank);
    rank_ = *std::move(rank);
  }
  static PlanSequence Sequence(uint64_t request, int32_t start, int32_t tokens) {
    PlanSequence s{.request = RequestId{request}, .attempt = 1, .start = start};
    for (int32_t i = 0; i < tokens; ++i) s.tokens.push_back((start + i) % 200 + 3);
    if (start == 0) {
      s.opening = Opening{};
      s.kept = LayerSet::Interleaved(1, kLayers);
    }
    return s;
  }
  StepResult Execute(std::vector<PlanSequence> sequences, std::vector<uint64_t> releases = {}) {
    StepPlan plan{.epoch = Epoch{1}, .id = PlanId{++plans_}};
    plan.sequences = std::move(sequences);
    for (uint64_t request : releases) plan.releases.push_back({RequestId{request}, {}});
    return rank_->runner().Execute(plan);
  }
  size_t sequences() const { return rank_->runner().pager().sequences(); }

  const TinyFile file_{{.layers = kLayers}};
  RealClock clock_;
  FaultPoints faults_;
  std::unique_ptr<Rank> rank_;
  uint64_t plans_ = 0;
};

TEST_F(RankTest, SaysWhatItIs) {
  const RankInfo& info = rank_->info();
  EXPECT_EQ(info.incarnation, 9u);
  EXPECT_EQ(info.numerics, absl::StrCat("cpu/", rank_->backend().ops().name));
  EXPECT_EQ(info.dtype, "F32");
  EXPECT_EQ(info.layers, kLayers);
  EXPECT_EQ(info.windows, std::vector<int32_t>(kLayers));
  EXPECT_EQ(info.vocab, rank_->spec().vocab);
  EXPECT_EQ(info.kv_heads, rank_->spec().kv_heads);
  EXPECT_EQ(info.head_dim, rank_->spec().head_dim);
  EXPECT_EQ(info.heads, (HeadRange{0, static_cast<int16_t>(rank_->spec().kv_heads)}));
  EXPECT_EQ(info.slot_bytes, 2 * 4 * kBlockTokens * info.kv_heads * info.head_dim);
  EXPECT_EQ(info.device_slots, (1 << 20) / info.slot_bytes);
  EXPECT_EQ(info.host_frames, (1 << 20) / FrameStride(info.slot_bytes));
  EXPECT_EQ(info.step_tokens, 32);
  EXPECT_TRUE(info.tiers.empty());
}

TEST_F(RankTest, RefusesBrokenPlansAsAWhole) {
  struct Case {
    const char* what;
    std::function<void(std::vector<PlanSequence>&)> spoil;
  };
  const Case cases[] = {
      {"sched.step_tokens", [](auto& s) { s[0] = Sequence(1, 0, 40); }},
      {"sched.max_running",
       [](auto& s) {
         s.clear();
         for (uint64_t i = 1; i <= 5; ++i) s.push_back(Sequence(i, 0, 2)), s.back().sample = true;
       }},
      {"sched.max_running",
       [](auto& s) {
         s[0].sample = s[1].sample = true;
         s[0].drafts = 3;
         s[1].drafts = -3;
       }},
      {"twice", [](auto& s) { s[1].request = s[0].request; }},
      {"without tokens", [](auto& s) { s[1].tokens.clear(); }},
      {"names blocks",
       [](auto& s) {
         s[1].names = SealedNames{-1, {BlockId{1, 1}}};
       }},
      {"names blocks",
       [](auto& s) {
         s[1].names = SealedNames{1 << 30, {BlockId{1, 1}}};
       }},
  };
  for (const Case& c : cases) {
    std::vector<PlanSequence> sequences = {Sequence(1, 0, 9), Sequence(2, 0, 3)};
    c.spoil(sequences);
    EXPECT_THAT(Execute(sequences).status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.what)));
  }
  EXPECT_EQ(sequences(), 0u);
}

// What is wrong with one sequence costs that sequence alone, and its later plans are lost without a word.
TEST_F(RankTest, RefusesOneSequenceAndGoesOnWithTheOthers) {
  struct Case {
    const char* field;
    std::function<void(PlanSequence&)> spoil;
  };
  const Case cases[] = {
      {"tokens", [](auto& s) { s.tokens[2] = -1; }},
      {"tokens", [](auto& s) { s.tokens[0] = 1 << 20; }},
      {"tokens", [](auto& s) { s.tokens[0] = kLastSample; }},
      {"start", [](auto& s) { s.start = -8; }},
      {"start", [](auto& s) { s.start = 8; }},
      {"drafts",
       [](auto& s) {
         s.tokens.resize(2);
         s.drafts = 2;
       }},
      {"drafts", [](auto& s) { s.drafts = -1; }},
      {"tokens", [](auto& s) { s.tokens[1] = kOwnDraft; }},
      {"own_drafts", [](auto& s) { s.own_drafts = SkipPlan(); }},
      {"own_drafts",
       [](auto& s) {
         s.tokens = {1, kOwnDraft, 5};
         s.drafts = 2;
         s.sample = true;
         s.own_drafts = SkipPlan();
       }},
      {"model_drafts: the rank has no draft model; give it engine.draft_model",
       [](auto& s) {
         s.tokens = {1, kOwnDraft};
         s.drafts = 1;
         s.sample = true;
         s.model_drafts = true;
       }},
      {"model_drafts: goes with no own_drafts",
       [](auto& s) {
         s.model_drafts = true;
         s.own_drafts = SkipPlan();
       }},
      {"key",
       [](auto& s) {
         s.key = KeyAsk{LayerId{999}, 0, true};
       }},
      {"key",
       [](auto& s) {
         s.key = KeyAsk{LayerId{-1}, 0, true};
       }},
      {"key",
       [](auto& s) {
         s.key = KeyAsk{LayerId{0}, -1, true};
       }},
      {"key.first",
       [](auto& s) {
         s.key = KeyAsk{LayerId{0}, 9, true};
       }},
      {"key: of tokens that are guesses",
       [](auto& s) {
         s.drafts = 2;
         s.key = KeyAsk{LayerId{0}, 0, true};
       }},
      {"sample_index", [](auto& s) { s.sample_index = 9; }},
      {"sample_index", [](auto& s) { s.sample_index = -1; }},
      {"score.first",
       [](auto& s) {
         s.score = ScoreAsk{9, 0, {5}};
       }},
      {"score.first",
       [](auto& s) {
         s.score = ScoreAsk{-1, 0, {5}};
       }},
      {"score.targets",
       [](auto& s) {
         s.score = ScoreAsk{7, 0, {5, 5, 5}};
       }},
      {"score.targets",
       [](auto& s) {
         s.score = ScoreAsk{0, 0, {}};
       }},
      {"score.targets",
       [](auto& s) {
         s.score = ScoreAsk{0, 0, {1 << 20}};
       }},
      {"score.targets",
       [](auto& s) {
         s.score = ScoreAsk{0, 0, {-1}};
       }},
      {"score.top",
       [](auto& s) {
         s.score = ScoreAsk{0, kMostLogprobs + 1, {5}};
       }},
      {"score.top",
       [](auto& s) {
         s.score = ScoreAsk{0, -1, {5}};
       }},
      {"opening", [](auto& s) { s.opening.reset(); }},
      {"opening.prefix",
       [](auto& s) {
         s.opening->adopted = {BlockId{1, 2}};
       }},
      {"opening.prefix", [](auto& s) { s.opening->prefix = {1 << 20}; }},
      {"opening.adapter", [](auto& s) { s.opening->adapter = "0123456789abcdef0123456789abcdef"; }},
      {"sampling.logprobs", [](auto& s) { s.opening->sampling.logprobs = 21; }},
      {"sampling.end_tokens",
       [](auto& s) {
         s.opening->sampling.end_tokens = {3, -1};
       }},
      {"sampling.logit_bias",
       [](auto& s) {
         s.opening->sampling.logit_bias = {{1 << 20, 1}};
       }},
      {"sampling.bad_words",
       [](auto& s) {
         s.opening->sampling.bad_words = {{3, 1 << 20}};
       }},
      {"sampling.bad_words", [](auto& s) { s.opening->sampling.bad_words = {{}}; }},
  };
  PlanSequence good = Sequence(2, 0, 3);
  good.sample = true;
  const std::vector<SampledToken> want = Execute({good}).sampled;
  ASSERT_EQ(want.size(), 1u);
  Execute({}, {2});
  for (const Case& c : cases) {
    SCOPED_TRACE(c.field);
    PlanSequence bad = Sequence(1, 0, 9);
    bad.sample = true;
    c.spoil(bad);
    const StepResult result = Execute({bad, good});
    EXPECT_OK(result.status);
    EXPECT_EQ(result.sampled, want);
    ASSERT_EQ(result.lost.size(), 1u);
    EXPECT_EQ(result.lost[0].request, RequestId{1});
    EXPECT_EQ(result.lost[0].attempt, 1u);
    EXPECT_EQ(result.lost[0].cause, LossCause::kRefused);
    EXPECT_THAT(result.lost[0].detail, testing::StartsWith(c.field));
    PlanSequence later = Sequence(1, 9, 1);
    later.sample = true;
    const StepResult after = Execute({later});
    EXPECT_OK(after.status);
    EXPECT_TRUE(after.lost.empty() && after.sampled.empty());
    Execute({}, {1, 2});
    EXPECT_EQ(sequences(), 0u);
    EXPECT_EQ(rank_->arena().used(), 0);
  }
}

// Nobody has the hidden states of positions that were computed without a word.
TEST_F(RankTest, AKeyThatMissesAPositionIsRefused) {
  const auto keyed = [](PlanSequence s, KeyAsk ask) {
    s.key = ask;
    return s;
  };
  const KeyAsk begun{LayerId{1}, 3, false}, given{LayerId{1}, 3, true}, other{LayerId{0}, 3, true};
  const std::vector<std::pair<std::vector<PlanSequence>, bool>> cases = {
      {{keyed(Sequence(1, 0, 5), begun), keyed(Sequence(1, 5, 4), given)}, true},
      {{Sequence(1, 0, 2), keyed(Sequence(1, 2, 7), given)}, true},
      {{Sequence(1, 0, 5), keyed(Sequence(1, 5, 4), given)}, false},
      {{keyed(Sequence(1, 0, 5), begun), Sequence(1, 5, 1), keyed(Sequence(1, 6, 3), given)}, false},
      {{keyed(Sequence(1, 0, 5), begun), keyed(Sequence(1, 5, 4), other)}, false},
  };
  std::vector<float> key;
  for (size_t c = 0; c < cases.size(); ++c) {
    const auto& [plans, good] = cases[c];
    StepResult last;
    for (const PlanSequence& s : plans) last = Execute({s});
    EXPECT_EQ(last.keys.size(), good ? 1u : 0u) << c;
    EXPECT_EQ(last.lost.empty(), good) << c;
    Execute({}, {1});
    if (!good) {
      EXPECT_THAT(last.lost.at(0).detail, testing::StartsWith("key: positions 3 to")) << c;
      continue;
    }
    EXPECT_TRUE(key.empty() || last.keys.at(0).mean == key) << "how the prompt is cut changes nothing";
    key = last.keys.at(0).mean;
  }
}

TEST_F(RankTest, ANewAttemptTakesThePlaceOfTheOldOne) {
  PlanSequence lost = Sequence(1, 0, 9);
  lost.tokens[3] = -7;
  EXPECT_EQ(Execute({lost}).lost.size(), 1u);
  PlanSequence again = Sequence(1, 0, 9);
  again.attempt = 2;
  EXPECT_TRUE(Execute({again}).lost.empty());
  const StepResult late = Execute({Sequence(1, 9, 2)});  // of attempt 1
  EXPECT_TRUE(late.lost.empty());
  PlanSequence on = Sequence(1, 9, 2);
  on.attempt = 2;
  on.sample = true;
  EXPECT_EQ(Execute({on}).sampled.size(), 1u);
  Execute({}, {1, 77});
  EXPECT_EQ(sequences(), 0u);
}

// A block that nobody has is a loss that names it, before anything is computed.
TEST_F(RankTest, AnAdoptedBlockThatIsNotHereIsNamed) {
  PlanSequence s = Sequence(1, 0, 3);
  s.start = 2 * kBlockTokens;
  s.opening->adopted = {BlockId{1, 1}, BlockId{1, 2}};
  s.opening->prefix.assign(2 * kBlockTokens, 5);
  const StepResult result = Execute({s});
  ASSERT_EQ(result.lost.size(), 1u);
  EXPECT_EQ(result.lost[0].cause, LossCause::kMissing);
  EXPECT_EQ(result.lost[0].block, 0);
  Execute({}, {1});
  EXPECT_EQ(rank_->pool().blocks(), 0u);
}

TEST_F(RankTest, TooFewSlotsLoseTheSequenceAndNothingElse) {
  Config config = TinyConfig(file_.path());
  config.kv.device_bytes.value = 5 * rank_->info().slot_bytes;  // 3 are enough for the first, 9 for the second
  auto small = Rank::Create(config, 1, clock_, faults_, nullptr, [](int64_t, int64_t) {});
  ASSERT_OK(small);
  StepPlan plan{.epoch = Epoch{1}, .id = PlanId{1}};
  plan.sequences = {Sequence(1, 0, 3), Sequence(2, 0, 20)};
  plan.sequences[0].sample = plan.sequences[1].sample = true;
  const StepResult result = (*small)->runner().Execute(plan);
  EXPECT_OK(result.status);
  ASSERT_EQ(result.lost.size(), 1u);
  EXPECT_EQ(result.lost[0].request, RequestId{2});
  EXPECT_EQ(result.lost[0].cause, LossCause::kNoSlot);
  EXPECT_THAT(result.lost[0].detail, HasSubstr("kv.device_bytes"));
  ASSERT_EQ(result.sampled.size(), 1u);
  EXPECT_EQ(result.sampled[0].request, RequestId{1});
}

TEST_F(RankTest, SettingsThatCannotBeAreNamed) {
  const auto create = [&](const Config& config) {
    return Rank::Create(config, 1, clock_, faults_, nullptr, [](int64_t, int64_t) {}).status();
  };
  Config config = TinyConfig(file_.path());
  config.kv.dtype = "f8";
  EXPECT_THAT(create(config),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("kv.dtype"), HasSubstr("f16"))));
  config = TinyConfig(file_.path());
  config.kv.tiers = "host,rocksdb";
  EXPECT_THAT(create(config),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("kv.tiers"), HasSubstr("kv.host_bytes"))));
  config.kv.tiers = "tape";
  EXPECT_THAT(create(config), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv.tiers")));
}

TEST_F(RankTest, ResetForgetsEverything) {
  for (int round = 0; round < 20; ++round) {
    PlanSequence first = Sequence(1, 0, 20);
    first.names = SealedNames{0, {BlockId{1, 1}, BlockId{1, 2}}};
    EXPECT_OK(Execute({first, Sequence(2, 0, 10)}).status);
    EXPECT_OK(Execute({Sequence(1, 20, 7)}).status);
    rank_->runner().Reset();
    const StepResult report = rank_->runner().Report(Epoch{2});
    EXPECT_EQ(report.plan, PlanId{0});
    EXPECT_EQ(sequences(), 0u);
    EXPECT_EQ(report.slots_used, 0);
    EXPECT_EQ(report.frames_used, 0);
  }
}

// Greedy tokens of one request on a rank of its own.
std::vector<int32_t> Stream(const std::string& model, const std::string& dtype, bool keep_all, int32_t chunk,
                            int64_t* slot_bytes) {
  RealClock clock;
  FaultPoints faults;
  Config config = TinyConfig(model);
  config.kv.dtype = dtype;
  config.kv.device_bytes.value = 4 << 20;
  config.kv.host_bytes.value = 16 << 20;
  config.sched.step_tokens = 64;
  auto rank = Rank::Create(config, 1, clock, faults, nullptr, [](int64_t, int64_t) {});
  EXPECT_OK(rank);
  if (!rank.ok()) return {};
  *slot_bytes = (*rank)->info().slot_bytes;
  MakerRequest request;
  for (int32_t i = 0; i < 50; ++i) request.prompt.push_back((i * 37 + 5) % (*rank)->spec().vocab);
  PlanMaker maker((*rank)->runner(), (*rank)->info());
  MakerOptions options{.chunk = chunk};
  if (!keep_all) options.kept = LayerSet();
  options.after_plan = [&] { (*rank)->pool().Drain(); };
  std::vector<int32_t> stream = maker.Run({request}, 12, options)[0];
  EXPECT_EQ(maker.bytes_in() > 0, !keep_all);
  return stream;
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

}  // namespace
}  // namespace interlace
