// ToolSyntax: how the models of a family write that they call a tool.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "text/chat_template.h"

namespace interlace {

// A row of a table; its texts live as long as the process.
struct ToolSyntax {
  absl::string_view name;   // as http.tool_parser has it
  absl::string_view begin;  // the mark before a call; its first character is not in it again
  absl::string_view end;    // the mark behind it; empty: none
  bool bare;                // an answer that begins with a call needs no mark
  bool list;                // behind the mark stands a list of calls, or a name and then its arguments
  // What a template has that teaches this syntax: all of these, none of those.
  absl::string_view signs[2];
  absl::string_view other_signs[2];
  absl::string_view id_prefix;  // of the ids that calls are given
  int id_letters;               // behind it
};
absl::Span<const ToolSyntax> ToolSyntaxes();

// By http.tool_parser: the name of a row, "none" (null), or "auto", which looks at the template (null: it teaches no
// syntax that is known). InvalidArgument lists the names.
absl::StatusOr<const ToolSyntax*> FindToolSyntax(absl::string_view setting, const ChatTemplate* chat_template);

}  // namespace interlace
