#include <algorithm>

#include "absl/strings/string_view.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace interlace {
namespace {

constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD

}  // namespace

std::string Detokenizer::Push(int32_t token) {
  const bool shown = show_all_ || std::find(shown_.begin(), shown_.end(), token) != shown_.end();
  std::string piece = tokenizer_.Piece(token, shown);
  if (drop_space_ && !piece.empty()) {
    if (piece[0] == ' ') piece.erase(0, 1);
    drop_space_ = false;
  }
  held_ += piece;
  std::string out;
  size_t begin = 0;
  while (begin < held_.size()) {
    const Utf8Front front = Utf8FrontOf(absl::string_view(held_).substr(begin));
    if (front.kind == Utf8Front::kUnfinished) break;
    if (front.kind == Utf8Front::kComplete) {
      out.append(held_, begin, front.bytes);
    } else {
      out += kReplacement;
    }
    begin += front.bytes;
  }
  held_.erase(0, begin);
  return out;
}

std::string Detokenizer::Flush() {
  if (held_.empty()) return "";
  held_.clear();
  return kReplacement;
}

}  // namespace interlace
