#include "coordinator/front/sampling_spec.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"

namespace interlace {
namespace {

constexpr size_t kMostBiases = 300;
constexpr double kLargestBias = 100;
constexpr size_t kMostBadWords = 256;
constexpr size_t kLongestBadWord = 1024;  // bytes

// A field with its default, and the values it may have.
struct Range {
  const char* field;
  std::optional<double> SamplingSpec::*value;
  double low, high;
  bool low_itself;
  const char* text;
};
constexpr Range kRanges[] = {
    {"temperature", &SamplingSpec::temperature, 0, 1000, true, "0 to 1000"},
    {"top_p", &SamplingSpec::top_p, 0, 1, false, "above 0 and at most 1"},
    {"min_p", &SamplingSpec::min_p, 0, 1, true, "0 to 1"},
    {"typical_p", &SamplingSpec::typical_p, 0, 1, false, "above 0 and at most 1"},
    {"repetition_penalty", &SamplingSpec::repetition_penalty, 0, 100, false, "above 0 and at most 100"},
    {"presence_penalty", &SamplingSpec::presence_penalty, -2, 2, true, "-2 to 2"},
    {"frequency_penalty", &SamplingSpec::frequency_penalty, -2, 2, true, "-2 to 2"},
};

absl::Status CheckBias(const SamplingSpec& spec, const Tokenizer& tokenizer) {
  if (spec.logit_bias.size() > kMostBiases) {
    return OutOfRange("logit_bias", static_cast<double>(spec.logit_bias.size()), "at most 300 tokens");
  }
  absl::flat_hash_set<int64_t> seen;
  for (const auto& [token, bias] : spec.logit_bias) {
    if (token < 0 || token >= tokenizer.vocab_size()) {
      return BadField("logit_bias",
                      absl::StrCat("token id ", token, " is outside the vocabulary of ", tokenizer.vocab_size()));
    }
    if (!(bias >= -kLargestBias && bias <= kLargestBias)) return OutOfRange("logit_bias", bias, "-100 to 100");
    if (!seen.insert(token).second) return BadField("logit_bias", absl::StrCat("names token id ", token, " twice"));
  }
  return absl::OkStatus();
}

// Both forms of a word: at the start of a text and behind a space, which most vocabularies write as other tokens.
absl::Status AddBadWord(const std::string& word, const Tokenizer& tokenizer, std::vector<std::vector<int32_t>>* out) {
  const absl::string_view bare = absl::StripLeadingAsciiWhitespace(word);
  for (const char* space : {"", " "}) {
    std::vector<int32_t> tokens = tokenizer.Encode(absl::StrCat(space, bare), /*special=*/false);
    if (tokens.empty() && *space == '\0') return BadField("bad_words", "holds a word that has no tokens");
    if (!tokens.empty() && std::find(out->begin(), out->end(), tokens) == out->end()) out->push_back(std::move(tokens));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status OutOfRange(absl::string_view field, double value, absl::string_view range) {
  return BadField(field, absl::StrCat(value, " is out of range: it must be ", range));
}

absl::Status CheckSampling(const SamplingSpec& spec, const Tokenizer& tokenizer) {
  for (const Range& range : kRanges) {
    if (const std::optional<double>& given = spec.*range.value) {
      const bool in = range.low_itself ? *given >= range.low : *given > range.low;
      // What is above 0 must stay so in F32.
      if (!in || !(*given <= range.high) || (!range.low_itself && !(static_cast<float>(*given) > range.low))) {
        return OutOfRange(range.field, *given, range.text);
      }
    }
  }
  if (spec.top_k.value_or(0) < -1) {
    return OutOfRange("top_k", static_cast<double>(*spec.top_k), "positive, or 0 or -1 for off");
  }
  if (spec.min_tokens.value_or(0) < 0) {
    return OutOfRange("min_tokens", static_cast<double>(*spec.min_tokens), "at least 0");
  }
  const int64_t logprobs = spec.logprobs.value_or(0);
  if (logprobs < 0 || logprobs > kMostLogprobs) {
    return OutOfRange("top_logprobs", static_cast<double>(logprobs), "0 to 20");
  }
  RETURN_IF_ERROR(CheckBias(spec, tokenizer));
  for (const int32_t token : spec.allowed_token_ids) {
    if (token >= 0 && token < tokenizer.vocab_size()) continue;
    return BadField("allowed_token_ids",
                    absl::StrCat("token id ", token, " is outside the vocabulary of ", tokenizer.vocab_size()));
  }
  if (spec.bad_words.size() > kMostBadWords) {
    return OutOfRange("bad_words", static_cast<double>(spec.bad_words.size()), "at most 256 words");
  }
  for (const std::string& word : spec.bad_words) {
    if (absl::StripAsciiWhitespace(word).empty() || word.size() > kLongestBadWord) {
      return BadField("bad_words", "words must have 1 to 1024 bytes that are not all spaces");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Sampling> SamplingOf(const SamplingSpec& spec, const Tokenizer& tokenizer,
                                    const std::vector<int32_t>& end_tokens, uint64_t seed) {
  Sampling sampling;
  sampling.temperature = static_cast<float>(spec.temperature.value_or(1));
  sampling.top_k = static_cast<int32_t>(std::clamp<int64_t>(spec.top_k.value_or(0), 0, tokenizer.vocab_size()));
  sampling.top_p = static_cast<float>(spec.top_p.value_or(1));
  sampling.seed = seed;
  sampling.min_p = static_cast<float>(spec.min_p.value_or(0));
  sampling.typical_p = static_cast<float>(spec.typical_p.value_or(1));
  sampling.repetition_penalty = static_cast<float>(spec.repetition_penalty.value_or(1));
  sampling.presence_penalty = static_cast<float>(spec.presence_penalty.value_or(0));
  sampling.frequency_penalty = static_cast<float>(spec.frequency_penalty.value_or(0));
  if (spec.logprobs) sampling.logprobs = static_cast<int32_t>(*spec.logprobs);
  if (spec.min_tokens.value_or(0) > 0) {
    sampling.min_tokens = static_cast<int32_t>(std::min<int64_t>(*spec.min_tokens, INT32_MAX));
    sampling.end_tokens = end_tokens;
  }
  for (const auto& [token, bias] : spec.logit_bias) {
    sampling.logit_bias.push_back({static_cast<int32_t>(token), static_cast<float>(bias)});
  }
  sampling.allowed_tokens = spec.allowed_token_ids;
  std::sort(sampling.allowed_tokens.begin(), sampling.allowed_tokens.end());
  sampling.allowed_tokens.erase(std::unique(sampling.allowed_tokens.begin(), sampling.allowed_tokens.end()),
                                sampling.allowed_tokens.end());
  for (const std::string& word : spec.bad_words) RETURN_IF_ERROR(AddBadWord(word, tokenizer, &sampling.bad_words));
  return sampling;
}

}  // namespace interlace
