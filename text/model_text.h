// ModelText: how a model turns text into tokens and back, and chats into text.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "checkpoint/generation_config.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace interlace {

struct ModelText {
  std::unique_ptr<Tokenizer> tokenizer;
  absl::StatusOr<ChatTemplate> chat_template;  // a status: why the model cannot chat
  // How its authors want it sampled. A folder's generation_config.json says it; GGUF files say nothing. Its end tokens
  // are among the tokenizer's stop tokens.
  GenerationDefaults defaults;
};

// Of a GGUF file, or of a folder as Hugging Face writes one.
absl::StatusOr<ModelText> LoadModelText(const std::string& path);

}  // namespace interlace
