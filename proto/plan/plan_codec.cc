#include "proto/plan/plan_codec.h"

#include "common/status_macros.h"
#include "proto/plan/codec_parts.h"
#include "proto/plan/sampling_codec.h"

namespace interlace {
namespace {

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

void EncodeSkip(const SkipPlan& plan, v1::SkipPlanMessage* out) {
  out->set_attention(plan.attention.Encode());
  out->set_feed_forward(plan.feed_forward.Encode());
}

absl::Status DecodeSkip(const v1::SkipPlanMessage& m, SkipPlan* out) {
  ASSIGN_OR_RETURN(out->attention, DecodeLayers(m.attention()));
  ASSIGN_OR_RETURN(out->feed_forward, DecodeLayers(m.feed_forward()));
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
  out->set_pool(static_cast<uint32_t>(s.pool));
  if (s.score) {
    v1::ScoreAskMessage* score = out->mutable_score();
    score->set_first(s.score->first);
    score->set_top(s.score->top);
    score->mutable_targets()->Assign(s.score->targets.begin(), s.score->targets.end());
  }
  if (s.own_drafts) EncodeSkip(*s.own_drafts, out->mutable_own_drafts());
  out->set_model_drafts(s.model_drafts);
  if (s.skip) EncodeSkip(*s.skip, out->mutable_skip());
  if (s.key) {
    v1::KeyAskMessage* key = out->mutable_key();
    key->set_layer(Value(s.key->layer));
    key->set_first(s.key->first);
    key->set_give(s.key->give);
  }
  if (!s.opening) return;
  v1::OpeningMessage* opening = out->mutable_opening();
  EncodeSampling(s.opening->sampling, opening->mutable_sampling());
  for (const BlockId& id : s.opening->adopted) EncodeId(id, opening->add_adopted());
  opening->mutable_prefix()->Assign(s.opening->prefix.begin(), s.opening->prefix.end());
  opening->set_adapter(s.opening->adapter);
}

absl::Status DecodeScore(const v1::PlanSequenceMessage& sequence, ScoreAsk* out) {
  const v1::ScoreAskMessage& m = sequence.score();
  if (m.first() < 0 || m.first() >= sequence.tokens_size()) return Refuse("score.first", m.first());
  if (m.top() < 0 || m.top() > kMostLogprobs) return Refuse("score.top", m.top());
  if (m.targets().empty() || m.targets_size() > sequence.tokens_size() - m.first()) {
    return Refuse("number of score.targets", m.targets_size());
  }
  out->first = m.first();
  out->top = m.top();
  out->targets.assign(m.targets().begin(), m.targets().end());
  return absl::OkStatus();
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
  if (m.pool() > static_cast<uint32_t>(Pooling::kGive)) return Refuse("pool", m.pool());
  s.pool = static_cast<Pooling>(m.pool());
  if (m.has_score()) {
    RETURN_IF_ERROR(DecodeScore(m, &s.score.emplace()));
  }
  if (m.has_own_drafts()) {
    RETURN_IF_ERROR(DecodeSkip(m.own_drafts(), &s.own_drafts.emplace()));
  }
  s.model_drafts = m.model_drafts();
  if (m.has_skip()) {
    RETURN_IF_ERROR(DecodeSkip(m.skip(), &s.skip.emplace()));
  }
  if (m.has_key()) {
    if (m.key().layer() < 0 || m.key().layer() >= LayerSet::kMaxLayers) return Refuse("key.layer", m.key().layer());
    if (m.key().first() < 0 || m.key().first() > kMost) return Refuse("key.first", m.key().first());
    s.key = KeyAsk{LayerId{m.key().layer()}, m.key().first(), m.key().give()};
  }
  if (!m.has_opening()) return s;
  s.opening.emplace();
  ASSIGN_OR_RETURN(s.opening->sampling, DecodeSampling(m.opening().sampling()));
  for (const v1::BlockIdMessage& id : m.opening().adopted()) s.opening->adopted.push_back(DecodeId(id));
  s.opening->prefix.assign(m.opening().prefix().begin(), m.opening().prefix().end());
  s.opening->adapter = m.opening().adapter();
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
    m->set_slack_ms(move.slack_ms);
  }
  for (const PlanSequence& s : plan.sequences) EncodeSequence(s, out->add_sequences());
  for (const Probe& probe : plan.probes) {
    v1::ProbeMessage* m = out->add_probes();
    m->set_request(Value(probe.request));
    for (const BlockId& id : probe.blocks) EncodeId(id, m->add_blocks());
  }
  out->mutable_row_cuts()->Assign(plan.row_cuts.begin(), plan.row_cuts.end());
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
    move.slack_ms = m.slack_ms();
  }
  for (const v1::PlanSequenceMessage& m : message.sequences()) {
    ASSIGN_OR_RETURN(plan.sequences.emplace_back(), DecodeSequence(m));
  }
  for (const v1::ProbeMessage& m : message.probes()) {
    Probe& probe = plan.probes.emplace_back(Probe{RequestId{m.request()}, {}});
    for (const v1::BlockIdMessage& id : m.blocks()) probe.blocks.push_back(DecodeId(id));
  }
  plan.row_cuts.assign(message.row_cuts().begin(), message.row_cuts().end());
  return plan;
}

}  // namespace interlace
