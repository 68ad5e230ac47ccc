#include "kvstore/frame_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "kvstore/block_codec.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

std::unique_ptr<Backend> Cpu() { return CreateBackend("cpu", {.ops = "reference", .threads = 1}).value(); }

TEST(FrameStoreTest, FramesAreAlignedDisjointAndComeBack) {
  const auto backend = Cpu();
  for (const int64_t payload : {int64_t{1}, int64_t{64}, int64_t{1000}, int64_t{24576}}) {
    const int64_t stride = FrameStride(payload);
    EXPECT_GE(stride, payload + static_cast<int64_t>(kBlockHeaderBytes));
    auto frames = FrameStore::Create(*backend, 7 * stride + stride - 1, payload);
    ASSERT_OK(frames);
    ASSERT_EQ((*frames)->frames(), 7);
    std::vector<HostFrame> held;
    for (int i = 0; i < 7; ++i) {
      held.push_back((*frames)->TryTake());
      ASSERT_TRUE(held.back());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(held.back().data()) % 64, 0u);
      std::memset(held.back().data(), i, static_cast<size_t>(stride));
    }
    EXPECT_EQ(reinterpret_cast<uintptr_t>(held[0].data()) % 4096, 0u);
    EXPECT_FALSE((*frames)->TryTake());
    EXPECT_EQ((*frames)->used(), 7);
    for (int i = 0; i < 7; ++i) {
      const std::vector<std::byte> want(static_cast<size_t>(stride), static_cast<std::byte>(i));
      EXPECT_EQ(std::memcmp(held[i].data(), want.data(), want.size()), 0);
    }
    held.clear();
    EXPECT_EQ((*frames)->used(), 0);
  }
}

TEST(FrameStoreTest, NoBytesAreNoFrames) {
  const auto backend = Cpu();
  for (const int64_t bytes : {int64_t{0}, int64_t{100}}) {
    auto frames = FrameStore::Create(*backend, bytes, 1000);
    ASSERT_OK(frames);
    EXPECT_EQ((*frames)->frames(), 0);
    EXPECT_EQ((*frames)->used(), 0);
    EXPECT_FALSE((*frames)->TryTake());
  }
}

TEST(FrameStoreTest, SizesThatCannotBeAreNamed) {
  const auto backend = Cpu();
  EXPECT_THAT(FrameStore::Create(*backend, -1, 1000), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  EXPECT_THAT(FrameStore::Create(*backend, 1000, 0), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  EXPECT_THAT(FrameStore::Create(*backend, int64_t{1} << 60, 1000),
              StatusIs(absl::StatusCode::kResourceExhausted, testing::_));
}

}  // namespace
}  // namespace interlace
