// ChatTemplate: chat messages to the text that the model was trained on.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/text/gguf.h"
#include "model/text/tokenizer.h"

namespace interlace {

struct ChatMessage {
  std::string role;  // system, user, assistant
  std::string content;
};

// A family of templates, recognised at load; anything else is refused by name. Immutable; any thread. Owned by main.
// The trap: control tokens come from the template alone, so contents are encoded apart from it.
class ChatTemplate {
 public:
  // From tokenizer.chat_template. Recognises SmolLM2 (ChatML with its default system message), plain ChatML, Llama-3.
  // Unimplemented quotes the start of a template that is none of these; NotFound if the file has none.
  static absl::StatusOr<ChatTemplate> Load(const GgufFile& file);

  // InvalidArgument names a role that the template does not know, or an empty list.
  absl::StatusOr<std::string> Render(absl::Span<const ChatMessage> messages, bool add_generation_prompt = true) const;
  // Render, encoded: template text with control tokens, message contents without.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::Span<const ChatMessage> messages, const Tokenizer& tokenizer,
                                              bool add_generation_prompt = true) const;

 private:
  struct Piece {
    std::string text;
    bool control;
  };
  enum class Family { kSmolLm2, kChatMl, kLlama3 };
  explicit ChatTemplate(Family family) : family_(family) {}
  absl::StatusOr<std::vector<Piece>> Pieces(absl::Span<const ChatMessage> messages, bool add_generation_prompt) const;
  Family family_;
};

}  // namespace interlace
