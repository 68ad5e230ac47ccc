#include "coordinator/front/tool_syntax.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

// Mistral's templates refuse ids that have not nine letters and digits.
constexpr ToolSyntax kSyntaxes[] = {
    // <tool_call>{"name": ..., "arguments": {...}}</tool_call>. Qwen, Hermes, Granite, Falcon.
    {"hermes",
     "<tool_call>",
     "</tool_call>",
     false,
     false,
     {"<tool_call>", ""},
     {"<function=", "<arg_key>"},
     "call_",
     24},
    // {"name": ..., "parameters": {...}}, several with ; between them, perhaps behind <|python_tag|>.
    {"llama3",
     "<|python_tag|>",
     "",
     true,
     false,
     {"<|start_header_id|>", "\"parameters\""},
     {"<function=", "<tool_call>"},
     "call_",
     24},
    // [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...], since 2025 [TOOL_CALLS]NAME[ARGS]{...}.
    {"mistral", "[TOOL_CALLS]", "", false, true, {"[TOOL_CALLS]", ""}, {"", ""}, "", 9},
};

bool Teaches(const ChatTemplate& chat_template, const ToolSyntax& syntax) {
  const auto shows = [&](absl::string_view sign) { return chat_template.Mentions(sign); };
  const auto shows_one = [&](absl::string_view sign) { return !sign.empty() && chat_template.Mentions(sign); };
  return std::all_of(std::begin(syntax.signs), std::end(syntax.signs), shows) &&
         std::none_of(std::begin(syntax.other_signs), std::end(syntax.other_signs), shows_one) && shows("tools");
}

}  // namespace

absl::Span<const ToolSyntax> ToolSyntaxes() { return kSyntaxes; }

absl::StatusOr<const ToolSyntax*> FindToolSyntax(absl::string_view setting, const ChatTemplate* chat_template) {
  if (setting == "none") return nullptr;
  std::string names = "auto, none";
  for (const ToolSyntax& syntax : kSyntaxes) {
    if (setting == syntax.name) return &syntax;
    absl::StrAppend(&names, ", ", syntax.name);
    if (setting == "auto" && chat_template != nullptr && Teaches(*chat_template, syntax)) return &syntax;
  }
  if (setting == "auto") return nullptr;
  return absl::InvalidArgumentError(absl::StrCat("http.tool_parser='", setting, "' is none of ", names));
}

}  // namespace interlace
