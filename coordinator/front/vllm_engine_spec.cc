#include "coordinator/front/vllm_engine_spec.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"
#include "proto/compat/vllm_engine.pb.h"

namespace interlace {
namespace {

namespace wire = vllm::grpc::engine;

absl::Status CheckUnsupported(const wire::GenerateRequest& request) {
  const wire::SamplingParams& sampling = request.sampling_params();
  const auto refuse = [](absl::string_view field) { return BadField(field, "is not supported by this server"); };
  if (sampling.constraint_case() != wire::SamplingParams::CONSTRAINT_NOT_SET) {
    const auto* field = wire::SamplingParams::descriptor()->FindFieldByNumber(sampling.constraint_case());
    return refuse(absl::StrCat("sampling_params.", field->name()));
  }
  if (sampling.has_prompt_logprobs()) return refuse("sampling_params.prompt_logprobs");
  if (request.has_mm_inputs() || request.extra_mm_inputs_size() > 0) return refuse("mm_inputs");
  if (request.has_media_refs()) return refuse("media_refs");
  if (request.has_kv_transfer_params() || request.has_kv_transfer_params_json()) return refuse("kv_transfer_params");
  if (request.data_parallel_rank() != 0) return refuse("data_parallel_rank");
  return absl::OkStatus();
}

// Numbers whose zero means "unset".
template <typename Number, typename Field>
void TakeUnlessZero(Number number, Field* field) {
  if (number != Number{}) *field = number;
}

absl::StatusOr<std::vector<int32_t>> Tokens(absl::string_view name,
                                            const google::protobuf::RepeatedField<uint32_t>& ids) {
  std::vector<int32_t> tokens;
  tokens.reserve(static_cast<size_t>(ids.size()));
  for (const uint32_t id : ids) {
    if (id > static_cast<uint32_t>(std::numeric_limits<int32_t>::max())) {
      return BadField(name, absl::StrCat("token id ", id, " is outside the vocabulary"));
    }
    tokens.push_back(static_cast<int32_t>(id));
  }
  return tokens;
}

}  // namespace

absl::StatusOr<GenerationSpec> SpecOf(const wire::GenerateRequest& request) {
  RETURN_IF_ERROR(CheckUnsupported(request));
  GenerationSpec spec;
  spec.name = request.request_id();
  if (request.has_tokenized()) {
    ASSIGN_OR_RETURN(std::vector<int32_t> ids, Tokens("tokenized.input_ids", request.tokenized().input_ids()));
    spec.prompts.emplace_back(std::move(ids));
  } else if (request.has_text()) {
    spec.prompts.emplace_back(request.text());
    spec.form.parse_special = true;
  }
  const wire::SamplingParams& sampling = request.sampling_params();
  if (sampling.has_temperature()) spec.temperature = sampling.temperature();
  TakeUnlessZero(sampling.top_p(), &spec.top_p);
  TakeUnlessZero(sampling.top_k(), &spec.top_k);
  TakeUnlessZero(sampling.min_p(), &spec.min_p);
  TakeUnlessZero(sampling.frequency_penalty(), &spec.frequency_penalty);
  TakeUnlessZero(sampling.presence_penalty(), &spec.presence_penalty);
  TakeUnlessZero(sampling.repetition_penalty(), &spec.repetition_penalty);
  if (sampling.has_max_tokens()) spec.max_tokens = sampling.max_tokens();
  TakeUnlessZero(sampling.min_tokens(), &spec.min_tokens);
  spec.stop.assign(sampling.stop().begin(), sampling.stop().end());
  ASSIGN_OR_RETURN(spec.stop_token_ids, Tokens("sampling_params.stop_token_ids", sampling.stop_token_ids()));
  spec.ignore_eos = sampling.ignore_eos();
  if (sampling.n() > static_cast<uint32_t>(kMostOfAPrompt)) return OutOfRange("n", sampling.n(), "1 to 16");
  if (sampling.n() > 0) spec.n = static_cast<int32_t>(sampling.n());
  if (sampling.has_logprobs()) spec.logprobs = sampling.logprobs();
  if (sampling.has_seed()) spec.seed = static_cast<uint32_t>(sampling.seed());
  spec.include_stop = sampling.include_stop_str_in_output();
  spec.logit_bias.assign(sampling.logit_bias().begin(), sampling.logit_bias().end());
  std::sort(spec.logit_bias.begin(), spec.logit_bias.end());
  if (sampling.has_truncate_prompt_tokens()) spec.truncate_prompt_tokens = sampling.truncate_prompt_tokens();
  return spec;
}

}  // namespace interlace
