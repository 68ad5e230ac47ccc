// ToolCallParser: finds calls of tools in a model's output that comes in pieces.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "coordinator/front/call_scanner.h"
#include "coordinator/front/output_delta.h"
#include "coordinator/front/tool_syntax.h"

namespace interlace {

// One machine for all families, told apart by their row. What it gives does not depend on where pieces are cut. Every
// byte comes out once: as text, as a call, or as the marks and white space around calls, which nobody sees. What begins
// like a call and is none is text. Owned by an OutputParser; one thread.
class ToolCallParser {
 public:
  // `tools`: names of those that were offered; a call that no mark announces must be of one of them. Not `parallel`:
  // calls behind the first are dropped, as the client asked.
  ToolCallParser(const ToolSyntax& syntax, std::vector<std::string> tools, bool parallel)
      : syntax_(syntax), tools_(std::move(tools)), parallel_(parallel) {}
  void Push(absl::string_view piece, OutputDelta* out);
  // No more pieces come.
  void Flush(OutputDelta* out);

 private:
  enum class State { kText, kMarked, kNamed, kCall, kAfterCall };
  void Step(char c);
  void TextByte(char c);
  void MarkedByte(char c);
  void NamedByte(char c);
  void CallByte(char c);
  void AfterCallByte(char c);
  void Say(absl::string_view text);
  // What was taken for a call is text; `c` is the byte that tells.
  void Fail(char c);
  void BeginCall(CallScanner scanner);
  void ShowCall();
  void EndCall();
  CallDelta& DeltaOfCall();

  const ToolSyntax& syntax_;
  const std::vector<std::string> tools_;
  const bool parallel_;
  OutputDelta* out_ = nullptr;  // during a call of Push or Flush
  State state_ = State::kText;
  bool fresh_ = true;   // no text since the beginning or the last call
  size_t matched_ = 0;  // of the mark that may begin here
  std::string space_;   // white space that is dropped if a call follows
  std::string raw_;     // what was taken for a call so far
  std::string head_;    // a name that stands before its arguments, with what is between them
  bool in_list_ = false;
  bool unmarked_ = false;
  bool begun_ = false;  // the call was shown
  CallScanner scanner_;
  size_t index_ = 0;  // of the next call
};

// For the index-th call of an answer: the same for the same call, apart for any others.
std::string CallId(const ToolSyntax& syntax, absl::string_view answer, size_t choice, size_t index);

}  // namespace interlace
