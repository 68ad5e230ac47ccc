#include "text/spm_bpe.h"

#include <algorithm>
#include <queue>
#include <utility>

#include "text/utf8.h"

namespace interlace {
namespace {

// A part of the piece as merged so far; parts that follow one another in the list touch in the text.
struct Symbol {
  absl::string_view text;  // empty once merged into the one before
  int32_t before, after;   // neighbours; -1 at the ends
};

// Two neighbours whose joint text is a token; stale once either has changed.
struct Candidate {
  float score;
  int32_t left, right;                            // symbols
  size_t bytes;                                   // of both when it was found
  bool operator<(const Candidate& other) const {  // highest score first, then leftmost
    return score != other.score ? score < other.score : left > other.left;
  }
};

}  // namespace

// One call of Encode.
struct SpmBpe::Run {
  const SpmBpe& model;
  std::vector<Symbol> symbols;
  std::priority_queue<Candidate> queue;
  absl::flat_hash_map<absl::string_view, size_t> cuts;  // an unused token's text -> bytes of its left part

  const Entry* Find(absl::string_view text) const {
    if (text.size() > model.longest_) return nullptr;
    const auto it = model.tokens_.find(text);
    return it == model.tokens_.end() ? nullptr : &it->second;
  }
  void Consider(int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const absl::string_view a = symbols[left].text;
    const absl::string_view both(a.data(), a.size() + symbols[right].text.size());
    const Entry* entry = Find(both);
    if (entry == nullptr) return;
    queue.push({entry->score, left, right, both.size()});
    if (entry->unused) cuts[both] = a.size();
  }
  void Merge() {
    while (!queue.empty()) {
      const Candidate best = queue.top();
      queue.pop();
      Symbol& left = symbols[best.left];
      Symbol& right = symbols[best.right];
      if (left.text.empty() || right.text.empty() || left.text.size() + right.text.size() != best.bytes) continue;
      left.text = absl::string_view(left.text.data(), best.bytes);
      right.text = {};
      left.after = right.after;
      if (right.after >= 0) symbols[right.after].before = best.left;
      Consider(left.before, best.left);
      Consider(best.left, left.after);
    }
  }
  // Appends a merged part; true iff it ended in the unknown token.
  bool Write(absl::string_view whole, bool after_unknown, std::vector<int32_t>* out) const {
    std::vector<absl::string_view> left = {whole};  // parts still to write, the next one last
    while (!left.empty()) {
      const absl::string_view text = left.back();
      left.pop_back();
      const Entry* entry = Find(text);
      const auto cut = entry != nullptr && entry->unused ? cuts.find(text) : cuts.end();
      if (cut != cuts.end()) {
        left.push_back(text.substr(cut->second));
        left.push_back(text.substr(0, cut->second));
      } else if (entry != nullptr) {
        out->push_back(entry->id);
        after_unknown = false;
      } else {
        after_unknown = model.fallback_.Append(text, after_unknown, out);
      }
    }
    return after_unknown;
  }
};

void SpmBpe::AddToken(absl::string_view text, int32_t id, float score, bool unused) {
  tokens_.emplace(std::string(text), Entry{id, score, unused});
  longest_ = std::max(longest_, text.size());
}

void SpmBpe::Encode(absl::string_view piece, std::vector<int32_t>* out) const {
  if (piece.empty()) return;
  Run run{*this, {}, {}, {}};
  for (size_t at = 0; at < piece.size();) {
    const size_t bytes = Utf8FrontOf(piece.substr(at)).bytes;
    const int32_t index = static_cast<int32_t>(run.symbols.size());
    run.symbols.push_back({piece.substr(at, bytes), index - 1, index + 1});
    at += bytes;
  }
  run.symbols.back().after = -1;
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(run.symbols.size()); ++i) run.Consider(i, i + 1);
  run.Merge();
  bool after_unknown = false;
  for (int32_t i = 0; i >= 0; i = run.symbols[i].after)
    after_unknown = run.Write(run.symbols[i].text, after_unknown, out);
}

}  // namespace interlace
