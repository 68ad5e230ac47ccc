#include "text/model_text.h"

#include <utility>

#include "checkpoint/gguf.h"
#include "checkpoint/hf_config.h"
#include "common/status_macros.h"
#include "text/tokenizer_files.h"

namespace interlace {
namespace {

template <typename Source>
absl::StatusOr<ModelText> LoadFrom(const Source& source) {
  ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(source));
  return ModelText{std::move(tokenizer), ChatTemplate::Load(source), {}};
}

}  // namespace

absl::StatusOr<ModelText> LoadModelText(const std::string& path) {
  if (IsModelFolder(path)) {
    ASSIGN_OR_RETURN(const TokenizerFiles files, ReadTokenizerFiles(path));
    ASSIGN_OR_RETURN(ModelText text, LoadFrom(files));
    ASSIGN_OR_RETURN(text.defaults,
                     ParseGenerationDefaults(files.generation_config_json, path + "/generation_config.json"));
    return text;
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> file, GgufFile::Open(path));
  return LoadFrom(*file);
}

}  // namespace interlace
