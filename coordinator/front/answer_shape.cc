#include "coordinator/front/answer_shape.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

// With its length, so that no two lists of fields add up to the same text.
void Append(absl::string_view field, std::string* shape) { absl::StrAppend(shape, field.size(), ":", field, ","); }

void AppendMessages(const std::vector<ChatMessage>& messages, std::string* shape) {
  for (size_t i = 0; i < messages.size(); ++i) {
    const bool asks = i + 1 == messages.size() && messages[i].role == "user";
    Append(messages[i].role, shape);
    Append(asks ? absl::string_view() : absl::string_view(messages[i].content), shape);
  }
}

void AppendChat(const ChatInput& chat, std::string* shape) {
  auto messages = nlohmann::ordered_json::parse(chat.messages, nullptr, /*allow_exceptions=*/false);
  if (messages.is_array() && !messages.empty() && messages.back().is_object()) {
    auto& last = messages.back();
    if (last.contains("role") && last["role"] == "user") last["content"] = nullptr;
  }
  Append(messages.is_discarded() ? chat.messages
                                 : messages.dump(-1, ' ', false, decltype(messages)::error_handler_t::replace),
         shape);
  Append(chat.tools, shape);
  Append(chat.variables, shape);
  absl::StrAppend(shape, chat.add_generation_prompt, chat.continue_final_message, ",");
}

}  // namespace

CacheTerms CacheTermsOf(const GenerationSpec& spec) {
  CacheTerms terms{.look_up = spec.cache_look_up, .keep = spec.cache_keep, .tools = !spec.tools.empty()};
  std::string& shape = terms.shape;
  for (const std::string& stop : spec.stop) Append(stop, &shape);
  absl::StrAppend(&shape, ";", spec.include_stop, spec.skip_special_tokens, spec.form.parse_special,
                  spec.form.add_special_tokens, spec.form.add_generation_prompt, spec.prompts[0].index(), ";");
  Append(spec.form.chat_template, &shape);
  Append(spec.suffix, &shape);
  if (const auto* messages = std::get_if<std::vector<ChatMessage>>(&spec.prompts[0])) AppendMessages(*messages, &shape);
  if (const auto* chat = std::get_if<ChatInput>(&spec.prompts[0])) {
    AppendChat(*chat, &shape);
    terms.tools |= !chat->tools.empty();
  }
  return terms;
}

}  // namespace interlace
