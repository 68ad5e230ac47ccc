#include "text/bpe.h"

#include <queue>

#include "text/utf8.h"

namespace interlace {
namespace {

// A token of the piece as merged so far.
struct Symbol {
  int32_t id;             // -1 once merged into the one before
  int32_t before, after;  // neighbours; -1 at the ends
};

// Two neighbours that may merge; stale once either has another id.
struct Candidate {
  int32_t rank;
  int32_t left, right;        // symbols
  int32_t left_id, right_id;  // when it was found
  int32_t merged_id;
  bool operator<(const Candidate& other) const {  // lowest rank first, then leftmost
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

}  // namespace

void Bpe::AddToken(absl::string_view bytes, int32_t id) {
  const bool fresh = ids_.emplace(std::string(bytes), id).second;
  if (fresh && bytes.size() == 1) byte_ids_[static_cast<unsigned char>(bytes[0])] = id;
}

bool Bpe::AddMerge(absl::string_view left, absl::string_view right, int32_t rank) {
  std::string both(left);
  both.append(right.data(), right.size());
  const auto l = ids_.find(left), r = ids_.find(right), whole = ids_.find(both);
  if (l == ids_.end() || r == ids_.end() || whole == ids_.end()) return false;
  merges_.emplace(PairOf(l->second, r->second), Merge{rank, whole->second});
  return true;
}

void Bpe::Start(absl::string_view piece, std::vector<int32_t>* ids) const {
  bool after_unknown = false;
  for (size_t at = 0; at < piece.size();) {
    if (!characters_) {
      const int32_t id = byte_ids_[static_cast<unsigned char>(piece[at++])];
      if (id >= 0) ids->push_back(id);
      continue;
    }
    const absl::string_view character = piece.substr(at, Utf8FrontOf(piece.substr(at)).bytes);
    at += character.size();
    if (const auto it = ids_.find(character); it != ids_.end()) {
      ids->push_back(it->second);
      after_unknown = false;
    } else {
      after_unknown = fallback_.Append(character, after_unknown, ids);
    }
  }
}

void Bpe::Encode(absl::string_view piece, std::vector<int32_t>* out) const {
  if (whole_pieces_first_) {
    if (auto it = ids_.find(piece); it != ids_.end()) {
      out->push_back(it->second);
      return;
    }
  }
  std::vector<int32_t> ids;
  Start(piece, &ids);
  std::vector<Symbol> symbols;
  symbols.reserve(ids.size());
  for (int32_t id : ids) {
    const int32_t index = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, index - 1, index + 1});
  }
  if (symbols.empty()) return;
  symbols.back().after = -1;

  std::priority_queue<Candidate> queue;
  const auto consider = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const auto it = merges_.find(PairOf(symbols[left].id, symbols[right].id));
    if (it == merges_.end()) return;
    queue.push({it->second.rank, left, right, symbols[left].id, symbols[right].id, it->second.id});
  };
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols.size()); ++i) consider(i, i + 1);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.left];
    Symbol& right = symbols[best.right];
    if (left.id != best.left_id || right.id != best.right_id || left.after != best.right) continue;
    left.id = best.merged_id;
    left.after = right.after;
    right.id = -1;
    if (left.after >= 0) symbols[left.after].before = best.left;
    consider(left.before, best.left);
    consider(best.left, left.after);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].after) out->push_back(symbols[i].id);
}

}  // namespace interlace
