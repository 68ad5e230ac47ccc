// Evaluator: renders a syntax tree with variables, within bounds.
#pragma once

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "text/jinja/syntax.h"
#include "text/jinja/value.h"

namespace interlace::jinja {

// The names of a block; looked up from the inside out.
struct Scope {
  std::vector<std::pair<std::string, Value>> names;
  Scope* outer = nullptr;

  Value* Find(absl::string_view name);
  void Set(absl::string_view name, Value value);
};

// One rendering; used once, by one thread. Lives within Template::Render. The trap: what values point to belongs to the
// heap, which must outlive them.
class Evaluator {
 public:
  struct Limits {
    int64_t steps = 10'000'000;
    int64_t bytes = 256 << 20;  // of text made, whether it is printed or not
    int64_t output = 64 << 20;  // bytes
    int depth = 500;            // of expressions and statements within each other, macros included
  };
  Evaluator(const Limits& limits, int64_t wall_seconds, Heap& heap);

  // InvalidArgument with the line.
  absl::StatusOr<Text> Render(const Block& block, const std::vector<std::pair<std::string, Value>>& variables);

  // For the tables of builtins.
  Heap& heap() { return heap_; }
  Budget& budget() { return budget_; }
  int64_t wall_seconds() const { return wall_seconds_; }
  absl::StatusOr<Value> Attribute(const Value& of, absl::string_view name);
  absl::StatusOr<Value> Item(const Value& of, const Value& key);
  // The items of a list, the keys of a map, the characters of a text; none of what is undefined. Walks a generator.
  absl::StatusOr<std::vector<Value>> Items(const Value& value);
  absl::StatusOr<bool> Contains(const Value& container, const Value& item);
  absl::StatusOr<Value> Apply(absl::string_view sign, const Value& a, const Value& b);
  absl::StatusOr<Value> CallFunction(const Value& callee, Arguments& arguments);

 private:
  enum class Flow { kOn, kBreak, kContinue };
  class Inner;

  absl::StatusOr<Flow> Run(const Block& block);
  absl::StatusOr<Flow> Run(const Statement& statement);
  absl::StatusOr<Flow> RunIf(const Statement& statement);
  absl::StatusOr<Flow> RunFor(const Statement& statement);
  absl::Status RunCall(const Statement& statement);
  absl::Status RunWith(const Statement& statement);
  absl::Status Print(const Text& text);
  // The output of a block in a scope of its own.
  absl::StatusOr<Text> Captured(const Block& block);
  absl::Status Assign(const Target& target, const Value& value);
  Value MacroOf(const std::shared_ptr<const MacroBody>& body);
  absl::StatusOr<Value> CallMacro(const MacroBody& macro, Scope* scope, Arguments& arguments);
  absl::Status BindParameters(const MacroBody& macro, Arguments& arguments);

  absl::StatusOr<Value> Eval(const Expression& expression);
  absl::StatusOr<Value> EvalKind(const Expression& expression);
  absl::StatusOr<Value> EvalName(const Expression& expression);
  absl::StatusOr<Value> EvalItems(const Expression& expression);
  absl::StatusOr<Value> EvalMap(const Expression& expression);
  absl::StatusOr<Value> EvalSlice(const Expression& expression);
  absl::StatusOr<Value> EvalCall(const Expression& expression);
  absl::StatusOr<Value> EvalFilter(const Expression& expression);
  absl::StatusOr<Value> EvalTest(const Expression& expression);
  absl::StatusOr<Value> EvalCompare(const Expression& expression);
  absl::StatusOr<Value> EvalConcat(const Expression& expression);
  absl::Status EvalArguments(const CallArguments& from, Arguments* to);
  absl::StatusOr<Value> LoopAttribute(Loop& loop, absl::string_view name);

  const Limits limits_;
  const int64_t wall_seconds_;
  Heap& heap_;
  Budget budget_;
  std::deque<Scope> scopes_;
  Scope* scope_ = nullptr;
  int64_t captures_ = 0;  // macros made so far: they keep the scopes around them
  Text* out_ = nullptr;
  Value filtered_;  // the content of the filter block being applied
  int depth_ = 0;
  int error_line_ = 0;
};

}  // namespace interlace::jinja
