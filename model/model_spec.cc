#include "model/model_spec.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace interlace {

bool UsesLongFactors(int32_t context, double original_context) { return context > original_context; }

bool PairFactorsAreSound(const std::vector<double>& factors, int32_t rotated) {
  return static_cast<int64_t>(factors.size()) == rotated / 2 &&
         std::all_of(factors.begin(), factors.end(), [](double f) { return f > 0 && std::isfinite(f); });
}

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
  if (spec.experts.count > 0 && spec.parts.norms != NormPlace::kBefore) {
    return absl::UnimplementedError(absl::StrCat(file, ": experts between norms are not built in"));
  }
  if (spec.experts.top_k > spec.experts.count) {
    return invalid(spec.experts.top_k, " experts used (expert_used_count, num_experts_per_tok) of ",
                   spec.experts.count);
  }
  return absl::OkStatus();
}

}  // namespace interlace
