#include "common/loopback.h"

#include <gtest/gtest.h>

namespace interlace {
namespace {

TEST(LoopbackTest, TakesWhatLeadsNowhereElse) {
  for (const char* host : {"localhost", "127.0.0.1", "127.255.3.9", "::1", "[::1]"})
    EXPECT_TRUE(IsLoopback(host)) << host;
  for (const char* host : {"", "0.0.0.0", "::", "[::]", "10.0.0.1", "128.0.0.1", "127.0.0", "127.0.0.256", "127.0.0.+1",
                           "127.0.0. 1", "127.evil.example.org", "127.0.0.1.example.org", "localhost.example.org"}) {
    EXPECT_FALSE(IsLoopback(host)) << host;
  }
}

}  // namespace
}  // namespace interlace
