#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/variants.h"
#include "kernels/sample/philox.h"

namespace interlace {

double SampleUniform(uint64_t seed, uint64_t index) {
  const std::array<uint32_t, 4> words =
      Philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t bits = (uint64_t{words[1]} << 32 | words[0]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

namespace reference {
namespace {

struct Candidate {
  float logit;
  int32_t token;
};
// Larger logits first, then lower ids.
struct Before {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  }
};
struct After {
  bool operator()(const Candidate& a, const Candidate& b) const { return Before()(b, a); }
};

int32_t Greedy(const float* logits, int64_t vocab) {
  int32_t best = -1;
  for (int64_t i = 0; i < vocab; ++i) {
    if (std::isfinite(logits[i]) && (best < 0 || logits[i] > logits[best])) best = static_cast<int32_t>(i);
  }
  return best;
}

// The top_k first in order. A heap with the last of them on top: most logits fail the first comparison.
std::vector<Candidate> TopK(const float* logits, int64_t vocab, int64_t top_k) {
  std::vector<Candidate> heap;
  heap.reserve(top_k);
  for (int64_t i = 0; i < vocab; ++i) {
    const Candidate c{logits[i], static_cast<int32_t>(i)};
    if (!std::isfinite(c.logit)) continue;
    if (static_cast<int64_t>(heap.size()) == top_k) {
      if (!Before()(c, heap.front())) continue;
      std::pop_heap(heap.begin(), heap.end(), Before());
      heap.pop_back();
    }
    heap.push_back(c);
    std::push_heap(heap.begin(), heap.end(), Before());
  }
  return heap;
}

// The candidates of one draw, handed out from the largest on. A candidate's weight is exp((logit - largest) / T).
class Order {
 public:
  // Finite logits, the top_k largest of them if top_k > 0. Requires: `largest` is the largest of them.
  Order(const float* logits, int64_t vocab, float largest, const SampleRow& row)
      : logits_(logits), vocab_(vocab), largest_(largest), temperature_(row.temperature) {
    if (row.top_k > 0 && row.top_k < vocab) {
      heap_ = TopK(logits, vocab, row.top_k);
      for (const Candidate& c : heap_) total_ += Weight(c.logit);
      far_left_ = false;
    } else {
      for (int64_t i = 0; i < vocab; ++i) {
        if (std::isfinite(logits[i])) total_ += Weight(logits[i]);
      }
      // A draw ends within a few candidates as a rule: those below the border are looked up if it does not.
      border_ = largest - kNearTemperatures * temperature_;
      Collect([this](float logit) { return logit >= border_; });
    }
    std::make_heap(heap_.begin(), heap_.end(), After());
  }
  double total() const { return total_; }
  float Weight(float logit) const { return std::exp((logit - largest_) / temperature_); }
  // The next candidate, or token -1 after the last.
  Candidate Pop() {
    if (heap_.empty() && far_left_) {
      far_left_ = false;
      Collect([this](float logit) { return logit < border_; });
      std::make_heap(heap_.begin(), heap_.end(), After());
    }
    if (heap_.empty()) return {0, -1};
    std::pop_heap(heap_.begin(), heap_.end(), After());
    const Candidate first = heap_.back();
    heap_.pop_back();
    return first;
  }

 private:
  static constexpr float kNearTemperatures = 4;

  template <typename Predicate>
  void Collect(Predicate wanted) {
    for (int64_t i = 0; i < vocab_; ++i) {
      if (std::isfinite(logits_[i]) && wanted(logits_[i])) heap_.push_back({logits_[i], static_cast<int32_t>(i)});
    }
  }

  const float* const logits_;
  const int64_t vocab_;
  const float largest_;
  const float temperature_;
  double total_ = 0;
  float border_ = 0;
  bool far_left_ = true;
  std::vector<Candidate> heap_;  // the first in order on top
};

int32_t Draw(const float* logits, int64_t vocab, const SampleRow& row) {
  const int32_t best = Greedy(logits, vocab);
  if (best < 0) return -1;
  Order order(logits, vocab, logits[best], row);
  const double u = SampleUniform(row.seed, row.index);
  // With top_p the draw is among those taken first; without, it is the one at which the sum passes u.
  const bool all = row.top_p >= 1;
  const double reach = all ? u * order.total() : row.top_p * order.total();
  std::vector<int32_t> tokens;
  std::vector<double> sums;
  double sum = 0;
  while (tokens.empty() || (all ? sum <= reach : sum < reach)) {
    const Candidate c = order.Pop();
    const float weight = c.token < 0 ? 0 : order.Weight(c.logit);
    if (weight == 0) break;  // nor has any after it
    sum += weight;
    tokens.push_back(c.token);
    sums.push_back(sum);
  }
  if (all) return tokens.back();
  const auto at = std::upper_bound(sums.begin(), sums.end(), u * sum);
  return at == sums.end() ? tokens.back() : tokens[at - sums.begin()];
}

}  // namespace

void Sample(const SampleArgs& args, OpContext on) {
  const int64_t vocab = args.logits.cols;
  on.team().ParallelFor(args.logits.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* logits = args.logits.f32_row(i);
      args.tokens[i] = args.rows[i].temperature > 0 ? Draw(logits, vocab, args.rows[i]) : Greedy(logits, vocab);
    }
  });
}

}  // namespace reference
}  // namespace interlace
