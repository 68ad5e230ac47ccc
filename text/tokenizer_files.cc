#include "text/tokenizer_files.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr std::streamoff kLargest = 256 << 20;

// Empty if there is no such file.
absl::StatusOr<std::string> ReadWhole(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file.is_open()) return std::string();
  const std::streamoff bytes = file.tellg();
  if (bytes < 0 || bytes > kLargest) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a file of at most ", kLargest, " bytes"));
  }
  std::string text(static_cast<size_t>(bytes), '\0');
  file.seekg(0);
  if (!file.read(text.data(), bytes)) return absl::InvalidArgumentError(absl::StrCat(path, ": it cannot be read"));
  return text;
}

}  // namespace

absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::string& folder) {
  TokenizerFiles files;
  files.name = folder;
  ASSIGN_OR_RETURN(files.tokenizer_json, ReadWhole(folder + "/tokenizer.json"));
  if (files.tokenizer_json.empty()) {
    ASSIGN_OR_RETURN(files.tekken_json, ReadWhole(folder + "/tekken.json"));
    ASSIGN_OR_RETURN(files.tokenizer_model, ReadWhole(folder + "/tokenizer.model"));
  }
  if (files.tokenizer_json.empty() && files.tekken_json.empty() && files.tokenizer_model.empty()) {
    return absl::NotFoundError(absl::StrCat(folder, ": there is no tokenizer.json, tekken.json or tokenizer.model"));
  }
  ASSIGN_OR_RETURN(files.tokenizer_config_json, ReadWhole(folder + "/tokenizer_config.json"));
  ASSIGN_OR_RETURN(files.chat_template, ReadWhole(folder + "/chat_template.jinja"));
  ASSIGN_OR_RETURN(files.generation_config_json, ReadWhole(folder + "/generation_config.json"));
  return files;
}

}  // namespace interlace
