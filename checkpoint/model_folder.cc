#include "checkpoint/model_folder.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/file_mapping.h"
#include "checkpoint/gguf_values.h"
#include "checkpoint/sampled_digest.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// The files of a folder: the one, or those that the index names.
absl::StatusOr<std::vector<std::string>> ShardNames(const std::string& folder) {
  std::error_code error;
  const std::string path = folder + "/model.safetensors.index.json";
  if (!std::filesystem::exists(path, error)) return std::vector<std::string>{"model.safetensors"};
  ASSIGN_OR_RETURN(const std::unique_ptr<FileMapping> file, FileMapping::Open(path));
  const absl::string_view text = file->text();
  const nlohmann::json index = nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  const auto refuse = [&](absl::string_view why) { return absl::InvalidArgumentError(absl::StrCat(path, ": ", why)); };
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return refuse("weight_map is missing or not an object");
  }
  std::set<std::string> names;
  for (const auto& [tensor, name] : index["weight_map"].items()) {
    if (!name.is_string()) return refuse(absl::StrCat("weight_map.", Quoted(tensor), " is not a text"));
    const std::string shard = name.get<std::string>();
    if (shard.find('/') != std::string::npos || shard.find('\0') != std::string::npos ||
        !absl::EndsWith(shard, ".safetensors")) {
      return refuse(absl::StrCat("weight_map names ", Quoted(shard), ", which is not a file beside it"));
    }
    names.insert(shard);
  }
  if (names.empty()) return refuse("weight_map is empty");
  return std::vector<std::string>(names.begin(), names.end());
}

}  // namespace

absl::StatusOr<ModelFolder> OpenModelFolder(const std::string& folder) {
  ASSIGN_OR_RETURN(HfConfig config, HfConfig::Open(folder));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ShardNames(folder));
  std::string digests = config.text();
  std::vector<std::unique_ptr<SafetensorsFile>> shards;
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> shard, SafetensorsFile::Open(absl::StrCat(folder, "/", name)));
    absl::StrAppend(&digests, shard->digest());
    shards.push_back(std::move(shard));
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(digests.data());
  std::string digest = SampledDigest({bytes, digests.size()}, static_cast<int64_t>(digests.size()), {});
  return ModelFolder{std::move(config), std::move(shards), std::move(digest)};
}

}  // namespace interlace
