#include "worker/sampler.h"

#include <algorithm>

#include "common/check.h"

namespace interlace {

// Each token once, in the order of first appearance.
std::vector<SeenToken> Sampler::CountTokens(absl::Span<const int32_t> prompt, absl::Span<const int32_t> output) {
  if (places_.empty()) places_.assign(vocab_, -1);
  std::vector<SeenToken> seen;
  const auto note = [&](int32_t token, int32_t in_output) {
    int32_t& place = places_[token];
    if (place < 0) {
      place = static_cast<int32_t>(seen.size());
      seen.push_back({token, 0});
    }
    seen[place].in_output += in_output;
  };
  for (int32_t token : prompt) note(token, 0);
  for (int32_t token : output) note(token, 1);
  for (const SeenToken& s : seen) places_[s.token] = -1;
  return seen;
}

void Sampler::Fill(const PlanSequence& sequence, absl::Span<const int32_t> tokens, RowDetail* detail) {
  const Sampling& sampling = sequence.sampling;
  const auto prompt = static_cast<size_t>(static_cast<int32_t>(tokens.size()) - sequence.sample_index);
  const absl::Span<const int32_t> output = tokens.subspan(prompt);
  for (const LogitBias& b : sampling.logit_bias) detail->bias.push_back({b.token, b.bias});
  if (sequence.sample_index < sampling.min_tokens) detail->masked = sampling.end_tokens;
  for (const std::vector<int32_t>& word : sampling.bad_words) {
    const size_t before = word.size() - 1;
    if (before <= output.size() && std::equal(word.begin(), word.end() - 1, output.end() - before)) {
      detail->masked.push_back(word.back());
    }
  }
  if (sampling.penalises()) detail->seen = CountTokens(tokens.first(prompt), output);
}

std::vector<SampledToken> Sampler::Sample(const StepPlan& plan, absl::Span<const size_t> indices,
                                          absl::Span<const absl::Span<const int32_t>> tokens, const Tensor& logits) {
  std::vector<RowDetail> details(indices.size());
  std::vector<SampleRow> rows;
  int64_t stride = 0;
  for (size_t i = 0; i < indices.size(); ++i) {
    const PlanSequence& s = plan.sequences[indices[i]];
    CHECK(static_cast<int32_t>(tokens[i].size()) == s.start + static_cast<int32_t>(s.tokens.size()));
    Fill(s, tokens[i], &details[i]);
    SampleRow& row = rows.emplace_back();
    row = {s.sampling.temperature, s.sampling.top_k, s.sampling.top_p, s.sampling.seed,
           static_cast<uint64_t>(s.sample_index)};
    row.min_p = s.sampling.min_p;
    row.typical_p = s.sampling.typical_p;
    row.repetition_penalty = s.sampling.repetition_penalty;
    row.presence_penalty = s.sampling.presence_penalty;
    row.frequency_penalty = s.sampling.frequency_penalty;
    row.bias = details[i].bias;
    row.masked = details[i].masked;
    row.seen = details[i].seen;
    row.logprobs = s.sampling.logprobs;
    stride = std::max<int64_t>(stride, row.logprobs + 1);
  }
  std::vector<int32_t> chosen(rows.size(), -1);
  std::vector<TokenLogprob> logprobs(rows.size() * stride);
  SampleArgs args{absl::MakeSpan(chosen), logits, rows, absl::MakeSpan(logprobs), stride};
  backend_.ops().sample(args, backend_.context());
  std::vector<SampledToken> sampled;
  for (size_t i = 0; i < indices.size(); ++i) {
    const PlanSequence& s = plan.sequences[indices[i]];
    SampledToken& out = sampled.emplace_back();
    out = {s.request, s.attempt, s.sample_index, chosen[i], {}};
    for (int32_t k = 0; k <= rows[i].logprobs; ++k) {
      const TokenLogprob& logprob = logprobs[i * stride + k];
      if (logprob.token >= 0) out.scores.push_back({logprob.token, logprob.logprob});
    }
  }
  return sampled;
}

}  // namespace interlace
