#include "checkpoint/peft_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "checkpoint/gguf_values.h"
#include "checkpoint/peft_adapter.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

using Json = nlohmann::ordered_json;  // patterns are tried in the order in which they stand

constexpr double kMostAlpha = 1e6;
constexpr absl::string_view kMerge = "merge the adapter into its model (PEFT's merge_and_unload) and serve that";

// A field under which an adapter is more than pairs of matrices, and the values under which it is not; absent and null
// are among these.
struct Plain {
  absl::string_view field;
  absl::string_view values;  // a JSON list
};
constexpr Plain kPlain[] = {
    {"bias", R"(["none"])"},       {"modules_to_save", "[[]]"},
    {"use_dora", "[false]"},       {"use_qalora", "[false]"},
    {"lora_bias", "[false]"},      {"fan_in_fan_out", "[false]"},
    {"target_parameters", "[[]]"}, {"trainable_token_indices", "[[], {}]"},
    {"layer_replication", "[[]]"}, {"alora_invocation_tokens", "[[]]"},
    {"arrow_config", "[]"},        {"use_bdlora", "[false]"},
    {"kasa_config", "[]"},         {"monteclora_config", "[]"},
};

// Ways to begin training that change the model, too: such an adapter goes with the changed one. PEFT saves a
// converted one under another value.
constexpr absl::string_view kChangesModel[] = {"pissa", "olora", "corda", "loftq", "lora_ga"};

std::string Shown(const Json& value) {
  return Quoted(value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 100));
}

// What one file says, and how it is refused.
class Reader {
 public:
  Reader(const Json& root, const std::string& name) : root_(root), name_(name) {}

  // Null: absent, or null.
  const Json* Find(absl::string_view field) const {
    const auto found = root_.find(std::string(field));
    return found == root_.end() || found->is_null() ? nullptr : &*found;
  }
  absl::Status Invalid(absl::string_view field, const Json& value, absl::string_view why) const {
    return absl::InvalidArgumentError(absl::StrCat(name_, ": ", field, " ", Shown(value), " ", why));
  }
  absl::Status Unbuilt(absl::string_view field, const Json& value, absl::string_view instead) const {
    return absl::UnimplementedError(absl::StrCat(name_, ": ", field, "=", Shown(value), " is not built in; ", instead));
  }
  absl::StatusOr<int64_t> Rank(absl::string_view field, const Json& value) const {
    const bool whole = value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
    const int64_t rank = whole ? value.get<int64_t>() : 0;
    if (rank >= 1 && rank <= PeftAdapter::kMostRank) return rank;
    return Invalid(field, value, absl::StrCat("is no rank: it must be 1 to ", PeftAdapter::kMostRank));
  }
  absl::StatusOr<double> Alpha(absl::string_view field, const Json& value) const {
    const double alpha = value.is_number() ? value.get<double>() : NAN;
    if (std::abs(alpha) <= kMostAlpha) return alpha;
    return Invalid(field, value, absl::StrCat("is no number from ", -kMostAlpha, " to ", kMostAlpha));
  }
  // {"name of a module": value, ..}.
  template <typename Value, typename Read>
  absl::StatusOr<std::vector<std::pair<std::string, Value>>> Pattern(absl::string_view field, Read read) const {
    std::vector<std::pair<std::string, Value>> pattern;
    const Json* object = Find(field);
    if (object == nullptr) return pattern;
    if (!object->is_object()) return Invalid(field, *object, "is not an object of modules and numbers");
    for (const auto& [key, value] : object->items()) {
      const auto plain = [](char c) {
        return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.';
      };
      if (key.empty() || !absl::c_all_of(key, plain)) {
        return Unbuilt(field, Json(key), "name modules by letters, digits, '_' and '.' alone");
      }
      ASSIGN_OR_RETURN(Value read_value, read(absl::StrCat(field, ".", key), value));
      pattern.emplace_back(key, read_value);
    }
    return pattern;
  }
  absl::Status CheckPlain() const {
    for (const Plain& plain : kPlain) {
      const Json* value = Find(plain.field);
      if (value == nullptr) continue;
      const Json allowed = Json::parse(plain.values);
      if (absl::c_find(allowed, *value) == allowed.end()) return Unbuilt(plain.field, *value, kMerge);
    }
    if (const Json* type = Find("peft_type"); type == nullptr || *type != "LORA") {
      return Unbuilt("peft_type", type == nullptr ? Json() : *type, "adapters of type LORA are");
    }
    const Json* begun = Find("init_lora_weights");
    if (begun == nullptr || !begun->is_string()) return absl::OkStatus();
    for (absl::string_view method : kChangesModel) {
      if (!absl::StartsWith(absl::AsciiStrToLower(begun->get<std::string>()), method)) continue;
      return Unbuilt("init_lora_weights", *begun,
                     "it changes the model, too: save the adapter with path_initial_model_for_weight_conversion");
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<std::string>> Targets() const {
    constexpr absl::string_view kField = "target_modules";
    std::vector<std::string> targets;
    const Json* value = Find(kField);
    if (value == nullptr || value->is_string()) return targets;
    if (!value->is_array()) return Invalid(kField, *value, "is neither a text nor a list of texts");
    for (const Json& item : *value) {
      if (!item.is_string()) return Invalid(kField, item, "is not a text");
      targets.push_back(item.get<std::string>());
      if (!IsAdaptable(targets.back())) {
        return Unbuilt(kField, item, absl::StrCat("these may be adapted: ", kAdaptableModules, "; else ", kMerge));
      }
    }
    return targets;
  }

 private:
  const Json& root_;
  const std::string& name_;
};

template <typename Value>
Value Look(const std::vector<std::pair<std::string, Value>>& pattern, absl::string_view module, Value usual) {
  for (const auto& [key, value] : pattern) {
    if (NamesModule(key, module)) return value;
  }
  return usual;
}

}  // namespace

bool NamesModule(absl::string_view key, absl::string_view module) {
  return module == key || absl::EndsWith(module, absl::StrCat(".", key));
}

bool IsAdaptable(absl::string_view module) {
  const absl::string_view last = module.substr(module.rfind('.') + 1);  // npos + 1 is 0
  return absl::c_linear_search(std::vector<absl::string_view>(absl::StrSplit(kAdaptableModules, ", ")), last);
}

absl::StatusOr<PeftConfig> PeftConfig::Parse(absl::string_view json, const std::string& name) {
  const Json root = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return absl::InvalidArgumentError(absl::StrCat(name, ": this is not a JSON object"));
  const Reader reader(root, name);
  RETURN_IF_ERROR(reader.CheckPlain());
  PeftConfig config;
  const Json none, *rank = reader.Find("r"), *alpha = reader.Find("lora_alpha");
  ASSIGN_OR_RETURN(config.rank_, reader.Rank("r", rank == nullptr ? none : *rank));
  ASSIGN_OR_RETURN(config.alpha_, reader.Alpha("lora_alpha", alpha == nullptr ? none : *alpha));
  if (const Json* by_root = reader.Find("use_rslora")) {
    if (!by_root->is_boolean()) return reader.Invalid("use_rslora", *by_root, "is not true or false");
    config.by_root_ = by_root->get<bool>();
  }
  ASSIGN_OR_RETURN(config.ranks_,
                   reader.Pattern<int64_t>("rank_pattern", [&](absl::string_view field, const Json& value) {
                     return reader.Rank(field, value);
                   }));
  ASSIGN_OR_RETURN(config.alphas_,
                   reader.Pattern<double>("alpha_pattern", [&](absl::string_view field, const Json& value) {
                     return reader.Alpha(field, value);
                   }));
  ASSIGN_OR_RETURN(config.targets_, reader.Targets());
  if (const Json* base = reader.Find("base_model_name_or_path"); base != nullptr && base->is_string()) {
    config.base_model_ = base->get<std::string>();
  }
  return config;
}

int64_t PeftConfig::RankOf(absl::string_view module) const { return Look(ranks_, module, rank_); }

double PeftConfig::ScaleOf(absl::string_view module) const {
  const auto rank = static_cast<double>(RankOf(module));
  return Look(alphas_, module, alpha_) / (by_root_ ? std::sqrt(rank) : rank);
}

}  // namespace interlace
