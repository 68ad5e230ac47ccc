#include "coordinator/front/request_fields.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/constraint_fields.h"

namespace interlace {
namespace {

// What servers of the ecosystem understand and this one does not have. guided_decoding_backend, which chooses among
// their libraries, changes no answer and is ignored.
constexpr UnsupportedField kUnsupported[] = {
    {"guided_whitespace_pattern", "[]"},
    {"logits_processors", "[[]]"},
    {"audio", "[]"},
    {"documents", "[[]]"},
    {"dry_multiplier", "[0]"},
    {"dynatemp_range", "[0]"},
    {"function_call", "[\"none\", \"auto\"]"},
    {"functions", "[[]]"},
    {"kv_transfer_params", "[{}]"},
    {"length_penalty", "[1]"},
    {"lora", "[[]]"},
    {"mirostat", "[0]"},
    {"modalities", "[[\"text\"]]"},
    {"n_probs", "[0]"},
    {"no_repeat_ngram_size", "[0]"},
    {"prompt_embeds", "[]"},
    {"repeat_penalty", "[1]"},
    {"return_token_ids", "[false]"},
    {"return_tokens_as_token_ids", "[false]"},
    {"smoothing_factor", "[0]"},
    {"tfs_z", "[1]"},
    {"top_a", "[0]"},
    {"use_beam_search", "[false]"},
    {"web_search_options", "[]"},
    {"xtc_probability", "[0]"},
};

// {"token id": bias, ...}.
absl::Status ReadBias(const Json& json, std::vector<std::pair<int64_t, double>>* out) {
  const Json* value = Member(json, "logit_bias");
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_object()) return BadField("logit_bias", "must be an object of token ids and numbers");
  for (const auto& [key, bias] : value->items()) {
    int64_t token = 0;
    if (!absl::SimpleAtoi(key, &token)) {
      return BadField("logit_bias", absl::StrCat("'", key.substr(0, 40), "' is no token id"));
    }
    if (!bias.is_number()) return BadField("logit_bias", "must be an object of token ids and numbers");
    out->emplace_back(token, bias.get<double>());
  }
  return absl::OkStatus();
}

// slo: {ttft_ms, tpot_ms, largest_gap_ms}. It is ours, so a name that it does not have is a slip and not a later
// version.
absl::Status ReadSlo(const Json& json, TargetSpec* targets) {
  const Json* slo = Member(json, "slo");
  if (slo == nullptr) return absl::OkStatus();
  if (!slo->is_object()) return BadField("slo", absl::StrCat(Shown(*slo), " is not an object"));
  for (const auto& [name, value] : slo->items()) {
    std::optional<double>* ms = name == "ttft_ms"          ? &targets->ttft_ms
                                : name == "tpot_ms"        ? &targets->tpot_ms
                                : name == "largest_gap_ms" ? &targets->largest_gap_ms
                                                           : nullptr;
    if (ms == nullptr) {
      return BadField("slo", absl::StrCat(Shown(name), " is not known; it has ttft_ms, tpot_ms and largest_gap_ms"));
    }
    if (value.is_null()) continue;
    const std::string field = absl::StrCat("slo.", name);
    if (!value.is_number()) return BadField(field, absl::StrCat(Shown(value), " is not a number of milliseconds"));
    *ms = value.get<double>();
  }
  return absl::OkStatus();
}

absl::Status ReadTargets(const Json& json, TargetSpec* targets) {
  std::optional<int64_t> deadline_ms;
  RETURN_IF_ERROR(Read(json, "deadline_ms", &deadline_ms));
  if (deadline_ms) targets->deadline_ms = static_cast<double>(*deadline_ms);
  RETURN_IF_ERROR(Read(json, "priority", &targets->priority));
  if (Member(json, "fairness_id") != nullptr) {
    RETURN_IF_ERROR(Read(json, "fairness_id", &targets->fairness_id.emplace()));
  }
  return ReadSlo(json, targets);
}

// fidelity: "bounded", or {mode, agreement, exit_layer}. It is ours, as slo is.
absl::Status ReadFidelity(const Json& json, FidelitySpec* spec) {
  const Json* fidelity = Member(json, "fidelity");
  if (fidelity == nullptr) return absl::OkStatus();
  if (fidelity->is_string()) {
    spec->mode = fidelity->get<std::string>();
    return absl::OkStatus();
  }
  if (!fidelity->is_object()) return BadField("fidelity", absl::StrCat(Shown(*fidelity), " is no text and no object"));
  for (const auto& [name, value] : fidelity->items()) {
    if (name == "mode" || name == "agreement" || name == "exit_layer") continue;
    return BadField("fidelity", absl::StrCat(Shown(name), " is not known; it has mode, agreement and exit_layer"));
  }
  std::string mode = "exact";
  RETURN_IF_ERROR(Read(*fidelity, "mode", &mode));
  spec->mode = mode;
  RETURN_IF_ERROR(Read(*fidelity, "agreement", &spec->agreement));
  return Read(*fidelity, "exit_layer", &spec->exit_layer);
}

// cache: {"no-cache": true, "no-store": true}, as LiteLLM has it: no kept answer is wanted, this one is not kept.
absl::Status ReadCache(const Json& json, GenerationSpec* spec) {
  const Json* cache = Member(json, "cache");
  if (cache == nullptr) return absl::OkStatus();
  if (!cache->is_object()) return BadField("cache", absl::StrCat(Shown(*cache), " is not an object"));
  bool no_cache = false, no_store = false;
  RETURN_IF_ERROR(Read(*cache, "no-cache", &no_cache));
  RETURN_IF_ERROR(Read(*cache, "no-store", &no_store));
  spec->cache_look_up = !no_cache;
  spec->cache_keep = !no_store;
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadIdentity(const Json& json, GenerationSpec* spec) {
  RETURN_IF_ERROR(Read(json, "model", &spec->model));
  RETURN_IF_ERROR(Read(json, "request_id", &spec->name));
  RETURN_IF_ERROR(Read(json, "cache_salt", &spec->salt));
  RETURN_IF_ERROR(ReadCache(json, spec));
  RETURN_IF_ERROR(ReadFidelity(json, &spec->fidelity));
  return ReadTargets(json, &spec->targets);
}

absl::StatusOr<std::vector<Prompt>> ReadPrompts(const Json& json, const char* field) {
  const Json* prompt = Member(json, field);
  if (prompt == nullptr) return BadField(field, "is missing");
  if (prompt->is_string()) return std::vector<Prompt>{prompt->get<std::string>()};
  if (!prompt->is_array() || prompt->empty()) {
    return BadField(field, "must be a string, a list of strings, token ids or a list of token id lists");
  }
  std::vector<Prompt> prompts;
  if (prompt->front().is_number()) {
    ASSIGN_OR_RETURN(std::vector<int32_t> ids, ReadIds(*prompt, field));
    prompts.emplace_back(std::move(ids));
    return prompts;
  }
  for (const Json& item : *prompt) {
    if (item.type() != prompt->front().type()) return BadField(field, "mixes strings and token ids");
    if (item.is_string()) {
      prompts.emplace_back(item.get<std::string>());
    } else {
      ASSIGN_OR_RETURN(std::vector<int32_t> ids, ReadIds(item, field));
      prompts.emplace_back(std::move(ids));
    }
  }
  return prompts;
}

absl::Status RefuseUnbuilt(const Json& json) { return RefuseUnsupported(json, kUnsupported); }

absl::Status ReadSampling(const Json& json, GenerationSpec* spec) {
  std::optional<int64_t> n, seed, completion_tokens;
  RETURN_IF_ERROR(Read(json, "n", &n));
  RETURN_IF_ERROR(Read(json, "seed", &seed));
  RETURN_IF_ERROR(Read(json, "max_tokens", &spec->max_tokens));
  RETURN_IF_ERROR(Read(json, "max_completion_tokens", &completion_tokens));
  RETURN_IF_ERROR(Read(json, "temperature", &spec->temperature));
  RETURN_IF_ERROR(Read(json, "top_p", &spec->top_p));
  RETURN_IF_ERROR(Read(json, "top_k", &spec->top_k));
  RETURN_IF_ERROR(Read(json, "min_p", &spec->min_p));
  RETURN_IF_ERROR(Read(json, "typical_p", &spec->typical_p));
  RETURN_IF_ERROR(Read(json, "repetition_penalty", &spec->repetition_penalty));
  RETURN_IF_ERROR(Read(json, "presence_penalty", &spec->presence_penalty));
  RETURN_IF_ERROR(Read(json, "frequency_penalty", &spec->frequency_penalty));
  RETURN_IF_ERROR(Read(json, "min_tokens", &spec->min_tokens));
  RETURN_IF_ERROR(Read(json, "ignore_eos", &spec->ignore_eos));
  RETURN_IF_ERROR(Read(json, "include_stop_str_in_output", &spec->include_stop));
  RETURN_IF_ERROR(Read(json, "skip_special_tokens", &spec->skip_special_tokens));
  RETURN_IF_ERROR(Read(json, "truncate_prompt_tokens", &spec->truncate_prompt_tokens));
  RETURN_IF_ERROR(ReadTexts(json, "stop", &spec->stop));
  RETURN_IF_ERROR(ReadTexts(json, "bad_words", &spec->bad_words));
  RETURN_IF_ERROR(ReadBias(json, &spec->logit_bias));
  if (const Json* ids = Member(json, "stop_token_ids")) {
    ASSIGN_OR_RETURN(spec->stop_token_ids, ReadIds(*ids, "stop_token_ids"));
  }
  if (n && (*n < 1 || *n > 16)) return BadField("n", absl::StrCat(*n, " is out of range: it must be 1 to 16"));
  spec->n = static_cast<int32_t>(n.value_or(1));
  if (seed) spec->seed = static_cast<uint64_t>(*seed);
  if (completion_tokens) spec->max_tokens = completion_tokens;
  return absl::OkStatus();
}

absl::Status ReadOneChoice(const Json& json, absl::string_view body, GenerationSpec* spec) {
  constexpr UnsupportedField kPromptLogprobs[] = {{"prompt_logprobs", "[]"}};
  RETURN_IF_ERROR(RefuseUnbuilt(json));
  RETURN_IF_ERROR(RefuseUnsupported(json, kPromptLogprobs));
  RETURN_IF_ERROR(ReadConstraint(json, body, spec));
  RETURN_IF_ERROR(ReadIdentity(json, spec));
  RETURN_IF_ERROR(ReadSampling(json, spec));
  return spec->n == 1 ? absl::OkStatus() : BadField("n", "must be 1 here");
}

}  // namespace interlace
