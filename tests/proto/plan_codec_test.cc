// Plans, results and ranks survive the wire; what no engine of ours writes is refused.
#include "proto/plan/plan_codec.h"

#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "proto/cluster.pb.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

// Uniform in [low, high].
int32_t Draw(Entropy& e, int32_t low, int32_t high) {
  return low + static_cast<int32_t>(e.Next() % (static_cast<uint64_t>(high) - low + 1));
}
int32_t Count(Entropy& e) { return Draw(e, 0, 1) == 0 ? Draw(e, 0, 5) : Draw(e, 0, 1 << 30); }
int64_t Amount(Entropy& e) { return static_cast<int64_t>(e.Next() >> Draw(e, 1, 63)); }
std::string Text(Entropy& e) {  // UTF-8, as `string` fields demand
  std::string text;
  for (int32_t n = Draw(e, 0, 12); n > 0; --n) text += Draw(e, 0, 3) == 0 ? std::string("é") : std::string(1, ' ' + n);
  return text;
}
std::string Raw(Entropy& e) {
  std::string bytes;
  for (int32_t n = Draw(e, 0, 12); n > 0; --n) bytes.push_back(static_cast<char>(e.Next()));
  return bytes;
}

LayerSet RandomLayers(Entropy& e) {
  LayerSet layers;
  for (int32_t n = Draw(e, 0, 9); n > 0; --n) layers.Add(LayerId{Draw(e, 0, LayerSet::kMaxLayers - 1)});
  return layers;
}

std::vector<BlockId> RandomIds(Entropy& e) {
  std::vector<BlockId> ids(Draw(e, 0, 5));
  for (BlockId& id : ids) id = {e.Next(), e.Next()};
  return ids;
}

// Present in every second message.
std::optional<LayerSet> SomeLayers(Entropy& e) {
  return Draw(e, 0, 1) == 0 ? std::nullopt : std::optional(RandomLayers(e));
}
std::optional<SealedNames> SomeNames(Entropy& e) {
  return Draw(e, 0, 1) == 0 ? std::nullopt : std::optional(SealedNames{Count(e), RandomIds(e)});
}

Sampling RandomSampling(Entropy& e) {
  const auto share = [&] { return static_cast<float>(Draw(e, 1, 100)) / 100; };
  Sampling s{static_cast<float>(Draw(e, 0, 100)) / 7, Count(e), share(), e.Next(), share(), share()};
  s.repetition_penalty = share();
  s.presence_penalty = 1 - 4 * share();
  s.frequency_penalty = 1 - 4 * share();
  s.logprobs = Draw(e, -1, kMostLogprobs);
  s.min_tokens = Count(e);
  for (int32_t n = Draw(e, 0, 3); n > 0; --n) s.end_tokens.push_back(static_cast<int32_t>(e.Next()));
  for (int32_t n = Draw(e, 0, 3); n > 0; --n) s.logit_bias.push_back({static_cast<int32_t>(e.Next()), share()});
  for (int32_t n = Draw(e, 0, 3); n > 0; --n) s.allowed_tokens.push_back(static_cast<int32_t>(e.Next()));
  if (Draw(e, 0, 1) == 1) {
    Constraint constraint{static_cast<ConstraintKind>(Draw(e, 0, static_cast<int32_t>(ConstraintKind::kStructure))),
                          Raw(e), Draw(e, 0, 1) == 1};
    for (int32_t n = Draw(e, 0, 3); n > 0; --n) constraint.end_tokens.push_back(static_cast<int32_t>(e.Next()));
    s.constraint = std::move(constraint);
  }
  for (int32_t n = Draw(e, 0, 3); n > 0; --n) s.bad_words.emplace_back(Draw(e, 1, 4), static_cast<int32_t>(e.Next()));
  return s;
}

StepPlan RandomPlan(Entropy& e) {
  StepPlan plan{.epoch = Epoch{e.Next()}, .id = PlanId{e.Next()}};
  for (int32_t n = Draw(e, 0, 4); n > 0; --n) {
    PlanSequence s{.request = RequestId{e.Next()}, .attempt = static_cast<uint32_t>(e.Next())};
    s.start = Count(e);
    for (int32_t t = Draw(e, 1, 9); t > 0; --t) s.tokens.push_back(static_cast<int32_t>(e.Next()));
    if (Draw(e, 0, 3) == 0) s.tokens[0] = kLastSample;
    s.drafts = Draw(e, 0, static_cast<int32_t>(s.tokens.size()) - 1);
    s.sample = Draw(e, 0, 1) == 1;
    s.sample_index = Count(e);
    if (Draw(e, 0, 1) == 1) {
      s.opening = Opening{RandomSampling(e), RandomIds(e), {}, Draw(e, 0, 1) == 0 ? "" : Text(e)};
      for (int32_t t = Draw(e, 0, 9); t > 0; --t) s.opening->prefix.push_back(static_cast<int32_t>(e.Next()));
    }
    s.kept = SomeLayers(e);
    s.names = SomeNames(e);
    s.pool = static_cast<Pooling>(Draw(e, 0, static_cast<int32_t>(Pooling::kGive)));
    if (Draw(e, 0, 1) == 1) {
      const auto rows = static_cast<int32_t>(s.tokens.size());
      ScoreAsk& ask = s.score.emplace();
      ask.first = Draw(e, 0, rows - 1);
      ask.top = Draw(e, 0, kMostLogprobs);
      for (int32_t t = Draw(e, 1, rows - ask.first); t > 0; --t) ask.targets.push_back(static_cast<int32_t>(e.Next()));
    }
    if (Draw(e, 0, 1) == 1) s.own_drafts = SkipPlan{RandomLayers(e), RandomLayers(e)};
    s.model_drafts = Draw(e, 0, 1) == 1;
    if (Draw(e, 0, 1) == 1) s.skip = SkipPlan{RandomLayers(e), RandomLayers(e)};
    if (Draw(e, 0, 1) == 1) s.key = KeyAsk{LayerId{Draw(e, 0, LayerSet::kMaxLayers - 1)}, Count(e), Draw(e, 0, 1) == 1};
    plan.sequences.push_back(std::move(s));
  }
  for (int32_t n = Draw(e, 0, 4); n > 0; --n) plan.releases.push_back({RequestId{e.Next()}, SomeNames(e)});
  for (int32_t n = Draw(e, 0, 4); n > 0; --n) {
    plan.changes.push_back({RequestId{e.Next()}, SomeLayers(e), SomeNames(e)});
  }
  for (int32_t n = Draw(e, 0, 6); n > 0; --n) {
    const auto kind = static_cast<MoveKind>(Draw(e, 0, static_cast<int32_t>(MoveKind::kFetchDevice)));
    plan.moves.push_back({{e.Next(), e.Next()}, kind, RandomLayers(e), Draw(e, -1'000'000, 1'000'000)});
  }
  for (int32_t n = Draw(e, 0, 3); n > 0; --n) plan.probes.push_back({RequestId{e.Next()}, RandomIds(e)});
  for (int32_t n = Draw(e, 0, 3); n > 0; --n) plan.row_cuts.push_back(static_cast<int32_t>(e.Next()));
  return plan;
}

StepResult RandomResult(Entropy& e) {
  StepResult result{.epoch = Epoch{e.Next()}, .plan = PlanId{e.Next()}, .stage = StageId{Count(e)}};
  const auto code = static_cast<absl::StatusCode>(Draw(e, 0, 16));
  result.status = absl::Status(code, code == absl::StatusCode::kOk ? "" : Text(e));
  for (int32_t n = Draw(e, 0, 4); n > 0; --n) {
    SampledToken s{RequestId{e.Next()}, static_cast<uint32_t>(e.Next()), Count(e), static_cast<int32_t>(e.Next()), {}};
    for (int32_t k = Draw(e, 0, 4); k > 0; --k) s.scores.push_back({Count(e), static_cast<float>(-Draw(e, 0, 99)) / 8});
    result.sampled.push_back(std::move(s));
  }
  for (int32_t n = Draw(e, 0, 3); n > 0; --n) {
    PromptScores s{RequestId{e.Next()}, static_cast<uint32_t>(e.Next()), 1 + Count(e), Draw(e, 0, 3), {}, {}};
    for (int32_t t = Draw(e, 1, 4); t > 0; --t) {
      s.ranks.push_back(Count(e));
      for (int32_t k = 0; k <= s.top; ++k)
        s.scores.push_back({Draw(e, -1, 99), static_cast<float>(-Draw(e, 0, 99)) / 8});
    }
    if (s.first <= 1 << 30) result.scored.push_back(std::move(s));
  }
  for (int32_t n = Draw(e, 0, 3); n > 0; --n) {
    const std::vector<float> mean(Draw(e, 1, 9), static_cast<float>(Draw(e, -99, 99)) / 8);
    result.pooled.push_back({RequestId{e.Next()}, static_cast<uint32_t>(e.Next()), mean});
  }
  for (int32_t n = Draw(e, 0, 3); n > 0; --n) {
    const std::vector<float> mean(Draw(e, 1, 9), static_cast<float>(Draw(e, -99, 99)) / 8);
    result.keys.push_back({RequestId{e.Next()}, static_cast<uint32_t>(e.Next()), mean});
  }
  for (int32_t n = Draw(e, 0, 3); n > 0; --n) {
    result.drafted.push_back(
        {RequestId{e.Next()}, static_cast<uint32_t>(e.Next()), Count(e), Count(e), Draw(e, 0, 1) == 1});
  }
  const auto layer = [&] { return LayerId{Draw(e, 0, LayerSet::kMaxLayers - 1)}; };
  for (int32_t n = Draw(e, 0, 4); n > 0; --n) {
    const auto cause = static_cast<LossCause>(Draw(e, 0, static_cast<int32_t>(LossCause::kRefused)));
    result.lost.push_back({RequestId{e.Next()}, static_cast<uint32_t>(e.Next()), layer(), Count(e), cause, Text(e)});
  }
  for (int32_t n = Draw(e, 0, 4); n > 0; --n) {
    result.traffic.push_back({RequestId{e.Next()}, layer(), Amount(e), Amount(e), Amount(e)});
  }
  for (int32_t n = Draw(e, 0, 3); n > 0; --n) result.probed.push_back({RequestId{e.Next()}, Count(e)});
  for (int32_t n = Draw(e, 0, 3); n > 0; --n) {
    result.fetched.push_back({{e.Next(), e.Next()}, RandomLayers(e), RandomLayers(e)});
  }
  for (int32_t n = Draw(e, 0, 3); n > 0; --n) result.tiers.push_back({Amount(e), Amount(e), Amount(e)});
  result.slots_used = Count(e);
  result.frames_used = Count(e);
  for (int64_t* amount : {&result.run_us, &result.stall_us, &result.gap_us, &result.transfer_in_us,
                          &result.transfer_out_us, &result.bytes_in, &result.bytes_out}) {
    *amount = Amount(e);
  }
  result.corrupt = Count(e);
  result.missing = Count(e);
  return result;
}

RankInfo RandomRank(Entropy& e) {
  RankInfo rank;
  rank.stages = Draw(e, 1, 9);
  rank.stage = StageId{Draw(e, 0, rank.stages - 1)};
  rank.incarnation = e.Next();
  rank.model_digest = Text(e);
  for (int32_t a = Draw(e, 0, 3); a > 0; --a) rank.adapters.push_back(Text(e));
  rank.numerics = Text(e);
  rank.dtype = Text(e);
  rank.layers = Draw(e, 1, 200);
  rank.layer_begin = Draw(e, 0, rank.layers - 1);
  rank.layer_end = Draw(e, rank.layer_begin + 1, rank.layers);
  for (int32_t l = 0; l < rank.layers; ++l) rank.windows.push_back(Count(e));
  rank.vocab = Count(e);
  rank.kv_heads = Draw(e, 1, 32767);
  rank.head_dim = Count(e);
  rank.heads.begin = static_cast<int16_t>(Draw(e, 0, rank.kv_heads - 1));
  rank.heads.end = static_cast<int16_t>(Draw(e, rank.heads.begin + 1, rank.kv_heads));
  rank.block_tokens = Draw(e, 1, 256);
  rank.device_slots = Count(e);
  rank.host_frames = Count(e);
  rank.slot_bytes = Draw(e, 1, 1 << 30);
  rank.step_tokens = Count(e);
  rank.threads = Count(e);
  rank.draft_model = Draw(e, 0, 1) == 0 ? "" : Text(e);
  rank.draft_share = Draw(e, 0, 99) / 8.0;
  rank.transport_address = Raw(e);
  for (int32_t n = Draw(e, 0, 3); n > 0; --n) rank.tiers.push_back(Text(e));
  return rank;
}

// Through bytes, as on the wire.
template <typename Message>
Message Carried(const Message& message) {
  Message out;
  EXPECT_TRUE(out.ParseFromString(message.SerializeAsString()));
  return out;
}

TEST(PlanCodecTest, WhatIsWrittenIsRead) {
  const auto entropy = MakeSeededEntropy(11);
  for (int round = 0; round < 2000; ++round) {
    const StepPlan plan = RandomPlan(*entropy);
    v1::StepPlanMessage plan_message;
    EncodePlan(plan, &plan_message);
    const auto plan_read = DecodePlan(Carried(plan_message));
    ASSERT_OK(plan_read);
    ASSERT_TRUE(*plan_read == plan) << plan.ToString() << "\n" << plan_read->ToString();

    const StepResult result = RandomResult(*entropy);
    v1::StepResultMessage result_message;
    EncodeResult(result, &result_message);
    const auto result_read = DecodeResult(Carried(result_message));
    ASSERT_OK(result_read);
    ASSERT_TRUE(*result_read == result) << result.ToString() << "\n" << result_read->ToString();

    const RankInfo rank = RandomRank(*entropy);
    v1::Register rank_message;
    EncodeRank(rank, &rank_message);
    const auto rank_read = DecodeRank(Carried(rank_message));
    ASSERT_OK(rank_read);
    ASSERT_TRUE(*rank_read == rank);
  }
}

// Each row spoils one field of a good message; the refusal names it.
template <typename Message>
using Rows = std::vector<std::pair<const char*, std::function<void(Message&)>>>;

template <typename Message, typename Decode>
void ExpectRefusals(const Message& good, const Rows<Message>& rows, Decode decode) {
  ASSERT_OK(decode(good));
  for (const auto& [field, spoil] : rows) {
    Message bad = good;
    spoil(bad);
    EXPECT_THAT(decode(bad), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(field))) << field;
  }
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
v1::PlanSequenceMessage* SequenceIn(v1::StepPlanMessage& m) { return m.mutable_sequences(0); }
v1::Sampling* SamplingIn(v1::StepPlanMessage& m) { return SequenceIn(m)->mutable_opening()->mutable_sampling(); }
const std::string kTooManyLayers(LayerSet::kMaxLayers / 8 + 1, '\1');

TEST(PlanCodecTest, PlansThatNoSchedulerWritesAreRefused) {
  StepPlan plan;
  plan.sequences.push_back({.request = RequestId{1}, .tokens = {1}});
  plan.sequences[0].opening.emplace();
  plan.sequences[0].opening->sampling.logit_bias = {{3, 1}};
  plan.sequences[0].opening->sampling.bad_words = {{4}};
  plan.sequences[0].names = SealedNames{0, {{1, 2}}};
  plan.sequences[0].key = KeyAsk{LayerId{1}, 0, true};
  plan.changes.push_back({RequestId{2}, LayerSet::Range(0, 2), SealedNames{0, {{1, 2}}}});
  plan.releases.push_back({RequestId{3}, SealedNames{0, {{1, 2}}}});
  plan.moves.push_back({{1, 2}, MoveKind::kCopyOut, LayerSet::Range(0, 2)});
  v1::StepPlanMessage good;
  EncodePlan(plan, &good);
  using M = v1::StepPlanMessage;
  ExpectRefusals<M>(good,
                    {{"start", [](M& m) { m.mutable_sequences(0)->set_start(-1); }},
                     {"start", [](M& m) { m.mutable_sequences(0)->set_start(std::numeric_limits<int32_t>::max()); }},
                     {"tokens", [](M& m) { m.mutable_sequences(0)->clear_tokens(); }},
                     {"sample_index", [](M& m) { m.mutable_sequences(0)->set_sample_index(-1); }},
                     {"temperature", [](M& m) { SamplingIn(m)->set_temperature(-1); }},
                     {"temperature", [](M& m) { SamplingIn(m)->set_temperature(kNan); }},
                     {"top_k", [](M& m) { SamplingIn(m)->set_top_k(-1); }},
                     {"top_p", [](M& m) { SamplingIn(m)->set_top_p(0); }},
                     {"min_p", [](M& m) { SamplingIn(m)->set_min_p(1.5f); }},
                     {"typical_p", [](M& m) { SamplingIn(m)->set_typical_p(kNan); }},
                     {"repetition_penalty", [](M& m) { SamplingIn(m)->set_repetition_penalty(0); }},
                     {"presence_penalty", [](M& m) { SamplingIn(m)->set_presence_penalty(kNan); }},
                     {"frequency_penalty", [](M& m) { SamplingIn(m)->set_frequency_penalty(kNan); }},
                     {"logprobs", [](M& m) { SamplingIn(m)->set_logprobs(21); }},
                     {"logprobs", [](M& m) { SamplingIn(m)->set_logprobs(-2); }},
                     {"min_tokens", [](M& m) { SamplingIn(m)->set_min_tokens(-1); }},
                     {"logit_bias", [](M& m) { SamplingIn(m)->mutable_logit_bias(0)->set_bias(kNan); }},
                     {"bad_words", [](M& m) { SamplingIn(m)->mutable_bad_words(0)->clear_tokens(); }},
                     {"drafts", [](M& m) { SequenceIn(m)->set_drafts(1); }},
                     {"drafts", [](M& m) { SequenceIn(m)->set_drafts(-1); }},
                     {"names.first", [](M& m) { SequenceIn(m)->mutable_names()->set_first(-1); }},
                     {"names.first", [](M& m) { m.mutable_changes(0)->mutable_names()->set_first(-1); }},
                     {"names.first", [](M& m) { m.mutable_releases(0)->mutable_names()->set_first(-1); }},
                     {"layer set", [](M& m) { SequenceIn(m)->set_kept(kTooManyLayers); }},
                     {"layer set", [](M& m) { SequenceIn(m)->mutable_own_drafts()->set_attention(kTooManyLayers); }},
                     {"layer set", [](M& m) { SequenceIn(m)->mutable_skip()->set_feed_forward(kTooManyLayers); }},
                     {"key.layer", [](M& m) { SequenceIn(m)->mutable_key()->set_layer(-1); }},
                     {"key.layer", [](M& m) { SequenceIn(m)->mutable_key()->set_layer(LayerSet::kMaxLayers); }},
                     {"key.first", [](M& m) { SequenceIn(m)->mutable_key()->set_first(-1); }},
                     {"key.first", [](M& m) { SequenceIn(m)->mutable_key()->set_first((1 << 30) + 1); }},
                     {"layer set", [](M& m) { m.mutable_changes(0)->set_kept(kTooManyLayers); }},
                     {"layer set", [](M& m) { m.mutable_moves(0)->set_layers(kTooManyLayers); }},
                     {"moves.kind", [](M& m) { m.mutable_moves(0)->set_kind(6); }}},
                    DecodePlan);
}

TEST(PlanCodecTest, ResultsThatNoRankWritesAreRefused) {
  StepResult result;
  result.lost.push_back({.request = RequestId{1}});
  result.traffic.push_back({.request = RequestId{1}});
  result.probed.push_back({});
  result.fetched.push_back({});
  result.sampled.push_back({});
  result.tiers.push_back({});
  result.keys.push_back({RequestId{1}, 1, {0.5f}});
  result.drafted.push_back({});
  v1::StepResultMessage good;
  EncodeResult(result, &good);
  using M = v1::StepResultMessage;
  ExpectRefusals<M>(good,
                    {{"result", [](M& m) { m.set_stage(0xffffffffu); }},
                     {"result", [](M& m) { m.set_corrupt(0xffffffffu); }},
                     {"result", [](M& m) { m.set_stall_us(-1); }},
                     {"result", [](M& m) { m.set_gap_us(-1); }},
                     {"result", [](M& m) { m.set_draft_us(-1); }},
                     {"result", [](M& m) { m.set_exchange_us(-1); }},
                     {"result", [](M& m) { m.set_bytes_in(~uint64_t{0}); }},
                     {"drafted.drafts", [](M& m) { m.mutable_drafted(0)->set_drafts(-1); }},
                     {"drafted.seen", [](M& m) { m.mutable_drafted(0)->set_seen(-1); }},
                     {"lost.block", [](M& m) { m.mutable_lost(0)->set_block(-1); }},
                     {"lost.cause", [](M& m) { m.mutable_lost(0)->set_cause(9); }},
                     {"lost.layer", [](M& m) { m.mutable_lost(0)->set_layer(LayerSet::kMaxLayers); }},
                     {"traffic.layer", [](M& m) { m.mutable_traffic(0)->set_layer(-1); }},
                     {"traffic", [](M& m) { m.mutable_traffic(0)->set_bytes_out(~uint64_t{0}); }},
                     {"probed.blocks", [](M& m) { m.mutable_probed(0)->set_blocks(-1); }},
                     {"layer set", [](M& m) { m.mutable_fetched(0)->set_arrived(kTooManyLayers); }},
                     {"layer set", [](M& m) { m.mutable_fetched(0)->set_failed(kTooManyLayers); }},
                     {"result", [](M& m) { m.set_frames_used(-1); }},
                     {"sampled.scores",
                      [](M& m) {
                        for (int32_t k = 0; k < kMostLogprobs + 2; ++k) m.mutable_sampled(0)->add_scores();
                      }},
                     {"keys.mean", [](M& m) { m.mutable_keys(0)->clear_mean(); }},
                     {"keys.mean", [](M& m) { m.mutable_keys(0)->mutable_mean()->Resize((1 << 20) + 1, 0); }},
                     {"tiers.blocks", [](M& m) { m.mutable_tiers(0)->set_blocks(-1); }},
                     {"tiers.bytes", [](M& m) { m.mutable_tiers(0)->set_bytes(-1); }}},
                    DecodeResult);
  v1::StepResultMessage strange = good;
  strange.set_status_code(99);
  ASSERT_OK(DecodeResult(strange));
  EXPECT_FALSE(DecodeResult(strange)->status.ok()) << "an unknown code is no success";
}

TEST(PlanCodecTest, RanksThatCannotBeAreRefused) {
  RankInfo rank{.stage = StageId{1}, .stages = 2, .layers = 4, .layer_begin = 2, .layer_end = 4};
  rank.windows = {0, 8, 0, 8};
  rank.kv_heads = 4;
  rank.heads = {1, 3};
  rank.block_tokens = 16;
  rank.slot_bytes = 1024;
  v1::Register good;
  EncodeRank(rank, &good);
  using M = v1::Register;
  ExpectRefusals<M>(good,
                    {{"register.stage", [](M& m) { m.set_stage(2); }},
                     {"register.stage", [](M& m) { m.set_stages(0); }},
                     {"register.layer_end", [](M& m) { m.set_layer_end(5); }},
                     {"register.layer_end", [](M& m) { m.set_layer_begin(4); }},
                     {"register.block_tokens", [](M& m) { m.set_block_tokens(0); }},
                     {"register.slot_bytes", [](M& m) { m.set_slot_bytes(0); }},
                     {"register.slot_bytes", [](M& m) { m.set_slot_bytes(~uint64_t{255}); }},
                     {"register.windows", [](M& m) { m.add_windows(0); }},
                     {"register.windows", [](M& m) { m.set_windows(0, 0xffffffffu); }},
                     {"register.layers", [](M& m) { m.set_layers(LayerSet::kMaxLayers + 1); }},
                     {"register.kv_heads", [](M& m) { m.set_kv_heads(32768); }},
                     {"register.head_end", [](M& m) { m.set_head_end(5); }},
                     {"register.head_end", [](M& m) { m.set_head_begin(3); }},
                     {"register.head_dim", [](M& m) { m.set_head_dim(0xffffffffu); }},
                     {"register", [](M& m) { m.set_device_slots(0xffffffffu); }},
                     {"register", [](M& m) { m.set_host_frames(0xffffffffu); }}},
                    DecodeRank);
}

// Bytes that are no message at all, or one of random fields, never crash a decoder.
TEST(PlanCodecTest, AnyBytesAreTakenOrRefused) {
  google::protobuf::SetLogHandler(nullptr);  // it reports each text that is no UTF-8
  const auto entropy = MakeSeededEntropy(12);
  int taken = 0;
  for (int round = 0; round < 3000; ++round) {
    v1::StepResultMessage result;
    EncodeResult(RandomResult(*entropy), &result);
    std::string bytes = result.SerializeAsString();
    for (int32_t flips = Draw(*entropy, 1, 3); flips > 0 && !bytes.empty(); --flips) {
      bytes[entropy->Next() % bytes.size()] ^= static_cast<char>(1 << Draw(*entropy, 0, 7));
    }
    v1::StepPlanMessage plan;
    v1::Register rank;
    if (result.ParseFromString(bytes)) taken += DecodeResult(result).ok() ? 1 : 0;
    if (plan.ParseFromString(bytes)) taken += DecodePlan(plan).ok() ? 1 : 0;
    if (rank.ParseFromString(bytes)) taken += DecodeRank(rank).ok() ? 1 : 0;
  }
  EXPECT_GT(taken, 0);
}

}  // namespace
}  // namespace interlace
