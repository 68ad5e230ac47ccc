#include "coordinator/front/answer.h"

#include "absl/strings/str_cat.h"
#include "coordinator/front/tool_call_parser.h"

namespace interlace {

void Gather(const OutputDelta& delta, ReplyChoice* choice) {
  choice->text += delta.text;
  choice->thought += delta.thought;
  for (const CallDelta& call : delta.calls) {
    if (choice->calls.empty() || choice->calls.back().index != call.index)
      choice->calls.push_back({call.index, "", ""});
    ReplyCall& last = choice->calls.back();
    last.name += call.name;
    last.arguments += call.arguments;
    if (call.undone.empty()) continue;
    choice->text += call.undone;
    choice->calls.pop_back();
  }
}

std::string CallId(const ReplyHead& head, size_t choice, size_t index) {
  return head.syntax == nullptr ? absl::StrCat("call_", choice, "_", index)
                                : CallId(*head.syntax, head.name, choice, index);
}

}  // namespace interlace
