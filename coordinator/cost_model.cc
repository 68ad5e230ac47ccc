#include "coordinator/cost_model.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"

namespace interlace {
namespace {

constexpr double kFade = 0.995;          // of a step's weight with each one after it: some 200 steps count
constexpr double kFadeBytes = 0.98;      // of a transfer's
constexpr double kFadeExchange = 0.995;  // of exchanges with each step that could be divided and was not
constexpr int kSweeps = 8;               // of coordinate descent, from where the last fit ended
constexpr int kEvery = 16;               // steps between two looks at the errors
constexpr double kMost = 1e30;           // of a saved number
constexpr int64_t kKnee = 32;            // rows up to which weights are read faster than they are used

}  // namespace

StepWork ShareOf(const StepWork& work, int32_t ranks) {
  const auto share = [ranks](int64_t amount) { return (amount + ranks - 1) / ranks; };
  return {share(work.rows), work.context, share(work.products)};
}

// Scaled, so that sums of squares stay near one another.
CostModel::Terms CostModel::TermsOf(const StepWork& work) {
  return {1, static_cast<double>(work.rows) / 32, static_cast<double>(std::max<int64_t>(0, work.rows - kKnee)) / 128,
          static_cast<double>(work.context) / 4096, static_cast<double>(work.products) / 65536};
}

double CostModel::Seconds(const StepWork& work) const {
  const Terms x = TermsOf(work);
  double sum = 0;
  for (int i = 0; i < kTerms; ++i) sum += coefficients_[i] * x[i];
  return sum;
}

double CostModel::Divided(const StepWork& work, int32_t ranks) const {
  const double exchange = exchanges_.rows > 0 ? exchanges_.seconds / exchanges_.rows : 0;
  return Seconds(ShareOf(work, ranks)) + exchange * static_cast<double>(work.rows);
}

double CostModel::Best(const StepWork& work) const {
  const int32_t ranks = ranks_ > 1 ? RowRanks(work) : 1;
  return ranks == 1 ? Seconds(work) : Divided(work, ranks);
}

// A share of fewer than kKnee rows takes as long as its weights are read, however few they are. While nothing is
// known, what has rows enough is divided.
int32_t CostModel::RowRanks(const StepWork& work) const {
  const auto most = static_cast<int32_t>(std::min<int64_t>(ranks_, std::max<int64_t>(1, work.rows / kKnee)));
  if (!known()) return most;
  int32_t best = 1;
  double least = Seconds(work);
  for (int32_t ranks = 2; ranks <= most; ++ranks) {
    const double seconds = Divided(work, ranks);
    if (seconds >= least) continue;
    best = ranks;
    least = seconds;
  }
  return best;
}

double CostModel::row_seconds() const { return coefficients_[1] / 32 + coefficients_[2] / 128; }
double CostModel::product_seconds() const { return coefficients_[4] / 65536; }

void CostModel::ObserveDivided(const StepWork& work, int32_t ranks, absl::Duration compute, absl::Duration exchange) {
  if (work.rows <= 0) return;
  Learn(ShareOf(work, ranks), compute);
  exchanges_.rows = kFadeBytes * exchanges_.rows + static_cast<double>(work.rows);
  exchanges_.seconds = kFadeBytes * exchanges_.seconds + absl::ToDoubleSeconds(exchange);
}

void CostModel::Observe(const StepWork& work, absl::Duration compute) {
  if (ranks_ > 1 && work.rows >= 2 * kKnee) exchanges_.seconds *= kFadeExchange;
  Learn(work, compute);
}

void CostModel::Learn(const StepWork& work, absl::Duration compute) {
  const double y = absl::ToDoubleSeconds(compute);
  if (y <= 0 || work.rows <= 0) return;
  if (known()) {
    ratios_[seen_ % static_cast<int64_t>(ratios_.size())] = static_cast<float>(y / std::max(1e-9, Seconds(work)));
  }
  const Terms x = TermsOf(work);
  for (int i = 0; i < kTerms; ++i) {
    for (int j = 0; j < kTerms; ++j) squares_[i][j] = kFade * squares_[i][j] + x[i] * x[j] / (y * y);
    targets_[i] = kFade * targets_[i] + x[i] / y;
  }
  ++seen_;
  Fit();
  if (seen_ % kEvery == 0) FindError();
}

// Coordinate descent on the quadratic: each coefficient in turn takes its best value that is not negative.
void CostModel::Fit() {
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    for (int i = 0; i < kTerms; ++i) {
      if (squares_[i][i] <= 0) continue;
      double rest = targets_[i];
      for (int j = 0; j < kTerms; ++j) {
        if (j != i) rest -= squares_[i][j] * coefficients_[j];
      }
      coefficients_[i] = std::max(0.0, rest / squares_[i][i]);
    }
  }
}

void CostModel::FindError() {
  const int64_t count = std::min<int64_t>(seen_ - kFewest, static_cast<int64_t>(ratios_.size()));
  std::vector<float> ratios;
  for (float ratio : ratios_) {
    if (ratio > 0) ratios.push_back(ratio);
  }
  if (count < kEvery || ratios.empty()) return;
  const auto at = ratios.begin() + static_cast<ptrdiff_t>(kQuantile * static_cast<double>(ratios.size() - 1));
  std::nth_element(ratios.begin(), at, ratios.end());
  error_ = std::max(1.0, static_cast<double>(*at));
}

absl::Duration CostModel::Expect(const StepWork& work) const { return absl::Seconds(Best(work)); }
absl::Duration CostModel::Bound(const StepWork& work) const { return absl::Seconds(error_ * Best(work)); }

int32_t CostModel::RowsWithin(const StepWork& work, int32_t start, int32_t most, absl::Duration limit) const {
  int32_t fits = 0;
  for (int32_t more = most; fits < most && more > 0;) {  // the largest steps first: most often all fit
    StepWork with = work;
    if (Bound(with.Add(start, fits + more)) <= limit) {
      fits += more;
      more = std::min(more, most - fits);
    } else {
      more /= 2;
    }
  }
  return fits;
}

absl::Duration CostModel::Prefill(int32_t from, int32_t to, int32_t chunk) const {
  absl::Duration sum;
  for (int32_t at = from; at < to; at += chunk) sum += Expect(StepWork().Add(at, std::min(chunk, to - at)));
  return sum;
}

template <typename Self, typename Visit>
void CostModel::EachNumber(Self& self, Visit visit) {
  for (auto& coefficient : self.coefficients_) visit(coefficient);
  for (auto& row : self.squares_) {
    for (auto& square : row) visit(square);
  }
  for (auto& target : self.targets_) visit(target);
  for (auto& rate : self.rates_) {
    visit(rate.bytes);
    visit(rate.seconds);
  }
}

std::vector<double> CostModel::Save() const {
  std::vector<double> numbers = {static_cast<double>(seen_), error_};
  EachNumber(*this, [&](double number) { numbers.push_back(number); });
  return numbers;
}

std::optional<CostModel> CostModel::Load(absl::Span<const double> numbers) {
  CostModel model;
  if (numbers.size() != model.Save().size()) return std::nullopt;
  for (const double number : numbers) {
    if (!std::isfinite(number) || number < 0 || number > kMost) return std::nullopt;
  }
  if (numbers[1] < 1) return std::nullopt;
  model.seen_ = static_cast<int64_t>(numbers[0]);
  model.error_ = numbers[1];
  const double* next = numbers.data() + 2;
  EachNumber(model, [&](double& number) { number = *next++; });
  return model;
}

std::string CostModel::ToString() const {
  const auto& c = coefficients_;
  std::string text = absl::StrFormat(
      "%.3f ms + %.4f ms a row (%.4f beyond 32) + %.3f us a 1000 positions read + %.3f us a 1000 products, 95 of 100 "
      "steps within %.2f of it",
      1e3 * c[0], 1e3 * c[1] / 32, 1e3 * (c[1] / 32 + c[2] / 128), 1e9 * c[3] / 4096, 1e9 * c[4] / 65536, error_);
  constexpr const char* kRoutes[] = {"in", "out", "from below"};
  for (size_t route = 0; route < rates_.size(); ++route) {
    const double rate = bytes_per_second(static_cast<Route>(route));
    if (rate > 0) absl::StrAppendFormat(&text, ", %s %.2f GB/s", kRoutes[route], 1e-9 * rate);
  }
  return text;
}

void CostModel::ObserveTransfer(Route route, int64_t bytes, absl::Duration busy) {
  if (bytes <= 0 || busy <= absl::ZeroDuration()) return;
  Rate& rate = rates_[static_cast<size_t>(route)];
  rate.bytes = kFadeBytes * rate.bytes + static_cast<double>(bytes);
  rate.seconds = kFadeBytes * rate.seconds + absl::ToDoubleSeconds(busy);
}

double CostModel::bytes_per_second(Route route) const {
  const Rate& rate = rates_[static_cast<size_t>(route)];
  return rate.seconds <= 0 ? 0 : rate.bytes / rate.seconds;
}

absl::Duration CostModel::Transfer(Route route, int64_t bytes) const {
  const double rate = bytes_per_second(route);
  return rate <= 0 ? absl::ZeroDuration() : absl::Seconds(static_cast<double>(bytes) / rate);
}

}  // namespace interlace
