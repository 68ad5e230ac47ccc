// Filters of texts and single values; those of lists are in list_filters.cc.
#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "text/jinja/builtins.h"
#include "text/jinja/evaluator.h"
#include "text/jinja/formatting.h"
#include "text/jinja/list_filters.h"
#include "text/utf8.h"
#include "text/white_space.h"

namespace interlace::jinja {
namespace {

using Result = absl::StatusOr<Value>;

absl::Status Wrong(absl::string_view what) { return absl::InvalidArgumentError(what); }

Result String(Evaluator& evaluator, const Value& value, Arguments&) {
  if (value.text() != nullptr) return value;
  ASSIGN_OR_RETURN(Text text, ToText(value, evaluator.budget()));
  return Value(std::move(text));
}

// The value as a text, for the method of that name.
template <const char* method>
Result AsMethod(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(const Value text, String(evaluator, value, arguments));
  return FindMethod(text, method)->call(evaluator, text, arguments);
}
constexpr char kUpper[] = "upper", kLower[] = "lower", kCapitalize[] = "capitalize", kStrip[] = "strip",
               kReplace[] = "replace", kCenter[] = "center";

// Unlike the method, as if nothing were safe.
Result Replace(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(Text text, ToText(value, evaluator.budget()));
  text.safe = false;
  return AsMethod<kReplace>(evaluator, Value(std::move(text)), arguments);
}

Result Center(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  if (arguments.positional.empty() && arguments.named.empty()) arguments.positional.emplace_back(80);
  return AsMethod<kCenter>(evaluator, value, arguments);
}

// Upper case after white space, hyphens and opening brackets, lower case elsewhere.
Result Title(Evaluator& evaluator, const Value& value, Arguments&) {
  ASSIGN_OR_RETURN(const Text text, ToText(value, evaluator.budget()));
  std::string out;
  const absl::string_view all = text.bytes;
  size_t begin = 0;
  for (size_t i = 0; i <= all.size();) {
    const size_t space = i < all.size() ? PythonSpaceAt(all.substr(i)) : 0;
    const size_t cut = i == all.size()                                                      ? 0
                       : space > 0                                                          ? space
                       : absl::string_view("-({[<").find(all[i]) != absl::string_view::npos ? 1
                                                                                            : 0;
    if (i < all.size() && cut == 0) {
      i += Utf8FrontOf(all.substr(i)).bytes;
      continue;
    }
    const absl::string_view word = all.substr(begin, i - begin);
    if (!word.empty()) {
      const size_t first = Utf8FrontOf(word).bytes;
      absl::StrAppend(&out, WithCase(word.substr(0, first), Case::kUpper), WithCase(word.substr(first), Case::kLower));
    }
    absl::StrAppend(&out, all.substr(i, cut));
    if (i == all.size()) break;
    begin = i += cut;
  }
  return Value(Text(std::move(out), text.Marked()));
}

Result Trim(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  return AsMethod<kStrip>(evaluator, value, arguments);
}

Result Length(Evaluator& evaluator, const Value& value, Arguments&) {
  if (const Text* text = value.text()) {
    RETURN_IF_ERROR(evaluator.budget().Step(static_cast<int64_t>(text->bytes.size() / 32)));
    return Value(LengthOf(text->bytes));
  }
  if (const List* list = value.list(); list != nullptr && !list->generator) return Value(list->items.size());
  if (const Map* map = value.map(); map != nullptr && !map->is_namespace) return Value(map->entries.size());
  if (const Loop* loop = value.loop()) return Value(loop->items.size());
  if (value.IsUndefined()) return Value(0);
  return Wrong(absl::StrCat("a ", value.TypeName(), " has no length"));
}

Result Default(Evaluator&, const Value& value, Arguments& arguments) {
  Taker taker("default", arguments);
  Value fallback = taker.Take("default_value");
  if (fallback.IsUndefined()) fallback = Value("");
  ASSIGN_OR_RETURN(const bool falsy, taker.Flag("boolean", false));
  RETURN_IF_ERROR(taker.Done());
  return value.IsUndefined() || (falsy && !value.Truth()) ? fallback : value;
}

Result ToJsonText(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  Taker taker("tojson", arguments);
  JsonStyle style;
  ASSIGN_OR_RETURN(style.ascii, taker.Flag("ensure_ascii", false));
  const Value indent = taker.Take("indent");
  const Value separators = taker.Take("separators");
  ASSIGN_OR_RETURN(style.sort_keys, taker.Flag("sort_keys", false));
  RETURN_IF_ERROR(taker.Done());
  int64_t width;
  if (indent.text() != nullptr) {
    style.lines = true;
    style.indent = indent.text()->bytes;
  } else if (indent.AsInteger(&width)) {
    if (width > 100) return Wrong("tojson: the indent is too wide");
    style.lines = true;
    style.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  } else if (!indent.IsUndefined() && !indent.IsNone()) {
    return Wrong("tojson: the indent is neither an int nor a str");
  }
  if (style.lines) style.item_separator.resize(1);
  if (const List* two = separators.list()) {
    if (two->items.size() != 2 || two->items[0].text() == nullptr || two->items[1].text() == nullptr) {
      return Wrong("tojson: separators are two texts");
    }
    style.item_separator = two->items[0].text()->bytes;
    style.key_separator = two->items[1].text()->bytes;
  } else if (!separators.IsUndefined() && !separators.IsNone()) {
    return Wrong("tojson: separators are two texts");
  }
  ASSIGN_OR_RETURN(Text text, ToJson(value, style, evaluator.budget()));
  return Value(std::move(text));
}

// Strips white space and underscores between digits as Python's int and float do; false if underscores are misplaced.
bool NumberText(const Text& text, std::string* out) {
  const Text stripped = Stripped(text, nullptr, true, true);
  const std::string& bytes = stripped.bytes;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] != '_') {
      *out += bytes[i];
    } else if (i == 0 || i + 1 == bytes.size() || !isxdigit(static_cast<unsigned char>(bytes[i - 1])) ||
               !isxdigit(static_cast<unsigned char>(bytes[i + 1]))) {
      return false;
    }
  }
  return !bytes.empty();
}

bool ParseInteger(const Text& text, int64_t base, int64_t* out) {
  std::string digits;
  if (!NumberText(text, &digits)) return false;
  const bool negative = digits[0] == '-';
  if (digits[0] == '-' || digits[0] == '+') digits.erase(0, 1);
  if (digits.size() > 2 && digits[0] == '0') {
    const char mark = static_cast<char>(digits[1] | 0x20);
    if ((mark == 'x' && base == 16) || (mark == 'o' && base == 8) || (mark == 'b' && base == 2)) digits.erase(0, 2);
  }
  if (digits.empty() || digits.size() > 64) return false;
  int64_t value = 0;
  for (char c : digits) {
    const int digit = c >= '0' && c <= '9'                     ? c - '0'
                      : (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? (c | 0x20) - 'a' + 10
                                                               : 99;
    if (digit >= base || __builtin_mul_overflow(value, base, &value) || __builtin_add_overflow(value, digit, &value))
      return false;
  }
  *out = negative ? -value : value;
  return true;
}

bool ParseReal(const Text& text, double* out) {
  std::string digits;
  if (!NumberText(text, &digits)) return false;
  if (digits.find_first_of("xXpP") != std::string::npos) return false;
  return absl::SimpleAtod(digits, out);
}

bool IntegerOf(double real, int64_t* out) {
  if (!(std::abs(real) < 9.2e18)) return false;
  *out = static_cast<int64_t>(real);
  return true;
}

Result Int(Evaluator&, const Value& value, Arguments& arguments) {
  Taker taker("int", arguments);
  Value fallback = taker.Take("default");
  if (fallback.IsUndefined()) fallback = Value(0);
  ASSIGN_OR_RETURN(const int64_t base, taker.Integer("base", 10));
  RETURN_IF_ERROR(taker.Done());
  if (base < 2 || base > 36) return Wrong("int: the base is not within 2 to 36");
  int64_t number;
  double real;
  if (value.IsUndefined()) return Wrong(value.UndefinedMessage());
  if (value.AsInteger(&number)) return Value(number);
  if (value.real() != nullptr) return IntegerOf(*value.real(), &number) ? Value(number) : fallback;
  if (value.text() == nullptr) return fallback;
  if (ParseInteger(*value.text(), base, &number)) return Value(number);
  return ParseReal(*value.text(), &real) && IntegerOf(real, &number) ? Value(number) : fallback;
}

Result Float(Evaluator&, const Value& value, Arguments& arguments) {
  Taker taker("float", arguments);
  Value fallback = taker.Take("default");
  if (fallback.IsUndefined()) fallback = Value(0.0);
  RETURN_IF_ERROR(taker.Done());
  if (value.IsUndefined()) return Wrong(value.UndefinedMessage());
  if (value.IsNumber()) return Value(value.AsReal());
  double real;
  return value.text() != nullptr && ParseReal(*value.text(), &real) ? Value(real) : fallback;
}

Result Abs(Evaluator& evaluator, const Value& value, Arguments&) {
  if (!value.IsNumber()) return Wrong(absl::StrCat("abs of a ", value.TypeName()));
  if (value.real() != nullptr) return Value(std::abs(*value.real()));
  ASSIGN_OR_RETURN(const int order, Compare(value, Value(0), evaluator.budget()));
  return order < 0 ? evaluator.Apply("-", Value(0), value) : value;
}

Result Round(Evaluator&, const Value& value, Arguments& arguments) {
  Taker taker("round", arguments);
  ASSIGN_OR_RETURN(const int64_t precision, taker.Integer("precision", 0));
  ASSIGN_OR_RETURN(const Text* const given, taker.Words("method"));
  RETURN_IF_ERROR(taker.Done());
  const std::string method = given == nullptr ? "common" : given->bytes;
  if (!value.IsNumber()) return Wrong(absl::StrCat("round of a ", value.TypeName()));
  if (precision < -300 || precision > 300) return Wrong("round: the precision is out of bounds");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "common") {
    if (value.integer() != nullptr && precision >= 0) return value;
    if (precision == 0) return Value(std::nearbyint(value.AsReal()));  // half to even, as Python does
    double rounded = 0;
    if (precision > 0) {
      // Exact decimal digits: Python rounds what the number is, not what scaling makes of it.
      std::string text(512, '\0');
      const int size = std::snprintf(text.data(), text.size(), "%.*f",
                                     static_cast<int>(std::min<int64_t>(precision, 120)), value.AsReal());
      text.resize(static_cast<size_t>(std::clamp(size, 0, 511)));
      if (!absl::SimpleAtod(text, &rounded)) return Wrong("round of a number out of bounds");
      return Value(rounded);
    }
    rounded = std::nearbyint(value.AsReal() * scale) / scale;
    return value.integer() != nullptr ? Value(static_cast<int64_t>(rounded)) : Value(rounded);
  }
  if (method == "ceil") return Value(std::ceil(value.AsReal() * scale) / scale);
  if (method == "floor") return Value(std::floor(value.AsReal() * scale) / scale);
  return Wrong("round: the method is none of common, ceil, floor");
}

Result Indent(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  Taker taker("indent", arguments);
  const Value width = taker.Take("width");
  ASSIGN_OR_RETURN(const bool first, taker.Flag("first", false));
  ASSIGN_OR_RETURN(const bool blank, taker.Flag("blank", false));
  RETURN_IF_ERROR(taker.Done());
  if (value.text() == nullptr) return Wrong(absl::StrCat("indent of a ", value.TypeName()));
  Text indent("    ");
  int64_t spaces;
  if (width.text() != nullptr) {
    indent = *width.text();
  } else if (width.AsInteger(&spaces)) {
    if (spaces > 1000) return Wrong("indent: the width is too large");
    indent = Text(std::string(static_cast<size_t>(std::max<int64_t>(spaces, 0)), ' '));
  }
  Text whole = *value.text();
  whole.Append("\n");
  const std::vector<Text> lines = SplitLines(whole, false);
  RETURN_IF_ERROR(
      evaluator.budget().Write(static_cast<int64_t>(whole.bytes.size() + lines.size() * indent.bytes.size())));
  Text out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.Append("\n");
    if (i == 0 ? first : blank || !lines[i].bytes.empty()) out.Append(indent);
    out.Append(lines[i]);
  }
  return Value(std::move(out));
}

Result Truncate(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  Taker taker("truncate", arguments);
  ASSIGN_OR_RETURN(const int64_t length, taker.Integer("length", 255));
  ASSIGN_OR_RETURN(const bool kill, taker.Flag("killwords", false));
  ASSIGN_OR_RETURN(const Text* const given, taker.Words("end"));
  ASSIGN_OR_RETURN(const int64_t leeway, taker.Integer("leeway", 5));
  RETURN_IF_ERROR(taker.Done());
  if (value.text() == nullptr) return Wrong(absl::StrCat("truncate of a ", value.TypeName()));
  const Text end = given != nullptr ? *given : Text("...");
  const auto end_length = static_cast<int64_t>(LengthOf(end.bytes));
  if (length < end_length || leeway < 0) return Wrong("truncate: the length is shorter than the end");
  RETURN_IF_ERROR(evaluator.budget().Write(static_cast<int64_t>(value.text()->bytes.size())));
  const std::vector<size_t> at = Boundaries(value.text()->bytes);
  const auto size = static_cast<int64_t>(at.size()) - 1;
  if (size <= length || size - length <= leeway) return value;
  Text kept = value.text()->Part(0, at[static_cast<size_t>(length - end_length)]);
  const size_t space = kept.bytes.rfind(' ');
  if (!kill && space != std::string::npos) kept = kept.Part(0, space);
  kept.Append(end);
  return Value(std::move(kept));
}

Result WordCount(Evaluator& evaluator, const Value& value, Arguments&) {
  ASSIGN_OR_RETURN(const Text text, ToText(value, evaluator.budget()));
  return Value(Split(text, nullptr, -1, false).size());
}

Result Escape(Evaluator& evaluator, const Value& value, Arguments&) {
  ASSIGN_OR_RETURN(const Text text, ToText(value, evaluator.budget()));
  Text out = text.safe ? text : Escaped(text);
  RETURN_IF_ERROR(evaluator.budget().Write(static_cast<int64_t>(out.bytes.size())));
  return Value(std::move(out));
}

Result ForceEscape(Evaluator& evaluator, const Value& value, Arguments&) {
  ASSIGN_OR_RETURN(const Text text, ToText(value, evaluator.budget()));
  return Value(Escaped(text));
}

Result Safe(Evaluator& evaluator, const Value& value, Arguments&) {
  ASSIGN_OR_RETURN(Text text, ToText(value, evaluator.budget()));
  text.safe = true;
  return Value(std::move(text));
}

Result Format(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  ASSIGN_OR_RETURN(const Text text, ToText(value, evaluator.budget()));
  Value values;
  if (!arguments.named.empty()) {
    Arguments named{{}, arguments.named};
    ASSIGN_OR_RETURN(values, FindFunction("dict")->call(evaluator, named));
  } else {
    values = Value(evaluator.heap().NewList(arguments.positional, true));
  }
  ASSIGN_OR_RETURN(Text made, FormatPercent(evaluator, text, values));
  return Value(std::move(made));
}

Result Attr(Evaluator& evaluator, const Value& value, Arguments& arguments) {
  Taker taker("attr", arguments);
  ASSIGN_OR_RETURN(const Text* const name, taker.Words("name"));
  RETURN_IF_ERROR(taker.Done());
  if (name == nullptr) return Wrong("attr needs a name");
  if (value.map() != nullptr && !value.map()->is_namespace && FindMethod(value, name->bytes) == nullptr) {
    return Value::MakeUndefined(absl::StrCat("attribute '", name->bytes.substr(0, 80), "'"));  // attributes, no keys
  }
  return evaluator.Attribute(value, name->bytes);
}

constexpr FilterRow kFilters[] = {
    {"abs", Abs},
    {"attr", Attr},
    {"batch", Batch},
    {"capitalize", AsMethod<kCapitalize>},
    {"center", Center},
    {"count", Length},
    {"d", Default},
    {"default", Default},
    {"dictsort", DictSort},
    {"e", Escape},
    {"escape", Escape},
    {"first", First},
    {"float", Float},
    {"forceescape", ForceEscape},
    {"format", Format},
    {"groupby", GroupBy},
    {"indent", Indent},
    {"int", Int},
    {"items", Items},
    {"join", Join},
    {"last", Last},
    {"length", Length},
    {"list", ListOf},
    {"lower", AsMethod<kLower>},
    {"map", MapValues},
    {"max", Max},
    {"min", Min},
    {"reject", Reject},
    {"rejectattr", RejectAttr},
    {"replace", Replace},
    {"reverse", Reverse},
    {"round", Round},
    {"safe", Safe},
    {"select", Select},
    {"selectattr", SelectAttr},
    {"slice", Slice},
    {"sort", Sort},
    {"string", String},
    {"sum", Sum},
    {"title", Title},
    {"tojson", ToJsonText},
    {"trim", Trim},
    {"truncate", Truncate},
    {"unique", Unique},
    {"upper", AsMethod<kUpper>},
    {"wordcount", WordCount},
};

}  // namespace

const FilterRow* FindFilter(absl::string_view name) {
  const auto* it =
      std::find_if(std::begin(kFilters), std::end(kFilters), [&](const FilterRow& row) { return row.name == name; });
  return it == std::end(kFilters) ? nullptr : it;
}

}  // namespace interlace::jinja
