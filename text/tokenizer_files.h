// TokenizerFiles: the files beside a model's weights, as Hugging Face lays them out, that say how text becomes tokens.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace interlace {

// Contents, not paths. Given to Tokenizer::Load and ChatTemplate::Load.
struct TokenizerFiles {
  std::string name;                    // of the folder, for messages
  std::string tokenizer_json;          // tokenizer.json; empty: there is none
  std::string tokenizer_config_json;   // tokenizer_config.json; empty: there is none
  std::string chat_template;           // chat_template.jinja; empty: there is none
  std::string generation_config_json;  // generation_config.json; empty: there is none
  // Where there is no tokenizer.json: Mistral's tekken.json, or SentencePiece's own tokenizer.model.
  std::string tekken_json, tokenizer_model;
};

// NotFound if the folder has no file that says how text becomes tokens; InvalidArgument if a file is larger than 256
// MiB.
absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::string& folder);

}  // namespace interlace
