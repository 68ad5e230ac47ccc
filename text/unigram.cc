#include "text/unigram.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "text/utf8.h"

namespace interlace {
namespace {

constexpr double kUnknownPenalty = 10;

// The best cut of the text up to here.
struct Best {
  double score = 0;
  int32_t id = -1;    // of the last token; -1: a character that no token covers
  int64_t from = -1;  // where the last token begins; -1: not reached
};

}  // namespace

absl::Status Unigram::AddToken(absl::string_view text, int32_t id, double log_probability) {
  if (text.empty() || text.size() > kLongestToken) {
    return absl::InvalidArgumentError(
        absl::StrCat("a token of ", text.size(), " bytes; 1 to ", kLongestToken, " are possible"));
  }
  uint32_t node = 0;
  for (char byte : text) {
    const auto [edge, fresh] = edges_.emplace(EdgeOf(node, byte), static_cast<uint32_t>(nodes_.size()));
    if (fresh) nodes_.emplace_back();
    node = edge->second;
  }
  if (nodes_[node].id < 0) nodes_[node] = {id, log_probability};
  least_score_ = std::min(least_score_, log_probability);
  return absl::OkStatus();
}

void Unigram::Encode(absl::string_view piece, std::vector<int32_t>* out) const {
  if (piece.empty()) return;
  std::vector<Best> best(piece.size() + 1);
  best[0].from = 0;
  const double unknown_score = least_score_ - kUnknownPenalty;
  const auto reach = [&](size_t from, size_t to, int32_t id, double score) {
    const double total = best[from].score + score;
    if (best[to].from < 0 || total > best[to].score) best[to] = {total, id, static_cast<int64_t>(from)};
  };
  for (size_t at = 0; at < piece.size();) {
    const size_t character = Utf8FrontOf(piece.substr(at)).bytes;
    bool single = false;  // whether a token covers just this character
    uint32_t node = 0;
    for (size_t end = at; end < piece.size();) {
      const auto edge = edges_.find(EdgeOf(node, piece[end++]));
      if (edge == edges_.end()) break;
      node = edge->second;
      if (nodes_[node].id < 0) continue;
      reach(at, end, nodes_[node].id, nodes_[node].score);
      single |= end == at + character;
    }
    if (!single) reach(at, at + character, -1, unknown_score);
    at += character;
  }
  std::vector<size_t> ends;  // of the tokens, last first
  for (size_t end = piece.size(); end > 0; end = static_cast<size_t>(best[end].from)) ends.push_back(end);
  size_t from = 0;
  for (auto end = ends.rbegin(); end != ends.rend(); ++end) {
    if (best[*end].id >= 0) {
      out->push_back(best[*end].id);
    } else {
      auto last = end;  // neighbours that are unknown are one
      while (std::next(last) != ends.rend() && best[*std::next(last)].id < 0) last = std::next(last);
      fallback_.Append(piece.substr(from, *last - from), /*after_unknown=*/false, out);
      end = last;
    }
    from = *end;
  }
}

}  // namespace interlace
