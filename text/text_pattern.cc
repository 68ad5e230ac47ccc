#include "text/text_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// The members of White_Space: PCRE2's \s has U+180E besides, which is none since Unicode 6.3.
constexpr const char* kWhiteSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr size_t kLongestPattern = 4096;

absl::Status Refused(absl::string_view pattern, absl::string_view why) {
  return absl::UnimplementedError(absl::StrCat("the pattern \"", absl::CHexEscape(pattern.substr(0, 120)), "\" has ",
                                               why, ", which is not built in"));
}

std::string TextOf(int error) {
  unsigned char text[128] = "";
  pcre2_get_error_message(error, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

void WarnOfFailure(absl::string_view pattern, int error, size_t bytes, size_t from) {
  LOG(ERROR) << "a text is not cut as its tokenizer's pattern asks: the search was given up"
             << Field("reason", TextOf(error)) << Field("pattern", absl::CHexEscape(pattern.substr(0, 120)))
             << Field("text_bytes", bytes) << Field("at", from);
}

// Whether an unbounded repetition begins at `at`.
bool RepeatsAt(absl::string_view pattern, size_t at) {
  if (at >= pattern.size()) return false;
  if (pattern[at] == '*' || pattern[at] == '+') return true;
  if (pattern[at] != '{') return false;
  const size_t close = pattern.find('}', at);
  if (close == absl::string_view::npos || close < at + 2) return false;
  const absl::string_view body = pattern.substr(at + 1, close - at - 1);
  if (body.find_first_not_of("0123456789,") != absl::string_view::npos) return false;
  // {1,3} of something that repeats is harmless, {2,} and {1,1000} are not.
  const size_t comma = body.find(',');
  const absl::string_view most = comma == absl::string_view::npos ? body : body.substr(comma + 1);
  return most.empty() || most.size() > 1;
}

// Rewrites white space and refuses what the class comment says.
class Rewriter {
 public:
  explicit Rewriter(absl::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    std::vector<bool> repeats = {false};  // by open group: whether something in it repeats without bound
    for (size_t at = 0; at < pattern_.size();) {
      const char c = pattern_[at];
      if (c == '\\') {
        RETURN_IF_ERROR(Escape(&at));
        continue;
      }
      if (in_class_) {
        RETURN_IF_ERROR(InClass(&at));
        continue;
      }
      if (c == '[') {
        in_class_ = true;
        class_begin_ = at;
      } else if (c == '(') {
        RETURN_IF_ERROR(Group(at));
        repeats.push_back(false);
      } else if (c == ')' && repeats.size() > 1) {
        const bool inner = repeats.back();
        repeats.pop_back();
        if (inner && RepeatsAt(pattern_, at + 1)) return Refused(pattern_, "a repeated group that repeats");
        if (inner) repeats.back() = true;
      } else if (RepeatsAt(pattern_, at)) {
        repeats.back() = true;
      }
      out_ += c;
      ++at;
    }
    return std::move(out_);
  }

 private:
  absl::Status Escape(size_t* at) {
    if (*at + 1 >= pattern_.size()) return absl::InvalidArgumentError("the pattern ends in a backslash");
    const char c = pattern_[*at + 1];
    if ((c >= '1' && c <= '9') || c == 'g' || c == 'k') return Refused(pattern_, "a back reference");
    if (c == 's') {
      absl::StrAppend(&out_, in_class_ ? "" : "[", kWhiteSpace, in_class_ ? "" : "]");
    } else if (c == 'S') {
      if (in_class_) return Refused(pattern_, "\\S inside brackets");
      absl::StrAppend(&out_, "[^", kWhiteSpace, "]");
    } else if (c == 'Q' || c == 'E' || c == 'h' || c == 'H' || c == 'y' || c == 'Y' || c == 'C' || c == 'K') {
      return Refused(pattern_, absl::StrCat("\\", std::string(1, c)));
    } else {
      absl::StrAppend(&out_, pattern_.substr(*at, 2));
    }
    *at += 2;
    return absl::OkStatus();
  }
  absl::Status InClass(size_t* at) {
    const char c = pattern_[*at];
    const bool first = *at == class_begin_ + 1 || (*at == class_begin_ + 2 && pattern_[*at - 1] == '^');
    if (c == '[') return Refused(pattern_, "brackets inside brackets");
    if (c == '&' && pattern_.substr(*at, 2) == "&&") return Refused(pattern_, "&& inside brackets");
    if (c == ']' && !first) in_class_ = false;
    out_ += c;
    ++*at;
    return absl::OkStatus();
  }
  // What may follow the question mark of a group: no capture, look around, letter case, atomic.
  absl::Status Group(size_t at) {
    if (pattern_.substr(at, 2) == "(*") return Refused(pattern_, "a verb");
    if (pattern_.substr(at, 2) != "(?") return absl::OkStatus();
    for (absl::string_view known : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"}) {
      if (pattern_.substr(at, known.size()) == known) return absl::OkStatus();
    }
    return Refused(pattern_, absl::StrCat("a group that begins ", pattern_.substr(at, 4)));
  }

  absl::string_view pattern_;
  std::string out_;
  bool in_class_ = false;
  size_t class_begin_ = 0;
};

}  // namespace

struct TextPattern::Code {
  std::string pattern;  // as it was given, for messages
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
  ~Code() {
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
};
struct TextPattern::Search::Room {
  pcre2_match_data* data = nullptr;
  ~Room() { pcre2_match_data_free(data); }
};

TextPattern::Search::Search() : room_(std::make_unique<Room>()) {
  room_->data = pcre2_match_data_create(1, nullptr);
  CHECK(room_->data != nullptr);
}
TextPattern::Search::~Search() = default;

TextPattern::TextPattern(std::unique_ptr<Code> code) : code_(std::move(code)) {}
TextPattern::TextPattern(TextPattern&&) noexcept = default;
TextPattern& TextPattern::operator=(TextPattern&&) noexcept = default;
TextPattern::~TextPattern() = default;

absl::StatusOr<TextPattern> TextPattern::Compile(absl::string_view pattern, uint32_t steps) {
  if (pattern.empty() || pattern.size() > kLongestPattern) {
    return absl::InvalidArgumentError(
        absl::StrCat("a pattern of ", pattern.size(), " bytes; 1 to ", kLongestPattern, " are possible"));
  }
  ASSIGN_OR_RETURN(const std::string full, Rewriter(pattern).Run());
  int error = 0;
  PCRE2_SIZE at = 0;
  auto code = std::make_unique<Code>();
  code->pattern = std::string(pattern);
  code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(full.data()), full.size(), PCRE2_UTF | PCRE2_UCP, &error, &at,
                             nullptr);
  if (code->code == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("the pattern \"", absl::CHexEscape(pattern.substr(0, 120)),
                                                   "\" cannot be read: ", TextOf(error)));
  }
  pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);  // without JIT the same matches, only slower
  code->context = pcre2_match_context_create(nullptr);
  CHECK(code->context != nullptr);
  pcre2_set_match_limit(code->context, steps);
  pcre2_set_depth_limit(code->context, steps);
  return TextPattern(std::move(code));
}

TextPattern::Found TextPattern::Find(absl::string_view text, size_t from, Search& search) const {
  pcre2_match_data* data = search.room_->data;
  const auto run = [&](uint32_t options) {
    return pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                       PCRE2_NO_UTF_CHECK | options, data, code_->context);
  };
  int found = run(0);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = run(PCRE2_NO_JIT);
  if (found < 0) {
    if (found != PCRE2_ERROR_NOMATCH) WarnOfFailure(code_->pattern, found, text.size(), from);
    return {false, 0, 0};
  }
  const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data);
  return {true, span[0], span[1]};
}

}  // namespace interlace
