#include "text/jinja/expression_parser.h"

#include <utility>

#include "common/status_macros.h"
#include "text/jinja/builtins.h"

namespace interlace::jinja {

ExpressionRef ExpressionParser::Make(ExpressionKind kind) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = Now().line;
  return expression;
}

absl::Status ExpressionParser::Attach(Expression& parent, ExpressionRef child) {
  if (child != nullptr) parent.depth = std::max(parent.depth, child->depth + 1);
  parent.items.push_back(std::move(child));
  return parent.depth <= kDeepest ? absl::OkStatus() : Wrong("an expression nests too deep");
}

absl::StatusOr<ExpressionRef> ExpressionParser::Tuple(bool conditions, absl::string_view end) {
  const auto one = [&] { return conditions ? Condition() : Or(); };
  ASSIGN_OR_RETURN(ExpressionRef first, one());
  if (!IsOperator(",")) return first;
  ExpressionRef tuple = Make(ExpressionKind::kTuple);
  RETURN_IF_ERROR(Attach(*tuple, std::move(first)));
  while (TakeOperator(",")) {
    if (AtTupleEnd() || (!end.empty() && IsName(end))) break;
    ASSIGN_OR_RETURN(ExpressionRef item, one());
    RETURN_IF_ERROR(Attach(*tuple, std::move(item)));
  }
  return tuple;
}

bool ExpressionParser::AtTupleEnd() const {
  return Now().kind == TokenKind::kPrintEnd || Now().kind == TokenKind::kBlockEnd || IsOperator(")") || IsOperator("]");
}

absl::StatusOr<ExpressionRef> ExpressionParser::Condition() {
  Level level(*this);
  RETURN_IF_ERROR(level.Check());
  ASSIGN_OR_RETURN(ExpressionRef value, Or());
  while (IsName("if")) {
    ExpressionRef whole = Make(ExpressionKind::kCondition);
    Step();
    ASSIGN_OR_RETURN(ExpressionRef condition, Or());
    ExpressionRef otherwise;
    if (TakeName("else")) {
      ASSIGN_OR_RETURN(otherwise, Condition());
    }
    RETURN_IF_ERROR(Attach(*whole, std::move(value)));
    RETURN_IF_ERROR(Attach(*whole, std::move(condition)));
    RETURN_IF_ERROR(Attach(*whole, std::move(otherwise)));
    value = std::move(whole);
  }
  return value;
}

absl::StatusOr<ExpressionRef> ExpressionParser::Or() {
  ASSIGN_OR_RETURN(ExpressionRef left, And());
  while (IsName("or")) {
    ExpressionRef whole = Make(ExpressionKind::kOr);
    Step();
    ASSIGN_OR_RETURN(ExpressionRef right, And());
    RETURN_IF_ERROR(Attach(*whole, std::move(left)));
    RETURN_IF_ERROR(Attach(*whole, std::move(right)));
    left = std::move(whole);
  }
  return left;
}

absl::StatusOr<ExpressionRef> ExpressionParser::And() {
  ASSIGN_OR_RETURN(ExpressionRef left, Not());
  while (IsName("and")) {
    ExpressionRef whole = Make(ExpressionKind::kAnd);
    Step();
    ASSIGN_OR_RETURN(ExpressionRef right, Not());
    RETURN_IF_ERROR(Attach(*whole, std::move(left)));
    RETURN_IF_ERROR(Attach(*whole, std::move(right)));
    left = std::move(whole);
  }
  return left;
}

absl::StatusOr<ExpressionRef> ExpressionParser::Not() {
  if (!IsName("not")) return Comparison();
  Level level(*this);
  RETURN_IF_ERROR(level.Check());
  ExpressionRef whole = Make(ExpressionKind::kNot);
  Step();
  ASSIGN_OR_RETURN(ExpressionRef value, Not());
  RETURN_IF_ERROR(Attach(*whole, std::move(value)));
  return whole;
}

absl::StatusOr<ExpressionRef> ExpressionParser::Comparison() {
  ASSIGN_OR_RETURN(ExpressionRef left, Sum());
  ExpressionRef whole;
  while (true) {
    std::string sign;
    for (absl::string_view known : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (sign.empty() && TakeOperator(known)) sign = std::string(known);
    }
    if (sign.empty() && TakeName("in")) sign = "in";
    if (sign.empty() && IsName("not") && Next().kind == TokenKind::kName && Next().text == "in") {
      Step();
      Step();
      sign = "not in";
    }
    if (sign.empty()) break;
    if (whole == nullptr) {
      whole = Make(ExpressionKind::kCompare);
      RETURN_IF_ERROR(Attach(*whole, std::move(left)));
    }
    whole->operators.push_back(sign);
    ASSIGN_OR_RETURN(ExpressionRef right, Sum());
    RETURN_IF_ERROR(Attach(*whole, std::move(right)));
  }
  return whole != nullptr ? std::move(whole) : std::move(left);
}

absl::StatusOr<ExpressionRef> ExpressionParser::Sum() {
  return Chain({"+", "-"}, [this] { return Concat(); });
}

absl::StatusOr<ExpressionRef> ExpressionParser::Concat() {
  ASSIGN_OR_RETURN(ExpressionRef first, Product());
  if (!IsOperator("~")) return first;
  ExpressionRef whole = Make(ExpressionKind::kConcat);
  RETURN_IF_ERROR(Attach(*whole, std::move(first)));
  while (TakeOperator("~")) {
    ASSIGN_OR_RETURN(ExpressionRef more, Product());
    RETURN_IF_ERROR(Attach(*whole, std::move(more)));
  }
  return whole;
}

absl::StatusOr<ExpressionRef> ExpressionParser::Product() {
  return Chain({"*", "/", "//", "%"}, [this] { return Chain({"**"}, [this] { return Unary(true); }); });
}

absl::StatusOr<ExpressionRef> ExpressionParser::Unary(bool filters) {
  Level level(*this);
  RETURN_IF_ERROR(level.Check());
  ExpressionRef value;
  if (IsOperator("-") || IsOperator("+")) {
    value = Make(IsOperator("-") ? ExpressionKind::kNegative : ExpressionKind::kPositive);
    Step();
    ASSIGN_OR_RETURN(ExpressionRef inner, Unary(false));
    RETURN_IF_ERROR(Attach(*value, std::move(inner)));
  } else {
    ASSIGN_OR_RETURN(value, Primary());
  }
  RETURN_IF_ERROR(Postfix(&value));
  while (filters) {
    if (IsOperator("|")) {
      RETURN_IF_ERROR(Filter(&value));
    } else if (IsName("is")) {
      RETURN_IF_ERROR(Test(&value));
    } else if (IsOperator("(")) {
      RETURN_IF_ERROR(Call(&value));
    } else {
      break;
    }
  }
  return value;
}

absl::StatusOr<ExpressionRef> ExpressionParser::Primary() {
  const Token& token = Now();
  if (token.kind == TokenKind::kName) {
    ExpressionRef value = Make(ExpressionKind::kConstant);
    if (token.text == "true" || token.text == "True") {
      value->constant = Value(true);
    } else if (token.text == "false" || token.text == "False") {
      value->constant = Value(false);
    } else if (token.text == "none" || token.text == "None") {
      value->constant = Value::MakeNone();
    } else {
      value->kind = ExpressionKind::kName;
      value->name = token.text;
      spoken_.push_back(token.text);
    }
    Step();
    return value;
  }
  if (token.kind == TokenKind::kText) {
    ExpressionRef value = Make(ExpressionKind::kConstant);
    std::string text;
    for (; Now().kind == TokenKind::kText; Step()) text += Now().text;
    value->constant = Value(Text(std::move(text)));
    return value;
  }
  if (token.kind == TokenKind::kInteger || token.kind == TokenKind::kReal) {
    ExpressionRef value = Make(ExpressionKind::kConstant);
    value->constant = token.kind == TokenKind::kReal ? Value(token.real) : Value(token.integer);
    Step();
    return value;
  }
  if (IsOperator("(")) {
    ExpressionRef empty = Make(ExpressionKind::kTuple);
    Step();
    if (TakeOperator(")")) return empty;
    ASSIGN_OR_RETURN(ExpressionRef value, Tuple(true));
    RETURN_IF_ERROR(NeedOperator(")"));
    return value;
  }
  if (IsOperator("[")) return ListOf();
  if (IsOperator("{")) return MapOf();
  return Unexpected("a value");
}

absl::StatusOr<ExpressionRef> ExpressionParser::ListOf() {
  ExpressionRef list = Make(ExpressionKind::kList);
  Step();
  while (!TakeOperator("]")) {
    if (!list->items.empty()) {
      RETURN_IF_ERROR(NeedOperator(","));
      if (TakeOperator("]")) break;
    }
    ASSIGN_OR_RETURN(ExpressionRef item, Condition());
    RETURN_IF_ERROR(Attach(*list, std::move(item)));
  }
  return list;
}

absl::StatusOr<ExpressionRef> ExpressionParser::MapOf() {
  ExpressionRef map = Make(ExpressionKind::kMap);
  Step();
  while (!TakeOperator("}")) {
    if (!map->items.empty()) {
      RETURN_IF_ERROR(NeedOperator(","));
      if (TakeOperator("}")) break;
    }
    ASSIGN_OR_RETURN(ExpressionRef key, Condition());
    RETURN_IF_ERROR(NeedOperator(":"));
    ASSIGN_OR_RETURN(ExpressionRef value, Condition());
    RETURN_IF_ERROR(Attach(*map, std::move(key)));
    RETURN_IF_ERROR(Attach(*map, std::move(value)));
  }
  return map;
}

absl::Status ExpressionParser::Postfix(ExpressionRef* value) {
  while (true) {
    if (IsOperator(".")) {
      ExpressionRef whole = Make(ExpressionKind::kAttribute);
      Step();
      if (Now().kind == TokenKind::kInteger) {  // list.0
        whole->kind = ExpressionKind::kItem;
        ExpressionRef index = Make(ExpressionKind::kConstant);
        index->constant = Value(Now().integer);
        RETURN_IF_ERROR(Attach(*whole, std::move(*value)));
        RETURN_IF_ERROR(Attach(*whole, std::move(index)));
        Step();
      } else {
        ASSIGN_OR_RETURN(whole->name, NeedName());
        RETURN_IF_ERROR(Attach(*whole, std::move(*value)));
      }
      *value = std::move(whole);
    } else if (IsOperator("[")) {
      RETURN_IF_ERROR(Subscript(value));
    } else if (IsOperator("(")) {
      RETURN_IF_ERROR(Call(value));
    } else {
      return absl::OkStatus();
    }
  }
}

absl::Status ExpressionParser::Subscript(ExpressionRef* value) {
  ExpressionRef whole = Make(ExpressionKind::kItem);
  Step();
  RETURN_IF_ERROR(Attach(*whole, std::move(*value)));
  ExpressionRef first;
  if (!IsOperator(":")) {
    ASSIGN_OR_RETURN(first, Tuple(true));
  }
  RETURN_IF_ERROR(Attach(*whole, std::move(first)));
  if (IsOperator(":")) {
    whole->kind = ExpressionKind::kSlice;
    for (int part = 0; part < 2; ++part) {
      ExpressionRef bound;
      if (TakeOperator(":") && !IsOperator("]") && !IsOperator(":")) {
        ASSIGN_OR_RETURN(bound, Condition());
      }
      RETURN_IF_ERROR(Attach(*whole, std::move(bound)));
    }
  }
  RETURN_IF_ERROR(NeedOperator("]"));
  *value = std::move(whole);
  return absl::OkStatus();
}

absl::Status ExpressionParser::CallInto(Expression& whole) {
  RETURN_IF_ERROR(NeedOperator("("));
  CallArguments& arguments = whole.arguments;
  const auto note = [&](const ExpressionRef& item) {
    whole.depth = std::max(whole.depth, item->depth + 1);
    return whole.depth <= kDeepest ? absl::OkStatus() : Wrong("an expression nests too deep");
  };
  for (bool first = true; !TakeOperator(")"); first = false) {
    if (!first) {
      RETURN_IF_ERROR(NeedOperator(","));
      if (TakeOperator(")")) break;
    }
    ExpressionRef* more = TakeOperator("**")  ? &arguments.more_named
                          : TakeOperator("*") ? &arguments.more_positional
                                              : nullptr;
    std::string name;
    if (more == nullptr && Now().kind == TokenKind::kName && Next().kind == TokenKind::kOperator &&
        Next().text == "=") {
      name = Now().text;
      Step();
      Step();
    }
    ASSIGN_OR_RETURN(ExpressionRef item, Condition());
    RETURN_IF_ERROR(note(item));
    if (more != nullptr) {
      if (*more != nullptr) return Wrong("a call unpacks twice");
      *more = std::move(item);
    } else if (!name.empty()) {
      arguments.named.emplace_back(std::move(name), std::move(item));
    } else {
      if (!arguments.named.empty()) return Wrong("an argument without a name follows one with a name");
      arguments.positional.push_back(std::move(item));
    }
  }
  return absl::OkStatus();
}

absl::Status ExpressionParser::Call(ExpressionRef* value) {
  ExpressionRef whole = Make(ExpressionKind::kCall);
  RETURN_IF_ERROR(Attach(*whole, std::move(*value)));
  RETURN_IF_ERROR(CallInto(*whole));
  *value = std::move(whole);
  return absl::OkStatus();
}

absl::Status ExpressionParser::Filter(ExpressionRef* value) {
  do {
    if (IsOperator("|")) Step();
    ExpressionRef whole = Make(ExpressionKind::kFilter);
    ASSIGN_OR_RETURN(whole->name, NeedName());
    while (TakeOperator(".")) {
      ASSIGN_OR_RETURN(const std::string part, NeedName());
      absl::StrAppend(&whole->name, ".", part);
    }
    whole->filter = FindFilter(whole->name);
    if (whole->filter == nullptr) {
      return absl::UnimplementedError(
          absl::StrCat("line ", whole->line, ": the filter '", whole->name.substr(0, 80), "' is not built in"));
    }
    RETURN_IF_ERROR(Attach(*whole, std::move(*value)));
    if (IsOperator("(")) RETURN_IF_ERROR(CallInto(*whole));
    *value = std::move(whole);
  } while (IsOperator("|"));
  return absl::OkStatus();
}

absl::Status ExpressionParser::Test(ExpressionRef* value) {
  ExpressionRef whole = Make(ExpressionKind::kTest);
  Step();
  const bool negative = TakeName("not");
  ASSIGN_OR_RETURN(whole->name, NeedName());
  whole->test = FindTest(whole->name);
  if (whole->test == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat("line ", whole->line, ": the test '", whole->name.substr(0, 80), "' is not built in"));
  }
  RETURN_IF_ERROR(Attach(*whole, std::move(*value)));
  const TokenKind kind = Now().kind;
  const bool keyword = IsName("else") || IsName("or") || IsName("and");
  if (IsOperator("(")) {
    RETURN_IF_ERROR(CallInto(*whole));
  } else if ((kind == TokenKind::kName && !keyword) || kind == TokenKind::kText || kind == TokenKind::kInteger ||
             kind == TokenKind::kReal || IsOperator("[") || IsOperator("{")) {
    if (IsName("is")) return Wrong("tests cannot be chained");
    if (!IsName("if") && !IsName("in") && !IsName("not")) {
      ASSIGN_OR_RETURN(ExpressionRef argument, Primary());
      RETURN_IF_ERROR(Postfix(&argument));
      whole->depth = std::max(whole->depth, argument->depth + 1);
      whole->arguments.positional.push_back(std::move(argument));
    }
  }
  *value = std::move(whole);
  if (negative) {
    ExpressionRef inverse = Make(ExpressionKind::kNot);
    RETURN_IF_ERROR(Attach(*inverse, std::move(*value)));
    *value = std::move(inverse);
  }
  return absl::OkStatus();
}

}  // namespace interlace::jinja
