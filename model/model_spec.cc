#include "model/model_spec.h"

#include "absl/strings/str_cat.h"

namespace interlace {

absl::Status CheckModelSpec(const ModelSpec& spec, const std::string& file) {
  const auto invalid = [&](auto&&... what) { return absl::InvalidArgumentError(absl::StrCat(file, ": ", what...)); };
  if (spec.heads % spec.kv_heads != 0) {
    return invalid("head_count=", spec.heads, " is no multiple of head_count_kv=", spec.kv_heads);
  }
  if (spec.head_dim < 8 || spec.head_dim % 8 != 0) {
    return absl::UnimplementedError(
        absl::StrCat(file, ": heads of ", spec.head_dim, " elements; a multiple of 8 is built in"));
  }
  if (!(spec.norm_epsilon > 0 && spec.norm_epsilon < 1)) {
    return invalid("the norms' epsilon (layer_norm_rms_epsilon, rms_norm_eps)=", spec.norm_epsilon);
  }
  if (spec.experts.top_k > spec.experts.count) {
    return invalid(spec.experts.top_k, " experts used (expert_used_count, num_experts_per_tok) of ",
                   spec.experts.count);
  }
  return absl::OkStatus();
}

}  // namespace interlace
