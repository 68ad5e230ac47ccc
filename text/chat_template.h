// ChatTemplate: chat messages to the text that the model was trained on.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "checkpoint/gguf.h"
#include "common/clock.h"
#include "text/tokenizer.h"

namespace interlace {

struct ChatMessage {
  std::string role;  // system, user, assistant
  std::string content;
};

// A conversation as requests carry it, each part a JSON document, read in the order it is written in.
struct ChatInput {
  explicit ChatInput() = default;

  std::string messages;   // a list of objects: role, content (a text or a list of parts), tool_calls, ...
  std::string tools;      // a list of tool schemas; empty: none
  std::string variables;  // an object of more variables for the template, as chat_template_kwargs; empty: none
  bool add_generation_prompt = true;
  // The text ends where the content of the last message does, so that the model goes on with that message. Not together
  // with add_generation_prompt.
  bool continue_final_message = false;
};

// What a ChatTemplate is made of, wherever it was read.
struct ChatTemplateSource {
  std::string name;                                         // of the file, for messages
  std::string text;                                         // the template
  std::string tool_use;                                     // the one to take if there are tools; empty: the same
  std::vector<std::pair<std::string, std::string>> tokens;  // bos_token, eos_token, ...: their texts
};

// The template of a model, rendered by an interpreter of Jinja as transformers sets it up; see jinja/template.h.
// Immutable, cheap to copy; any thread. Owned by main. The trap: control tokens come from the template alone. Text from
// messages, tools and variables is told apart through the whole rendering, so Encode reads no control token out of it.
class ChatTemplate {
 public:
  static constexpr size_t kAnyLength = ~size_t{0};
  using WallClock = int64_t (*)();  // seconds since 1970, for templates that write the date

  // From tokenizer.chat_template. NotFound if the file has none; InvalidArgument or Unimplemented names file, field and
  // line of what cannot be read.
  static absl::StatusOr<ChatTemplate> Load(const GgufFile& file, WallClock wall_clock = WallSeconds);
  // From chat_template.jinja or tokenizer_config.json.
  static absl::StatusOr<ChatTemplate> Load(const TokenizerFiles& files, WallClock wall_clock = WallSeconds);
  static absl::StatusOr<ChatTemplate> Make(const ChatTemplateSource& source, WallClock wall_clock = WallSeconds);

  // Whether its source has this text anywhere, the one for tools included: which calling convention a model was trained
  // on shows in its template alone.
  bool Mentions(absl::string_view text) const;
  // Another template for the same model.
  absl::StatusOr<ChatTemplate> WithText(absl::string_view text) const;

  // InvalidArgument if the list is empty, if the template refuses it or fails, with the line, or goes out of bounds;
  // for plain messages, also if a role is none that a family has.
  absl::StatusOr<std::string> Render(absl::Span<const ChatMessage> messages, bool add_generation_prompt = true) const;
  absl::StatusOr<std::string> Render(const ChatInput& input) const;
  // Render, encoded: control tokens where the template wrote them, nowhere else. OutOfRange: what is rendered surely
  // has more than `most` tokens, see Tokenizer::SurelyLonger.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::Span<const ChatMessage> messages, const Tokenizer& tokenizer,
                                              bool add_generation_prompt = true, size_t most = kAnyLength) const;
  absl::StatusOr<std::vector<int32_t>> Encode(const ChatInput& input, const Tokenizer& tokenizer,
                                              size_t most = kAnyLength) const;

 private:
  struct State;
  class Rendering;
  explicit ChatTemplate(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

}  // namespace interlace
