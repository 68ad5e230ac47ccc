#include "text/jinja/text.h"

#include <utf8proc.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "text/utf8.h"
#include "text/white_space.h"

namespace interlace::jinja {
namespace {

// The code point that `text` begins with, its bytes in `*bytes`; -1 for a byte that is not UTF-8.
int32_t CodeAt(absl::string_view text, size_t* bytes) {
  const Utf8Front front = Utf8FrontOf(text);
  if (front.kind != Utf8Front::kComplete) {
    *bytes = 1;
    return -1;
  }
  *bytes = front.bytes;
  utf8proc_int32_t code = -1;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(front.bytes),
                   &code);
  return code;
}

void AppendCode(int32_t code, std::string* out) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t count = utf8proc_encode_char(code, bytes);
  out->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(count));
}

bool IsCased(int32_t code) {
  const utf8proc_category_t category = utf8proc_category(code);
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL || category == UTF8PROC_CATEGORY_LT;
}

// Letters whose upper case is more than one.
const char* LongUpper(int32_t code) {
  switch (code) {
    case 0xdf:
      return "SS";
    case 0xfb00:
      return "FF";
    case 0xfb01:
      return "FI";
    case 0xfb02:
      return "FL";
    case 0xfb03:
      return "FFI";
    case 0xfb04:
      return "FFL";
    case 0x149:
      return "\u02bcN";
    case 0x1f0:
      return "J\u030c";
    default:
      return nullptr;
  }
}

bool IsPrintable(int32_t code) {
  if (code == ' ') return true;
  switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

bool Is(int32_t code, CharacterClass wanted) {
  if (code < 0) return false;
  const utf8proc_category_t category = utf8proc_category(code);
  const bool letter = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
  const bool decimal = category == UTF8PROC_CATEGORY_ND;
  const bool number = category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
  switch (wanted) {
    case CharacterClass::kAlpha:
      return letter;
    case CharacterClass::kDecimal:
      return decimal;
    case CharacterClass::kDigit:  // superscripts and the like too
      return decimal || code == 0xb2 || code == 0xb3 || code == 0xb9 || (code >= 0x2070 && code <= 0x2089) ||
             (code >= 0x2460 && code <= 0x2468);
    case CharacterClass::kNumeric:
      return number;
    case CharacterClass::kAlnum:
      return letter || number;
    case CharacterClass::kPrintable:
      return IsPrintable(code);
    case CharacterClass::kAscii:
      return code < 0x80;
    default:
      return false;
  }
}

}  // namespace

bool Text::Marked() const {
  return std::any_of(marks.begin(), marks.end(), [](char mark) { return mark != 0; });
}

Text& Text::MarkAll(bool on) {
  marks.clear();
  if (on) marks.assign(bytes.size(), 1);
  return *this;
}

void Text::Append(const Text& other) {
  if (!marks.empty() || !other.marks.empty()) {
    marks.resize(bytes.size(), 0);
    if (other.marks.empty()) {
      marks.resize(bytes.size() + other.bytes.size(), 0);
    } else {
      marks += other.marks;
    }
  }
  bytes += other.bytes;
}

void Text::Append(absl::string_view plain) {
  if (!marks.empty()) marks.resize(bytes.size() + plain.size(), 0);
  bytes.append(plain.data(), plain.size());
}

Text Text::Part(size_t begin, size_t end) const {
  Text part;
  part.bytes = bytes.substr(begin, end - begin);
  if (!marks.empty()) part.marks = marks.substr(begin, end - begin);
  part.safe = safe;
  return part;
}

std::vector<size_t> Boundaries(absl::string_view text) {
  std::vector<size_t> at;
  at.reserve(text.size() + 1);
  for (size_t i = 0; i < text.size();) {
    at.push_back(i);
    size_t bytes;
    CodeAt(text.substr(i), &bytes);
    i += bytes;
  }
  at.push_back(text.size());
  return at;
}

size_t LengthOf(absl::string_view text) {
  size_t length = 0;
  for (size_t i = 0; i < text.size(); ++length) {
    size_t bytes;
    CodeAt(text.substr(i), &bytes);
    i += bytes;
  }
  return length;
}

Text Stripped(const Text& text, const Text* characters, bool left, bool right) {
  absl::string_view kept = text.bytes;
  if (characters == nullptr) {
    if (left) kept = TrimmedLeft(kept, PythonSpaceAt);
    if (right) kept = TrimmedRight(kept, PythonSpaceAt);
  } else {
    const std::vector<size_t> ends = Boundaries(characters->bytes);
    const auto has = [&](absl::string_view character) {
      for (size_t i = 0; i + 1 < ends.size(); ++i) {
        if (absl::string_view(characters->bytes).substr(ends[i], ends[i + 1] - ends[i]) == character) return true;
      }
      return false;
    };
    const std::vector<size_t> at = Boundaries(kept);
    size_t first = 0, last = at.size() - 1;
    const auto character = [&](size_t i) { return absl::string_view(text.bytes).substr(at[i], at[i + 1] - at[i]); };
    while (left && first < last && has(character(first))) ++first;
    while (right && first < last && has(character(last - 1))) --last;
    kept = kept.substr(at[first], at[last] - at[first]);
  }
  const size_t begin = kept.empty() ? 0 : static_cast<size_t>(kept.data() - text.bytes.data());
  return text.Part(begin, begin + kept.size());
}

namespace {

std::vector<Text> SplitAtSpace(const Text& text, int64_t limit, bool from_right) {
  const absl::string_view whole = text.bytes;
  std::vector<std::pair<size_t, size_t>> words;
  for (size_t i = 0; i < whole.size();) {
    if (const size_t space = PythonSpaceAt(whole.substr(i))) {
      i += space;
      continue;
    }
    const size_t begin = i;
    while (i < whole.size() && PythonSpaceAt(whole.substr(i)) == 0) i += Utf8FrontOf(whole.substr(i)).bytes;
    words.emplace_back(begin, i);
  }
  std::vector<Text> out;
  const size_t most = limit < 0 ? words.size() : static_cast<size_t>(limit);
  if (words.size() <= most) {
    for (const auto& [begin, end] : words) out.push_back(text.Part(begin, end));
  } else if (!from_right) {
    for (size_t i = 0; i < most; ++i) out.push_back(text.Part(words[i].first, words[i].second));
    out.push_back(Stripped(text.Part(words[most].first, whole.size()), nullptr, true, false));
  } else {
    const size_t rest = words.size() - most;
    out.push_back(Stripped(text.Part(0, words[rest - 1].second), nullptr, false, true));
    for (size_t i = rest; i < words.size(); ++i) out.push_back(text.Part(words[i].first, words[i].second));
  }
  return out;
}

}  // namespace

std::vector<Text> Split(const Text& text, const Text* separator, int64_t limit, bool from_right) {
  if (separator == nullptr) {
    // What a limit leaves keeps its inner white space; rstrip applies from the right alone.
    return SplitAtSpace(text, limit, from_right);
  }
  const std::string& cut = separator->bytes;
  std::vector<Text> out;
  if (!from_right) {
    size_t begin = 0;
    for (size_t at; limit != 0 && (at = text.bytes.find(cut, begin)) != std::string::npos; --limit) {
      out.push_back(text.Part(begin, at));
      begin = at + cut.size();
    }
    out.push_back(text.Part(begin, text.bytes.size()));
    return out;
  }
  size_t end = text.bytes.size();
  while (limit != 0 && end >= cut.size()) {
    const size_t at = text.bytes.rfind(cut, end - cut.size());
    if (at == std::string::npos) break;
    out.push_back(text.Part(at + cut.size(), end));
    end = at;
    --limit;
  }
  out.push_back(text.Part(0, end));
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<Text> SplitLines(const Text& text, bool keep_ends) {
  std::vector<Text> out;
  const absl::string_view whole = text.bytes;
  const auto break_at = [&](size_t i) -> size_t {  // bytes of the line break
    const absl::string_view rest = whole.substr(i);
    if (rest.substr(0, 2) == "\r\n") return 2;
    const char c = rest[0];
    if (c == '\n' || c == '\r' || c == '\v' || c == '\f' || (c >= '\x1c' && c <= '\x1e')) return 1;
    if (rest.substr(0, 2) == "\u0085") return 2;
    return rest.substr(0, 3) == "\u2028" || rest.substr(0, 3) == "\u2029" ? 3 : 0;
  };
  size_t begin = 0;
  for (size_t i = 0; i < whole.size();) {
    const size_t bytes = break_at(i);
    if (bytes == 0) {
      ++i;
      continue;
    }
    out.push_back(text.Part(begin, keep_ends ? i + bytes : i));
    begin = i += bytes;
  }
  if (begin < whole.size()) out.push_back(text.Part(begin, whole.size()));
  return out;
}

Text Replaced(const Text& text, const Text& from, const Text& to, int64_t limit) {
  Text out;
  size_t begin = 0;
  if (from.bytes.empty()) {  // between all characters
    const std::vector<size_t> at = Boundaries(text.bytes);
    for (size_t i = 0; i < at.size() && limit != 0; ++i, --limit) {
      out.Append(text.Part(begin, at[i]));
      out.Append(to);
      begin = at[i];
    }
  } else {
    for (size_t at; limit != 0 && (at = text.bytes.find(from.bytes, begin)) != std::string::npos; --limit) {
      out.Append(text.Part(begin, at));
      out.Append(to);
      begin = at + from.bytes.size();
    }
  }
  out.Append(text.Part(begin, text.bytes.size()));
  return out;
}

Text Joined(const std::vector<Text>& parts, const Text& separator) {
  Text out;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out.Append(separator);
    out.Append(parts[i]);
  }
  return out;
}

Text Escaped(const Text& text) {
  Text out;
  size_t begin = 0;
  for (size_t i = 0; i < text.bytes.size(); ++i) {
    const char c = text.bytes[i];
    const absl::string_view written = c == '&'    ? "&amp;"
                                      : c == '<'  ? "&lt;"
                                      : c == '>'  ? "&gt;"
                                      : c == '\'' ? "&#39;"
                                      : c == '"'  ? "&#34;"
                                                  : "";
    if (written.empty()) continue;
    out.Append(text.Part(begin, i));
    Text entity((std::string(written)));
    out.Append(entity.MarkAll(!text.marks.empty() && text.marks[i] != 0));
    begin = i + 1;
  }
  out.Append(text.Part(begin, text.bytes.size()));
  out.safe = true;
  return out;
}

std::string WithCase(absl::string_view text, Case letter_case) {
  std::string out;
  bool inside = false;  // of a word, for titles; past the first character, for capitalize
  for (size_t i = 0; i < text.size();) {
    size_t bytes;
    const int32_t code = CodeAt(text.substr(i), &bytes);
    if (code < 0) {
      out += text[i++];
      continue;
    }
    const bool upper = letter_case == Case::kUpper ||
                       ((letter_case == Case::kTitle || letter_case == Case::kCapitalize) && !inside) ||
                       (letter_case == Case::kSwap && utf8proc_category(code) == UTF8PROC_CATEGORY_LL);
    const bool titles = letter_case == Case::kTitle || letter_case == Case::kCapitalize;
    if (!upper) {
      if (code == 0x130) {
        out += "i\u0307";
      } else {
        AppendCode(utf8proc_tolower(code), &out);
      }
    } else if (const char* longer = LongUpper(code); longer != nullptr) {
      out += titles && longer[1] != '\0' && static_cast<unsigned char>(longer[0]) < 0x80
                 ? std::string(1, longer[0]) + WithCase(longer + 1, Case::kLower)
                 : std::string(longer);
    } else {
      AppendCode(titles ? utf8proc_totitle(code) : utf8proc_toupper(code), &out);
    }
    inside = letter_case == Case::kCapitalize || IsCased(code);
    i += bytes;
  }
  return out;
}

bool AllAre(absl::string_view text, CharacterClass wanted) {
  if (text.empty()) return wanted == CharacterClass::kPrintable || wanted == CharacterClass::kAscii;
  bool cased = false;
  for (size_t i = 0; i < text.size();) {
    if (wanted == CharacterClass::kSpace) {
      const size_t space = PythonSpaceAt(text.substr(i));
      if (space == 0) return false;
      i += space;
      continue;
    }
    size_t bytes;
    const int32_t code = CodeAt(text.substr(i), &bytes);
    i += bytes;
    if (wanted == CharacterClass::kUpper || wanted == CharacterClass::kLower) {
      if (code < 0 || !IsCased(code)) continue;
      cased = true;
      const bool upper = utf8proc_category(code) == UTF8PROC_CATEGORY_LU;
      if (upper != (wanted == CharacterClass::kUpper)) return false;
    } else if (!Is(code, wanted)) {
      return false;
    }
  }
  return cased || (wanted != CharacterClass::kUpper && wanted != CharacterClass::kLower);
}

std::string ReprOf(absl::string_view text) {
  const char quote =
      text.find('\'') != absl::string_view::npos && text.find('"') == absl::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t i = 0; i < text.size();) {
    size_t bytes;
    const int32_t code = CodeAt(text.substr(i), &bytes);
    if (code == quote || code == '\\') {
      absl::StrAppend(&out, "\\", text.substr(i, 1));
    } else if (code == '\n') {
      out += "\\n";
    } else if (code == '\r') {
      out += "\\r";
    } else if (code == '\t') {
      out += "\\t";
    } else if (code >= 0 && IsPrintable(code)) {
      absl::StrAppend(&out, text.substr(i, bytes));
    } else {
      const int32_t shown = code < 0 ? static_cast<unsigned char>(text[i]) : code;
      absl::StrAppend(&out, shown < 0x100     ? absl::StrFormat("\\x%02x", shown)
                            : shown < 0x10000 ? absl::StrFormat("\\u%04x", shown)
                                              : absl::StrFormat("\\U%08x", shown));
    }
    i += bytes;
  }
  return out + quote;
}

std::string JsonOf(absl::string_view text, bool ascii) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    size_t bytes;
    const int32_t code = CodeAt(text.substr(i), &bytes);
    switch (code) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\b':
        out += "\\b";
        break;
      default:
        if (code >= 0 && (code < 0x20 || (ascii && code > 0x7e))) {
          if (code < 0x10000) {
            absl::StrAppend(&out, absl::StrFormat("\\u%04x", code));
          } else {
            absl::StrAppend(&out, absl::StrFormat("\\u%04x\\u%04x", 0xd800 + ((code - 0x10000) >> 10),
                                                  0xdc00 + ((code - 0x10000) & 0x3ff)));
          }
        } else {
          absl::StrAppend(&out, text.substr(i, bytes));
        }
    }
    i += bytes;
  }
  return out + "\"";
}

}  // namespace interlace::jinja
