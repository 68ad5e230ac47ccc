#include "model/text/chat_template.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// The templates that are recognised, letter for letter but for Normalised.
constexpr absl::string_view kSmolLm2Text =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n"
    "' + message['content'] + '<|im_end|>' + '\n"
    "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
    "' }}{% endif %}";
constexpr absl::string_view kChatMlText =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n"
    "' + message['content'] + '<|im_end|>' + '\n"
    "'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n"
    "' }}{% endif %}";
constexpr absl::string_view kLlama3Text =
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n"
    "'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|start_header_id|>assistant<|end_header_id|>\n\n"
    "' }}{% endif %}";

constexpr absl::string_view kSmolLm2System = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

// What some makers of ChatML files put before it; without effect, since the caller always says.
constexpr absl::string_view kPromptDefault =
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}";

// A line break inside a quoted text is written raw or as \n, depending on who made the file.
std::string Normalised(absl::string_view text) {
  absl::ConsumePrefix(&text, kPromptDefault);
  return std::string(absl::StripAsciiWhitespace(absl::StrReplaceAll(text, {{"\\n", "\n"}})));
}

// Whether `text` begins with a character that the templates' trim filter drops (Python's str.isspace); its bytes.
size_t SpaceAt(absl::string_view text) {
  static constexpr absl::string_view kWide[] = {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
                                                "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
                                                "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
  if (text.empty()) return 0;
  const char c = text[0];
  if (c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= '\x1f')) return 1;
  for (absl::string_view wide : kWide) {
    if (absl::StartsWith(text, wide)) return wide.size();
  }
  return 0;
}

absl::string_view Trimmed(absl::string_view text) {
  while (const size_t bytes = SpaceAt(text)) text.remove_prefix(bytes);
  for (bool more = true; more;) {
    more = false;
    for (size_t bytes = 1; bytes <= 3 && bytes <= text.size() && !more; ++bytes) {
      if (SpaceAt(text.substr(text.size() - bytes)) != bytes) continue;
      text.remove_suffix(bytes);
      more = true;
    }
  }
  return text;
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const GgufFile& file) {
  ASSIGN_OR_RETURN(const std::string text, file.Text("tokenizer.chat_template"));
  const std::string normal = Normalised(text);
  if (normal == Normalised(kSmolLm2Text)) return ChatTemplate(Family::kSmolLm2);
  if (normal == Normalised(kChatMlText)) return ChatTemplate(Family::kChatMl);
  if (normal == Normalised(kLlama3Text)) return ChatTemplate(Family::kLlama3);
  return absl::UnimplementedError(absl::StrCat(file.name(),
                                               ": the chat template is none of SmolLM2, ChatML, Llama-3; it begins \"",
                                               absl::CHexEscape(absl::string_view(text).substr(0, 80)), "\""));
}

absl::StatusOr<std::vector<ChatTemplate::Piece>> ChatTemplate::Pieces(absl::Span<const ChatMessage> messages,
                                                                      bool add_generation_prompt) const {
  if (messages.empty()) return absl::InvalidArgumentError("messages: the list is empty");
  const bool llama = family_ == Family::kLlama3;
  std::vector<Piece> pieces;
  const auto control = [&](absl::string_view text) { pieces.push_back({std::string(text), true}); };
  const auto plain = [&](absl::string_view text) { pieces.push_back({std::string(text), false}); };
  const auto open_turn = [&](absl::string_view role) {
    control(llama ? "<|start_header_id|>" : "<|im_start|>");
    plain(role);
    if (llama) control("<|end_header_id|>");
    plain(llama ? "\n\n" : "\n");
  };
  const auto turn = [&](absl::string_view role, absl::string_view content) {
    open_turn(role);
    plain(llama ? Trimmed(content) : content);
    control(llama ? "<|eot_id|>" : "<|im_end|>");
    if (!llama) plain("\n");
  };
  if (llama) control("<|begin_of_text|>");
  if (family_ == Family::kSmolLm2 && messages[0].role != "system") turn("system", kSmolLm2System);
  for (const ChatMessage& message : messages) {
    if (message.role != "system" && message.role != "user" && message.role != "assistant") {
      return absl::InvalidArgumentError(absl::StrCat("messages: role '", absl::string_view(message.role).substr(0, 80),
                                                     "' is none of system, user, assistant"));
    }
    turn(message.role, message.content);
  }
  if (add_generation_prompt) open_turn("assistant");
  return pieces;
}

absl::StatusOr<std::string> ChatTemplate::Render(absl::Span<const ChatMessage> messages,
                                                 bool add_generation_prompt) const {
  ASSIGN_OR_RETURN(const std::vector<Piece> pieces, Pieces(messages, add_generation_prompt));
  std::string text;
  for (const Piece& piece : pieces) text += piece.text;
  return text;
}

absl::StatusOr<std::vector<int32_t>> ChatTemplate::Encode(absl::Span<const ChatMessage> messages,
                                                          const Tokenizer& tokenizer,
                                                          bool add_generation_prompt) const {
  ASSIGN_OR_RETURN(const std::vector<Piece> pieces, Pieces(messages, add_generation_prompt));
  std::vector<int32_t> ids;
  std::string plain;  // runs on until a control token: pieces merge across the border of template and content
  const auto flush = [&] {
    const std::vector<int32_t> more = tokenizer.Encode(plain, /*special=*/false);
    ids.insert(ids.end(), more.begin(), more.end());
    plain.clear();
  };
  for (const Piece& piece : pieces) {
    if (!piece.control) {
      plain += piece.text;
      continue;
    }
    flush();
    ASSIGN_OR_RETURN(const int32_t id, tokenizer.Find(piece.text));
    ids.push_back(id);
  }
  flush();
  return ids;
}

}  // namespace interlace
