// Results to and from their wire form.
#include "common/status_macros.h"
#include "proto/plan/codec_parts.h"
#include "proto/plan/plan_codec.h"

namespace interlace {
namespace {

constexpr int kMostWidth = 1 << 20;  // numbers of a hidden state

void EncodeScores(const PromptScores& s, v1::PromptScoresMessage* m) {
  m->set_request(Value(s.request));
  m->set_attempt(s.attempt);
  m->set_first(s.first);
  m->set_top(s.top);
  m->mutable_ranks()->Assign(s.ranks.begin(), s.ranks.end());
  for (const TokenScore& score : s.scores) {
    m->add_tokens(score.token);
    m->add_logprobs(score.logprob);
  }
}

absl::Status DecodeScores(const v1::PromptScoresMessage& m, PromptScores* out) {
  if (m.first() < 1 || m.first() > kMost) return Refuse("scored.first", m.first());
  if (m.top() < 0 || m.top() > kMostLogprobs) return Refuse("scored.top", m.top());
  if (m.ranks().empty()) return Refuse("number of scored.ranks", 0);
  const int64_t scores = int64_t{m.ranks_size()} * (1 + m.top());
  if (m.tokens_size() != scores) return Refuse("number of scored.tokens", m.tokens_size());
  if (m.logprobs_size() != scores) return Refuse("number of scored.logprobs", m.logprobs_size());
  *out = {RequestId{m.request()}, m.attempt(), m.first(), m.top(), {m.ranks().begin(), m.ranks().end()}, {}};
  out->scores.reserve(static_cast<size_t>(scores));
  for (int i = 0; i < m.tokens_size(); ++i) out->scores.push_back({m.tokens(i), m.logprobs(i)});
  return absl::OkStatus();
}

}  // namespace

void EncodeResult(const StepResult& result, v1::StepResultMessage* out) {
  out->set_epoch(Value(result.epoch));
  out->set_plan(Value(result.plan));
  out->set_stage(static_cast<uint32_t>(Value(result.stage)));
  out->set_stage_rank(static_cast<uint32_t>(result.stage_rank));
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
  for (const PromptScores& s : result.scored) EncodeScores(s, out->add_scored());
  for (const PooledHidden& p : result.pooled) {
    v1::PooledMessage* m = out->add_pooled();
    m->set_request(Value(p.request));
    m->set_attempt(p.attempt);
    m->mutable_mean()->Assign(p.mean.begin(), p.mean.end());
  }
  for (const PromptKey& k : result.keys) {
    v1::PromptKeyMessage* m = out->add_keys();
    m->set_request(Value(k.request));
    m->set_attempt(k.attempt);
    m->mutable_mean()->Assign(k.mean.begin(), k.mean.end());
  }
  for (const ModelDrafted& d : result.drafted) {
    v1::ModelDraftedMessage* m = out->add_drafted();
    m->set_request(Value(d.request));
    m->set_attempt(d.attempt);
    m->set_drafts(d.drafts);
    m->set_seen(d.seen);
    m->set_no_room(!d.room);
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
  out->set_draft_us(result.draft_us);
  out->set_exchange_us(result.exchange_us);
  out->set_gap_us(result.gap_us);
  out->set_transfer_in_us(result.transfer_in_us);
  out->set_transfer_out_us(result.transfer_out_us);
  out->set_bytes_in(static_cast<uint64_t>(result.bytes_in));
  out->set_bytes_out(static_cast<uint64_t>(result.bytes_out));
  out->set_corrupt(static_cast<uint32_t>(result.corrupt));
  out->set_missing(static_cast<uint32_t>(result.missing));
}

absl::StatusOr<StepResult> DecodeResult(const v1::StepResultMessage& message) {
  for (uint32_t count : {message.stage(), message.stage_rank(), message.corrupt(), message.missing()}) {
    if (count > static_cast<uint32_t>(kMost)) return Refuse("result", count);
  }
  for (int64_t amount : {int64_t{message.slots_used()}, int64_t{message.frames_used()}, message.run_us(),
                         message.stall_us(), message.draft_us(), message.exchange_us(), message.gap_us(),
                         message.transfer_in_us(), message.transfer_out_us(), static_cast<int64_t>(message.bytes_in()),
                         static_cast<int64_t>(message.bytes_out())}) {
    if (amount < 0) return Refuse("result", amount);
  }
  StepResult result;
  result.epoch = Epoch{message.epoch()};
  result.plan = PlanId{message.plan()};
  result.stage = StageId{static_cast<int32_t>(message.stage())};
  result.stage_rank = static_cast<int32_t>(message.stage_rank());
  result.status = absl::Status(static_cast<absl::StatusCode>(message.status_code()), message.status_text());
  for (const v1::SampledMessage& m : message.sampled()) {
    if (m.scores_size() > kMostLogprobs + 1) return Refuse("sampled.scores", m.scores_size());
    SampledToken& sampled = result.sampled.emplace_back();
    sampled = {RequestId{m.request()}, m.attempt(), m.index(), m.token(), {}};
    for (const v1::TokenScoreMessage& score : m.scores()) sampled.scores.push_back({score.token(), score.logprob()});
  }
  for (const v1::PromptScoresMessage& m : message.scored()) {
    RETURN_IF_ERROR(DecodeScores(m, &result.scored.emplace_back()));
  }
  for (const v1::PooledMessage& m : message.pooled()) {
    if (m.mean().empty() || m.mean_size() > kMostWidth) return Refuse("number of pooled.mean", m.mean_size());
    result.pooled.push_back({RequestId{m.request()}, m.attempt(), {m.mean().begin(), m.mean().end()}});
  }
  for (const v1::PromptKeyMessage& m : message.keys()) {
    if (m.mean().empty() || m.mean_size() > kMostWidth) return Refuse("number of keys.mean", m.mean_size());
    result.keys.push_back({RequestId{m.request()}, m.attempt(), {m.mean().begin(), m.mean().end()}});
  }
  for (const v1::ModelDraftedMessage& m : message.drafted()) {
    if (m.drafts() < 0 || m.drafts() > kMost) return Refuse("drafted.drafts", m.drafts());
    if (m.seen() < 0 || m.seen() > kMost) return Refuse("drafted.seen", m.seen());
    result.drafted.push_back({RequestId{m.request()}, m.attempt(), m.drafts(), m.seen(), !m.no_room()});
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
  result.draft_us = message.draft_us();
  result.exchange_us = message.exchange_us();
  result.gap_us = message.gap_us();
  result.transfer_in_us = message.transfer_in_us();
  result.transfer_out_us = message.transfer_out_us();
  result.bytes_in = static_cast<int64_t>(message.bytes_in());
  result.bytes_out = static_cast<int64_t>(message.bytes_out());
  result.corrupt = static_cast<int32_t>(message.corrupt());
  result.missing = static_cast<int32_t>(message.missing());
  return result;
}

}  // namespace interlace
