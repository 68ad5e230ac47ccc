#include "worker/draft_guesses.h"

namespace interlace {

void DraftGuesses::Make(const StepPlan& plan, absl::Span<const DraftRow> places, absl::Span<const int32_t> rows,
                        ModelArch& arch, const Tensor& x, std::byte* logits) {
  const Tensor scores{logits, DType::kF32, static_cast<int64_t>(rows.size()), vocab_};
  arch.Logits(x, rows, scores);
  asks_.clear();
  for (const auto& [sequence, position] : places) {
    const PlanSequence& s = plan.sequences[sequence];
    const SequenceKv& kv = pager_.sequence(sequence);
    asks_.push_back({s.request, s.attempt, s.sample_index + position - s.start, &kv.sampling,
                     kv.tokens().first(static_cast<size_t>(position) + 1)});
  }
  const std::vector<SampledToken> sampled = sampler_.Sample(asks_, scores);
  for (size_t i = 0; i < places.size(); ++i) {
    // Logits that hold nothing finite guess nothing: the token that stands there stays.
    if (sampled[i].token >= 0) pager_.NoteDraft(places[i].sequence, places[i].position + 1, sampled[i].token);
  }
}

}  // namespace interlace
