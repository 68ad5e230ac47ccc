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

void EncodeId(const BlockId& id, v1::BlockIdMessage* out) {
  out->set_high(id.high);
  out->set_low(id.low);
}

BlockId DecodeId(const v1::BlockIdMessage& m) { return {m.high(), m.low()}; }

void EncodeNames(const SealedNames& names, v1::SealedNamesMessage* out) {
  out->set_first(names.first);
  for (const BlockId& id : names.ids) EncodeId(id, out->add_ids());
}

absl::StatusOr<SealedNames> DecodeNames(const v1::SealedNamesMessage& m) {
  if (m.first() < 0 || m.first() > kMost) return Refuse("names.first", m.first());
  SealedNames names{m.first(), {}};
  for (const v1::BlockIdMessage& id : m.ids()) names.ids.push_back(DecodeId(id));
  return names;
}

absl::StatusOr<LayerSet> DecodeLayers(const std::string& bytes) {
  LayerSet layers;
  if (!LayerSet::Decode(bytes, &layers)) return Refuse("bytes of a layer set", static_cast<int64_t>(bytes.size()));
  return layers;
}

// What PlanSequence and SequenceChange share.
template <typename From, typename Message>
void EncodeChange(const From& from, Message* out) {
  if (from.kept) out->set_kept(from.kept->Encode());
  if (from.names) EncodeNames(*from.names, out->mutable_names());
}

template <typename Message, typename To>
absl::Status DecodeChange(const Message& m, To* to) {
  if (m.has_kept()) {
    ASSIGN_OR_RETURN(to->kept, DecodeLayers(m.kept()));
  }
  if (m.has_names()) {
    ASSIGN_OR_RETURN(to->names, DecodeNames(m.names()));
  }
  return absl::OkStatus();
}

void EncodeSequence(const PlanSequence& s, v1::PlanSequenceMessage* out) {
  out->set_request(Value(s.request));
  out->set_attempt(s.attempt);
  out->set_start(s.start);
  out->mutable_tokens()->Assign(s.tokens.begin(), s.tokens.end());
  out->set_drafts(s.drafts);
  out->set_sample(s.sample);
  out->set_sample_index(s.sample_index);
  EncodeChange(s, out);
  if (!s.opening) return;
  v1::OpeningMessage* opening = out->mutable_opening();
  EncodeSampling(s.opening->sampling, opening->mutable_sampling());
  for (const BlockId& id : s.opening->adopted) EncodeId(id, opening->add_adopted());
  opening->mutable_prefix()->Assign(s.opening->prefix.begin(), s.opening->prefix.end());
}

absl::StatusOr<PlanSequence> DecodeSequence(const v1::PlanSequenceMessage& m) {
  if (m.start() < 0 || m.start() > kMost) return Refuse("start", m.start());
  if (m.tokens().empty()) return Refuse("tokens", 0);
  if (m.drafts() < 0 || m.drafts() >= m.tokens_size()) return Refuse("drafts", m.drafts());
  if (m.sample_index() < 0 || m.sample_index() > kMost) return Refuse("sample_index", m.sample_index());
  PlanSequence s;
  s.request = RequestId{m.request()};
  s.attempt = m.attempt();
  s.start = m.start();
  s.tokens.assign(m.tokens().begin(), m.tokens().end());
  s.drafts = m.drafts();
  s.sample = m.sample();
  s.sample_index = m.sample_index();
  RETURN_IF_ERROR(DecodeChange(m, &s));
  if (!m.has_opening()) return s;
  s.opening.emplace();
  ASSIGN_OR_RETURN(s.opening->sampling, DecodeSampling(m.opening().sampling()));
  for (const v1::BlockIdMessage& id : m.opening().adopted()) s.opening->adopted.push_back(DecodeId(id));
  s.opening->prefix.assign(m.opening().prefix().begin(), m.opening().prefix().end());
  return s;
}

}  // namespace

void EncodePlan(const StepPlan& plan, v1::StepPlanMessage* out) {
  out->set_epoch(Value(plan.epoch));
  out->set_plan(Value(plan.id));
  for (const Release& release : plan.releases) {
    v1::ReleaseMessage* m = out->add_releases();
    m->set_request(Value(release.request));
    if (release.names) EncodeNames(*release.names, m->mutable_names());
  }
  for (const SequenceChange& change : plan.changes) {
    v1::SequenceChangeMessage* m = out->add_changes();
    m->set_request(Value(change.request));
    EncodeChange(change, m);
  }
  for (const BlockMove& move : plan.moves) {
    v1::BlockMoveMessage* m = out->add_moves();
    EncodeId(move.block, m->mutable_block());
    m->set_kind(static_cast<uint32_t>(move.kind));
    m->set_layers(move.layers.Encode());
  }
  for (const PlanSequence& s : plan.sequences) EncodeSequence(s, out->add_sequences());
  for (const Probe& probe : plan.probes) {
    v1::ProbeMessage* m = out->add_probes();
    m->set_request(Value(probe.request));
    for (const BlockId& id : probe.blocks) EncodeId(id, m->add_blocks());
  }
  out->set_remaining_us(plan.remaining == absl::InfiniteDuration() ? -1 : absl::ToInt64Microseconds(plan.remaining));
}

absl::StatusOr<StepPlan> DecodePlan(const v1::StepPlanMessage& message) {
  StepPlan plan;
  plan.epoch = Epoch{message.epoch()};
  plan.id = PlanId{message.plan()};
  for (const v1::ReleaseMessage& m : message.releases()) {
    Release& release = plan.releases.emplace_back(Release{RequestId{m.request()}, std::nullopt});
    if (m.has_names()) {
      ASSIGN_OR_RETURN(release.names, DecodeNames(m.names()));
    }
  }
  for (const v1::SequenceChangeMessage& m : message.changes()) {
    RETURN_IF_ERROR(DecodeChange(m, &plan.changes.emplace_back(SequenceChange{.request = RequestId{m.request()}})));
  }
  for (const v1::BlockMoveMessage& m : message.moves()) {
    if (m.kind() > static_cast<uint32_t>(MoveKind::kFetchDevice)) return Refuse("moves.kind", m.kind());
    BlockMove& move = plan.moves.emplace_back();
    move.block = DecodeId(m.block());
    move.kind = static_cast<MoveKind>(m.kind());
    ASSIGN_OR_RETURN(move.layers, DecodeLayers(m.layers()));
  }
  for (const v1::PlanSequenceMessage& m : message.sequences()) {
    ASSIGN_OR_RETURN(plan.sequences.emplace_back(), DecodeSequence(m));
  }
  for (const v1::ProbeMessage& m : message.probes()) {
    Probe& probe = plan.probes.emplace_back(Probe{RequestId{m.request()}, {}});
    for (const v1::BlockIdMessage& id : m.blocks()) probe.blocks.push_back(DecodeId(id));
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
  for (const LostSequence& l : result.lost) {
    v1::LostMessage* m = out->add_lost();
    m->set_request(Value(l.request));
    m->set_attempt(l.attempt);
    m->set_layer(Value(l.layer));
    m->set_block(l.block);
    m->set_cause(static_cast<uint32_t>(l.cause));
    m->set_detail(l.detail);
  }
  for (const LayerTraffic& t : result.traffic) {
    v1::LayerTrafficMessage* m = out->add_traffic();
    m->set_request(Value(t.request));
    m->set_layer(Value(t.layer));
    m->set_bytes_in(static_cast<uint64_t>(t.bytes_in));
    m->set_bytes_out(static_cast<uint64_t>(t.bytes_out));
    m->set_stall_us(t.stall_us);
  }
  for (const ProbeAnswer& p : result.probed) {
    v1::ProbeAnswerMessage* m = out->add_probed();
    m->set_request(Value(p.request));
    m->set_blocks(p.blocks);
  }
  for (const FetchAnswer& f : result.fetched) {
    v1::FetchAnswerMessage* m = out->add_fetched();
    EncodeId(f.block, m->mutable_block());
    m->set_arrived(f.arrived.Encode());
    m->set_failed(f.failed.Encode());
  }
  out->set_slots_used(result.slots_used);
  out->set_frames_used(result.frames_used);
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
  for (int64_t amount : {int64_t{message.slots_used()}, int64_t{message.frames_used()}, message.run_us(),
                         message.stall_us(), message.transfer_in_us(), message.transfer_out_us(),
                         static_cast<int64_t>(message.bytes_in()), static_cast<int64_t>(message.bytes_out())}) {
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
    if (m.layer() < 0 || m.layer() >= LayerSet::kMaxLayers) return Refuse("lost.layer", m.layer());
    if (m.cause() > static_cast<uint32_t>(LossCause::kRefused)) return Refuse("lost.cause", m.cause());
    result.lost.push_back({RequestId{m.request()}, m.attempt(), LayerId{m.layer()}, m.block(),
                           static_cast<LossCause>(m.cause()), m.detail()});
  }
  for (const v1::LayerTrafficMessage& m : message.traffic()) {
    if (m.layer() < 0 || m.layer() >= LayerSet::kMaxLayers) return Refuse("traffic.layer", m.layer());
    for (int64_t amount : {static_cast<int64_t>(m.bytes_in()), static_cast<int64_t>(m.bytes_out()), m.stall_us()}) {
      if (amount < 0) return Refuse("traffic", amount);
    }
    result.traffic.push_back({RequestId{m.request()}, LayerId{m.layer()}, static_cast<int64_t>(m.bytes_in()),
                              static_cast<int64_t>(m.bytes_out()), m.stall_us()});
  }
  for (const v1::ProbeAnswerMessage& m : message.probed()) {
    if (m.blocks() < 0 || m.blocks() > kMost) return Refuse("probed.blocks", m.blocks());
    result.probed.push_back({RequestId{m.request()}, m.blocks()});
  }
  for (const v1::FetchAnswerMessage& m : message.fetched()) {
    FetchAnswer& fetched = result.fetched.emplace_back();
    fetched.block = DecodeId(m.block());
    ASSIGN_OR_RETURN(fetched.arrived, DecodeLayers(m.arrived()));
    ASSIGN_OR_RETURN(fetched.failed, DecodeLayers(m.failed()));
  }
  result.slots_used = message.slots_used();
  result.frames_used = message.frames_used();
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
  out->set_numerics(rank.numerics);
  out->set_dtype(rank.dtype);
  out->set_layers(static_cast<uint32_t>(rank.layers));
  out->set_layer_begin(static_cast<uint32_t>(rank.layer_begin));
  out->set_layer_end(static_cast<uint32_t>(rank.layer_end));
  for (int32_t window : rank.windows) out->add_windows(static_cast<uint32_t>(window));
  out->set_vocab(static_cast<uint32_t>(rank.vocab));
  out->set_kv_heads(static_cast<uint32_t>(rank.kv_heads));
  out->set_head_dim(static_cast<uint32_t>(rank.head_dim));
  out->set_head_begin(static_cast<uint32_t>(rank.heads.begin));
  out->set_head_end(static_cast<uint32_t>(rank.heads.end));
  out->set_block_tokens(static_cast<uint32_t>(rank.block_tokens));
  out->set_device_slots(static_cast<uint32_t>(rank.device_slots));
  out->set_host_frames(static_cast<uint32_t>(rank.host_frames));
  out->set_slot_bytes(static_cast<uint64_t>(rank.slot_bytes));
  out->set_step_tokens(static_cast<uint32_t>(rank.step_tokens));
  out->set_transport_address(rank.transport_address);
  for (const std::string& tier : rank.tiers) out->add_tiers(tier);
}

namespace {

absl::Status CheckRegister(const v1::Register& m) {
  for (uint32_t v : {m.stages(), m.vocab(), m.block_tokens(), m.device_slots(), m.host_frames(), m.step_tokens()}) {
    if (v > static_cast<uint32_t>(kMost)) return Refuse("register", v);
  }
  for (uint32_t v : m.windows()) {
    if (v > static_cast<uint32_t>(kMost)) return Refuse("register.windows", v);
  }
  if (m.slot_bytes() < 1 || m.slot_bytes() > uint64_t{1} << 40) {
    return Refuse("register.slot_bytes", static_cast<int64_t>(m.slot_bytes()));
  }
  if (m.stages() < 1 || m.stage() >= m.stages()) return Refuse("register.stage", m.stage());
  if (m.layers() > static_cast<uint32_t>(LayerSet::kMaxLayers)) return Refuse("register.layers", m.layers());
  if (m.layer_begin() >= m.layer_end() || m.layer_end() > m.layers()) {
    return Refuse("register.layer_end", m.layer_end());
  }
  if (m.windows_size() != static_cast<int>(m.layers()))
    return Refuse("the number of register.windows", m.windows_size());
  if (m.kv_heads() > 32767) return Refuse("register.kv_heads", m.kv_heads());
  if (m.head_dim() > static_cast<uint32_t>(kMost)) return Refuse("register.head_dim", m.head_dim());
  if (m.head_begin() >= m.head_end() || m.head_end() > m.kv_heads()) return Refuse("register.head_end", m.head_end());
  if (m.block_tokens() < 1) return Refuse("register.block_tokens", m.block_tokens());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RankInfo> DecodeRank(const v1::Register& m) {
  RETURN_IF_ERROR(CheckRegister(m));
  RankInfo rank;
  rank.stage = StageId{static_cast<int32_t>(m.stage())};
  rank.stages = static_cast<int32_t>(m.stages());
  rank.incarnation = m.incarnation();
  rank.model_digest = m.model_digest();
  rank.numerics = m.numerics();
  rank.dtype = m.dtype();
  rank.layers = static_cast<int32_t>(m.layers());
  rank.layer_begin = static_cast<int32_t>(m.layer_begin());
  rank.layer_end = static_cast<int32_t>(m.layer_end());
  rank.windows.assign(m.windows().begin(), m.windows().end());
  rank.vocab = static_cast<int32_t>(m.vocab());
  rank.kv_heads = static_cast<int32_t>(m.kv_heads());
  rank.head_dim = static_cast<int32_t>(m.head_dim());
  rank.heads = {static_cast<int16_t>(m.head_begin()), static_cast<int16_t>(m.head_end())};
  rank.block_tokens = static_cast<int32_t>(m.block_tokens());
  rank.device_slots = static_cast<int32_t>(m.device_slots());
  rank.host_frames = static_cast<int32_t>(m.host_frames());
  rank.slot_bytes = static_cast<int64_t>(m.slot_bytes());
  rank.step_tokens = static_cast<int32_t>(m.step_tokens());
  rank.transport_address = m.transport_address();
  rank.tiers.assign(m.tiers().begin(), m.tiers().end());
  return rank;
}

}  // namespace interlace
