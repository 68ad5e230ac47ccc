// CostModel: how long a step will take, and how long moving KV will.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"

namespace interlace {

// What decides how long a stage computes a step.
struct StepWork {
  int64_t rows = 0;      // positions that are computed
  int64_t context = 0;   // sum over sequences of the positions that the last row sees: KV that is read
  int64_t products = 0;  // sum over rows of the positions that each sees

  // `count` rows of one sequence from position `start` on, each of which sees itself and all before it.
  StepWork& Add(int32_t start, int32_t count) {
    rows += count;
    context += start + count;
    products += int64_t{count} * start + int64_t{count} * (count + 1) / 2;
    return *this;
  }
  friend bool operator==(const StepWork&, const StepWork&) = default;
};

// What each of `ranks` ranks computes where they divide the rows of a step evenly: KV is read by all of them.
StepWork ShareOf(const StepWork& work, int32_t ranks);

enum class Route : uint8_t { kIn, kOut, kBelow };  // host to device, device to host, from the tiers below the host

// T = c0 + c1 rows + c2 max(0, rows - 32) + c3 context + c4 products, with no coefficient below zero, fitted by least
// squares of the relative error over the last few hundred steps; beside it the error that 95 of 100 steps stay within.
// Where several ranks of a stage may divide the rows of a step (DivideOver), a step takes the time of the best degree:
// a rank's share by the same law, and the exchange, so much for each row, learned of the steps that were divided.
// It starts from nothing, or from what an earlier run has learned (Save, Load): until it has seen kFewest steps,
// known() is false and it promises nothing. What it has not seen stays as the earlier fit left it: a stream of decode
// steps does not make it forget what prompts cost. What exchanges take is learned anew in each run. Owned by the
// Scheduler; thread: the replica's. Pure: no clock.
class CostModel {
 public:
  static constexpr int kFewest = 4;  // steps
  static constexpr double kQuantile = 0.95;

  // A step that took `compute` on the slowest stage, waits for KV not counted.
  void Observe(const StepWork& work, absl::Duration compute);
  // One whose rows `ranks` ranks divided: the slowest took `compute` for its share, and `exchange` to give and take
  // rows.
  void ObserveDivided(const StepWork& work, int32_t ranks, absl::Duration compute, absl::Duration exchange);
  void ObserveTransfer(Route route, int64_t bytes, absl::Duration busy);

  // So many ranks of a stage may divide the rows of a step.
  void DivideOver(int32_t ranks) { ranks_ = ranks; }
  // How many of them had best divide the rows of this step; 1: each computes all of them.
  int32_t RowRanks(const StepWork& work) const;
  // What one row more takes, and one position more that a row sees; 0: not known.
  double row_seconds() const;
  double product_seconds() const;

  bool known() const { return seen_ >= kFewest; }
  absl::Duration Expect(const StepWork& work) const;
  absl::Duration Bound(const StepWork& work) const;  // not exceeded by 95 of 100 steps
  // The most rows from position `start` on, at most `most`, that may join `work` within `limit` by Bound.
  int32_t RowsWithin(const StepWork& work, int32_t start, int32_t most, absl::Duration limit) const;
  // A prompt's positions [from, to), alone, in chunks of `chunk`.
  absl::Duration Prefill(int32_t from, int32_t to, int32_t chunk) const;
  double bytes_per_second(Route route) const;  // 0: not known yet
  // Zero while the route is not known.
  absl::Duration Transfer(Route route, int64_t bytes) const;
  double error() const { return error_; }  // Bound over Expect
  int64_t seen() const { return seen_; }   // steps, earlier runs included

  // All that it has learned, as numbers; nullopt: no model has saved these.
  std::vector<double> Save() const;
  static std::optional<CostModel> Load(absl::Span<const double> numbers);
  // "4.6 ms + 0.30 ms a row + ..", for logs.
  std::string ToString() const;

 private:
  static constexpr int kTerms = 5;
  using Terms = std::array<double, kTerms>;
  struct Rate {
    double bytes = 0, seconds = 0;  // of the past, fading
  };
  static Terms TermsOf(const StepWork& work);
  double Seconds(const StepWork& work) const;  // on one rank
  double Divided(const StepWork& work, int32_t ranks) const;
  double Best(const StepWork& work) const;
  // Calls `visit` with each number that is saved, in order.
  template <typename Self, typename Visit>
  static void EachNumber(Self& self, Visit visit);
  void Learn(const StepWork& work, absl::Duration compute);
  void Fit();
  void FindError();

  Terms coefficients_{};
  std::array<Terms, kTerms> squares_{};  // sum of x x' / y^2, fading
  Terms targets_{};                      // sum of x / y, fading
  std::array<float, 256> ratios_{};      // measured over expected, of the last steps
  int64_t seen_ = 0;
  double error_ = 1;
  std::array<Rate, 3> rates_{};
  int32_t ranks_ = 1;
  struct {
    double rows = 0, seconds = 0;  // of the past, fading
  } exchanges_;
};

}  // namespace interlace
