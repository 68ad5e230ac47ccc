#include "worker/sampler.h"

namespace interlace {

std::vector<SampledToken> SampleTokens(Backend& backend, const StepPlan& plan, absl::Span<const size_t> indices,
                                       const Tensor& logits) {
  std::vector<SampleRow> rows;
  for (size_t i : indices) {
    const PlanSequence& s = plan.sequences[i];
    rows.push_back({s.sampling.temperature, s.sampling.top_k, s.sampling.top_p, s.sampling.seed,
                    static_cast<uint64_t>(s.sample_index)});
  }
  std::vector<int32_t> tokens(rows.size(), -1);
  backend.ops().sample({absl::MakeSpan(tokens), logits, rows}, backend.context());
  std::vector<SampledToken> sampled;
  for (size_t row = 0; row < indices.size(); ++row) {
    const PlanSequence& s = plan.sequences[indices[row]];
    sampled.push_back({s.request, s.attempt, s.sample_index, tokens[row]});
  }
  return sampled;
}

}  // namespace interlace
