#include "text/jinja/lexer.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/status_macros.h"
#include "text/white_space.h"

namespace interlace::jinja {
namespace {

bool IsNameStart(char c) { return absl::ascii_isalpha(c) || c == '_' || static_cast<unsigned char>(c) >= 0x80; }
bool IsNamePart(char c) { return IsNameStart(c) || absl::ascii_isdigit(c); }

class Lexer {
 public:
  explicit Lexer(absl::string_view source) {
    source_ = absl::StrReplaceAll(source, {{"\r\n", "\n"}, {"\r", "\n"}});
    if (absl::EndsWith(source_, "\n")) source_.pop_back();
  }

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) RETURN_IF_ERROR(Data());
    Add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::string_view Rest() const { return absl::string_view(source_).substr(at_); }
  absl::Status Wrong(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("line ", line_, ": ", what));
  }
  void Add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  void Advance(size_t bytes) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(at_ + bytes), '\n'));
    if (bytes > 0) line_starting_ = source_[at_ + bytes - 1] == '\n';
    at_ += bytes;
  }
  // White space after a tag that ends in a minus, or the line break after a block or comment.
  void AfterTag(bool strip, bool trim) {
    if (strip) {
      Advance(Rest().size() - TrimmedLeft(Rest(), PythonSpaceAt).size());
    } else if (trim && absl::StartsWith(Rest(), "\n")) {
      Advance(1);
    }
  }

  // Text up to the next tag, and that tag.
  absl::Status Data() {
    size_t tag = at_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) tag = source_.size();
      if (tag == source_.size() || absl::string_view("%{#").find(source_[tag + 1]) != absl::string_view::npos) break;
      ++tag;
    }
    const bool found = tag < source_.size();
    const char kind = found ? source_[tag + 1] : '\0';
    const char sign = found && tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    absl::string_view data = absl::string_view(source_).substr(at_, tag - at_);
    if (found && sign == '-') {
      data = TrimmedRight(data, PythonSpaceAt);
    } else if (found && sign != '+' && kind != '{') {
      const size_t line_begin = data.rfind('\n') == absl::string_view::npos ? 0 : data.rfind('\n') + 1;
      const absl::string_view before = data.substr(line_begin);
      if ((line_begin > 0 || line_starting_) && !before.empty() && TrimmedLeft(before, PythonSpaceAt).empty()) {
        data = data.substr(0, line_begin);
      }
    }
    if (!data.empty()) Add(TokenKind::kData, std::string(data));
    Advance(tag - at_);
    if (!found) return absl::OkStatus();
    Advance(2);
    if (sign == '-' || sign == '+') Advance(1);
    if (kind == '#') return Comment();
    if (kind == '{') {
      Add(TokenKind::kPrintBegin, "{{");
      return Code("}}", TokenKind::kPrintEnd);
    }
    const absl::string_view inside = TrimmedLeft(Rest(), PythonSpaceAt);
    if (absl::StartsWith(inside, "raw") && inside.size() > 3 && !IsNamePart(inside[3])) {
      absl::string_view end = TrimmedLeft(inside.substr(3), PythonSpaceAt);
      if (absl::StartsWith(end, "%}") || absl::StartsWith(end, "-%}")) return Raw(end);
    }
    Add(TokenKind::kBlockBegin, "{%");
    return Code("%}", TokenKind::kBlockEnd);
  }

  absl::Status Comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) return Wrong("a comment has no end");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    Advance(end + 2 - at_);
    AfterTag(sign == '-', sign != '+');
    return absl::OkStatus();
  }

  // `tag_end`: the end of the {% raw %} tag within the source.
  absl::Status Raw(absl::string_view tag_end) {
    const char sign = tag_end[0];
    Advance(static_cast<size_t>(tag_end.data() - source_.data()) - at_ + (sign == '%' ? 2 : 3));
    AfterTag(sign == '-', /*trim=*/false);
    for (size_t from = at_;;) {
      const size_t tag = source_.find("{%", from);
      if (tag == std::string::npos) return Wrong("a raw block has no end");
      from = tag + 2;
      absl::string_view rest = absl::string_view(source_).substr(from);
      const char before = rest.empty() ? '\0' : rest[0];
      if (before == '-' || before == '+') rest.remove_prefix(1);
      rest = TrimmedLeft(rest, PythonSpaceAt);
      if (!absl::StartsWith(rest, "endraw")) continue;
      rest = TrimmedLeft(rest.substr(6), PythonSpaceAt);
      const char after = rest.empty() ? '\0' : rest[0];
      if (after == '-' || after == '+') rest.remove_prefix(1);
      if (!absl::StartsWith(rest, "%}")) continue;
      absl::string_view data = absl::string_view(source_).substr(at_, tag - at_);
      if (before == '-') {
        data = TrimmedRight(data, PythonSpaceAt);
      } else if (before != '+') {
        const size_t line_begin = data.rfind('\n') == absl::string_view::npos ? 0 : data.rfind('\n') + 1;
        if ((line_begin > 0 || line_starting_) && TrimmedLeft(data.substr(line_begin), PythonSpaceAt).empty()) {
          data = data.substr(0, line_begin);
        }
      }
      if (!data.empty()) Add(TokenKind::kData, std::string(data));
      Advance(static_cast<size_t>(rest.data() - source_.data()) + 2 - at_);
      AfterTag(after == '-', after != '+');
      return absl::OkStatus();
    }
  }

  // Tokens up to the end of the tag.
  absl::Status Code(absl::string_view end, TokenKind end_kind) {
    std::vector<char> open;  // brackets
    while (true) {
      Advance(Rest().size() - TrimmedLeft(Rest(), PythonSpaceAt).size());
      if (at_ >= source_.size()) return Wrong("a tag has no end");
      if (open.empty()) {
        const char sign = source_[at_];
        const bool signed_end = (sign == '-' || (sign == '+' && end_kind == TokenKind::kBlockEnd)) &&
                                absl::StartsWith(Rest().substr(1), end);
        if (signed_end || absl::StartsWith(Rest(), end)) {
          Add(end_kind, std::string(end));
          Advance(end.size() + (signed_end ? 1 : 0));
          AfterTag(signed_end && sign == '-', end_kind == TokenKind::kBlockEnd && !signed_end);
          return absl::OkStatus();
        }
      }
      const char c = source_[at_];
      if (IsNameStart(c)) {
        Name();
      } else if (absl::ascii_isdigit(c)) {
        RETURN_IF_ERROR(Number());
      } else if (c == '"' || c == '\'') {
        RETURN_IF_ERROR(Literal(c));
      } else {
        RETURN_IF_ERROR(Operator(&open));
      }
    }
  }

  void Name() {
    size_t end = at_;
    while (end < source_.size() && IsNamePart(source_[end])) ++end;
    Add(TokenKind::kName, source_.substr(at_, end - at_));
    Advance(end - at_);
  }

  absl::Status Number() {
    const auto digits = [&](size_t from, auto is_digit) {
      while (from < source_.size() && (is_digit(source_[from]) || (source_[from] == '_' && from + 1 < source_.size() &&
                                                                   is_digit(source_[from + 1])))) {
        ++from;
      }
      return from;
    };
    const auto decimal = [](char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); };
    const auto hex = [](char c) { return absl::ascii_isxdigit(static_cast<unsigned char>(c)); };
    int base = 10;
    size_t begin = at_;
    if (source_[at_] == '0' && at_ + 1 < source_.size()) {
      const char mark = absl::ascii_tolower(source_[at_ + 1]);
      base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
      if (base != 10) begin += 2;
    }
    size_t end = base == 10 ? digits(begin, decimal) : digits(begin, hex);
    bool real = false;
    const bool after_point = at_ > 0 && source_[at_ - 1] == '.';
    if (base == 10 && !after_point && end + 1 < source_.size() && source_[end] == '.' && decimal(source_[end + 1])) {
      real = true;
      end = digits(end + 1, decimal);
    }
    if (base == 10 && !after_point && end < source_.size() && absl::ascii_tolower(source_[end]) == 'e') {
      size_t exponent = end + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
      if (exponent < source_.size() && decimal(source_[exponent])) {
        real = true;
        end = digits(exponent, decimal);
      }
    }
    const std::string text = absl::StrReplaceAll(absl::string_view(source_).substr(begin, end - begin), {{"_", ""}});
    Add(real ? TokenKind::kReal : TokenKind::kInteger, text);
    const char *first = text.data(), *last = first + text.size();
    const auto parsed = real ? std::from_chars(first, last, tokens_.back().real)
                             : std::from_chars(first, last, tokens_.back().integer, base);
    if (parsed.ec != std::errc() || parsed.ptr != last)
      return Wrong(absl::StrCat("the number ", text, " cannot be held"));
    Advance(end - at_);
    return absl::OkStatus();
  }

  absl::Status Literal(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) return Wrong("a string has no end");
    std::string text;
    RETURN_IF_ERROR(Unescape(absl::string_view(source_).substr(at_ + 1, end - at_ - 1), &text));
    Add(TokenKind::kText, std::move(text));
    Advance(end + 1 - at_);
    return absl::OkStatus();
  }

  // Python's unicode-escape.
  absl::Status Unescape(absl::string_view text, std::string* out) const {
    static constexpr absl::string_view kLetters = "abfnrtv\\'\"", kMeant = "\a\b\f\n\r\t\v\\'\"";
    const auto put = [&](uint32_t code) {
      utf8proc_uint8_t bytes[4];
      const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), bytes);
      out->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(count));
    };
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\' || i + 1 >= text.size()) {
        *out += text[i];
        continue;
      }
      const char c = text[++i];
      const size_t letter = kLetters.find(c);
      const size_t width = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
      if (letter != absl::string_view::npos) {
        *out += kMeant[letter];
      } else if (c >= '0' && c <= '7') {
        uint32_t code = 0;
        size_t end = i;
        while (end < text.size() && end < i + 3 && text[end] >= '0' && text[end] <= '7') {
          code = code * 8 + static_cast<uint32_t>(text[end++] - '0');
        }
        put(code);
        i = end - 1;
      } else if (width > 0) {
        uint32_t code = 0;
        const absl::string_view hex = text.substr(i + 1, width);
        const auto parsed = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
        if (hex.size() < width || parsed.ptr != hex.data() + width || code > 0x10ffff ||
            (code >= 0xd800 && code < 0xe000)) {
          return Wrong(absl::StrCat("\\", text.substr(i, 1 + width), " is no character"));
        }
        put(code);
        i += width;
      } else if (c == 'N') {
        return Wrong("\\N{...} in a string is not built in");
      } else if (c != '\n') {
        *out += '\\';
        *out += c;
      }
    }
    return absl::OkStatus();
  }

  absl::Status Operator(std::vector<char>* open) {
    static constexpr absl::string_view kLong[] = {"**", "//", "==", "!=", ">=", "<="};
    static constexpr absl::string_view kShort = "+-*/%~<>=()[]{}.,:|";
    for (absl::string_view text : kLong) {
      if (!absl::StartsWith(Rest(), text)) continue;
      Add(TokenKind::kOperator, std::string(text));
      Advance(2);
      return absl::OkStatus();
    }
    const char c = source_[at_];
    if (kShort.find(c) == absl::string_view::npos) {
      return Wrong(absl::StrCat("unexpected character '", Rest().substr(0, 1), "'"));
    }
    if (c == '(' || c == '[' || c == '{') open->push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    if (c == ')' || c == ']' || c == '}') {
      if (open->empty() || open->back() != c) return Wrong(absl::StrCat("unexpected '", Rest().substr(0, 1), "'"));
      open->pop_back();
    }
    Add(TokenKind::kOperator, std::string(1, c));
    Advance(1);
    return absl::OkStatus();
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // nothing but what a tag took stands before `at_` in its line
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Lex(absl::string_view source) { return Lexer(source).Run(); }

}  // namespace interlace::jinja
