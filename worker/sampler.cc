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

void Sampler::Fill(const SampleAsk& ask, RowDetail* detail) {
  const Sampling& sampling = *ask.sampling;
  const size_t prompt = ask.tokens.size() - static_cast<size_t>(ask.index);
  const absl::Span<const int32_t> output = ask.tokens.subspan(prompt);
  for (const LogitBias& b : sampling.logit_bias) detail->bias.push_back({b.token, b.bias});
  if (ask.index < sampling.min_tokens && !ask.must_end) detail->masked = sampling.end_tokens;
  for (const std::vector<int32_t>& word : sampling.bad_words) {
    const size_t before = word.size() - 1;
    if (before <= output.size() && std::equal(word.begin(), word.end() - 1, output.end() - before)) {
      detail->masked.push_back(word.back());
    }
  }
  if (sampling.penalises()) detail->seen = CountTokens(ask.tokens.first(prompt), output);
}

std::vector<SampledToken> Sampler::Sample(absl::Span<const SampleAsk> asks, const Tensor& logits) {
  std::vector<RowDetail> details(asks.size());
  std::vector<SampleRow> rows(asks.size());
  int64_t stride = 0;
  for (size_t i = 0; i < asks.size(); ++i) {
    const Sampling& sampling = *asks[i].sampling;
    CHECK(static_cast<int32_t>(asks[i].tokens.size()) >= asks[i].index);
    Fill(asks[i], &details[i]);
    SampleRow& row = rows[i];
    row = {sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed, static_cast<uint64_t>(asks[i].index)};
    row.min_p = sampling.min_p;
    row.typical_p = sampling.typical_p;
    row.repetition_penalty = sampling.repetition_penalty;
    row.presence_penalty = sampling.presence_penalty;
    row.frequency_penalty = sampling.frequency_penalty;
    row.bias = details[i].bias;
    row.masked = details[i].masked;
    row.allowed = asks[i].allowed;
    row.seen = details[i].seen;
    row.logprobs = sampling.logprobs;
    stride = std::max<int64_t>(stride, row.logprobs + 1);
  }
  std::vector<int32_t> chosen(rows.size(), -1);
  std::vector<TokenLogprob> logprobs(rows.size() * stride);
  SampleArgs args{absl::MakeSpan(chosen), logits, rows, absl::MakeSpan(logprobs), stride};
  backend_.ops().sample(args, backend_.context());
  std::vector<SampledToken> sampled(asks.size());
  for (size_t i = 0; i < asks.size(); ++i) {
    SampledToken& out = sampled[i];
    out = {asks[i].request, asks[i].attempt, asks[i].index, chosen[i], {}};
    for (int32_t k = 0; k <= rows[i].logprobs; ++k) {
      const TokenLogprob& logprob = logprobs[i * stride + k];
      if (logprob.token >= 0) out.scores.push_back({logprob.token, logprob.logprob});
    }
  }
  return sampled;
}

void Sampler::Score(absl::Span<const ScoreRow> asks, const Tensor& logits, std::vector<PromptScores>* results) {
  std::vector<SampleRow> rows(asks.size());
  int64_t stride = 1;
  for (size_t i = 0; i < asks.size(); ++i) {
    rows[i].given = asks[i].target;
    rows[i].logprobs = (*results)[asks[i].result].top;
    stride = std::max<int64_t>(stride, rows[i].logprobs + 1);
  }
  std::vector<int32_t> tokens(asks.size(), -1), ranks(asks.size(), 0);
  std::vector<TokenLogprob> logprobs(asks.size() * stride);
  SampleArgs args{absl::MakeSpan(tokens), logits, rows, absl::MakeSpan(logprobs), stride, absl::MakeSpan(ranks)};
  backend_.ops().sample(args, backend_.context());
  for (size_t i = 0; i < asks.size(); ++i) {
    PromptScores& out = (*results)[asks[i].result];
    out.ranks.push_back(ranks[i]);
    for (int32_t k = 0; k <= out.top; ++k) {
      const TokenLogprob& logprob = logprobs[i * stride + k];
      out.scores.push_back({logprob.token, logprob.logprob});
    }
  }
}

}  // namespace interlace
