#include "cli/model_cost.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace interlace {
namespace {

TokenCost CostOfMatrix(const CheckpointTensor& tensor) {
  return {2.0 * static_cast<double>(tensor.rows) * static_cast<double>(tensor.cols),
          static_cast<double>(tensor.bytes())};
}

// The expert of "blk.7.ffn_gate.3.weight"; -1: the tensor is none of one expert.
int32_t ExpertOf(const std::vector<absl::string_view>& name) {
  int32_t expert = -1;
  return name.size() == 5 && absl::SimpleAtoi(name[3], &expert) ? expert : -1;
}

void AddMatrix(const std::vector<absl::string_view>& name, const CheckpointTensor& tensor, LayerCost* layer) {
  const absl::string_view part = name[2];
  const TokenCost cost = CostOfMatrix(tensor);
  if (absl::StartsWith(part, "ffn_")) layer->feed_forward += cost;
  if (!absl::StartsWith(part, "attn_")) return;
  layer->attention += cost;
  if (part == "attn_k" || part == "attn_v") layer->kv += cost;
}

}  // namespace

ModelCost CostOfModel(const Checkpoint& checkpoint, int64_t kv_bytes) {
  const ModelSpec& spec = checkpoint.spec();
  ModelCost cost;
  for (const LayerSpec& layer : spec.layer) {
    LayerCost& of_layer = cost.layers.emplace_back();
    // A score and a weighted sum, each a multiplication and an addition for each element of each head.
    of_layer.pair = {4.0 * spec.heads * spec.head_dim, static_cast<double>(kv_bytes)};
    of_layer.row_bytes = static_cast<double>(kv_bytes);
    of_layer.window = layer.attention.window;
  }
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (name == (spec.tied_head ? "token_embd.weight" : "output.weight")) cost.head += CostOfMatrix(tensor);
    const std::vector<absl::string_view> parts = absl::StrSplit(name, '.');
    int32_t layer = -1;
    const bool matrix = parts.size() >= 4 && parts[0] == "blk" && parts.back() == "weight" && tensor.cols > 1 &&
                        !absl::EndsWith(parts[2], "_norm") && absl::SimpleAtoi(parts[1], &layer);
    // Experts are alike: as if the first of them ran.
    if (matrix && layer >= 0 && layer < spec.layers && ExpertOf(parts) < std::max(1, spec.experts.top_k)) {
      AddMatrix(parts, tensor, &cost.layers[layer]);
    }
  }
  return cost;
}

}  // namespace interlace
