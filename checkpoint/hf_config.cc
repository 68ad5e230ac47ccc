#include "checkpoint/hf_config.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "checkpoint/file_mapping.h"
#include "common/status_macros.h"

namespace interlace {

namespace {

// What Gemma3TextConfig takes for keys that published folders leave out.
const nlohmann::json& DefaultsOf(absl::string_view model_type) {
  static const nlohmann::json& none = *new nlohmann::json(nlohmann::json::object());
  static const nlohmann::json& gemma3 = *new nlohmann::json({{"num_attention_heads", 8},
                                                             {"num_key_value_heads", 4},
                                                             {"head_dim", 256},
                                                             {"max_position_embeddings", 131072},
                                                             {"vocab_size", 262208}});
  return model_type == "gemma3_text" ? gemma3 : none;
}

}  // namespace

struct HfConfig::Contents {
  std::string name;
  std::string text;
  nlohmann::json root;

  // Null if there is none.
  const nlohmann::json* Find(absl::string_view key) const {
    if (const nlohmann::json* value = FindIn(root, key)) return value;
    const auto text_config = root.find("text_config");
    if (text_config == root.end()) return nullptr;
    if (const nlohmann::json* value = FindIn(*text_config, key)) return value;
    const nlohmann::json* type = FindIn(*text_config, "model_type");
    return type != nullptr && type->is_string() ? FindIn(DefaultsOf(type->get_ref<const std::string&>()), key)
                                                : nullptr;
  }
  static const nlohmann::json* FindIn(const nlohmann::json& from, absl::string_view key) {
    const nlohmann::json* at = &from;
    for (absl::string_view part : absl::StrSplit(key, '.')) {
      if (!at->is_object()) return nullptr;
      const auto found = at->find(std::string(part));
      if (found == at->end() || found->is_null()) return nullptr;
      at = &*found;
    }
    return at;
  }
  absl::Status Refuse(absl::string_view key, absl::string_view wanted) const {
    if (Find(key) == nullptr) return absl::InvalidArgumentError(absl::StrCat(name, ": ", key, " is missing"));
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", key, " is not ", wanted));
  }
};

bool IsModelFolder(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

absl::StatusOr<HfConfig> HfConfig::Open(const std::string& folder) {
  const std::string path = folder + "/config.json";
  ASSIGN_OR_RETURN(const std::unique_ptr<FileMapping> file, FileMapping::Open(path));
  return Parse(file->text(), path);
}

absl::StatusOr<HfConfig> HfConfig::Parse(absl::string_view json, const std::string& name) {
  auto contents = std::make_shared<Contents>();
  contents->name = name;
  contents->text = std::string(json);
  contents->root = nlohmann::json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!contents->root.is_object()) return absl::InvalidArgumentError(absl::StrCat(name, ": this is not a JSON object"));
  HfConfig config;
  config.contents_ = std::move(contents);
  return config;
}

bool HfConfig::Has(absl::string_view key) const { return contents_->Find(key) != nullptr; }
bool HfConfig::IsNull(absl::string_view key) const {
  const nlohmann::json& root = contents_->root;
  const auto null_in = [&](const nlohmann::json& json) {
    return json.is_object() && json.contains(std::string(key)) && json[std::string(key)].is_null();
  };
  return !Has(key) && (null_in(root) || (root.contains("text_config") && null_in(root["text_config"])));
}
const std::string& HfConfig::name() const { return contents_->name; }
const std::string& HfConfig::text() const { return contents_->text; }

absl::StatusOr<std::string> HfConfig::Text(absl::string_view key) const {
  const nlohmann::json* value = contents_->Find(key);
  if (value == nullptr || !value->is_string()) return contents_->Refuse(key, "a text");
  return value->get<std::string>();
}
absl::StatusOr<int64_t> HfConfig::Integer(absl::string_view key) const {
  const nlohmann::json* value = contents_->Find(key);
  if (value == nullptr || !value->is_number_integer() ||
      (value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{INT64_MAX})) {
    return contents_->Refuse(key, "an integer");
  }
  return value->get<int64_t>();
}
absl::StatusOr<double> HfConfig::Real(absl::string_view key) const {
  const nlohmann::json* value = contents_->Find(key);
  if (value == nullptr || !value->is_number()) return contents_->Refuse(key, "a number");
  return value->get<double>();
}
absl::StatusOr<bool> HfConfig::Flag(absl::string_view key) const {
  const nlohmann::json* value = contents_->Find(key);
  if (value == nullptr || !value->is_boolean()) return contents_->Refuse(key, "true or false");
  return value->get<bool>();
}
absl::StatusOr<std::vector<std::string>> HfConfig::Texts(absl::string_view key) const {
  const nlohmann::json* value = contents_->Find(key);
  if (value == nullptr || !value->is_array()) return contents_->Refuse(key, "a list of texts");
  std::vector<std::string> texts;
  for (const nlohmann::json& item : *value) {
    if (!item.is_string()) return contents_->Refuse(key, "a list of texts");
    texts.push_back(item.get<std::string>());
  }
  return texts;
}
absl::StatusOr<std::vector<int64_t>> HfConfig::Integers(absl::string_view key) const {
  const nlohmann::json* value = contents_->Find(key);
  if (value == nullptr || !value->is_array()) return contents_->Refuse(key, "a list of integers");
  std::vector<int64_t> integers;
  for (const nlohmann::json& item : *value) {
    if (!item.is_number_integer()) return contents_->Refuse(key, "a list of integers");
    integers.push_back(item.get<int64_t>());
  }
  return integers;
}
absl::StatusOr<std::vector<double>> HfConfig::Reals(absl::string_view key) const {
  const nlohmann::json* value = contents_->Find(key);
  if (value == nullptr || !value->is_array()) return contents_->Refuse(key, "a list of numbers");
  std::vector<double> numbers;
  for (const nlohmann::json& item : *value) {
    if (!item.is_number()) return contents_->Refuse(key, "a list of numbers");
    numbers.push_back(item.get<double>());
  }
  return numbers;
}
absl::StatusOr<std::string> HfConfig::Architecture() const {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, Texts("architectures"));
  if (names.empty()) return contents_->Refuse("architectures", "a list with a name");
  return names[0];
}

}  // namespace interlace
