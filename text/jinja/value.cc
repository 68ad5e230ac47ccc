#include "text/jinja/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace::jinja {

// Not inline: the compiler takes moves of variants that it has inlined for reads of what is not set.
Value::Value(const Value&) = default;
Value::Value(Value&&) noexcept = default;
Value& Value::operator=(const Value&) = default;
Value& Value::operator=(Value&&) noexcept = default;
Value::~Value() = default;

double Value::AsReal() const {
  if (const double* number = real()) return *number;
  int64_t number = 0;
  AsInteger(&number);
  return static_cast<double>(number);
}

bool Value::AsInteger(int64_t* out) const {
  if (const bool* on = flag()) {
    *out = *on ? 1 : 0;
    return true;
  }
  if (const int64_t* number = integer()) {
    *out = *number;
    return true;
  }
  return false;
}

bool Value::Truth() const {
  if (IsUndefined() || IsNone()) return false;
  if (const Text* words = text()) return !words->bytes.empty();
  if (const List* items = list()) return items->generator || !items->items.empty();
  if (const Map* entries = map()) return entries->is_namespace || !entries->entries.empty();
  if (IsNumber()) return AsReal() != 0;
  return true;
}

absl::string_view Value::TypeName() const {
  if (IsUndefined()) return "Undefined";
  if (IsNone()) return "NoneType";
  if (flag() != nullptr) return "bool";
  if (integer() != nullptr) return "int";
  if (real() != nullptr) return "float";
  if (text() != nullptr) return "str";
  if (list() != nullptr) return list()->tuple ? "tuple" : list()->generator ? "generator" : "list";
  if (map() != nullptr) return map()->is_namespace ? "Namespace" : "dict";
  if (loop() != nullptr) return "LoopContext";
  return "function";
}

std::string Value::UndefinedMessage() const {
  const Undefined* undefined = std::get_if<Undefined>(&held_);
  if (undefined == nullptr) return std::string(TypeName());
  return undefined->name == nullptr ? "a value is undefined" : absl::StrCat(*undefined->name, " is undefined");
}

const Value* Map::Find(const std::string& key) const {
  const auto it = index.find(key);
  return it == index.end() ? nullptr : &entries[it->second].second;
}

void Map::Set(const std::string& key, const Value& name, const Value& value) {
  const auto [it, fresh] = index.emplace(key, entries.size());
  if (fresh) {
    entries.emplace_back(name, value);
  } else {
    entries[it->second].second = value;
  }
}

bool Map::Erase(const std::string& key) {
  const auto it = index.find(key);
  if (it == index.end()) return false;
  const size_t at = it->second;
  entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(at));
  index.erase(it);
  for (auto& [name, position] : index) {
    if (position > at) --position;
  }
  return true;
}

std::string TextKey(absl::string_view text) { return absl::StrCat("s", text); }

bool KeyOf(const Value& value, std::string* key) {
  if (const Text* text = value.text()) {
    *key = TextKey(text->bytes);
    return true;
  }
  int64_t number;
  if (value.AsInteger(&number)) {
    *key = absl::StrCat("i", number);
  } else if (const double* real = value.real()) {
    const bool whole = std::abs(*real) < 9e15 && *real == std::floor(*real);
    *key = whole ? absl::StrCat("i", static_cast<int64_t>(*real)) : absl::StrCat("r", RealText(*real));
  } else if (value.IsNone()) {
    *key = "n";
  } else if (value.list() != nullptr && value.list()->tuple) {
    *key = "t";
    for (const Value& item : value.list()->items) {
      std::string part;
      if ((item.list() != nullptr) || !KeyOf(item, &part)) return false;  // tuples of tuples: not here
      absl::StrAppend(key, part.size(), ":", part);
    }
  } else {
    return false;
  }
  return true;
}

absl::Status Budget::Step(int64_t count) {
  steps -= count;
  return steps >= 0 ? absl::OkStatus() : absl::InvalidArgumentError("it takes too many steps");
}

absl::Status Budget::Write(int64_t count) {
  bytes -= count;
  steps -= count / 32;
  return bytes >= 0 && steps >= 0 ? absl::OkStatus() : absl::InvalidArgumentError("it makes too much text");
}

namespace {

constexpr int kDeepest = 100;

absl::Status TooDeep() { return absl::InvalidArgumentError("a value holds values too deep"); }

// Negative, zero or positive as Python orders texts: by code point, which is the order of UTF-8.
int CompareText(const std::string& a, const std::string& b) { return a < b ? -1 : a == b ? 0 : 1; }

int CompareNumbers(const Value& a, const Value& b) {
  int64_t x, y;
  if (a.AsInteger(&x) && b.AsInteger(&y)) return x < y ? -1 : x == y ? 0 : 1;
  const double p = a.AsReal(), q = b.AsReal();
  return p < q ? -1 : p == q ? 0 : 1;
}

}  // namespace

absl::StatusOr<bool> Equal(const Value& a, const Value& b, Budget& budget, int depth) {
  if (depth > kDeepest) return TooDeep();
  RETURN_IF_ERROR(budget.Step());
  if (a.IsNumber() && b.IsNumber()) return CompareNumbers(a, b) == 0;
  if (a.text() != nullptr && b.text() != nullptr) {
    RETURN_IF_ERROR(budget.Step(static_cast<int64_t>(std::min(a.text()->bytes.size(), b.text()->bytes.size()) / 64)));
    return a.text()->bytes == b.text()->bytes;
  }
  if (a.list() != nullptr && b.list() != nullptr) {
    const std::vector<Value>&x = a.list()->items, &y = b.list()->items;
    if (a.list()->tuple != b.list()->tuple || x.size() != y.size()) return false;
    for (size_t i = 0; i < x.size(); ++i) {
      ASSIGN_OR_RETURN(const bool same, Equal(x[i], y[i], budget, depth + 1));
      if (!same) return false;
    }
    return true;
  }
  if (a.map() != nullptr && b.map() != nullptr && !a.map()->is_namespace) {
    if (b.map()->is_namespace || a.map()->entries.size() != b.map()->entries.size()) return false;
    for (const auto& [name, value] : a.map()->entries) {
      std::string key;
      KeyOf(name, &key);
      const Value* other = b.map()->Find(key);
      if (other == nullptr) return false;
      ASSIGN_OR_RETURN(const bool same, Equal(value, *other, budget, depth + 1));
      if (!same) return false;
    }
    return true;
  }
  if (a.map() != nullptr || b.map() != nullptr) return a.map() == b.map();
  if (a.function() != nullptr || b.function() != nullptr) return a.function() == b.function();
  if (a.loop() != nullptr || b.loop() != nullptr) return a.loop() == b.loop();
  return (a.IsNone() && b.IsNone()) || (a.IsUndefined() && b.IsUndefined());
}

absl::StatusOr<int> Compare(const Value& a, const Value& b, Budget& budget, int depth) {
  if (depth > kDeepest) return TooDeep();
  RETURN_IF_ERROR(budget.Step());
  if (a.IsNumber() && b.IsNumber()) return CompareNumbers(a, b);
  if (a.text() != nullptr && b.text() != nullptr) return CompareText(a.text()->bytes, b.text()->bytes);
  if (a.list() != nullptr && b.list() != nullptr && a.list()->tuple == b.list()->tuple) {
    const std::vector<Value>&x = a.list()->items, &y = b.list()->items;
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      ASSIGN_OR_RETURN(const bool same, Equal(x[i], y[i], budget, depth + 1));
      if (!same) return Compare(x[i], y[i], budget, depth + 1);
    }
    return x.size() < y.size() ? -1 : x.size() == y.size() ? 0 : 1;
  }
  if (a.IsUndefined()) return absl::InvalidArgumentError(a.UndefinedMessage());
  if (b.IsUndefined()) return absl::InvalidArgumentError(b.UndefinedMessage());
  return absl::InvalidArgumentError(absl::StrCat(a.TypeName(), " and ", b.TypeName(), " have no order"));
}

std::string RealText(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), number, std::chars_format::scientific).ptr;
  const absl::string_view shortest(buffer, static_cast<size_t>(end - buffer));
  const size_t e = shortest.find('e');
  std::string digits(shortest.substr(0, e));
  const std::string sign = digits[0] == '-' ? "-" : "";
  if (!sign.empty()) digits.erase(0, 1);
  if (digits.size() > 1) digits.erase(1, 1);  // the point
  const int exponent = std::atoi(std::string(shortest.substr(e + 1)).c_str());
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    std::string out = sign + digits.substr(0, 1);
    if (count > 1) absl::StrAppend(&out, ".", digits.substr(1));
    const int size = std::abs(exponent);
    return absl::StrCat(out, "e", exponent < 0 ? "-" : "+", size < 10 ? "0" : "", size);
  }
  if (exponent < 0) return absl::StrCat(sign, "0.", std::string(static_cast<size_t>(-exponent - 1), '0'), digits);
  if (count <= exponent + 1)
    return absl::StrCat(sign, digits, std::string(static_cast<size_t>(exponent + 1 - count), '0'), ".0");
  return absl::StrCat(sign, digits.substr(0, static_cast<size_t>(exponent) + 1), ".",
                      digits.substr(static_cast<size_t>(exponent) + 1));
}

namespace {

// Writes values one after another; says at the end whether anything in them was marked.
class Printer {
 public:
  explicit Printer(Budget& budget) : budget_(budget) {}
  std::string out;
  bool marked = false;

  absl::Status Put(absl::string_view text) {
    RETURN_IF_ERROR(budget_.Write(static_cast<int64_t>(text.size())));
    out.append(text.data(), text.size());
    return absl::OkStatus();
  }

  absl::Status Repr(const Value& value, int depth) {
    if (depth > kDeepest) return TooDeep();
    RETURN_IF_ERROR(budget_.Step());
    if (const Text* text = value.text()) {
      marked |= text->Marked();
      return Put(ReprOf(text->bytes));
    }
    if (const List* list = value.list()) {
      if (list->generator) return Put("<generator object>");
      RETURN_IF_ERROR(Put(list->tuple ? "(" : "["));
      for (size_t i = 0; i < list->items.size(); ++i) {
        if (i > 0) RETURN_IF_ERROR(Put(", "));
        RETURN_IF_ERROR(Repr(list->items[i], depth + 1));
      }
      return Put(list->tuple ? (list->items.size() == 1 ? ",)" : ")") : "]");
    }
    if (const Map* map = value.map()) {
      RETURN_IF_ERROR(Put(map->is_namespace ? "<Namespace {" : "{"));
      for (size_t i = 0; i < map->entries.size(); ++i) {
        if (i > 0) RETURN_IF_ERROR(Put(", "));
        RETURN_IF_ERROR(Repr(map->entries[i].first, depth + 1));
        RETURN_IF_ERROR(Put(": "));
        RETURN_IF_ERROR(Repr(map->entries[i].second, depth + 1));
      }
      return Put(map->is_namespace ? "}>" : "}");
    }
    return Plain(value, "Undefined");
  }

  absl::Status Plain(const Value& value, absl::string_view undefined) {
    if (value.IsUndefined()) return Put(undefined);
    if (value.IsNone()) return Put("None");
    if (const bool* flag = value.flag()) return Put(*flag ? "True" : "False");
    if (const int64_t* number = value.integer()) return Put(absl::StrCat(*number));
    if (const double* number = value.real()) return Put(RealText(*number));
    return absl::InvalidArgumentError(absl::StrCat("a ", value.TypeName(), " has no text"));
  }

  absl::Status Json(const Value& value, const JsonStyle& style, int depth) {
    if (depth > kDeepest) return TooDeep();
    RETURN_IF_ERROR(budget_.Step());
    if (const Text* text = value.text()) {
      marked |= text->Marked();
      return Put(JsonOf(text->bytes, style.ascii));
    }
    if (value.list() != nullptr && !value.list()->generator) return JsonList(*value.list(), style, depth);
    if (value.map() != nullptr && !value.map()->is_namespace) return JsonMap(*value.map(), style, depth);
    if (value.IsNone()) return Put("null");
    if (const bool* flag = value.flag()) return Put(*flag ? "true" : "false");
    if (const int64_t* number = value.integer()) return Put(absl::StrCat(*number));
    if (const double* number = value.real()) {
      if (std::isnan(*number)) return Put("NaN");
      if (std::isinf(*number)) return Put(*number < 0 ? "-Infinity" : "Infinity");
      return Put(RealText(*number));
    }
    return absl::InvalidArgumentError(value.IsUndefined() ? value.UndefinedMessage()
                                                          : absl::StrCat("a ", value.TypeName(), " is not JSON"));
  }

 private:
  absl::Status Break(const JsonStyle& style, int depth) {
    if (!style.lines) return absl::OkStatus();
    RETURN_IF_ERROR(Put("\n"));
    for (int i = 0; i < depth; ++i) RETURN_IF_ERROR(Put(style.indent));
    return absl::OkStatus();
  }

  absl::Status JsonList(const List& list, const JsonStyle& style, int depth) {
    if (list.items.empty()) return Put("[]");
    RETURN_IF_ERROR(Put("["));
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) RETURN_IF_ERROR(Put(style.item_separator));
      RETURN_IF_ERROR(Break(style, depth + 1));
      RETURN_IF_ERROR(Json(list.items[i], style, depth + 1));
    }
    RETURN_IF_ERROR(Break(style, depth));
    return Put("]");
  }

  absl::Status JsonMap(const Map& map, const JsonStyle& style, int depth) {
    if (map.entries.empty()) return Put("{}");
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : map.entries) entries.push_back(&entry);
    if (style.sort_keys) {
      for (const auto* entry : entries) {
        if (entry->first.text() == nullptr) return absl::InvalidArgumentError("sort_keys needs keys that are texts");
      }
      std::stable_sort(entries.begin(), entries.end(),
                       [](const auto* a, const auto* b) { return a->first.text()->bytes < b->first.text()->bytes; });
    }
    RETURN_IF_ERROR(Put("{"));
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) RETURN_IF_ERROR(Put(style.item_separator));
      RETURN_IF_ERROR(Break(style, depth + 1));
      const Value& name = entries[i]->first;
      if (name.text() != nullptr) {
        RETURN_IF_ERROR(Json(name, style, depth + 1));
      } else if (name.list() != nullptr) {
        return absl::InvalidArgumentError("a tuple is no key of a JSON object");
      } else {
        RETURN_IF_ERROR(Put("\""));
        RETURN_IF_ERROR(Json(name, style, depth + 1));
        RETURN_IF_ERROR(Put("\""));
      }
      RETURN_IF_ERROR(Put(style.key_separator));
      RETURN_IF_ERROR(Json(entries[i]->second, style, depth + 1));
    }
    RETURN_IF_ERROR(Break(style, depth));
    return Put("}");
  }

  Budget& budget_;
};

Text Finished(Printer& printer) { return Text(std::move(printer.out), printer.marked); }

}  // namespace

absl::StatusOr<Text> ToText(const Value& value, Budget& budget) {
  if (const Text* text = value.text()) {
    RETURN_IF_ERROR(budget.Write(static_cast<int64_t>(text->bytes.size())));
    return *text;
  }
  Printer printer(budget);
  if (value.list() != nullptr || value.map() != nullptr) {
    RETURN_IF_ERROR(printer.Repr(value, 0));
  } else {
    RETURN_IF_ERROR(printer.Plain(value, ""));
  }
  return Finished(printer);
}

absl::StatusOr<Text> ToRepr(const Value& value, Budget& budget) {
  Printer printer(budget);
  RETURN_IF_ERROR(printer.Repr(value, 0));
  return Finished(printer);
}

absl::StatusOr<Text> ToJson(const Value& value, const JsonStyle& style, Budget& budget) {
  Printer printer(budget);
  RETURN_IF_ERROR(printer.Json(value, style, 0));
  return Finished(printer);
}

}  // namespace interlace::jinja
