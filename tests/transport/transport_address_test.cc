#include "transport/transport_address.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::_;
using ::testing::ElementsAre;

TransportAddress Sample() {
  return {.machine = "0123456789abcdef",
          .nonce = std::string(32, 'a'),
          .port = 4711,
          .hosts = {"10.0.0.1", "fd00::2"},
          .loopback = true};
}

TEST(TransportAddress, RoundTrips) {
  const absl::StatusOr<TransportAddress> back = TransportAddress::Decode(Sample().Encode());
  ASSERT_OK(back);
  EXPECT_EQ(back->Encode(), Sample().Encode());
  EXPECT_EQ(back->port, 4711);
  EXPECT_EQ(back->hosts, Sample().hosts);
}

TEST(TransportAddress, LoopbackIsForTheSameMachineOnly) {
  EXPECT_THAT(Sample().Candidates("0123456789abcdef"), ElementsAre("127.0.0.1", "10.0.0.1", "fd00::2"));
  EXPECT_THAT(Sample().Candidates("another"), ElementsAre("10.0.0.1", "fd00::2"));
}

TEST(TransportAddress, RefusesDamagedBytes) {
  const std::string good = Sample().Encode();
  // Cut within the hosts, an address may still be whole.
  for (size_t length = 0; length <= good.rfind(';'); ++length) {
    EXPECT_FALSE(TransportAddress::Decode(good.substr(0, length)).ok()) << length;
  }
  std::mt19937_64 random(3);
  for (int i = 0; i < 2000; ++i) {
    std::string bad = good;
    bad[random() % bad.size()] = static_cast<char>(random());
    (void)TransportAddress::Decode(bad);  // must not crash
  }
  EXPECT_THAT(TransportAddress::Decode("ucx2;0123456789abcdef;" + std::string(32, 'a') + ";70000;1;"),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST(TransportAddress, ThisMachineIsStable) { EXPECT_EQ(ThisMachine(), ThisMachine()); }

}  // namespace
}  // namespace interlace
