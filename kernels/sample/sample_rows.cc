#include "kernels/sample/sample_rows.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "kernels/sample/philox.h"

namespace interlace {

double SampleUniform(uint64_t seed, uint64_t index) {
  const std::array<uint32_t, 4> words =
      Philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t bits = (uint64_t{words[1]} << 32 | words[0]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Candidate {
  float logit;
  int32_t token;
  float weight;
  float distance;  // from the entropy, for typical_p
};
// Larger logits first, then lower ids.
struct Before {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  }
};
struct Nearer {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.distance != b.distance ? a.distance < b.distance : Before()(a, b);
  }
};

double SumOf(const std::vector<Candidate>& candidates, size_t begin, size_t end) {
  double sum = 0;
  for (size_t i = begin; i < end; ++i) sum += candidates[i].weight;
  return sum;
}

// Puts the smallest set of first candidates whose weights reach `target` (sum >= target; `past`: sum > target) at the
// front, its last one at its end, and returns its size: 1 at least, all if the sum never gets there. By halving, not by
// sorting. Requires: not empty.
template <typename Order>
size_t Reach(std::vector<Candidate>& candidates, Order order, double target, bool past) {
  const auto there = [&](double sum) { return past ? sum > target : sum >= target; };
  const auto at = [&](size_t i) { return candidates.begin() + static_cast<ptrdiff_t>(i); };
  size_t begin = 0, end = candidates.size();
  double sum = 0;
  while (end - begin > 64) {
    const size_t middle = begin + (end - begin) / 2;
    std::nth_element(at(begin), at(middle), at(end), order);
    const double more = SumOf(candidates, begin, middle);
    if (there(sum + more)) {
      end = middle;
    } else {
      begin = middle;
      sum += more;
    }
  }
  std::sort(at(begin), at(end), order);
  for (; begin < end; ++begin) {
    sum += candidates[begin].weight;
    if (there(sum)) return begin + 1;
  }
  return end;
}

// The changes to one row before it is sampled, undone when it dies. A token may be changed several times.
class Edits {
 public:
  Edits(float* logits, const SampleRow& row) : logits_(logits) {
    for (const TokenBias& b : row.bias) Set(b.token, logits[b.token] + b.bias);
    for (int32_t token : row.masked) Set(token, -kInf);
    if (row.repetition_penalty == 1 && row.presence_penalty == 0 && row.frequency_penalty == 0) return;
    for (const SeenToken& seen : row.seen) {
      float x = logits[seen.token];
      if (row.repetition_penalty != 1) x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
      if (seen.in_output > 0) {
        x -= row.frequency_penalty * static_cast<float>(seen.in_output);
        x -= row.presence_penalty;
      }
      Set(seen.token, x);
    }
  }
  ~Edits() {
    for (auto it = former_.rbegin(); it != former_.rend(); ++it) logits_[it->token] = it->bias;
  }
  Edits(const Edits&) = delete;
  Edits& operator=(const Edits&) = delete;
  bool any() const { return !former_.empty(); }

 private:
  void Set(int32_t token, float value) {
    former_.push_back({token, logits_[token]});
    logits_[token] = value;
  }

  float* const logits_;
  std::vector<TokenBias> former_;  // with the logit it had
};

// One row at a time, with memory that the next row uses again. Thread: of the range.
class RowSampler {
 public:
  RowSampler(const SamplePasses& passes, int64_t vocab)
      : passes_(passes), vocab_(vocab), maxima_((vocab + kSampleBlock - 1) / kSampleBlock) {}

  // Of the row that Choose was called for last.
  int32_t RankOf(int32_t token) const {
    if (largest_ == -kInf) return 0;
    const float own = std::isfinite(logits_[token]) ? logits_[token] : -kInf;
    int64_t before = 0;
    for (int64_t i = 0; i < token; ++i) before += std::isfinite(logits_[i]) && logits_[i] >= own ? 1 : 0;
    for (int64_t i = token + 1; i < vocab_; ++i) before += std::isfinite(logits_[i]) && logits_[i] > own ? 1 : 0;
    return static_cast<int32_t>(1 + before);
  }

  int32_t Choose(float* logits, const SampleRow& row, TokenLogprob* logprobs) {
    logits_ = logits;
    Survey();
    if (largest_ == -kInf) return -1;
    std::vector<TokenLogprob> top;
    double log_total = 0;
    const float raw_largest = largest_;
    if (row.logprobs >= 0) {
      log_total = std::log(passes_.weight_sum(logits_, vocab_, largest_, 1));
      top = Top(row.logprobs, log_total);
    }
    int32_t token;
    if (row.given >= 0) {
      token = row.given;
    } else {
      const Edits edits(logits, row);
      if (!row.allowed.empty()) KeepAllowed(row.allowed);
      if (edits.any() || !row.allowed.empty()) Survey();
      token = largest_ == -kInf ? -1 : row.temperature > 0 ? Draw(row) : Greedy();
    }
    if (row.logprobs < 0 || token < 0) return token;
    logprobs[0] = {token, Logprob(logits[token], raw_largest, log_total)};
    for (int32_t i = 0; i < row.logprobs; ++i) {
      logprobs[1 + i] = i < static_cast<int32_t>(top.size()) ? top[i] : TokenLogprob{};
    }
    return token;
  }

 private:
  static float Logprob(float logit, float largest, double log_total) {
    if (!std::isfinite(logit)) return -kInf;
    return static_cast<float>((double{logit} - largest) - log_total);
  }

  // From here on the row is a copy that has nothing but the allowed tokens. Most words of a mask are all zeros or all
  // ones.
  void KeepAllowed(absl::Span<const uint32_t> allowed) {
    kept_.resize(vocab_);
    for (int64_t begin = 0; begin < vocab_; begin += 32) {
      const uint32_t word = allowed[begin / 32];
      const int64_t end = std::min(vocab_, begin + 32);
      if (word == 0) {
        std::fill(kept_.begin() + begin, kept_.begin() + end, -kInf);
      } else if (word == ~uint32_t{0}) {
        std::copy(logits_ + begin, logits_ + end, kept_.begin() + begin);
      } else {
        for (int64_t i = begin; i < end; ++i) kept_[i] = (word >> (i - begin) & 1) != 0 ? logits_[i] : -kInf;
      }
    }
    logits_ = kept_.data();
  }

  void Survey() {
    passes_.block_maxima(logits_, vocab_, maxima_.data());
    largest_ = -kInf;
    for (float maximum : maxima_) largest_ = std::max(largest_, maximum);
  }

  int32_t Greedy() const {
    for (size_t block = 0;; ++block) {
      if (maxima_[block] != largest_) continue;
      for (int64_t i = static_cast<int64_t>(block) * kSampleBlock;; ++i) {
        if (logits_[i] == largest_) return static_cast<int32_t>(i);
      }
    }
  }

  // A logit that at least `count` reach: the count-th largest of the blocks' maxima. -inf if there are fewer blocks.
  float ReachedBy(size_t count) {
    if (count == 0 || count > maxima_.size()) return -kInf;
    order_ = maxima_;
    const auto nth = order_.begin() + static_cast<ptrdiff_t>(count - 1);
    std::nth_element(order_.begin(), nth, order_.end(), std::greater<float>());
    return *nth;
  }

  // Appends the finite logits in [low, high), by id, without their weights.
  void Collect(float low, float high) {
    for (size_t block = 0; block < maxima_.size(); ++block) {
      if (!(maxima_[block] >= low)) continue;
      const int64_t begin = static_cast<int64_t>(block) * kSampleBlock;
      for (int64_t i = begin; i < std::min(vocab_, begin + kSampleBlock); ++i) {
        const float x = logits_[i];
        if (std::isfinite(x) && x >= low && x < high) candidates_.push_back({x, static_cast<int32_t>(i), 0, 0});
      }
    }
  }

  // Weighs the candidates from `begin` on and drops those of less than `least`, or of none.
  void Weigh(size_t begin, float temperature, float least) {
    size_t kept = begin;
    for (size_t i = begin; i < candidates_.size(); ++i) {
      Candidate c = candidates_[i];
      c.weight = SampleWeight(c.logit, largest_, temperature);
      if (c.weight > 0 && c.weight >= least) candidates_[kept++] = c;
    }
    candidates_.resize(kept);
  }

  // The first `count` candidates stay.
  void KeepFirst(size_t count) {
    if (candidates_.size() <= count) return;
    const auto end = candidates_.begin() + static_cast<ptrdiff_t>(count);
    std::nth_element(candidates_.begin(), end, candidates_.end(), Before());
    candidates_.resize(count);
  }

  std::vector<TokenLogprob> Top(int32_t count, double log_total) {
    candidates_.clear();
    if (count > 0) Collect(ReachedBy(static_cast<size_t>(count)), kInf);
    KeepFirst(static_cast<size_t>(count));
    std::sort(candidates_.begin(), candidates_.end(), Before());
    std::vector<TokenLogprob> top;
    for (const Candidate& c : candidates_) top.push_back({c.token, Logprob(c.logit, largest_, log_total)});
    return top;
  }

  // Those that may be drawn before top_p and typical_p; what lies so low that no draw comes there may be missing.
  // Returns the sum of the weights of all.
  double Candidates(const SampleRow& row, double share) {
    candidates_.clear();
    const bool top_k = row.top_k > 0 && row.top_k < vocab_;
    if (top_k || row.min_p > 0 || row.typical_p < 1) {
      float low = top_k ? ReachedBy(static_cast<size_t>(row.top_k)) : -kInf;
      if (row.min_p > 0) {  // a little lower than where it lies: weights decide
        const double border = largest_ + row.temperature * (std::log(double{row.min_p}) - 0.01);
        low = std::max(low, static_cast<float>(border - 1e-6 * std::abs(double{largest_})));
      }
      Collect(low, kInf);
      if (top_k && row.min_p == 0) KeepFirst(static_cast<size_t>(row.top_k));
      Weigh(0, row.temperature, row.min_p);
      if (top_k) KeepFirst(static_cast<size_t>(row.top_k));
      return SumOf(candidates_, 0, candidates_.size());
    }
    // Few tokens make up most of the sum as a rule: those of the next band are looked up when they are needed.
    const double total = passes_.weight_sum(logits_, vocab_, largest_, row.temperature);
    double sum = 0;
    float high = kInf;
    for (const float depth : {4.0f, 12.0f, kInf}) {
      const float low = depth == kInf ? -kInf : largest_ - depth * row.temperature;
      const size_t begin = candidates_.size();
      Collect(low, high);
      Weigh(begin, row.temperature, 0);
      sum += SumOf(candidates_, begin, candidates_.size());
      if (sum > share * total) break;
      high = low;
    }
    return total;
  }

  void KeepTypical(const SampleRow& row) {
    const double total = SumOf(candidates_, 0, candidates_.size());
    // -log p is log(total) - x with x the exponent of the weight; so is the entropy its mean, and log(total) falls out.
    const auto exponent = [&](const Candidate& c) { return (double{c.logit} - largest_) / row.temperature; };
    double mean = 0;
    for (const Candidate& c : candidates_) mean += c.weight * exponent(c);
    mean /= total;
    for (Candidate& c : candidates_) c.distance = static_cast<float>(std::abs(exponent(c) - mean));
    candidates_.resize(Reach(candidates_, Nearer(), row.typical_p * total, /*past=*/false));
  }

  int32_t Draw(const SampleRow& row) {
    const double u = SampleUniform(row.seed, row.index);
    const bool cuts = row.top_p < 1 || row.typical_p < 1;
    double total = Candidates(row, row.top_p < 1 ? row.top_p : u);
    if (row.top_p < 1) candidates_.resize(Reach(candidates_, Before(), row.top_p * total, /*past=*/false));
    if (row.typical_p < 1) KeepTypical(row);
    if (cuts) total = SumOf(candidates_, 0, candidates_.size());
    return candidates_[Reach(candidates_, Before(), u * total, /*past=*/true) - 1].token;
  }

  const SamplePasses& passes_;
  const int64_t vocab_;
  std::vector<float> maxima_;
  std::vector<float> order_;
  std::vector<float> kept_;  // [vocab] of a row that not all tokens are allowed in
  std::vector<Candidate> candidates_;
  float* logits_ = nullptr;
  float largest_ = -kInf;
};

}  // namespace

void SampleRows(const SampleArgs& args, const SamplePasses& passes, ThreadTeam& team) {
  team.ParallelFor(args.logits.rows, 1, [&](int64_t begin, int64_t end) {
    RowSampler sampler(passes, args.logits.cols);
    for (int64_t i = begin; i < end; ++i) {
      TokenLogprob* logprobs = args.logprobs.empty() ? nullptr : &args.logprobs[i * args.logprobs_stride];
      args.tokens[i] = sampler.Choose(args.logits.f32_row(i), args.rows[i], logprobs);
      if (!args.ranks.empty() && args.rows[i].given >= 0) args.ranks[i] = sampler.RankOf(args.rows[i].given);
    }
  });
}

}  // namespace interlace
