#include "coordinator/response_cache/answer_key.h"

#include <bit>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"

namespace interlace {
namespace {

void Append(absl::Span<const int32_t> tokens, std::string* text) {
  absl::StrAppend(text, tokens.size(), ":");
  text->append(reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(int32_t));
}

void Append(float number, std::string* text) { absl::StrAppend(text, std::bit_cast<uint32_t>(number), ","); }

void Append(const Constraint& constraint, std::string* text) {
  absl::StrAppend(text, static_cast<int>(constraint.kind), constraint.compact, ",", constraint.text.size(), ":",
                  constraint.text);
  Append(constraint.end_tokens, text);
}

void Append(const Sampling& sampling, std::string* text) {
  for (const float number : {sampling.temperature, sampling.top_p, sampling.min_p, sampling.typical_p,
                             sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty}) {
    Append(number, text);
  }
  absl::StrAppend(text, sampling.top_k, ",", sampling.logprobs, ",", sampling.min_tokens, ",");
  Append(sampling.end_tokens, text);
  absl::StrAppend(text, sampling.logit_bias.size(), ":");
  for (const LogitBias& bias : sampling.logit_bias) {
    absl::StrAppend(text, bias.token, "=");
    Append(bias.bias, text);
  }
  absl::StrAppend(text, sampling.bad_words.size(), ":");
  for (const std::vector<int32_t>& word : sampling.bad_words) Append(word, text);
  Append(sampling.allowed_tokens, text);
  absl::StrAppend(text, sampling.constraint ? "constrained," : "free,");
  if (sampling.constraint) Append(*sampling.constraint, text);
}

}  // namespace

AnswerKey KeyOf(const Request& request, absl::string_view model_digest) {
  std::string shape = absl::StrCat("answer 1,", request.choices, ",", request.prompt_logprobs, ",",
                                   request.max_tokens_given ? request.max_tokens : -1, ",");
  Append(request.sampling, &shape);
  Append(request.stop_tokens, &shape);
  absl::StrAppend(&shape, request.caching->shape.size(), ":", request.caching->shape);
  SkipScopeFields fields{.model_digest = std::string(model_digest),
                         .layer = -1,
                         .adapter = std::string(AdapterDigest(request)),
                         .chat_template = std::move(shape),
                         .tenant = request.targets.tenant,
                         .salt = request.salt};
  AnswerKey key{.scope = ScopeOf(fields)};
  absl::StrAppend(&fields.chat_template, request.max_tokens, ",");
  Append(request.prompt, &fields.chat_template);
  key.prompt = ScopeOf(fields);
  return key;
}

}  // namespace interlace
