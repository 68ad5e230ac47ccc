#include "text/jinja/formatting.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "common/status_macros.h"
#include "text/jinja/evaluator.h"

namespace interlace::jinja {
namespace {

constexpr int kWidest = 1000;

absl::Status Wrong(absl::string_view what) { return absl::InvalidArgumentError(what); }

struct Specification {
  std::string fill = " ";
  char align = '\0';  // < > ^ =
  char sign = '-';
  bool alternate = false, comma = false;
  int width = 0, precision = -1;
  char type = '\0';
};

// Digits from `*at` on, at most kWidest; false if there are more.
bool ReadNumber(absl::string_view text, size_t* at, int* out) {
  *out = 0;
  for (; *at < text.size() && absl::ascii_isdigit(static_cast<unsigned char>(text[*at])); ++*at) {
    *out = *out * 10 + (text[*at] - '0');
    if (*out > kWidest) return false;
  }
  return true;
}

void Pad(const Specification& spec, char fallback, size_t prefix, Text* text) {
  const auto length = static_cast<int>(LengthOf(text->bytes));
  if (length >= spec.width) return;
  const int missing = spec.width - length;
  const char align = spec.align != '\0' ? spec.align : fallback;
  const auto filler = [&](int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += spec.fill;
    return out;
  };
  Text padded;
  if (align == '=') {
    padded.Append(text->Part(0, prefix));
    padded.Append(filler(missing));
    padded.Append(text->Part(prefix, text->bytes.size()));
  } else {
    const int before = align == '<' ? 0 : align == '>' ? missing : missing / 2;
    padded.Append(filler(before));
    padded.Append(*text);
    padded.Append(filler(missing - before));
  }
  *text = std::move(padded);
}

std::string WithCommas(std::string digits) {
  size_t whole = std::min(digits.find('.'), digits.size());
  for (size_t at = whole; at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

absl::StatusOr<std::string> Digits(const Specification& spec, const Value& value, bool* negative) {
  int64_t integer;
  const bool whole = value.AsInteger(&integer);
  const double real = value.AsReal();
  *negative = whole ? integer < 0 : std::signbit(real);
  const uint64_t size =
      whole ? (integer < 0 ? uint64_t{0} - static_cast<uint64_t>(integer) : static_cast<uint64_t>(integer)) : 0;
  const double magnitude = std::abs(real);
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  switch (spec.type) {
    case 'x':
      return absl::StrCat(spec.alternate ? "0x" : "", absl::StrFormat("%x", size));
    case 'X':
      return absl::StrCat(spec.alternate ? "0X" : "", absl::StrFormat("%X", size));
    case 'o':
      return absl::StrCat(spec.alternate ? "0o" : "", absl::StrFormat("%o", size));
    case 'b': {
      std::string bits;
      for (uint64_t rest = size; rest > 0 || bits.empty(); rest /= 2) bits.insert(bits.begin(), rest % 2 ? '1' : '0');
      return absl::StrCat(spec.alternate ? "0b" : "", bits);
    }
    case 'd':
      return absl::StrCat(size);
    case 'f':
    case 'F':
      return absl::StrFormat("%.*f", precision, magnitude);
    case 'e':
      return absl::StrFormat("%.*e", precision, magnitude);
    case 'E':
      return absl::StrFormat("%.*E", precision, magnitude);
    case 'g':
      return absl::StrFormat("%.*g", precision, magnitude);
    case '%':
      return absl::StrCat(absl::StrFormat("%.*f", precision, magnitude * 100), "%");
    default:
      if (whole) return absl::StrCat(size);
      return spec.precision < 0 ? RealText(magnitude) : absl::StrFormat("%.*g", precision, magnitude);
  }
}

absl::StatusOr<Text> FormatNumber(const Specification& spec, const Value& value) {
  int64_t integer;
  if (absl::string_view("dxXob").find(spec.type) != absl::string_view::npos && spec.type != '\0' &&
      !value.AsInteger(&integer)) {
    return Wrong(absl::StrCat("the format '", std::string(1, spec.type), "' needs an integer"));
  }
  bool negative = false;
  ASSIGN_OR_RETURN(std::string digits, Digits(spec, value, &negative));
  if (spec.comma) digits = WithCommas(std::move(digits));
  const std::string sign = negative ? "-" : spec.sign == '+' ? "+" : spec.sign == ' ' ? " " : "";
  Text text(absl::StrCat(sign, digits));
  Pad(spec, '>', sign.size(), &text);
  return text;
}

// What stands after the colon: [[fill]align][sign][#][0][width][,][.precision][type].
absl::StatusOr<Specification> ReadSpecification(absl::string_view text) {
  Specification spec;
  const absl::string_view aligns = "<>^=";
  const std::vector<size_t> ends = Boundaries(text);
  size_t at = 0;
  if (ends.size() > 2 && ends[1] < text.size() && aligns.find(text[ends[1]]) != absl::string_view::npos) {
    spec.fill = std::string(text.substr(0, ends[1]));
    spec.align = text[ends[1]];
    at = ends[1] + 1;
  } else if (!text.empty() && aligns.find(text[0]) != absl::string_view::npos) {
    spec.align = text[at++];
  }
  const auto take = [&](char c) { return at < text.size() && text[at] == c ? (++at, true) : false; };
  for (char sign : {'+', '-', ' '}) {
    if (take(sign)) {
      spec.sign = sign;
      break;
    }
  }
  spec.alternate = take('#');
  if (take('0') && spec.align == '\0') {
    spec.fill = "0";
    spec.align = '=';
  }
  if (!ReadNumber(text, &at, &spec.width)) return Wrong("a format is too wide");
  spec.comma = take(',');
  if (take('.') && !ReadNumber(text, &at, &spec.precision)) return Wrong("a format is too precise");
  if (at < text.size()) spec.type = text[at++];
  if (at < text.size() ||
      (spec.type != '\0' && absl::string_view("sdxXobfFeEg%").find(spec.type) == absl::string_view::npos)) {
    return Wrong(absl::StrCat("the format '", text.substr(0, 40), "' is not built in"));
  }
  return spec;
}

absl::StatusOr<Text> FormatOne(Evaluator& evaluator, const Value& value, absl::string_view specification) {
  ASSIGN_OR_RETURN(const Specification spec, ReadSpecification(specification));
  if (value.IsNumber() && spec.type != 's' && (value.flag() == nullptr || !specification.empty())) {
    return FormatNumber(spec, value);
  }
  if (spec.type != '\0' && spec.type != 's') return Wrong(absl::StrCat("a ", value.TypeName(), " has no such format"));
  ASSIGN_OR_RETURN(Text text, ToText(value, evaluator.budget()));
  if (spec.precision >= 0) {
    const std::vector<size_t> ends = Boundaries(text.bytes);
    text = text.Part(0, ends[std::min(ends.size() - 1, static_cast<size_t>(spec.precision))]);
  }
  Pad(spec, '<', 0, &text);
  return text;
}

// The value that {path} names.
absl::StatusOr<Value> FieldOf(Evaluator& evaluator, absl::string_view path, const Arguments& arguments,
                              size_t* automatic) {
  const size_t end = std::min(path.find_first_of(".["), path.size());
  const std::string name(path.substr(0, end));
  size_t index = 0;
  Value value;
  if (name.empty() || absl::SimpleAtoi(name, &index)) {
    // Numbers are given in all fields or in none.
    constexpr size_t kGiven = size_t{1} << 32;
    if (name.empty() ? *automatic >= kGiven : *automatic > 0 && *automatic < kGiven) {
      return Wrong("format mixes {} and {0}");
    }
    if (name.empty()) {
      index = (*automatic)++;
    } else {
      *automatic = kGiven;
    }
    if (index >= arguments.positional.size()) return Wrong("format has too few arguments");
    value = arguments.positional[index];
  } else {
    const auto it =
        std::find_if(arguments.named.begin(), arguments.named.end(), [&](const auto& n) { return n.first == name; });
    if (it == arguments.named.end()) return Wrong(absl::StrCat("format has no argument '", name, "'"));
    value = it->second;
  }
  path = path.substr(end);
  while (!path.empty()) {
    const bool item = path[0] == '[';
    const size_t stop = item ? path.find(']') : std::min(path.find_first_of(".[", 1), path.size());
    if (stop == absl::string_view::npos) return Wrong("a field of format has no ']'");
    const absl::string_view part = path.substr(1, stop - 1);
    int64_t number;
    if (item && absl::SimpleAtoi(part, &number)) {
      ASSIGN_OR_RETURN(value, evaluator.Item(value, Value(number)));
    } else if (item) {
      ASSIGN_OR_RETURN(value, evaluator.Item(value, Value(part)));
    } else {
      ASSIGN_OR_RETURN(value, evaluator.Attribute(value, part));
    }
    path = path.substr(item ? stop + 1 : stop);
  }
  return value;
}

}  // namespace

absl::StatusOr<Text> FormatBraces(Evaluator& evaluator, const Text& format, const Arguments& arguments) {
  Text out;
  size_t automatic = 0;
  const std::string& text = format.bytes;
  for (size_t i = 0; i < text.size();) {
    const size_t brace = std::min(text.find_first_of("{}", i), text.size());
    out.Append(format.Part(i, brace));
    if (brace == text.size()) break;
    if (brace + 1 < text.size() && text[brace + 1] == text[brace]) {
      out.Append(format.Part(brace, brace + 1));
      i = brace + 2;
      continue;
    }
    const size_t close = text.find('}', brace);
    if (text[brace] == '}' || close == std::string::npos) return Wrong("format meets a single brace");
    absl::string_view field = absl::string_view(text).substr(brace + 1, close - brace - 1);
    if (field.find('{') != absl::string_view::npos)
      return Wrong("braces in the specification of format are not built in");
    const size_t colon = field.find(':');
    const absl::string_view spec = colon == absl::string_view::npos ? "" : field.substr(colon + 1);
    field = field.substr(0, colon);
    const size_t bang = field.find('!');
    const absl::string_view conversion = bang == absl::string_view::npos ? "" : field.substr(bang + 1);
    field = field.substr(0, bang);
    ASSIGN_OR_RETURN(Value value, FieldOf(evaluator, field, arguments, &automatic));
    if (conversion == "r" || conversion == "s") {
      ASSIGN_OR_RETURN(Text converted,
                       conversion == "r" ? ToRepr(value, evaluator.budget()) : ToText(value, evaluator.budget()));
      value = Value(std::move(converted));
    } else if (!conversion.empty()) {
      return Wrong(absl::StrCat("the conversion '!", conversion.substr(0, 8), "' is not built in"));
    }
    ASSIGN_OR_RETURN(const Text made, FormatOne(evaluator, value, spec));
    RETURN_IF_ERROR(evaluator.budget().Write(static_cast<int64_t>(made.bytes.size())));
    out.Append(made);
    i = close + 1;
  }
  return out;
}

absl::StatusOr<Text> FormatPercent(Evaluator& evaluator, const Text& format, const Value& values) {
  const List* list = values.list() != nullptr && values.list()->tuple ? values.list() : nullptr;
  const std::string& text = format.bytes;
  Text out;
  size_t next = 0;
  bool named = false;
  for (size_t i = 0; i < text.size();) {
    const size_t percent = std::min(text.find('%', i), text.size());
    out.Append(format.Part(i, percent));
    if (percent == text.size()) break;
    i = percent + 1;
    Specification spec;
    Value value;
    bool has_value = false;
    if (i < text.size() && text[i] == '(') {
      const size_t close = text.find(')', i);
      if (close == std::string::npos || values.map() == nullptr) return Wrong("%(name) needs a dict");
      const Value* held = values.map()->Find(TextKey(absl::string_view(text).substr(i + 1, close - i - 1)));
      if (held == nullptr) return Wrong("%(name) names no key of the dict");
      value = *held;
      has_value = named = true;
      i = close + 1;
    }
    for (; i < text.size() && absl::string_view("-+ #0").find(text[i]) != absl::string_view::npos; ++i) {
      if (text[i] == '-') spec.align = '<';
      if (text[i] == '+' || (text[i] == ' ' && spec.sign != '+')) spec.sign = text[i];
      if (text[i] == '#') spec.alternate = true;
      if (text[i] == '0' && spec.align == '\0') spec.fill = "0";
    }
    if (!ReadNumber(text, &i, &spec.width)) return Wrong("a format is too wide");
    if (i < text.size() && text[i] == '.' && !ReadNumber(text, &++i, &spec.precision))
      return Wrong("a format is too precise");
    if (i >= text.size()) return Wrong("a format ends after its %");
    const char type = text[i++];
    if (type == '%') {
      out.Append("%");
      continue;
    }
    if (!has_value) {
      if (list != nullptr ? next >= list->items.size() : next > 0) return Wrong("too few values for the format");
      value = list != nullptr ? list->items[next] : values;
      ++next;
    }
    Text made;
    if (type == 's' || type == 'r') {
      ASSIGN_OR_RETURN(made, type == 's' ? ToText(value, evaluator.budget()) : ToRepr(value, evaluator.budget()));
      if (spec.precision >= 0) {
        const std::vector<size_t> ends = Boundaries(made.bytes);
        made = made.Part(0, ends[std::min(ends.size() - 1, static_cast<size_t>(spec.precision))]);
      }
      spec.fill = " ";
      Pad(spec, '>', 0, &made);
    } else if (absl::string_view("dixXofFeEg").find(type) != absl::string_view::npos) {
      if (!value.IsNumber()) return Wrong(absl::StrCat("%", std::string(1, type), " needs a number"));
      spec.type = type == 'i' ? 'd' : type;
      if (spec.type == 'd' && value.real() != nullptr) {
        if (!(std::abs(*value.real()) < 9e18)) return Wrong("a number is too large for %d");
        value = Value(static_cast<int64_t>(*value.real()));
      }
      if (spec.fill == "0" && spec.align == '\0') spec.align = '=';
      ASSIGN_OR_RETURN(made, FormatNumber(spec, value));
    } else {
      return Wrong(absl::StrCat("the format %", std::string(1, type), " is not built in"));
    }
    RETURN_IF_ERROR(evaluator.budget().Write(static_cast<int64_t>(made.bytes.size())));
    out.Append(made);
  }
  if (!named && values.map() == nullptr && (list != nullptr ? next < list->items.size() : next == 0)) {
    return Wrong("not all values were used by the format");
  }
  return out;
}

absl::StatusOr<std::string> FormatTime(absl::string_view format, int64_t wall_seconds) {
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') continue;
    if (++i >= format.size() ||
        absl::string_view("aAbBcdDeFGgHIjklmMnpRSstTuUVwWxXyYzZ%-h").find(format[i]) == absl::string_view::npos) {
      return Wrong(absl::StrCat("the directive '", format.substr(i - 1, 2), "' of strftime is not built in"));
    }
    if (format[i] != '-') continue;
    if (++i >= format.size() || absl::string_view("dmHIMSj").find(format[i]) == absl::string_view::npos) {
      return Wrong("a directive of strftime is not built in");
    }
  }
  const absl::Time now = absl::FromUnixSeconds(wall_seconds);
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    if (format[i + 1] != '-') {
      out += absl::FormatTime(std::string(format.substr(i, 2)), now, absl::UTCTimeZone());
      ++i;
      continue;
    }
    const std::string padded = absl::FormatTime(absl::StrCat("%", format.substr(i + 2, 1)), now, absl::UTCTimeZone());
    const size_t digit = padded.find_first_not_of('0');
    out += digit == std::string::npos ? "0" : padded.substr(digit);
    i += 2;
  }
  return out;
}

}  // namespace interlace::jinja
