#include "proto/plan/sampling_codec.h"

#include <cmath>

#include "common/status_macros.h"
#include "proto/plan/codec_parts.h"

namespace interlace {
namespace {

absl::Status RefuseReal(absl::string_view what, float value) {
  return absl::InvalidArgumentError(absl::StrCat("cluster message: sampling.", what, "=", value, " is out of range"));
}

absl::StatusOr<Constraint> DecodeConstraint(const v1::ConstraintMessage& m) {
  if (m.kind() < 0 || m.kind() > static_cast<int32_t>(ConstraintKind::kStructure)) {
    return Refuse("sampling.constraint.kind", m.kind());
  }
  return Constraint{
      static_cast<ConstraintKind>(m.kind()), m.text(), m.compact(), {m.end_tokens().begin(), m.end_tokens().end()}};
}

}  // namespace

void EncodeSampling(const Sampling& sampling, v1::Sampling* out) {
  out->set_temperature(sampling.temperature);
  out->set_top_k(sampling.top_k);
  out->set_top_p(sampling.top_p);
  out->set_seed(sampling.seed);
  out->set_min_p(sampling.min_p);
  out->set_typical_p(sampling.typical_p);
  out->set_repetition_penalty(sampling.repetition_penalty);
  out->set_presence_penalty(sampling.presence_penalty);
  out->set_frequency_penalty(sampling.frequency_penalty);
  out->set_logprobs(sampling.logprobs);
  out->set_min_tokens(sampling.min_tokens);
  out->mutable_end_tokens()->Assign(sampling.end_tokens.begin(), sampling.end_tokens.end());
  for (const LogitBias& b : sampling.logit_bias) {
    v1::LogitBias* m = out->add_logit_bias();
    m->set_token(b.token);
    m->set_bias(b.bias);
  }
  for (const std::vector<int32_t>& word : sampling.bad_words) {
    out->add_bad_words()->mutable_tokens()->Assign(word.begin(), word.end());
  }
  out->mutable_allowed_tokens()->Assign(sampling.allowed_tokens.begin(), sampling.allowed_tokens.end());
  if (!sampling.constraint) return;
  const Constraint& constraint = *sampling.constraint;
  v1::ConstraintMessage* m = out->mutable_constraint();
  m->set_kind(static_cast<int32_t>(constraint.kind));
  m->set_text(constraint.text);
  m->set_compact(constraint.compact);
  m->mutable_end_tokens()->Assign(constraint.end_tokens.begin(), constraint.end_tokens.end());
}

absl::StatusOr<Sampling> DecodeSampling(const v1::Sampling& m) {
  if (!(m.temperature() >= 0 && std::isfinite(m.temperature()))) return RefuseReal("temperature", m.temperature());
  if (m.top_k() < 0) return Refuse("sampling.top_k", m.top_k());
  if (!(m.top_p() > 0 && m.top_p() <= 1)) return RefuseReal("top_p", m.top_p());
  if (!(m.min_p() >= 0 && m.min_p() <= 1)) return RefuseReal("min_p", m.min_p());
  if (!(m.typical_p() > 0 && m.typical_p() <= 1)) return RefuseReal("typical_p", m.typical_p());
  if (!(m.repetition_penalty() > 0 && std::isfinite(m.repetition_penalty()))) {
    return RefuseReal("repetition_penalty", m.repetition_penalty());
  }
  if (!std::isfinite(m.presence_penalty())) return RefuseReal("presence_penalty", m.presence_penalty());
  if (!std::isfinite(m.frequency_penalty())) return RefuseReal("frequency_penalty", m.frequency_penalty());
  if (m.logprobs() < -1 || m.logprobs() > kMostLogprobs) return Refuse("sampling.logprobs", m.logprobs());
  if (m.min_tokens() < 0) return Refuse("sampling.min_tokens", m.min_tokens());
  Sampling sampling;
  sampling.temperature = m.temperature();
  sampling.top_k = m.top_k();
  sampling.top_p = m.top_p();
  sampling.seed = m.seed();
  sampling.min_p = m.min_p();
  sampling.typical_p = m.typical_p();
  sampling.repetition_penalty = m.repetition_penalty();
  sampling.presence_penalty = m.presence_penalty();
  sampling.frequency_penalty = m.frequency_penalty();
  sampling.logprobs = m.logprobs();
  sampling.min_tokens = m.min_tokens();
  sampling.end_tokens.assign(m.end_tokens().begin(), m.end_tokens().end());
  for (const v1::LogitBias& b : m.logit_bias()) {
    if (!std::isfinite(b.bias())) return RefuseReal("logit_bias", b.bias());
    sampling.logit_bias.push_back({b.token(), b.bias()});
  }
  for (const v1::BadWord& word : m.bad_words()) {
    if (word.tokens().empty()) return Refuse("sampling.bad_words", 0);
    sampling.bad_words.emplace_back(word.tokens().begin(), word.tokens().end());
  }
  sampling.allowed_tokens.assign(m.allowed_tokens().begin(), m.allowed_tokens().end());
  if (m.has_constraint()) {
    ASSIGN_OR_RETURN(sampling.constraint, DecodeConstraint(m.constraint()));
  }
  return sampling;
}

}  // namespace interlace
