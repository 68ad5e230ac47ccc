#include "coordinator/skip_index/harm_model.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "coordinator/skip_index/acceptance.h"

namespace interlace {
namespace {

// What is believed of a term of which nothing is known: mean and deviation.
constexpr double kHarm = 0.05, kHarmDeviation = 0.07, kBase = 0.05, kBaseDeviation = 0.05;
constexpr double kMisfit = 0.02;  // deviation of what no sum says

double Gauss(Entropy& entropy) {  // Box, Muller, 1958
  const auto uniform = [&] { return static_cast<double>(entropy.Next() >> 11) * 0x1p-53; };
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

}  // namespace

HarmModel::HarmModel(int32_t layers)
    : layers_(static_cast<size_t>(layers)),
      terms_(1 + 2 * (layers_ - 2)),
      precision_(terms_ * terms_),
      weighted_(terms_) {
  for (size_t t = 0; t < terms_; ++t) {
    const double deviation = t == 0 ? kBaseDeviation : kHarmDeviation;
    At(t, t) = 1 / (deviation * deviation);
    weighted_[t] = At(t, t) * (t == 0 ? kBase : kHarm);
  }
}

void HarmModel::Note(const SkipPlan& plan, double tried, double right) {
  const double rate = Acceptance(tried, right).mean();
  const double value = -std::log(rate);
  // The variance of log(rate) of so many guesses, by the delta method.
  const double weight = 1 / ((1 - rate) / (rate * (tried + 2)) + kMisfit * kMisfit);
  std::vector<size_t> terms = {0};
  for (size_t t = 1; t < terms_; ++t) {
    if (Passes(plan, t + 1)) terms.push_back(t);  // term 1 is sublayer 2
  }
  for (size_t row = 0; row < terms.size(); ++row) {
    weighted_[terms[row]] += weight * value;
    for (size_t column = 0; column <= row; ++column) At(terms[row], terms[column]) += weight;
  }
}

HarmModel::Terms HarmModel::Draw(Entropy& entropy) const {
  std::vector<double> noise(terms_);
  for (double& x : noise) x = Gauss(entropy);
  return Solve(std::move(noise));
}

HarmModel::Terms HarmModel::Mean() const { return Solve(std::vector<double>(terms_)); }

// With P = L L': the mean is P^-1 w, and L'^-1 z has the covariance P^-1 where z is white noise. So L' x = L^-1 w + z.
HarmModel::Terms HarmModel::Solve(std::vector<double> noise) const {
  std::vector<double> lower = precision_, x = weighted_;
  for (size_t row = 0; row < terms_; ++row) {
    double* const mine = &lower[row * terms_];
    for (size_t column = 0; column <= row; ++column) {
      const double* const other = &lower[column * terms_];
      double sum = mine[column];
      for (size_t k = 0; k < column; ++k) sum -= mine[k] * other[k];
      mine[column] = row == column ? std::sqrt(std::max(sum, 1e-9)) : sum / other[column];
    }
    for (size_t k = 0; k < row; ++k) x[row] -= mine[k] * x[k];
    x[row] /= mine[row];
  }
  for (size_t t = 0; t < terms_; ++t) x[t] += noise[t];
  for (size_t row = terms_; row-- > 0;) {
    for (size_t k = row + 1; k < terms_; ++k) x[row] -= lower[k * terms_ + row] * x[k];
    x[row] /= lower[row * terms_ + row];
  }
  Terms terms{std::max(0.0, x[0]), std::vector<double>(2 * layers_)};
  for (size_t t = 1; t < terms_; ++t) terms.harm[t + 1] = std::max(0.0, x[t]);
  return terms;
}

}  // namespace interlace
