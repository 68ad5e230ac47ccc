#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "text/jinja/builtins.h"
#include "text/jinja/evaluator.h"

namespace interlace::jinja {
namespace {

using Result = absl::StatusOr<bool>;

absl::StatusOr<Value> Other(const char* test, Arguments& arguments) {
  Taker taker(test, arguments);
  ASSIGN_OR_RETURN(Value other, taker.Need("other"));
  RETURN_IF_ERROR(taker.Done());
  return other;
}

Result Defined(Evaluator&, const Value& value, Arguments&) { return !value.IsUndefined(); }
Result Undefined(Evaluator&, const Value& value, Arguments&) { return value.IsUndefined(); }
Result None(Evaluator&, const Value& value, Arguments&) { return value.IsNone(); }
Result Boolean(Evaluator&, const Value& value, Arguments&) { return value.flag() != nullptr; }
Result True(Evaluator&, const Value& value, Arguments&) { return value.flag() != nullptr && *value.flag(); }
Result False(Evaluator&, const Value& value, Arguments&) { return value.flag() != nullptr && !*value.flag(); }
Result Integer(Evaluator&, const Value& value, Arguments&) { return value.integer() != nullptr; }
Result Float(Evaluator&, const Value& value, Arguments&) { return value.real() != nullptr; }
Result Number(Evaluator&, const Value& value, Arguments&) { return value.IsNumber(); }
Result String(Evaluator&, const Value& value, Arguments&) { return value.text() != nullptr; }
Result Mapping(Evaluator&, const Value& value, Arguments&) {
  return value.map() != nullptr && !value.map()->is_namespace;
}
Result Iterable(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(const bool mapping, Mapping(evaluator, value, arguments));
  return mapping || value.text() != nullptr || value.list() != nullptr || value.IsUndefined() ||
         value.loop() != nullptr;
}
Result Sequence(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(const bool iterable, Iterable(evaluator, value, arguments));
  return iterable && value.loop() == nullptr && (value.list() == nullptr || !value.list()->generator);
}
Result Callable(Evaluator&, const Value& value, Arguments&) {
  return value.function() != nullptr || value.IsUndefined();
}
Result Even(Evaluator& evaluator, const Value& value, Arguments&) {
  ASSIGN_OR_RETURN(const Value rest, evaluator.Apply("%", value, Value(2)));
  return !rest.Truth();
}
Result Odd(Evaluator& evaluator, const Value& value, Arguments&) {
  ASSIGN_OR_RETURN(const Value rest, evaluator.Apply("%", value, Value(2)));
  return Equal(rest, Value(1), evaluator.budget());
}
Result DivisibleBy(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value other, Other("divisibleby", arguments));
  ASSIGN_OR_RETURN(const Value rest, evaluator.Apply("%", value, other));
  return !rest.Truth();
}
Result Eq(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value other, Other("eq", arguments));
  return Equal(value, other, evaluator.budget());
}
Result Ne(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(const bool same, Eq(evaluator, value, arguments));
  return !same;
}
absl::StatusOr<int> Order(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value other, Other("a comparison", arguments));
  return Compare(value, other, evaluator.budget());
}
Result Lt(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(const int order, Order(evaluator, value, arguments));
  return order < 0;
}
Result Le(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(const int order, Order(evaluator, value, arguments));
  return order <= 0;
}
Result Gt(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(const int order, Order(evaluator, value, arguments));
  return order > 0;
}
Result Ge(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(const int order, Order(evaluator, value, arguments));
  return order >= 0;
}
Result In(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value other, Other("in", arguments));
  return evaluator.Contains(other, value);
}
// The same object: small values are the same if they are equal and of one type.
Result SameAs(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value other, Other("sameas", arguments));
  if (value.list() != nullptr || other.list() != nullptr) return value.list() == other.list();
  if (value.map() != nullptr || other.map() != nullptr) return value.map() == other.map();
  if (value.TypeName() != other.TypeName()) return false;
  return Equal(value, other, evaluator.budget());
}
Result Lower(Evaluator& evaluator, const Value& value, Arguments&) {
  ASSIGN_OR_RETURN(const Text text, ToText(value, evaluator.budget()));
  return AllAre(text.bytes, CharacterClass::kLower);
}
Result Upper(Evaluator& evaluator, const Value& value, Arguments&) {
  ASSIGN_OR_RETURN(const Text text, ToText(value, evaluator.budget()));
  return AllAre(text.bytes, CharacterClass::kUpper);
}
Result Filter(Evaluator&, const Value& value, Arguments&) {
  return value.text() != nullptr && FindFilter(value.text()->bytes) != nullptr;
}
Result Test(Evaluator&, const Value& value, Arguments&) {
  return value.text() != nullptr && FindTest(value.text()->bytes) != nullptr;
}
Result Escaped(Evaluator&, const Value&, Arguments&) { return false; }

constexpr TestRow kTests[] = {
    {"defined", Defined},
    {"undefined", Undefined},
    {"none", None},
    {"boolean", Boolean},
    {"true", True},
    {"false", False},
    {"integer", Integer},
    {"float", Float},
    {"number", Number},
    {"string", String},
    {"mapping", Mapping},
    {"sequence", Sequence},
    {"iterable", Iterable},
    {"callable", Callable},
    {"even", Even},
    {"odd", Odd},
    {"divisibleby", DivisibleBy},
    {"eq", Eq},
    {"equalto", Eq},
    {"==", Eq},
    {"ne", Ne},
    {"!=", Ne},
    {"lt", Lt},
    {"lessthan", Lt},
    {"<", Lt},
    {"le", Le},
    {"<=", Le},
    {"gt", Gt},
    {"greaterthan", Gt},
    {">", Gt},
    {"ge", Ge},
    {">=", Ge},
    {"in", In},
    {"sameas", SameAs},
    {"lower", Lower},
    {"upper", Upper},
    {"filter", Filter},
    {"test", Test},
    {"escaped", Escaped},
};

}  // namespace

const TestRow* FindTest(absl::string_view name) {
  const auto* it =
      std::find_if(std::begin(kTests), std::end(kTests), [&](const TestRow& row) { return row.name == name; });
  return it == std::end(kTests) ? nullptr : it;
}

}  // namespace interlace::jinja
