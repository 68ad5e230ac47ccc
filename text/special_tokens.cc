#include "text/special_tokens.h"

#include <utf8proc.h>

#include <algorithm>
#include <functional>

#include "text/utf8.h"
#include "text/white_space.h"

namespace interlace {
namespace {

// Whether a letter, mark, digit or connecting punctuation begins, or ends, the text: what \w is to regular expressions.
bool IsWord(absl::string_view character) {
  utf8proc_int32_t code = -1;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(character.data()),
                   static_cast<utf8proc_ssize_t>(character.size()), &code);
  if (code < 0) return false;
  const utf8proc_category_t category = utf8proc_category(code);
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) || category == UTF8PROC_CATEGORY_PC ||
         code == 0x200c || code == 0x200d;
}
bool BeginsWithWord(absl::string_view text) { return !text.empty() && IsWord(text.substr(0, Utf8FrontOf(text).bytes)); }
bool EndsWithWord(absl::string_view text) {
  size_t begin = text.size();
  while (begin > 0 && text.size() - begin < 4) {
    --begin;
    if ((static_cast<unsigned char>(text[begin]) & 0xc0) != 0x80) break;
  }
  return begin < text.size() && IsWord(text.substr(begin));
}

}  // namespace

void SpecialTokens::Add(absl::string_view text, const Token& token) {
  if (!by_text_.emplace(std::string(text), Entry{token, text.size()}).second) return;
  std::vector<size_t>& lengths = lengths_[static_cast<unsigned char>(text[0])];
  const auto at = std::lower_bound(lengths.begin(), lengths.end(), text.size(), std::greater<size_t>());
  if (at == lengths.end() || *at != text.size()) lengths.insert(at, text.size());
}

const SpecialTokens::Token* SpecialTokens::Find(absl::string_view text) const {
  const auto it = by_text_.find(text);
  return it == by_text_.end() ? nullptr : &it->second.token;
}

SpecialTokens::Match SpecialTokens::Next(absl::string_view text, absl::string_view data, size_t from,
                                         bool control) const {
  for (size_t at = from; at < text.size(); ++at) {
    for (size_t length : lengths_[static_cast<unsigned char>(text[at])]) {
      if (length > text.size() - at) continue;
      const Token* token = Find(text.substr(at, length));
      if (token == nullptr) continue;
      if (token->control) {
        const absl::string_view marks = data.empty() ? data : data.substr(at, length);
        if (!control || std::any_of(marks.begin(), marks.end(), [](char mark) { return mark != 0; })) continue;
      }
      Match match{token, at, at + length};
      if (token->whole_word && (EndsWithWord(text.substr(0, at)) || BeginsWithWord(text.substr(match.end)))) continue;
      if (token->takes_space_before) match.begin = from + TrimmedRight(text.substr(from, at - from)).size();
      if (token->takes_space_after) match.end = text.size() - TrimmedLeft(text.substr(match.end)).size();
      return match;
    }
  }
  return {};
}

}  // namespace interlace
