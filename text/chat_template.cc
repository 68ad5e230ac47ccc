#include "text/chat_template.h"

#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "text/jinja/template.h"

namespace interlace {

using jinja::List;
using jinja::Map;
using jinja::Text;
using jinja::TextKey;
using jinja::Value;

namespace {

// What a role is called in templates of all families. Templates put it between the brackets of control tokens, so these
// count as theirs; any other role is text from users.
constexpr absl::string_view kRoles[] = {"system",    "user",     "assistant", "tool",
                                        "developer", "function", "ipython",   "model"};

// The names under which a message's reasoning comes; templates read the first.
constexpr const char* kReasoning[] = {"reasoning_content", "thinking", "reasoning"};

bool IsKnownRole(const std::string& role) {
  return std::find(std::begin(kRoles), std::end(kRoles), role) != std::end(kRoles);
}

Value RoleOf(const Text& role) { return Value(Text(role.bytes, !IsKnownRole(role.bytes))); }

}  // namespace

struct ChatTemplate::State {
  ChatTemplateSource source;
  jinja::Template text;
  std::optional<jinja::Template> tool_use;
  WallClock wall_clock;
};

// One conversation on its way through the template.
class ChatTemplate::Rendering {
 public:
  explicit Rendering(const State& state) : state_(state) {}

  absl::StatusOr<Text> Run(absl::Span<const ChatMessage> messages, bool add_generation_prompt) {
    List* list = heap_.NewList();
    for (const ChatMessage& message : messages) {
      if (!IsKnownRole(message.role)) {
        return absl::InvalidArgumentError(absl::StrCat("messages: role '",
                                                       absl::string_view(message.role).substr(0, 80), "' is none of ",
                                                       absl::StrJoin(kRoles, ", ")));
      }
      Map* map = heap_.NewMap();
      map->Set(TextKey("role"), Value("role"), RoleOf(Text(message.role)));
      map->Set(TextKey("content"), Value("content"), Value(Text(message.content, true)));
      list->items.emplace_back(map);
    }
    return Render(list, Value::MakeNone(), nullptr, add_generation_prompt);
  }

  absl::StatusOr<Text> Run(const ChatInput& input) {
    ASSIGN_OR_RETURN(const Value messages, jinja::FromJson(input.messages, "messages", true, heap_));
    if (messages.list() == nullptr) return absl::InvalidArgumentError("messages: this is no list");
    for (size_t i = 0; i < messages.list()->items.size(); ++i) {
      Value& message = messages.list()->items[i];
      if (message.map() == nullptr)
        return absl::InvalidArgumentError(absl::StrCat("messages[", i, "]: this is no object"));
      if (const Value* role = message.map()->Find(TextKey("role")); role != nullptr && role->text() != nullptr) {
        message.map()->Set(TextKey("role"), Value("role"), RoleOf(*role->text()));
      }
      message = WithReasoning(message);
    }
    Value tools = Value::MakeNone();
    if (!input.tools.empty()) {
      ASSIGN_OR_RETURN(tools, jinja::FromJson(input.tools, "tools", true, heap_));
      if (tools.list() == nullptr && !tools.IsNone()) return absl::InvalidArgumentError("tools: this is no list");
    }
    const Map* variables = nullptr;
    if (!input.variables.empty()) {
      ASSIGN_OR_RETURN(const Value more, jinja::FromJson(input.variables, "chat_template_kwargs", true, heap_));
      if (more.map() == nullptr) return absl::InvalidArgumentError("chat_template_kwargs: this is no object");
      variables = more.map();
    }
    if (input.continue_final_message && input.add_generation_prompt) {
      return absl::InvalidArgumentError("continue_final_message: not together with add_generation_prompt");
    }
    ASSIGN_OR_RETURN(Text text, Render(messages.list(), tools, variables, input.add_generation_prompt));
    if (!input.continue_final_message) return text;
    return UpToContent(text, messages.list()->items.back());
  }

 private:
  // Behind the last place where the message's own text stands: templates trim contents, some at their ends alone, and
  // what they say themselves may hold the same letters ("im" in <|im_end|>).
  static absl::StatusOr<Text> UpToContent(const Text& text, const Value& message) {
    const Value* content = message.map()->Find(TextKey("content"));
    if (content == nullptr || content->text() == nullptr) {
      return absl::InvalidArgumentError("continue_final_message: the last message has no content of text");
    }
    const std::string trimmed = jinja::Stripped(*content->text(), nullptr, true, true).bytes;
    const std::string kept = jinja::Stripped(*content->text(), nullptr, true, false).bytes;
    size_t at = text.bytes.rfind(trimmed);
    while (at != std::string::npos && text.Part(at, at + trimmed.size()).marks.find('\0') != std::string::npos) {
      at = at == 0 ? std::string::npos : text.bytes.rfind(trimmed, at - 1);
    }
    if (at == std::string::npos) {
      return absl::InvalidArgumentError("continue_final_message: the template does not show the last message as it is");
    }
    const bool whole = text.bytes.compare(at, kept.size(), kept) == 0;
    return text.Part(0, at + (whole ? kept : trimmed).size());
  }

  Value WithReasoning(const Value& message) {
    for (const char* name : kReasoning) {
      const Value* reasoning = message.map()->Find(TextKey(name));
      if (reasoning == nullptr || reasoning->IsNone()) continue;
      const Value held = *reasoning;
      Map* map = heap_.NewMap();
      map->Set(TextKey("thinking"), Value("thinking"), held);
      for (const auto& [key, value] : message.map()->entries) map->Set(TextKey(key.text()->bytes), key, value);
      map->Set(TextKey("reasoning_content"), Value("reasoning_content"), held);
      return Value(map);
    }
    return message;
  }

  absl::StatusOr<Text> Render(List* messages, const Value& tools, const Map* more, bool add_generation_prompt) {
    if (messages->items.empty()) return absl::InvalidArgumentError("messages: the list is empty");
    std::vector<std::pair<std::string, Value>> variables = {{"messages", Value(messages)},
                                                            {"tools", tools},
                                                            {"documents", Value::MakeNone()},
                                                            {"add_generation_prompt", Value(add_generation_prompt)}};
    for (const auto& [name, text] : state_.source.tokens) variables.emplace_back(name, Value(Text(text)));
    if (more != nullptr) {
      for (const auto& [name, value] : more->entries) {
        const std::string& given = name.text()->bytes;
        for (absl::string_view fixed : {"messages", "tools", "add_generation_prompt"}) {
          if (given == fixed)
            return absl::InvalidArgumentError(absl::StrCat("chat_template_kwargs: '", given, "' has its own field"));
        }
        variables.emplace_back(given, value);
      }
    }
    const bool with_tools = tools.Truth() && state_.tool_use.has_value();
    return (with_tools ? *state_.tool_use : state_.text).Render(variables, state_.wall_clock(), heap_);
  }

  const State& state_;
  jinja::Heap heap_;
};

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const GgufFile& file, WallClock wall_clock) {
  ChatTemplateSource source;
  source.name = file.name();
  ASSIGN_OR_RETURN(source.text, file.Text("tokenizer.chat_template"));
  if (file.Has("tokenizer.chat_template.tool_use")) {
    ASSIGN_OR_RETURN(source.tool_use, file.Text("tokenizer.chat_template.tool_use"));
  }
  std::vector<std::string> tokens;
  for (const auto& [variable, key] : {std::pair<const char*, const char*>{"bos_token", "bos"},
                                      {"eos_token", "eos"},
                                      {"unk_token", "unknown"},
                                      {"pad_token", "padding"},
                                      {"sep_token", "seperator"}}) {
    const std::string field = absl::StrCat("tokenizer.ggml.", key, "_token_id");
    if (!file.Has(field)) continue;
    if (tokens.empty()) {
      ASSIGN_OR_RETURN(tokens, file.Texts("tokenizer.ggml.tokens"));
    }
    ASSIGN_OR_RETURN(const int64_t id, file.Integer(field));
    if (id < 0 || id >= static_cast<int64_t>(tokens.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.name(), ": ", field, " ", id, " is outside the vocabulary of ", tokens.size(), " tokens"));
    }
    source.tokens.emplace_back(variable, tokens[static_cast<size_t>(id)]);
  }
  return Make(source, wall_clock);
}

absl::StatusOr<ChatTemplate> ChatTemplate::Make(const ChatTemplateSource& source, WallClock wall_clock) {
  ASSIGN_OR_RETURN(jinja::Template text,
                   jinja::Template::Compile(source.text, absl::StrCat(source.name, ": tokenizer.chat_template")));
  std::optional<jinja::Template> tool_use;
  if (!source.tool_use.empty()) {
    ASSIGN_OR_RETURN(tool_use, jinja::Template::Compile(
                                   source.tool_use, absl::StrCat(source.name, ": tokenizer.chat_template.tool_use")));
  }
  return ChatTemplate(std::make_shared<const State>(State{source, std::move(text), std::move(tool_use), wall_clock}));
}

bool ChatTemplate::Mentions(absl::string_view text) const {
  return absl::StrContains(state_->source.text, text) || absl::StrContains(state_->source.tool_use, text);
}

absl::StatusOr<ChatTemplate> ChatTemplate::WithText(absl::string_view text) const {
  ChatTemplateSource source = state_->source;
  source.text = std::string(text);
  source.tool_use.clear();
  return Make(source, state_->wall_clock);
}

absl::StatusOr<std::string> ChatTemplate::Render(absl::Span<const ChatMessage> messages,
                                                 bool add_generation_prompt) const {
  ASSIGN_OR_RETURN(Text text, Rendering(*state_).Run(messages, add_generation_prompt));
  return std::move(text.bytes);
}

absl::StatusOr<std::string> ChatTemplate::Render(const ChatInput& input) const {
  ASSIGN_OR_RETURN(Text text, Rendering(*state_).Run(input));
  return std::move(text.bytes);
}

namespace {

absl::StatusOr<std::vector<int32_t>> Encoded(Text& text, const Tokenizer& tokenizer, size_t most) {
  text.marks.resize(text.bytes.size(), 0);
  if (tokenizer.SurelyLonger(text.bytes, text.marks, /*special=*/true, most)) {
    return absl::OutOfRangeError(absl::StrCat("messages: they have more than ", most, " tokens"));
  }
  return tokenizer.EncodeAround(text.bytes, text.marks);
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> ChatTemplate::Encode(absl::Span<const ChatMessage> messages,
                                                          const Tokenizer& tokenizer, bool add_generation_prompt,
                                                          size_t most) const {
  ASSIGN_OR_RETURN(Text text, Rendering(*state_).Run(messages, add_generation_prompt));
  return Encoded(text, tokenizer, most);
}

absl::StatusOr<std::vector<int32_t>> ChatTemplate::Encode(const ChatInput& input, const Tokenizer& tokenizer,
                                                          size_t most) const {
  ASSIGN_OR_RETURN(Text text, Rendering(*state_).Run(input));
  return Encoded(text, tokenizer, most);
}

}  // namespace interlace
