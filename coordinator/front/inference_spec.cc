#include "coordinator/front/inference_spec.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/front/constraint_fields.h"
#include "proto/inference.pb.h"

namespace interlace {
namespace {

void ReadTargets(const v1::Targets& targets, GenerationSpec* spec) {
  if (targets.has_ttft_ms()) spec->targets.ttft_ms = targets.ttft_ms();
  if (targets.has_tpot_ms()) spec->targets.tpot_ms = targets.tpot_ms();
  if (targets.has_largest_gap_ms()) spec->targets.largest_gap_ms = targets.largest_gap_ms();
  if (targets.has_priority()) spec->targets.priority = targets.priority();
  if (targets.has_fairness_id()) spec->targets.fairness_id = targets.fairness_id();
  if (targets.has_deadline_ms()) spec->targets.deadline_ms = targets.deadline_ms();
}

void ReadFidelity(const v1::Fidelity& fidelity, FidelitySpec* spec) {
  if (!fidelity.mode().empty()) spec->mode = fidelity.mode();
  if (fidelity.has_agreement()) spec->agreement = fidelity.agreement();
  if (fidelity.has_exit_layer()) spec->exit_layer = fidelity.exit_layer();
}

std::optional<ConstraintSpec> ConstraintIn(const v1::SamplingOptions& options) {
  switch (options.constraint_case()) {
    case v1::SamplingOptions::kJsonSchema:
      return ConstraintSpec{{ConstraintKind::kJsonSchema, options.json_schema()}, "json_schema"};
    case v1::SamplingOptions::kJsonObject:
      if (!options.json_object()) return std::nullopt;
      return ConstraintSpec{{ConstraintKind::kJsonObject, ""}, "json_object"};
    case v1::SamplingOptions::kRegex:
      return ConstraintSpec{{ConstraintKind::kRegex, options.regex()}, "regex"};
    case v1::SamplingOptions::kChoice: {
      const auto& texts = options.choice().texts();
      return ConstraintSpec{OneOfTexts(std::vector<std::string>(texts.begin(), texts.end())), "choice"};
    }
    case v1::SamplingOptions::kGrammar:
      return ConstraintSpec{GrammarConstraint(options.grammar()), "grammar"};
    case v1::SamplingOptions::kStructuralTag:
      return ConstraintSpec{{ConstraintKind::kStructure, options.structural_tag()}, "structural_tag"};
    case v1::SamplingOptions::CONSTRAINT_NOT_SET:
      break;
  }
  return std::nullopt;
}

// The fields that Generate and Chat share.
template <typename AnyRequest>
GenerationSpec SharedSpec(const AnyRequest& request) {
  const v1::SamplingOptions& options = request.sampling();
  GenerationSpec spec;
  ReadTargets(request.targets(), &spec);
  ReadFidelity(request.fidelity(), &spec.fidelity);
  spec.name = request.request_id();
  spec.model = request.model();
  if (request.has_resume()) {
    const auto& ids = request.resume().ids();
    spec.resume = ResumePoint{{ids.begin(), ids.end()}, request.resume().text_bytes()};
  }
  if (options.has_temperature()) spec.temperature = options.temperature();
  if (options.has_top_p()) spec.top_p = options.top_p();
  if (options.has_top_k()) spec.top_k = options.top_k();
  if (options.has_seed()) spec.seed = options.seed();
  if (options.has_max_tokens()) spec.max_tokens = options.max_tokens();
  if (options.has_min_p()) spec.min_p = options.min_p();
  if (options.has_typical_p()) spec.typical_p = options.typical_p();
  if (options.has_repetition_penalty()) spec.repetition_penalty = options.repetition_penalty();
  if (options.has_presence_penalty()) spec.presence_penalty = options.presence_penalty();
  if (options.has_frequency_penalty()) spec.frequency_penalty = options.frequency_penalty();
  if (options.has_min_tokens()) spec.min_tokens = options.min_tokens();
  if (options.has_logprobs()) spec.logprobs = options.logprobs();
  if (options.has_prompt_logprobs()) spec.prompt_logprobs = options.prompt_logprobs();
  spec.logit_bias.assign(options.logit_bias().begin(), options.logit_bias().end());
  std::sort(spec.logit_bias.begin(), spec.logit_bias.end());
  spec.bad_words.assign(options.bad_words().begin(), options.bad_words().end());
  spec.allowed_token_ids.assign(options.allowed_token_ids().begin(), options.allowed_token_ids().end());
  spec.constraint = ConstraintIn(options);
  spec.stop.assign(options.stop().begin(), options.stop().end());
  spec.stop_token_ids.assign(options.stop_token_ids().begin(), options.stop_token_ids().end());
  spec.ignore_eos = options.ignore_eos();
  return spec;
}

}  // namespace

GenerationSpec SpecOf(const v1::GenerateRequest& request) {
  GenerationSpec spec = SharedSpec(request);
  if (request.has_tokens()) {
    const auto& ids = request.tokens().ids();
    spec.prompts.emplace_back(std::vector<int32_t>(ids.begin(), ids.end()));
  } else if (request.has_text()) {
    spec.prompts.emplace_back(request.text());
  }
  return spec;
}

GenerationSpec SpecOf(const v1::ChatRequest& request) {
  GenerationSpec spec = SharedSpec(request);
  std::vector<ChatMessage> messages;
  for (const v1::ChatMessage& message : request.messages()) messages.push_back({message.role(), message.content()});
  spec.prompts.emplace_back(std::move(messages));
  return spec;
}

}  // namespace interlace
