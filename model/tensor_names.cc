// The names of Hugging Face checkpoints in GGUF's terms.
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "model/checkpoint.h"

namespace interlace {
namespace {

using Names = std::pair<absl::string_view, absl::string_view>;

// Of a layer, without ".weight" and ".bias".
constexpr Names kLayerNames[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"self_attn.qkv_proj", "attn_qkv"},
    {"mlp.gate_up_proj", "ffn_gate_up"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"mlp.gate", "ffn_gate_inp"},
    {"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
    {"mlp.shared_expert.up_proj", "ffn_up_shexp"},
    {"mlp.shared_expert.down_proj", "ffn_down_shexp"},
    {"mlp.shared_expert_gate", "ffn_gate_inp_shexp"},
    {"block_sparse_moe.gate", "ffn_gate_inp"},
    {"block_sparse_moe.router.layer", "ffn_gate_inp"},
    {"block_sparse_moe.input_linear", "ffn_gate_up_exps"},
    {"block_sparse_moe.output_linear", "ffn_down_exps"},
};
// Of models with norms after each part, whether or not there are norms before them.
constexpr Names kNormAfterNames[] = {
    {"post_attention_layernorm", "post_attention_norm"},
    {"pre_feedforward_layernorm", "ffn_norm"},
    {"post_feedforward_layernorm", "post_ffw_norm"},
};
// Of an expert.
constexpr Names kExpertNames[] = {{"gate_proj", "ffn_gate"}, {"up_proj", "ffn_up"}, {"down_proj", "ffn_down"},
                                  {"w1", "ffn_gate"},        {"w3", "ffn_up"},      {"w2", "ffn_down"}};

std::optional<absl::string_view> Look(absl::Span<const Names> table, absl::string_view name) {
  for (const auto& [theirs, ours] : table) {
    if (theirs == name) return ours;
  }
  return std::nullopt;
}

// "3.w1" -> "ffn_gate.3"
std::optional<std::string> ExpertName(absl::string_view name) {
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(name, absl::MaxSplits('.', 1));
  int32_t expert = 0;
  const std::optional<absl::string_view> ours = Look(kExpertNames, parts.second);
  if (!absl::SimpleAtoi(parts.first, &expert) || expert < 0 || !ours.has_value()) return std::nullopt;
  return absl::StrCat(*ours, ".", expert);
}

std::optional<std::string> LayerName(absl::string_view name, NormPlace norms) {
  if (absl::ConsumePrefix(&name, "mlp.experts.") || absl::ConsumePrefix(&name, "block_sparse_moe.experts.")) {
    return ExpertName(name);
  }
  std::optional<absl::string_view> ours;
  if (norms != NormPlace::kBefore) ours = Look(kNormAfterNames, name);
  if (!ours.has_value()) ours = Look(kLayerNames, name);
  if (!ours.has_value()) return std::nullopt;
  return std::string(*ours);
}

}  // namespace

std::optional<std::string> TextName(absl::string_view name, absl::Span<const absl::string_view> prefixes) {
  if (prefixes.empty() || absl::StartsWith(name, "lm_head.")) return std::string(name);
  for (absl::string_view prefix : prefixes) {
    if (!absl::ConsumePrefix(&name, prefix)) continue;
    const bool named = absl::StartsWith(name, "model.") || absl::StartsWith(name, "lm_head.");
    return absl::StrCat(named ? "" : "model.", name);
  }
  return std::nullopt;
}

std::optional<std::string> CanonicalName(absl::string_view name, NormPlace norms) {
  if (absl::EndsWith(name, ".rotary_emb.inv_freq")) return "";  // old checkpoints; ModelSpec has the frequencies
  if (name == "lm_head.weight") return "output.weight";
  if (!absl::ConsumePrefix(&name, "model.")) return std::nullopt;
  if (name == "embed_tokens.weight") return "token_embd.weight";
  if (name == "norm.weight") return "output_norm.weight";
  if (!absl::ConsumePrefix(&name, "layers.") || !absl::StrContains(name, '.')) return std::nullopt;
  const absl::string_view kind = name.substr(name.rfind('.'));
  if (!absl::ConsumeSuffix(&name, kind) || (kind != ".weight" && kind != ".bias")) return std::nullopt;
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(name, absl::MaxSplits('.', 1));
  int32_t layer = 0;
  if (!absl::SimpleAtoi(parts.first, &layer) || layer < 0) return std::nullopt;
  const std::optional<std::string> ours = LayerName(parts.second, norms);
  if (!ours.has_value()) return std::nullopt;
  return absl::StrCat("blk.", layer, ".", *ours, kind);
}

}  // namespace interlace
