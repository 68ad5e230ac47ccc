// OutputParser: a model's output as thought, text and calls of tools.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "coordinator/front/output_delta.h"
#include "coordinator/front/tool_call_parser.h"

namespace interlace {

// What is to be read out of an output. A value.
struct OutputForm {
  const ToolSyntax* syntax = nullptr;  // null: no calls
  std::vector<std::string> tools;      // names of those that were offered
  bool parallel = true;
  bool thinks = false;      // <think> ... </think> at its beginning is thought
  bool in_thought = false;  // the prompt has opened it already
};

inline constexpr absl::string_view kThoughtBegin = "<think>";
inline constexpr absl::string_view kThoughtEnd = "</think>";

// Cuts the thought off the beginning of an output that comes in pieces; white space at the borders is dropped. What it
// gives does not depend on where pieces are cut. Owned by an OutputParser; one thread.
class ThoughtSplitter {
 public:
  explicit ThoughtSplitter(bool in_thought) : state_(in_thought ? State::kThought : State::kBefore) {}
  void Push(absl::string_view piece, std::string* thought, std::string* rest);
  void Flush(std::string* thought, std::string* rest);

 private:
  enum class State { kBefore, kThought, kBehind, kRest };
  void Step(char c, std::string* thought, std::string* rest);
  State state_;
  size_t matched_ = 0;  // of the mark that may begin here
  std::string space_;   // white space that is dropped if the border follows
  bool thought_begun_ = false;
};

// Owned by the answer of one choice; one thread.
class OutputParser {
 public:
  explicit OutputParser(const OutputForm& form);
  OutputDelta Push(absl::string_view piece);
  // No more pieces come.
  OutputDelta Flush();

 private:
  void Rest(absl::string_view text, OutputDelta* out);
  std::optional<ThoughtSplitter> thought_;
  std::optional<ToolCallParser> calls_;
};

}  // namespace interlace
