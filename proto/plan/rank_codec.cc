// What a rank says of itself, to and from its wire form.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "proto/plan/codec_parts.h"
#include "proto/plan/plan_codec.h"

namespace interlace {

void EncodeRank(const RankInfo& rank, v1::Register* out) {
  out->set_stage(static_cast<uint32_t>(Value(rank.stage)));
  out->set_replica(static_cast<uint32_t>(rank.replica));
  out->set_stages(static_cast<uint32_t>(rank.stages));
  out->set_tensor_rank(static_cast<uint32_t>(rank.tensor_rank));
  out->set_tensor_ranks(static_cast<uint32_t>(rank.tensor_ranks));
  out->set_sequence_rank(static_cast<uint32_t>(rank.sequence_rank));
  out->set_sequence_ranks(static_cast<uint32_t>(rank.sequence_ranks));
  out->set_collective_address(rank.collective_address);
  out->set_incarnation(rank.incarnation);
  out->set_model_digest(rank.model_digest);
  for (const std::string& adapter : rank.adapters) out->add_adapters(adapter);
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
  out->set_threads(static_cast<uint32_t>(rank.threads));
  out->set_draft_model(rank.draft_model);
  out->set_draft_share(rank.draft_share);
  out->set_transport_address(rank.transport_address);
  for (const std::string& tier : rank.tiers) out->add_tiers(tier);
}

namespace {

constexpr double kMostShare = 1e6;  // a draft model is smaller than its model, as a rule

absl::Status CheckRegister(const v1::Register& m) {
  for (uint32_t v : {m.stages(), m.vocab(), m.block_tokens(), m.device_slots(), m.host_frames(), m.step_tokens(),
                     m.threads(), m.replica()}) {
    if (v > static_cast<uint32_t>(kMost)) return Refuse("register", v);
  }
  for (uint32_t v : m.windows()) {
    if (v > static_cast<uint32_t>(kMost)) return Refuse("register.windows", v);
  }
  if (m.slot_bytes() < 1 || m.slot_bytes() > uint64_t{1} << 40) {
    return Refuse("register.slot_bytes", static_cast<int64_t>(m.slot_bytes()));
  }
  if (m.stages() < 1 || m.stage() >= m.stages()) return Refuse("register.stage", m.stage());
  if (m.tensor_ranks() < 1 || m.tensor_ranks() > 32767 || m.tensor_rank() >= m.tensor_ranks()) {
    return Refuse("register.tensor_rank", m.tensor_rank());
  }
  if (m.sequence_ranks() > 32767 || m.sequence_rank() >= std::max(1u, m.sequence_ranks())) {
    return Refuse("register.sequence_rank", m.sequence_rank());
  }
  if (m.sequence_ranks() > 1 && m.tensor_ranks() > 1) return Refuse("register.sequence_ranks", m.sequence_ranks());
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
  if (!(m.draft_share() >= 0 && m.draft_share() <= kMostShare)) {
    return absl::InvalidArgumentError(absl::StrCat("register.draft_share is ", m.draft_share()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RankInfo> DecodeRank(const v1::Register& m) {
  RETURN_IF_ERROR(CheckRegister(m));
  RankInfo rank;
  rank.stage = StageId{static_cast<int32_t>(m.stage())};
  rank.replica = static_cast<int32_t>(m.replica());
  rank.stages = static_cast<int32_t>(m.stages());
  rank.tensor_rank = static_cast<int32_t>(m.tensor_rank());
  rank.tensor_ranks = static_cast<int32_t>(m.tensor_ranks());
  rank.sequence_rank = static_cast<int32_t>(m.sequence_rank());
  rank.sequence_ranks = std::max(1, static_cast<int32_t>(m.sequence_ranks()));
  rank.collective_address = m.collective_address();
  rank.incarnation = m.incarnation();
  rank.model_digest = m.model_digest();
  rank.adapters.assign(m.adapters().begin(), m.adapters().end());
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
  rank.threads = static_cast<int32_t>(m.threads());
  rank.draft_model = m.draft_model();
  rank.draft_share = m.draft_share();
  rank.transport_address = m.transport_address();
  rank.tiers.assign(m.tiers().begin(), m.tiers().end());
  return rank;
}

}  // namespace interlace