// ModelText: how a model turns text into tokens and back, and chats into text.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace interlace {

struct ModelText {
  std::unique_ptr<Tokenizer> tokenizer;
  absl::StatusOr<ChatTemplate> chat_template;  // a status: why the model cannot chat
};

// Of a GGUF file, or of a folder as Hugging Face writes one.
absl::StatusOr<ModelText> LoadModelText(const std::string& path);

}  // namespace interlace
