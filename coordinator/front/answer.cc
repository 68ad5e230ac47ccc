#include "coordinator/front/answer.h"

#include <algorithm>
#include <iterator>
#include <utility>

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

std::vector<ReplyChoice> BestOf(std::vector<ReplyChoice> choices, size_t n, size_t keep) {
  std::vector<ReplyChoice> best;
  for (auto begin = choices.begin(); begin != choices.end(); begin += n) {
    std::stable_sort(begin, begin + n, [](const ReplyChoice& a, const ReplyChoice& b) { return a.score > b.score; });
    best.insert(best.end(), std::make_move_iterator(begin), std::make_move_iterator(begin + keep));
  }
  return best;
}

std::string CallId(const ReplyHead& head, size_t choice, size_t index) {
  return head.syntax == nullptr ? absl::StrCat("call_", choice, "_", index)
                                : CallId(*head.syntax, head.name, choice, index);
}

}  // namespace interlace
