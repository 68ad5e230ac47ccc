#include "model/text/special_tokens.h"

#include <algorithm>
#include <functional>

#include "model/text/white_space.h"

namespace interlace {
namespace {

bool IsWordByte(char c) {  // bytes of letters beyond ASCII count as letters
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
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
      if (token->whole_word &&
          ((at > 0 && IsWordByte(text[at - 1])) || (match.end < text.size() && IsWordByte(text[match.end])))) {
        continue;
      }
      if (token->takes_space_before) match.begin = from + TrimmedRight(text.substr(from, at - from)).size();
      if (token->takes_space_after) match.end = text.size() - TrimmedLeft(text.substr(match.end)).size();
      return match;
    }
  }
  return {};
}

}  // namespace interlace
