// Fields that bodies of all HTTP protocols may have: targets, sampling, names. Pure functions.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/front/api_request.h"
#include "coordinator/front/json_fields.h"

namespace interlace {

// model, request_id, cache_salt, deadline_ms, priority, fairness_id, slo.
absl::Status ReadIdentity(const Json& json, GenerationSpec* spec);
// How tokens are chosen and when they end, as OpenAI and vLLM name the fields.
absl::Status ReadSampling(const Json& json, GenerationSpec* spec);
// A text, a list of texts, token ids, or a list of lists of token ids.
absl::StatusOr<std::vector<Prompt>> ReadPrompts(const Json& json, const char* field);
// What no protocol here can do.
absl::Status RefuseUnbuilt(const Json& json);
// All of these, with constraints, for protocols in which a request has one answer. `json` is `body`, parsed.
absl::Status ReadOneChoice(const Json& json, absl::string_view body, GenerationSpec* spec);

}  // namespace interlace
