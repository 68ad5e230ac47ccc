// SlowLink: what it copies is right, and it promises a rate that is never exceeded.
#include "kvstore/slow_link.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/status_matchers.h"

namespace interlace {
namespace {

class Memcpy final : public DeviceCopies {
 public:
  OpFence Mark() override { return std::make_shared<int>(7); }
  void Copy(void* to, const void* from, int64_t bytes, const OpFence& after) override {
    EXPECT_EQ(*static_cast<int*>(after.get()), 7);
    std::memcpy(to, from, static_cast<size_t>(bytes));
  }
  absl::Status Finish() override { return finish; }
  absl::Status finish;
};

TEST(SlowLink, NeverExceedsItsRateAndCopiesWhatItIsGiven) {
  RealClock clock;
  Memcpy inner;
  constexpr int64_t kRate = 100 << 20;
  SlowLink link(inner, kRate, clock);
  const std::string from(64 << 10, 'x');
  std::string to(from.size(), ' ');
  const absl::Time begin = clock.Now();
  int64_t bytes = 0;
  for (int i = 0; i < 20; ++i) {
    for (int k = 0; k < 3; ++k, bytes += static_cast<int64_t>(from.size())) {
      link.Copy(to.data(), from.data(), static_cast<int64_t>(from.size()), link.Mark());
    }
    EXPECT_OK(link.Finish());
    const double least = static_cast<double>(bytes) / kRate;
    EXPECT_GE(absl::ToDoubleSeconds(clock.Now() - begin), least - 1e-3) << "the bytes arrived before they could";
  }
  EXPECT_EQ(to, from);
}

TEST(SlowLink, TellsWhatTheCopiesBelowSay) {
  RealClock clock;
  Memcpy inner;
  SlowLink link(inner, 1 << 30, clock);
  char from = 'x', to = ' ';
  inner.finish = absl::InternalError("the device is gone");
  link.Copy(&to, &from, 1, link.Mark());
  EXPECT_EQ(link.Finish(), inner.finish);
}

}  // namespace
}  // namespace interlace
