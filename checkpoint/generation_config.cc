#include "checkpoint/generation_config.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/hf_config.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

absl::Status ReadEndTokens(const HfConfig& config, GenerationDefaults* defaults) {
  constexpr absl::string_view kKey = "eos_token_id";
  if (!config.Has(kKey)) return absl::OkStatus();
  std::vector<int64_t> ids;
  if (const absl::StatusOr<int64_t> one = config.Integer(kKey); one.ok()) {
    ids.push_back(*one);
  } else {
    ASSIGN_OR_RETURN(ids, config.Integers(kKey));
  }
  for (int64_t id : ids) {
    if (id < 0 || id > std::numeric_limits<int32_t>::max()) {
      return absl::InvalidArgumentError(absl::StrCat(config.name(), ": ", kKey, " ", id, " is no token id"));
    }
    defaults->end_tokens.push_back(static_cast<int32_t>(id));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(absl::string_view json, const std::string& name) {
  GenerationDefaults defaults;
  if (json.empty()) return defaults;
  ASSIGN_OR_RETURN(const HfConfig config, HfConfig::Parse(json, name));
  RETURN_IF_ERROR(ReadEndTokens(config, &defaults));
  if (config.Has("do_sample")) {
    ASSIGN_OR_RETURN(defaults.do_sample, config.Flag("do_sample"));
  }
  if (config.Has("top_k")) {
    ASSIGN_OR_RETURN(defaults.top_k, config.Integer("top_k"));
  }
  for (const auto& [key, to] : {std::pair{"temperature", &defaults.temperature},
                                {"top_p", &defaults.top_p},
                                {"min_p", &defaults.min_p},
                                {"typical_p", &defaults.typical_p},
                                {"repetition_penalty", &defaults.repetition_penalty}}) {
    if (!config.Has(key)) continue;
    ASSIGN_OR_RETURN(const double value, config.Real(key));
    if (!std::isfinite(value) || value < 0) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": ", key, " ", value, " is out of range"));
    }
    *to = value;
  }
  return defaults;
}

}  // namespace interlace
