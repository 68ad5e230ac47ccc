#include "transport/inbound_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace interlace {
namespace {

TEST(InboundOrder, AnyOrderOfArrivalIsDeliveredInSequence) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 200; ++round) {
    std::vector<uint64_t> arrivals(1 + random() % 40);
    for (size_t i = 0; i < arrivals.size(); ++i) arrivals[i] = i;
    std::shuffle(arrivals.begin(), arrivals.end(), random);
    InboundOrder order;
    std::vector<Message> ready;
    for (uint64_t sequence : arrivals) {
      EXPECT_TRUE(order.Arrive(sequence, {PeerId{1}, std::to_string(sequence), ""}, &ready));
      EXPECT_FALSE(order.Arrive(sequence, {PeerId{1}, "again", ""}, &ready));
    }
    ASSERT_EQ(ready.size(), arrivals.size());
    for (size_t i = 0; i < ready.size(); ++i) EXPECT_EQ(ready[i].header, std::to_string(i));
    EXPECT_EQ(order.held(), 0u);
  }
}

TEST(InboundOrder, RefusesAbsurdNumbers) {
  InboundOrder order;
  std::vector<Message> ready;
  EXPECT_FALSE(order.Arrive(~uint64_t{0}, {}, &ready));
  EXPECT_TRUE(ready.empty());
}

}  // namespace
}  // namespace interlace
