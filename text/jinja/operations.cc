// What expressions do with values: attributes, items, arithmetic.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "text/jinja/builtins.h"
#include "text/jinja/evaluator.h"
#include "text/jinja/formatting.h"

namespace interlace::jinja {
namespace {

absl::Status Wrong(absl::string_view what) { return absl::InvalidArgumentError(what); }

Value Missing(const Value& of, absl::string_view name) {
  return Value::MakeUndefined(absl::StrCat("attribute '", name.substr(0, 80), "' of a ", of.TypeName()));
}

absl::Status Overflow() { return Wrong("an integer does not fit 64 bits"); }

absl::StatusOr<Value> IntegerResult(absl::string_view sign, int64_t a, int64_t b) {
  int64_t out = 0;
  const bool overflows = sign == "+"   ? __builtin_add_overflow(a, b, &out)
                         : sign == "-" ? __builtin_sub_overflow(a, b, &out)
                                       : sign == "*" && __builtin_mul_overflow(a, b, &out);
  if (overflows) return Overflow();
  if (sign == "+" || sign == "-" || sign == "*") return Value(out);
  if (sign == "**") {
    if (b < 0) return Value(std::pow(static_cast<double>(a), static_cast<double>(b)));
    out = 1;
    for (; b > 0; --b) {
      if (a == 0 || a == 1) return Value(a);
      if (__builtin_mul_overflow(out, a, &out)) return Overflow();  // at the 64th step at the latest, but for -1
      if (a == -1) return Value(b % 2 == 0 ? int64_t{1} : int64_t{-1});
    }
    return Value(out);
  }
  if (b == 0) return Wrong("division by zero");
  if (sign == "/") return Value(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) return sign == "//" ? IntegerResult("-", 0, a) : Value(int64_t{0});
  const int64_t quotient = a / b, rest = a % b;
  const bool down = rest != 0 && (rest < 0) != (b < 0);
  return sign == "//" ? Value(down ? quotient - 1 : quotient) : Value(down ? rest + b : rest);
}

absl::StatusOr<Value> RealResult(absl::string_view sign, double a, double b) {
  if (sign == "+") return Value(a + b);
  if (sign == "-") return Value(a - b);
  if (sign == "*") return Value(a * b);
  if (sign == "**") return Value(std::pow(a, b));
  if (b == 0) return Wrong("division by zero");
  if (sign == "/") return Value(a / b);
  if (sign == "//") return Value(std::floor(a / b));
  const double rest = std::fmod(a, b);
  return Value(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
}

}  // namespace

absl::StatusOr<Value> Evaluator::LoopAttribute(Loop& loop, absl::string_view name) {
  const size_t count = loop.items.size(), index = loop.index;
  if (name == "index") return Value(index + 1);
  if (name == "index0") return Value(index);
  if (name == "revindex") return Value(count - index);
  if (name == "revindex0") return Value(count - index - 1);
  if (name == "first") return Value(index == 0);
  if (name == "last") return Value(index + 1 == count);
  if (name == "length") return Value(count);
  if (name == "depth") return Value(1);  // of recursive loops alone more
  if (name == "depth0") return Value(0);
  if (name == "previtem") return index > 0 ? loop.items[index - 1] : Value::MakeUndefined("the item before the first");
  if (name == "nextitem")
    return index + 1 < count ? loop.items[index + 1] : Value::MakeUndefined("the item after the last");
  Loop* const self = &loop;
  if (name == "cycle") {
    return Value(heap_.NewFunction("cycle", [self](Evaluator&, Arguments& arguments) -> absl::StatusOr<Value> {
      if (arguments.positional.empty()) return Wrong("loop.cycle needs values");
      return arguments.positional[self->index % arguments.positional.size()];
    }));
  }
  if (name == "changed") {
    return Value(
        heap_.NewFunction("changed", [self](Evaluator& evaluator, Arguments& arguments) -> absl::StatusOr<Value> {
          const Value now(evaluator.heap().NewList(arguments.positional, true));
          if (self->changed_before) {
            ASSIGN_OR_RETURN(const bool same, Equal(now, self->last_changed, evaluator.budget()));
            if (same) return Value(false);
          }
          self->changed_before = true;
          self->last_changed = now;
          return Value(true);
        }));
  }
  return Value::MakeUndefined(absl::StrCat("loop.", name.substr(0, 80)));
}

absl::StatusOr<Value> Evaluator::Attribute(const Value& of, absl::string_view name) {
  if (of.IsUndefined()) return Wrong(of.UndefinedMessage());
  if (name.substr(0, 2) == "__") return Missing(of, name);  // the sandbox hides them
  if (of.loop() != nullptr) return LoopAttribute(*of.loop(), name);
  if (const MethodRow* method = FindMethod(of, name)) {
    return Value(heap_.NewFunction(std::string(name), [method, of](Evaluator& evaluator, Arguments& arguments) {
      return method->call(evaluator, of, arguments);
    }));
  }
  if (const Map* map = of.map()) {
    if (const Value* value = map->Find(TextKey(name))) return *value;
  }
  return Missing(of, name);
}

absl::StatusOr<Value> Evaluator::Item(const Value& of, const Value& key) {
  if (of.IsUndefined()) return Wrong(of.UndefinedMessage());
  if (const Map* map = of.map(); map != nullptr && !map->is_namespace) {
    std::string name;
    if (!KeyOf(key, &name)) return Value::MakeUndefined(absl::StrCat("an item at a ", key.TypeName()));
    if (const Value* value = map->Find(name)) return *value;
  }
  int64_t index;
  const List* list = of.list() != nullptr && !of.list()->generator ? of.list() : nullptr;
  if (key.AsInteger(&index) && (list != nullptr || of.text() != nullptr)) {
    std::vector<size_t> at;
    if (of.text() != nullptr) {
      RETURN_IF_ERROR(budget_.Step(static_cast<int64_t>(of.text()->bytes.size() / 8)));
      at = Boundaries(of.text()->bytes);
    }
    const auto length = static_cast<int64_t>(list != nullptr ? list->items.size() : at.size() - 1);
    if (index < 0) index += length;
    if (index < 0 || index >= length)
      return Value::MakeUndefined(absl::StrCat("an item past the end of a ", of.TypeName()));
    const auto i = static_cast<size_t>(index);
    return list != nullptr ? list->items[i] : Value(of.text()->Part(at[i], at[i + 1]));
  }
  if (key.text() != nullptr) return Attribute(of, key.text()->bytes);
  return Value::MakeUndefined(absl::StrCat("an item of a ", of.TypeName()));
}

absl::StatusOr<std::vector<Value>> Evaluator::Items(const Value& value) {
  std::vector<Value> items;
  if (List* list = value.list()) {
    RETURN_IF_ERROR(budget_.Step(static_cast<int64_t>(list->items.size() / 4)));
    if (!list->generator) return list->items;
    items.swap(list->items);
    return items;
  }
  if (const Map* map = value.map(); map != nullptr && !map->is_namespace) {
    RETURN_IF_ERROR(budget_.Step(static_cast<int64_t>(map->entries.size() / 4)));
    for (const auto& [name, held] : map->entries) items.push_back(name);
    return items;
  }
  if (const Text* text = value.text()) {
    const std::vector<size_t> at = Boundaries(text->bytes);
    RETURN_IF_ERROR(budget_.Step(static_cast<int64_t>(at.size())));
    for (size_t i = 0; i + 1 < at.size(); ++i) items.emplace_back(text->Part(at[i], at[i + 1]));
    return items;
  }
  if (value.IsUndefined()) return items;
  return Wrong(absl::StrCat("a ", value.TypeName(), " cannot be iterated"));
}

absl::StatusOr<bool> Evaluator::Contains(const Value& container, const Value& item) {
  if (const Text* text = container.text()) {
    if (item.text() == nullptr) return Wrong(absl::StrCat("a ", item.TypeName(), " cannot be in a str"));
    RETURN_IF_ERROR(budget_.Step(static_cast<int64_t>(text->bytes.size() / 16)));
    return text->bytes.find(item.text()->bytes) != std::string::npos;
  }
  if (const Map* map = container.map(); map != nullptr && !map->is_namespace) {
    std::string key;
    if (!KeyOf(item, &key)) return Wrong(absl::StrCat("a ", item.TypeName(), " cannot be a key"));
    return map->Find(key) != nullptr;
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, Items(container));
  for (const Value& held : items) {
    ASSIGN_OR_RETURN(const bool same, Equal(held, item, budget_));
    if (same) return true;
  }
  return false;
}

absl::StatusOr<Value> Evaluator::Apply(absl::string_view sign, const Value& a, const Value& b) {
  int64_t x, y;
  if (a.AsInteger(&x) && b.AsInteger(&y)) return IntegerResult(sign, x, y);
  if (a.IsNumber() && b.IsNumber()) return RealResult(sign, a.AsReal(), b.AsReal());
  if (sign == "%" && a.text() != nullptr) {
    ASSIGN_OR_RETURN(Text text, FormatPercent(*this, *a.text(), b));
    return Value(std::move(text));
  }
  if (a.IsUndefined()) return Wrong(a.UndefinedMessage());
  if (b.IsUndefined()) return Wrong(b.UndefinedMessage());
  if (sign == "+" && a.text() != nullptr && b.text() != nullptr) {
    RETURN_IF_ERROR(budget_.Write(static_cast<int64_t>(a.text()->bytes.size() + b.text()->bytes.size())));
    const bool safe = a.text()->safe || b.text()->safe;
    Text sum = safe && !a.text()->safe ? Escaped(*a.text()) : *a.text();
    sum.Append(safe && !b.text()->safe ? Escaped(*b.text()) : *b.text());
    RETURN_IF_ERROR(budget_.Write(safe ? static_cast<int64_t>(sum.bytes.size()) : 0));
    return Value(std::move(sum));
  }
  if (sign == "+" && a.list() != nullptr && b.list() != nullptr && a.list()->tuple == b.list()->tuple &&
      !a.list()->generator && !b.list()->generator) {
    std::vector<Value> sum = a.list()->items;
    sum.insert(sum.end(), b.list()->items.begin(), b.list()->items.end());
    RETURN_IF_ERROR(budget_.Step(static_cast<int64_t>(sum.size())));
    return Value(heap_.NewList(std::move(sum), a.list()->tuple));
  }
  const Value& repeated = a.AsInteger(&x) ? b : a;
  if (sign == "*" && (a.AsInteger(&x) || b.AsInteger(&x))) {
    x = std::max<int64_t>(x, 0);
    if (const Text* text = repeated.text()) {
      const auto size = static_cast<int64_t>(text->bytes.size());
      if (size > 0 && x > budget_.bytes / size) return Wrong("it makes too much text");
      RETURN_IF_ERROR(budget_.Write(size * x));
      Text product;
      for (int64_t i = 0; size > 0 && i < x; ++i) product.Append(*text);
      return Value(std::move(product));
    }
    if (const List* list = repeated.list(); list != nullptr && !list->generator) {
      const auto size = static_cast<int64_t>(list->items.size());
      if (size > 0 && x > budget_.steps / size) return Wrong("it takes too many steps");
      RETURN_IF_ERROR(budget_.Step(size * x));
      std::vector<Value> product;
      for (int64_t i = 0; size > 0 && i < x; ++i) product.insert(product.end(), list->items.begin(), list->items.end());
      return Value(heap_.NewList(std::move(product), list->tuple));
    }
  }
  return Wrong(absl::StrCat("'", sign, "' does not take a ", a.TypeName(), " and a ", b.TypeName()));
}

}  // namespace interlace::jinja
