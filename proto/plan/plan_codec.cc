#include "proto/plan/plan_codec.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "proto/cluster.pb.h"

namespace interlace {
namespace {

constexpr int32_t kMost = 1 << 30;  // positions, counts, ids of stages and layers

absl::Status Refuse(absl::string_view what, int64_t value) {
  return absl::InvalidArgumentError(absl::StrCat("cluster message: ", what, "=", value, " is out of range"));
}

absl::Status RefuseReal(absl::string_view what, float value) {
  return absl::InvalidArgumentError(absl::StrCat("cluster message: sampling.", what, "=", value, " is out of range"));
}

void EncodeSampling(const Sampling& sampling, v1::Sampling* out) {
  out->set_temperature(sampling.temperature);
  out->set_top_k(sampling.top_k);
  out->set_top_p(sampling.top_p);
  out->set_seed(sampling.seed);
  out->set_min_p(sampling.min_p);
  out->set_typical_p(sampling.typical_p);
  out->set_repetition_penalty(sampling.repetition_penalty);
  out->set_presence_penalty(sampling.presence_penalty);
  out->set_frequency_penalty(sampling.frequency_penalty);
  out->set_logprobs(sampling.logprobs);
  out->set_min_tokens(sampling.min_tokens);
  out->mutable_end_tokens()->Assign(sampling.end_tokens.begin(), sampling.end_tokens.end());
  for (const LogitBias& b : sampling.logit_bias) {
    v1::LogitBias* m = out->add_logit_bias();
    m->set_token(b.token);
    m->set_bias(b.bias);
  }
  for (const std::vector<int32_t>& word : sampling.bad_words) {
    out->add_bad_words()->mutable_tokens()->Assign(word.begin(), word.end());
  }
}

// Ids are checked by the rank, which knows the vocabulary.
absl::StatusOr<Sampling> DecodeSampling(const v1::Sampling& m) {
  if (!(m.temperature() >= 0 && std::isfinite(m.temperature()))) return RefuseReal("temperature", m.temperature());
  if (m.top_k() < 0) return Refuse("sampling.top_k", m.top_k());
  if (!(m.top_p() > 0 && m.top_p() <= 1)) return RefuseReal("top_p", m.top_p());
  if (!(m.min_p() >= 0 && m.min_p() <= 1)) return RefuseReal("min_p", m.min_p());
  if (!(m.typical_p() > 0 && m.typical_p() <= 1)) return RefuseReal("typical_p", m.typical_p());
  if (!(m.repetition_penalty() > 0 && std::isfinite(m.repetition_penalty()))) {
    return RefuseReal("repetition_penalty", m.repetition_penalty());
  }
  if (!std::isfinite(m.presence_penalty())) return RefuseReal("presence_penalty", m.presence_penalty());
  if (!std::isfinite(m.frequency_penalty())) return RefuseReal("frequency_penalty", m.frequency_penalty());
  if (m.logprobs() < -1 || m.logprobs() > kMostLogprobs) return Refuse("sampling.logprobs", m.logprobs());
  if (m.min_tokens() < 0) return Refuse("sampling.min_tokens", m.min_tokens());
  Sampling sampling;
  sampling.temperature = m.temperature();
  sampling.top_k = m.top_k();
  sampling.top_p = m.top_p();
  sampling.seed = m.seed();
  sampling.min_p = m.min_p();
  sampling.typical_p = m.typical_p();
  sampling.repetition_penalty = m.repetition_penalty();
  sampling.presence_penalty = m.presence_penalty();
  sampling.frequency_penalty = m.frequency_penalty();
  sampling.logprobs = m.logprobs();
  sampling.min_tokens = m.min_tokens();
  sampling.end_tokens.assign(m.end_tokens().begin(), m.end_tokens().end());
  for (const v1::LogitBias& b : m.logit_bias()) {
    if (!std::isfinite(b.bias())) return RefuseReal("logit_bias", b.bias());
    sampling.logit_bias.push_back({b.token(), b.bias()});
  }
  for (const v1::BadWord& word : m.bad_words()) {
    if (word.tokens().empty()) return Refuse("sampling.bad_words", 0);
    sampling.bad_words.emplace_back(word.tokens().begin(), word.tokens().end());
  }
  return sampling;
}

}  // namespace

void EncodePlan(const StepPlan& plan, v1::StepPlanMessage* out) {
  out->set_epoch(Value(plan.epoch));
  out->set_plan(Value(plan.id));
  for (const PlanSequence& s : plan.sequences) {
    v1::PlanSequenceMessage* m = out->add_sequences();
    m->set_request(Value(s.request));
    m->set_attempt(s.attempt);
    m->set_generation(Value(s.generation));
    m->set_start(s.start);
    m->mutable_tokens()->Assign(s.tokens.begin(), s.tokens.end());
    m->set_sample(s.sample);
    m->set_sample_index(s.sample_index);
    if (s.sample) EncodeSampling(s.sampling, m->mutable_sampling());
    m->set_keep_layers(s.residency.keep);
    m->set_layers(s.residency.layers);
    m->set_salt(s.salt);
  }
  for (RequestId id : plan.releases) out->add_releases(Value(id));
  for (const ResidencyChange& change : plan.residency) {
    v1::ResidencyChangeMessage* m = out->add_residency();
    m->set_request(Value(change.request));
    m->set_keep_layers(change.residency.keep);
    m->set_layers(change.residency.layers);
  }
  out->set_remaining_us(plan.remaining == absl::InfiniteDuration() ? -1 : absl::ToInt64Microseconds(plan.remaining));
}

absl::StatusOr<StepPlan> DecodePlan(const v1::StepPlanMessage& message) {
  StepPlan plan;
  plan.epoch = Epoch{message.epoch()};
  plan.id = PlanId{message.plan()};
  for (const v1::PlanSequenceMessage& m : message.sequences()) {
    if (m.start() < 0 || m.start() > kMost) return Refuse("start", m.start());
    if (m.tokens().empty()) return Refuse("tokens", 0);
    if (m.sample_index() < 0) return Refuse("sample_index", m.sample_index());
    if (m.layers() < 1) return Refuse("layers", m.layers());
    if (m.keep_layers() < 0 || m.keep_layers() > m.layers()) return Refuse("keep_layers", m.keep_layers());
    PlanSequence& s = plan.sequences.emplace_back();
    s.request = RequestId{m.request()};
    s.attempt = m.attempt();
    s.generation = Generation{m.generation()};
    s.start = m.start();
    s.tokens.assign(m.tokens().begin(), m.tokens().end());
    s.sample = m.sample();
    s.sample_index = m.sample_index();
    if (s.sample) {
      ASSIGN_OR_RETURN(s.sampling, DecodeSampling(m.sampling()));
    }
    s.residency = {m.layers(), m.keep_layers()};
    s.salt = m.salt();
  }
  for (uint64_t id : message.releases()) plan.releases.push_back(RequestId{id});
  for (const v1::ResidencyChangeMessage& m : message.residency()) {
    if (m.layers() < 1) return Refuse("residency.layers", m.layers());
    if (m.keep_layers() < 0 || m.keep_layers() > m.layers()) return Refuse("residency.keep_layers", m.keep_layers());
    plan.residency.push_back({RequestId{m.request()}, {m.layers(), m.keep_layers()}});
  }
  if (message.remaining_us() >= 0) plan.remaining = absl::Microseconds(message.remaining_us());
  return plan;
}

void EncodeResult(const StepResult& result, v1::StepResultMessage* out) {
  out->set_epoch(Value(result.epoch));
  out->set_plan(Value(result.plan));
  out->set_stage(static_cast<uint32_t>(Value(result.stage)));
  out->set_status_code(static_cast<uint32_t>(result.status.code()));
  out->set_status_text(std::string(result.status.message()));
  for (const SampledToken& s : result.sampled) {
    v1::SampledMessage* m = out->add_sampled();
    m->set_request(Value(s.request));
    m->set_attempt(s.attempt);
    m->set_index(s.index);
    m->set_token(s.token);
    for (const TokenScore& score : s.scores) {
      v1::TokenScoreMessage* out_score = m->add_scores();
      out_score->set_token(score.token);
      out_score->set_logprob(score.logprob);
    }
  }
  for (const LostBlock& l : result.lost) {
    v1::LostMessage* m = out->add_lost();
    m->set_request(Value(l.request));
    m->set_attempt(l.attempt);
    m->set_layer(Value(l.layer));
    m->set_block(l.block);
    m->set_cause(static_cast<uint32_t>(l.cause));
    m->set_detail(l.detail);
  }
  for (const LayerUse& u : result.layers) {
    v1::LayerUseMessage* m = out->add_layers();
    m->set_request(Value(u.request));
    m->set_layer(Value(u.layer));
    m->set_bytes_in(static_cast<uint64_t>(u.bytes_in));
    m->set_bytes_out(static_cast<uint64_t>(u.bytes_out));
    m->set_stall_us(u.stall_us);
    m->set_blocks_device(u.blocks_device);
    m->mutable_blocks_tier()->Assign(u.blocks_tier.begin(), u.blocks_tier.end());
  }
  out->set_arena_used(result.arena_used);
  for (const TierUse& t : result.tiers) {
    v1::TierUseMessage* m = out->add_tiers();
    m->set_blocks(t.blocks);
    m->set_bytes(t.bytes);
    m->set_capacity_bytes(t.capacity_bytes);
  }
  out->set_run_us(result.run_us);
  out->set_stall_us(result.stall_us);
  out->set_transfer_in_us(result.transfer_in_us);
  out->set_transfer_out_us(result.transfer_out_us);
  out->set_bytes_in(static_cast<uint64_t>(result.bytes_in));
  out->set_bytes_out(static_cast<uint64_t>(result.bytes_out));
  out->set_corrupt(static_cast<uint32_t>(result.corrupt));
  out->set_missing(static_cast<uint32_t>(result.missing));
}

absl::StatusOr<StepResult> DecodeResult(const v1::StepResultMessage& message) {
  for (uint32_t count : {message.stage(), message.corrupt(), message.missing()}) {
    if (count > static_cast<uint32_t>(kMost)) return Refuse("result", count);
  }
  for (int64_t amount : {int64_t{message.arena_used()}, message.run_us(), message.stall_us(), message.transfer_in_us(),
                         message.transfer_out_us(), static_cast<int64_t>(message.bytes_in()),
                         static_cast<int64_t>(message.bytes_out())}) {
    if (amount < 0) return Refuse("result", amount);
  }
  StepResult result;
  result.epoch = Epoch{message.epoch()};
  result.plan = PlanId{message.plan()};
  result.stage = StageId{static_cast<int32_t>(message.stage())};
  result.status = absl::Status(static_cast<absl::StatusCode>(message.status_code()), message.status_text());
  for (const v1::SampledMessage& m : message.sampled()) {
    if (m.scores_size() > kMostLogprobs + 1) return Refuse("sampled.scores", m.scores_size());
    SampledToken& sampled = result.sampled.emplace_back();
    sampled = {RequestId{m.request()}, m.attempt(), m.index(), m.token(), {}};
    for (const v1::TokenScoreMessage& score : m.scores()) sampled.scores.push_back({score.token(), score.logprob()});
  }
  for (const v1::LostMessage& m : message.lost()) {
    if (m.block() < 0) return Refuse("lost.block", m.block());
    if (m.cause() > static_cast<uint32_t>(LossCause::kNoSlot)) return Refuse("lost.cause", m.cause());
    result.lost.push_back({RequestId{m.request()}, m.attempt(), LayerId{m.layer()}, m.block(),
                           static_cast<LossCause>(m.cause()), m.detail()});
  }
  for (const v1::LayerUseMessage& m : message.layers()) {
    if (m.layer() < 0) return Refuse("layers.layer", m.layer());
    for (int64_t amount : {static_cast<int64_t>(m.bytes_in()), static_cast<int64_t>(m.bytes_out()), m.stall_us()}) {
      if (amount < 0) return Refuse("layers", amount);
    }
    result.layers.push_back({RequestId{m.request()},
                             LayerId{m.layer()},
                             static_cast<int64_t>(m.bytes_in()),
                             static_cast<int64_t>(m.bytes_out()),
                             m.stall_us(),
                             m.blocks_device(),
                             {m.blocks_tier().begin(), m.blocks_tier().end()}});
  }
  result.arena_used = message.arena_used();
  for (const v1::TierUseMessage& m : message.tiers()) {
    if (m.blocks() < 0) return Refuse("tiers.blocks", m.blocks());
    if (m.bytes() < 0) return Refuse("tiers.bytes", m.bytes());
    result.tiers.push_back({m.blocks(), m.bytes(), m.capacity_bytes()});
  }
  result.run_us = message.run_us();
  result.stall_us = message.stall_us();
  result.transfer_in_us = message.transfer_in_us();
  result.transfer_out_us = message.transfer_out_us();
  result.bytes_in = static_cast<int64_t>(message.bytes_in());
  result.bytes_out = static_cast<int64_t>(message.bytes_out());
  result.corrupt = static_cast<int32_t>(message.corrupt());
  result.missing = static_cast<int32_t>(message.missing());
  return result;
}

void EncodeRank(const RankInfo& rank, v1::Register* out) {
  out->set_stage(static_cast<uint32_t>(Value(rank.stage)));
  out->set_stages(static_cast<uint32_t>(rank.stages));
  out->set_incarnation(rank.incarnation);
  out->set_model_digest(rank.model_digest);
  out->set_layers(static_cast<uint32_t>(rank.layers));
  out->set_layer_begin(static_cast<uint32_t>(rank.layer_begin));
  out->set_layer_end(static_cast<uint32_t>(rank.layer_end));
  out->set_block_tokens(static_cast<uint32_t>(rank.block_tokens));
  out->set_arena_slots(static_cast<uint32_t>(rank.arena_slots));
  out->set_slot_bytes(static_cast<uint64_t>(rank.slot_bytes));
  out->set_tier_bytes(static_cast<uint64_t>(rank.tier_bytes));
  out->set_transport_address(rank.transport_address);
  for (const std::string& tier : rank.tiers) out->add_tiers(tier);
}

absl::StatusOr<RankInfo> DecodeRank(const v1::Register& m) {
  for (uint32_t v :
       {m.stage(), m.stages(), m.layers(), m.layer_begin(), m.layer_end(), m.block_tokens(), m.arena_slots()}) {
    if (v > static_cast<uint32_t>(kMost)) return Refuse("register", v);
  }
  if (m.slot_bytes() < 1 || m.slot_bytes() > uint64_t{1} << 40) {
    return Refuse("register.slot_bytes", static_cast<int64_t>(m.slot_bytes()));
  }
  if (m.tier_bytes() > uint64_t{1} << 60) return Refuse("register.tier_bytes", static_cast<int64_t>(m.tier_bytes()));
  if (m.stages() < 1 || m.stage() >= m.stages()) return Refuse("register.stage", m.stage());
  if (m.layer_begin() >= m.layer_end() || m.layer_end() > m.layers())
    return Refuse("register.layer_end", m.layer_end());
  if (m.block_tokens() < 1) return Refuse("register.block_tokens", m.block_tokens());
  RankInfo rank;
  rank.stage = StageId{static_cast<int32_t>(m.stage())};
  rank.stages = static_cast<int32_t>(m.stages());
  rank.incarnation = m.incarnation();
  rank.model_digest = m.model_digest();
  rank.layers = static_cast<int32_t>(m.layers());
  rank.layer_begin = static_cast<int32_t>(m.layer_begin());
  rank.layer_end = static_cast<int32_t>(m.layer_end());
  rank.block_tokens = static_cast<int32_t>(m.block_tokens());
  rank.arena_slots = static_cast<int32_t>(m.arena_slots());
  rank.slot_bytes = static_cast<int64_t>(m.slot_bytes());
  rank.tier_bytes = static_cast<int64_t>(m.tier_bytes());
  rank.transport_address = m.transport_address();
  rank.tiers.assign(m.tiers().begin(), m.tiers().end());
  return rank;
}

}  // namespace interlace
