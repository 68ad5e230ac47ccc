// A test that runs once per op table of this tree, and the comparison with the reference.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace interlace {

class OpTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    absl::StatusOr<const OpTable*> ops = FindOpTable(GetParam());
    if (!ops.ok()) GTEST_SKIP() << ops.status().ToString();
    ops_ = *ops;
    reference_ = FindOpTable("reference").value();
    backend_ = CreateBackend("cpu", {.ops = "reference"}).value();
  }
  const OpTable& ops() const { return *ops_; }
  const OpTable& reference() const { return *reference_; }
  Backend& backend() { return *backend_; }  // for memory

  ThreadTeam one_{1};
  ThreadTeam two_{2};

 private:
  const OpTable* ops_ = nullptr;
  const OpTable* reference_ = nullptr;
  std::unique_ptr<Backend> backend_;
};

inline std::vector<std::string> TableNames() {
  std::vector<std::string> names;
  for (absl::string_view name : OpTableNames()) names.emplace_back(name);
  return names;
}

#define INTERLACE_OP_TEST(suite)                                             \
  INSTANTIATE_TEST_SUITE_P(Tables, suite, ::testing::ValuesIn(TableNames()), \
                           [](const auto& info) { return info.param; })

// Within tolerance[i]; NaN where the reference has NaN; infinities equal.
inline void ExpectNear(const std::vector<float>& actual, const std::vector<float>& expected,
                       const std::vector<double>& tolerance, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(expected[i])) {
      ASSERT_TRUE(std::isnan(actual[i])) << what << " [" << i << "]: " << actual[i] << " instead of NaN";
    } else if (std::isinf(expected[i])) {
      ASSERT_EQ(actual[i], expected[i]) << what << " [" << i << "]";
    } else {
      ASSERT_LE(std::abs(double{actual[i]} - expected[i]), tolerance[i])
          << what << " [" << i << "]: " << actual[i] << " against " << expected[i];
    }
  }
}
inline void ExpectNear(const std::vector<float>& actual, const std::vector<float>& expected, double tolerance,
                       const std::string& what) {
  ExpectNear(actual, expected, std::vector<double>(expected.size(), tolerance), what);
}

inline double LargestOf(const std::vector<float>& values) {
  double largest = 0;
  for (float value : values) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(double{value}));
  }
  return largest;
}

// Equal to the last bit, NaN included.
inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) return false;
  }
  return true;
}

}  // namespace interlace
