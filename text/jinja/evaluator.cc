#include "text/jinja/evaluator.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "text/jinja/builtins.h"

namespace interlace::jinja {
namespace {

absl::Status Wrong(absl::string_view what) { return absl::InvalidArgumentError(what); }

}  // namespace

Value* Scope::Find(absl::string_view name) {
  for (Scope* scope = this; scope != nullptr; scope = scope->outer) {
    for (auto& [known, value] : scope->names) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

void Scope::Set(absl::string_view name, Value value) {
  for (auto& [known, held] : names) {
    if (known != name) continue;
    held = std::move(value);
    return;
  }
  names.emplace_back(std::string(name), std::move(value));
}

// A scope within `outer` until it goes out of its own; freed then unless a macro made in it may still look it up.
class Evaluator::Inner {
 public:
  Inner(Evaluator& evaluator, Scope* outer)
      : evaluator_(evaluator), before_(evaluator.scope_), captures_(evaluator.captures_) {
    evaluator_.scopes_.emplace_back();
    evaluator_.scopes_.back().outer = outer;
    evaluator_.scope_ = &evaluator_.scopes_.back();
  }
  ~Inner() {
    evaluator_.scope_ = before_;
    if (evaluator_.captures_ == captures_) evaluator_.scopes_.pop_back();
  }

 private:
  Evaluator& evaluator_;
  Scope* const before_;
  const int64_t captures_;
};

Evaluator::Evaluator(const Limits& limits, int64_t wall_seconds, Heap& heap)
    : limits_(limits), wall_seconds_(wall_seconds), heap_(heap), budget_{limits.steps, limits.bytes} {}

absl::StatusOr<Text> Evaluator::Render(const Block& block,
                                       const std::vector<std::pair<std::string, Value>>& variables) {
  CHECK_MSG(scope_ == nullptr, "an evaluator renders once");
  Inner root(*this, nullptr);
  for (const auto& [name, value] : variables) scope_->Set(name, value);
  Text out;
  out_ = &out;
  absl::Status status;
  {
    Inner body(*this, scope_);  // what the template sets hides what it is given
    status = Run(block).status();
  }
  if (!status.ok()) return Wrong(absl::StrCat("line ", error_line_, ": ", status.message()));
  return out;
}

// ---- statements

absl::Status Evaluator::Print(const Text& text) {
  RETURN_IF_ERROR(budget_.Write(static_cast<int64_t>(text.bytes.size())));
  if (static_cast<int64_t>(out_->bytes.size() + text.bytes.size()) > limits_.output)
    return Wrong("its output is too long");
  out_->Append(text);
  return absl::OkStatus();
}

absl::StatusOr<Evaluator::Flow> Evaluator::Run(const Block& block) {
  for (const auto& statement : block) {
    absl::StatusOr<Flow> flow = Run(*statement);
    if (!flow.ok()) {
      if (error_line_ == 0) error_line_ = statement->line;
      return flow;
    }
    if (*flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

absl::StatusOr<Evaluator::Flow> Evaluator::Run(const Statement& statement) {
  RETURN_IF_ERROR(budget_.Step());
  switch (statement.kind) {
    case StatementKind::kData: {
      // The commonest statement: no Text is made.
      const auto bytes = static_cast<int64_t>(statement.text.size());
      RETURN_IF_ERROR(budget_.Write(bytes));
      if (static_cast<int64_t>(out_->bytes.size()) + bytes > limits_.output) return Wrong("its output is too long");
      out_->Append(statement.text);
      return Flow::kOn;
    }
    case StatementKind::kPrint: {
      ASSIGN_OR_RETURN(const Value value, Eval(*statement.value));
      if (const Text* text = value.text()) {
        RETURN_IF_ERROR(Print(*text));
        return Flow::kOn;
      }
      ASSIGN_OR_RETURN(const Text text, ToText(value, budget_));
      RETURN_IF_ERROR(Print(text));
      return Flow::kOn;
    }
    case StatementKind::kIf:
      return RunIf(statement);
    case StatementKind::kFor:
      return RunFor(statement);
    case StatementKind::kSet: {
      ASSIGN_OR_RETURN(const Value value, Eval(*statement.value));
      RETURN_IF_ERROR(Assign(statement.target, value));
      return Flow::kOn;
    }
    case StatementKind::kSetBlock:
    case StatementKind::kFilter: {
      ASSIGN_OR_RETURN(Text text, Captured(statement.body));
      Value value(std::move(text));
      if (statement.value != nullptr) {
        std::swap(filtered_, value);
        absl::StatusOr<Value> made = Eval(*statement.value);
        std::swap(filtered_, value);
        if (!made.ok()) return made.status();
        value = *made;
      }
      if (statement.kind == StatementKind::kSetBlock) {
        RETURN_IF_ERROR(Assign(statement.target, value));
        return Flow::kOn;
      }
      ASSIGN_OR_RETURN(const Text printed, ToText(value, budget_));
      RETURN_IF_ERROR(Print(printed));
      return Flow::kOn;
    }
    case StatementKind::kMacro:
      scope_->Set(statement.macro->name, MacroOf(statement.macro));
      return Flow::kOn;
    case StatementKind::kCall:
      RETURN_IF_ERROR(RunCall(statement));
      return Flow::kOn;
    case StatementKind::kWith:
      RETURN_IF_ERROR(RunWith(statement));
      return Flow::kOn;
    case StatementKind::kGroup: {
      Inner inner(*this, scope_);
      return Run(statement.body);
    }
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kOn;
}

absl::StatusOr<Evaluator::Flow> Evaluator::RunIf(const Statement& statement) {
  for (const auto& [condition, body] : statement.branches) {
    if (condition != nullptr) {
      ASSIGN_OR_RETURN(const Value value, Eval(*condition));
      if (!value.Truth()) continue;
    }
    if (++depth_ > limits_.depth) return Wrong("it nests too deep");
    absl::StatusOr<Flow> flow = Run(body);
    --depth_;
    return flow;
  }
  return Flow::kOn;
}

absl::StatusOr<Evaluator::Flow> Evaluator::RunFor(const Statement& statement) {
  ASSIGN_OR_RETURN(const Value iterated, Eval(*statement.value));
  ASSIGN_OR_RETURN(std::vector<Value> items, Items(iterated));
  if (statement.condition != nullptr) {
    std::vector<Value> kept;
    for (Value& item : items) {
      Inner inner(*this, scope_);
      RETURN_IF_ERROR(Assign(statement.target, item));
      ASSIGN_OR_RETURN(const Value holds, Eval(*statement.condition));
      if (holds.Truth()) kept.push_back(std::move(item));
    }
    items = std::move(kept);
  }
  if (++depth_ > limits_.depth) return Wrong("it nests too deep");
  if (items.empty()) {
    Inner inner(*this, scope_);
    absl::StatusOr<Flow> flow = Run(statement.otherwise);
    --depth_;
    return flow;
  }
  Loop* loop = heap_.NewLoop();
  loop->items = std::move(items);
  for (loop->index = 0; loop->index < loop->items.size(); ++loop->index) {
    RETURN_IF_ERROR(budget_.Step());
    Inner inner(*this, scope_);
    RETURN_IF_ERROR(Assign(statement.target, loop->items[loop->index]));
    scope_->Set("loop", Value(loop));
    ASSIGN_OR_RETURN(const Flow flow, Run(statement.body));
    if (flow == Flow::kBreak) break;
  }
  --depth_;
  return Flow::kOn;
}

absl::Status Evaluator::RunCall(const Statement& statement) {
  const Expression& call = *statement.value;
  ASSIGN_OR_RETURN(const Value callee, Eval(*call.items[0]));
  Arguments arguments;
  RETURN_IF_ERROR(EvalArguments(call.arguments, &arguments));
  arguments.named.emplace_back("caller", MacroOf(statement.macro));
  ASSIGN_OR_RETURN(const Value value, CallFunction(callee, arguments));
  ASSIGN_OR_RETURN(const Text text, ToText(value, budget_));
  return Print(text);
}

absl::Status Evaluator::RunWith(const Statement& statement) {
  std::vector<Value> values;  // all before any is visible
  for (const auto& [target, expression] : statement.assignments) {
    ASSIGN_OR_RETURN(Value value, Eval(*expression));
    values.push_back(std::move(value));
  }
  Inner inner(*this, scope_);
  for (size_t i = 0; i < values.size(); ++i) RETURN_IF_ERROR(Assign(statement.assignments[i].first, values[i]));
  return Run(statement.body).status();
}

absl::StatusOr<Text> Evaluator::Captured(const Block& block) {
  if (++depth_ > limits_.depth) return Wrong("it nests too deep");
  Text text;
  Text* const before = out_;
  out_ = &text;
  absl::Status status;
  {
    Inner inner(*this, scope_);
    status = Run(block).status();
  }
  out_ = before;
  --depth_;
  if (!status.ok()) return status;
  return text;
}

absl::Status Evaluator::Assign(const Target& target, const Value& value) {
  if (!target.parts.empty()) {
    ASSIGN_OR_RETURN(const std::vector<Value> items, Items(value));
    if (items.size() != target.parts.size()) {
      return Wrong(absl::StrCat(items.size(), " values for ", target.parts.size(), " names"));
    }
    for (size_t i = 0; i < items.size(); ++i) RETURN_IF_ERROR(Assign(target.parts[i], items[i]));
    return absl::OkStatus();
  }
  if (target.attribute.empty()) {
    scope_->Set(target.name, value);
    return absl::OkStatus();
  }
  const Value* held = scope_->Find(target.name);
  if (held == nullptr || held->map() == nullptr || !held->map()->is_namespace) {
    return Wrong(absl::StrCat("'", target.name, "' is no namespace, so its attributes cannot be set"));
  }
  if (target.attribute[0] == '_') return Wrong("an attribute of a namespace must not begin with _");
  held->map()->Set(TextKey(target.attribute), Value(target.attribute), value);
  return absl::OkStatus();
}

// ---- macros

Value Evaluator::MacroOf(const std::shared_ptr<const MacroBody>& body) {
  ++captures_;
  Scope* const scope = scope_;
  return Value(heap_.NewFunction(body->name, [body, scope](Evaluator& evaluator, Arguments& arguments) {
    return evaluator.CallMacro(*body, scope, arguments);
  }));
}

absl::StatusOr<Value> Evaluator::CallMacro(const MacroBody& macro, Scope* scope, Arguments& arguments) {
  if (depth_ += 4; depth_ > limits_.depth) return Wrong(absl::StrCat("macro '", macro.name, "' nests too deep"));
  Text text;
  Text* const before = out_;
  absl::Status status;
  {
    Inner inner(*this, scope);
    status = BindParameters(macro, arguments);
    out_ = &text;
    if (status.ok()) status = Run(macro.body).status();
  }
  out_ = before;
  depth_ -= 4;
  if (!status.ok()) return status;
  return Value(std::move(text));
}

absl::Status Evaluator::BindParameters(const MacroBody& macro, Arguments& arguments) {
  const size_t count = macro.parameters.size();
  std::vector<bool> taken(arguments.named.size());
  for (size_t i = 0; i < count; ++i) {
    const Parameter& parameter = macro.parameters[i];
    const Value* given = i < arguments.positional.size() ? &arguments.positional[i] : nullptr;
    for (size_t k = 0; k < taken.size(); ++k) {
      if (arguments.named[k].first != parameter.name) continue;
      if (given != nullptr)
        return Wrong(absl::StrCat("macro '", macro.name, "' is given '", parameter.name, "' twice"));
      given = &arguments.named[k].second;
      taken[k] = true;
    }
    Value value = Value::MakeUndefined(absl::StrCat("parameter '", parameter.name, "'"));
    if (given != nullptr) {
      value = *given;
    } else if (parameter.fallback != nullptr) {
      ASSIGN_OR_RETURN(value, Eval(*parameter.fallback));
    }
    scope_->Set(parameter.name, value);
  }
  Map* more = macro.takes_more_named ? heap_.NewMap() : nullptr;
  bool has_caller = false;
  for (size_t k = 0; k < taken.size(); ++k) {
    const auto& [name, value] = arguments.named[k];
    if (taken[k]) continue;
    if (name == "caller" && macro.takes_caller) {
      scope_->Set(name, value);
      has_caller = true;
    } else if (more != nullptr) {
      more->Set(TextKey(name), Value(name), value);
    } else {
      return Wrong(absl::StrCat("macro '", macro.name, "' has no parameter '", name, "'"));
    }
  }
  if (macro.takes_caller && !has_caller) {
    scope_->Set("caller", Value::MakeUndefined("'caller'"));
  }
  if (more != nullptr) scope_->Set("kwargs", Value(more));
  if (macro.takes_more_positional) {
    std::vector<Value> rest;
    for (size_t i = count; i < arguments.positional.size(); ++i) rest.push_back(arguments.positional[i]);
    scope_->Set("varargs", Value(heap_.NewList(std::move(rest), true)));
  } else if (arguments.positional.size() > count) {
    return Wrong(absl::StrCat("macro '", macro.name, "' takes not more than ", count, " arguments"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> Evaluator::CallFunction(const Value& callee, Arguments& arguments) {
  if (callee.IsUndefined()) return Wrong(callee.UndefinedMessage());
  if (callee.function() == nullptr) return Wrong(absl::StrCat("a ", callee.TypeName(), " cannot be called"));
  return callee.function()->call(*this, arguments);
}

// ---- expressions

absl::StatusOr<Value> Evaluator::Eval(const Expression& expression) {
  RETURN_IF_ERROR(budget_.Step());
  if (++depth_ > limits_.depth) return Wrong("it nests too deep");
  absl::StatusOr<Value> value = EvalKind(expression);
  --depth_;
  if (!value.ok() && error_line_ == 0) error_line_ = expression.line;
  return value;
}

absl::StatusOr<Value> Evaluator::EvalKind(const Expression& e) {
  const auto item = [&](size_t i) { return Eval(*e.items[i]); };
  switch (e.kind) {
    case ExpressionKind::kConstant:
      return e.constant;
    case ExpressionKind::kName:
      return EvalName(e);
    case ExpressionKind::kList:
    case ExpressionKind::kTuple:
      return EvalItems(e);
    case ExpressionKind::kMap:
      return EvalMap(e);
    case ExpressionKind::kAttribute: {
      ASSIGN_OR_RETURN(const Value of, item(0));
      return Attribute(of, e.name);
    }
    case ExpressionKind::kItem: {
      ASSIGN_OR_RETURN(const Value of, item(0));
      ASSIGN_OR_RETURN(const Value key, item(1));
      return Item(of, key);
    }
    case ExpressionKind::kSlice:
      return EvalSlice(e);
    case ExpressionKind::kCall:
      return EvalCall(e);
    case ExpressionKind::kFilter:
      return EvalFilter(e);
    case ExpressionKind::kTest:
      return EvalTest(e);
    case ExpressionKind::kNot: {
      ASSIGN_OR_RETURN(const Value value, item(0));
      return Value(!value.Truth());
    }
    case ExpressionKind::kNegative: {
      ASSIGN_OR_RETURN(const Value value, item(0));
      if (value.real() != nullptr) return Value(-*value.real());
      return Apply("-", Value(0), value);
    }
    case ExpressionKind::kPositive: {
      ASSIGN_OR_RETURN(const Value value, item(0));
      return Apply("+", Value(0), value);
    }
    case ExpressionKind::kBinary: {
      ASSIGN_OR_RETURN(const Value a, item(0));
      ASSIGN_OR_RETURN(const Value b, item(1));
      return Apply(e.name, a, b);
    }
    case ExpressionKind::kAnd:
    case ExpressionKind::kOr: {
      ASSIGN_OR_RETURN(Value left, item(0));
      if (left.Truth() == (e.kind == ExpressionKind::kOr)) return left;
      return item(1);
    }
    case ExpressionKind::kCompare:
      return EvalCompare(e);
    case ExpressionKind::kConcat:
      return EvalConcat(e);
    case ExpressionKind::kCondition: {
      ASSIGN_OR_RETURN(const Value holds, item(1));
      if (holds.Truth()) return item(0);
      if (e.items[2] == nullptr) return Value::MakeUndefined("the value of an if without else");
      return item(2);
    }
  }
  return Value();
}

absl::StatusOr<Value> Evaluator::EvalName(const Expression& expression) {
  if (const Value* value = scope_->Find(expression.name)) return *value;
  if (const FunctionRow* row = FindFunction(expression.name)) {
    return Value(heap_.NewFunction(expression.name, row->call));
  }
  return Value::MakeUndefined(absl::StrCat("'", expression.name, "'"));
}

absl::StatusOr<Value> Evaluator::EvalItems(const Expression& expression) {
  std::vector<Value> items;
  items.reserve(expression.items.size());
  for (const ExpressionRef& item : expression.items) {
    ASSIGN_OR_RETURN(Value value, Eval(*item));
    items.push_back(std::move(value));
  }
  return Value(heap_.NewList(std::move(items), expression.kind == ExpressionKind::kTuple));
}

absl::StatusOr<Value> Evaluator::EvalMap(const Expression& expression) {
  Map* map = heap_.NewMap();
  for (size_t i = 0; i + 1 < expression.items.size(); i += 2) {
    ASSIGN_OR_RETURN(const Value name, Eval(*expression.items[i]));
    ASSIGN_OR_RETURN(const Value value, Eval(*expression.items[i + 1]));
    std::string key;
    if (!KeyOf(name, &key)) return Wrong(absl::StrCat("a ", name.TypeName(), " cannot be a key"));
    map->Set(key, name, value);
  }
  return Value(map);
}

absl::StatusOr<Value> Evaluator::EvalSlice(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value of, Eval(*expression.items[0]));
  Value bounds[3] = {Value::MakeNone(), Value::MakeNone(), Value::MakeNone()};
  for (size_t i = 0; i < 3; ++i) {
    if (expression.items[i + 1] == nullptr) continue;
    ASSIGN_OR_RETURN(bounds[i], Eval(*expression.items[i + 1]));
  }
  if (of.IsUndefined()) return Wrong(of.UndefinedMessage());
  const List* list = of.list();
  const Text* text = of.text();
  if (text == nullptr && (list == nullptr || list->generator)) {
    return Value::MakeUndefined(absl::StrCat("a slice of a ", of.TypeName()));
  }
  std::vector<size_t> at;
  if (text != nullptr) {
    RETURN_IF_ERROR(budget_.Write(static_cast<int64_t>(text->bytes.size())));
    at = Boundaries(text->bytes);
  }
  const int64_t length = static_cast<int64_t>(text != nullptr ? at.size() - 1 : list->items.size());
  int64_t step = 1;
  for (const Value& bound : bounds) {
    int64_t number;
    if (!bound.IsNone() && !bound.AsInteger(&number)) {
      if (bound.IsUndefined()) return Wrong(bound.UndefinedMessage());
      return Wrong(absl::StrCat("a slice bound is a ", bound.TypeName()));
    }
  }
  if (!bounds[2].IsNone()) bounds[2].AsInteger(&step);
  if (step == 0) return Wrong("a slice has step 0");
  step = std::clamp<int64_t>(step, -length - 1, length + 1);
  if (step == 0) step = 1;  // of nothing
  const int64_t least = step > 0 ? 0 : -1, most = step > 0 ? length : length - 1;
  const auto place = [&](const Value& bound, int64_t fallback) {
    int64_t position;
    if (bound.IsNone() || !bound.AsInteger(&position)) return fallback;
    if (position < 0) position = position < -length ? least : position + length;
    return std::clamp(position, least, most);
  };
  const int64_t begin = place(bounds[0], step > 0 ? 0 : length - 1), end = place(bounds[1], step > 0 ? length : -1);
  if (text != nullptr && step == 1) {
    return begin >= end ? Value("") : Value(text->Part(at[static_cast<size_t>(begin)], at[static_cast<size_t>(end)]));
  }
  Text cut;
  std::vector<Value> items;
  for (int64_t i = begin; step > 0 ? i < end : i > end; i += step) {
    RETURN_IF_ERROR(budget_.Step());
    const auto k = static_cast<size_t>(i);
    if (text != nullptr) {
      cut.Append(text->Part(at[k], at[k + 1]));
    } else {
      items.push_back(list->items[k]);
    }
  }
  return text != nullptr ? Value(std::move(cut)) : Value(heap_.NewList(std::move(items), list->tuple));
}

absl::Status Evaluator::EvalArguments(const CallArguments& from, Arguments* to) {
  for (const ExpressionRef& item : from.positional) {
    ASSIGN_OR_RETURN(Value value, Eval(*item));
    to->positional.push_back(std::move(value));
  }
  if (from.more_positional != nullptr) {
    ASSIGN_OR_RETURN(const Value more, Eval(*from.more_positional));
    ASSIGN_OR_RETURN(const std::vector<Value> items, Items(more));
    to->positional.insert(to->positional.end(), items.begin(), items.end());
  }
  for (const auto& [name, item] : from.named) {
    ASSIGN_OR_RETURN(Value value, Eval(*item));
    to->named.emplace_back(name, std::move(value));
  }
  if (from.more_named != nullptr) {
    ASSIGN_OR_RETURN(const Value more, Eval(*from.more_named));
    if (more.map() == nullptr) return Wrong("what ** unpacks is no dict");
    for (const auto& [name, value] : more.map()->entries) {
      if (name.text() == nullptr) return Wrong("** unpacks a key that is no str");
      to->named.emplace_back(name.text()->bytes, value);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> Evaluator::EvalCall(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value callee, Eval(*expression.items[0]));
  Arguments arguments;
  RETURN_IF_ERROR(EvalArguments(expression.arguments, &arguments));
  return CallFunction(callee, arguments);
}

absl::StatusOr<Value> Evaluator::EvalFilter(const Expression& expression) {
  Value value = filtered_;
  if (expression.items[0] != nullptr) {
    ASSIGN_OR_RETURN(value, Eval(*expression.items[0]));
  }
  Arguments arguments;
  RETURN_IF_ERROR(EvalArguments(expression.arguments, &arguments));
  return expression.filter->apply(*this, value, arguments);
}

absl::StatusOr<Value> Evaluator::EvalTest(const Expression& expression) {
  ASSIGN_OR_RETURN(const Value value, Eval(*expression.items[0]));
  Arguments arguments;
  RETURN_IF_ERROR(EvalArguments(expression.arguments, &arguments));
  ASSIGN_OR_RETURN(const bool holds, expression.test->holds(*this, value, arguments));
  return Value(holds);
}

absl::StatusOr<Value> Evaluator::EvalCompare(const Expression& expression) {
  ASSIGN_OR_RETURN(Value left, Eval(*expression.items[0]));
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    const std::string& sign = expression.operators[i];
    ASSIGN_OR_RETURN(Value right, Eval(*expression.items[i + 1]));
    bool holds = false;
    if (sign == "==" || sign == "!=") {
      ASSIGN_OR_RETURN(const bool same, Equal(left, right, budget_));
      holds = same == (sign == "==");
    } else if (sign == "in" || sign == "not in") {
      ASSIGN_OR_RETURN(const bool inside, Contains(right, left));
      holds = inside == (sign == "in");
    } else {
      ASSIGN_OR_RETURN(const int order, Compare(left, right, budget_));
      holds = sign == "<" ? order < 0 : sign == "<=" ? order <= 0 : sign == ">" ? order > 0 : order >= 0;
    }
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

absl::StatusOr<Value> Evaluator::EvalConcat(const Expression& expression) {
  Text out;  // never safe, unlike a sum
  for (const ExpressionRef& item : expression.items) {
    ASSIGN_OR_RETURN(const Value value, Eval(*item));
    ASSIGN_OR_RETURN(const Text text, ToText(value, budget_));
    out.Append(text);
  }
  return Value(std::move(out));
}

}  // namespace interlace::jinja
