#include "checkpoint/model_facts.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "checkpoint/gguf.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/model_folder.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

absl::StatusOr<ModelFacts> Checked(const std::string& path, int64_t context, int64_t layers,
                                   const std::string& digest) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (context < 2 || context > kMost || layers < 1 || layers > kMost) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": a context of ", context, " tokens and ", layers, " layers are out of range"));
  }
  return ModelFacts{digest, static_cast<int32_t>(context), static_cast<int32_t>(layers)};
}

}  // namespace

absl::StatusOr<ModelFacts> ReadModelFacts(const std::string& path) {
  if (IsModelFolder(path)) {
    ASSIGN_OR_RETURN(const ModelFolder folder, OpenModelFolder(path));
    ASSIGN_OR_RETURN(const int64_t context, folder.config.Integer("max_position_embeddings"));
    ASSIGN_OR_RETURN(const int64_t layers, folder.config.Integer("num_hidden_layers"));
    return Checked(path, context, layers, folder.digest);
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> file, GgufFile::Open(path));
  ASSIGN_OR_RETURN(const std::string architecture, file->Text("general.architecture"));
  ASSIGN_OR_RETURN(const int64_t context, file->Integer(architecture + ".context_length"));
  ASSIGN_OR_RETURN(const int64_t layers, file->Integer(architecture + ".block_count"));
  return Checked(path, context, layers, file->digest());
}

}  // namespace interlace
