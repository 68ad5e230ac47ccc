#include "kvstore/kv_arena.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

class HeapBuffer final : public DeviceBuffer {
 public:
  explicit HeapBuffer(int64_t bytes) : bytes_(bytes) {}
  std::byte* data() override { return bytes_.data(); }
  int64_t bytes() const override { return static_cast<int64_t>(bytes_.size()); }

 private:
  std::vector<std::byte> bytes_;
};

// Memory up to a limit, and no ops.
class HeapBackend final : public Backend {
 public:
  explicit HeapBackend(int64_t limit) : limit_(limit) {}
  absl::string_view name() const override { return "heap"; }
  const OpTable& ops() const override { std::abort(); }
  OpContext context() override { std::abort(); }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  int threads() const override { return 1; }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(int64_t bytes) override {
    if (bytes > limit_) return absl::ResourceExhaustedError(absl::StrCat(bytes, " bytes"));
    return std::make_unique<HeapBuffer>(bytes);
  }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateDevice(int64_t bytes) override { return Allocate(bytes); }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateHost(int64_t bytes) override { return Allocate(bytes); }
  DeviceCopies& copies() override { std::abort(); }

 private:
  const int64_t limit_;
};

TEST(KvArenaTest, AsManySlotsAsFit) {
  HeapBackend backend(1 << 20);
  auto arena = KvArena::Create(backend, 1000, 96);
  ASSERT_OK(arena);
  EXPECT_EQ((*arena)->slots(), 10);
  EXPECT_EQ((*arena)->slot_bytes(), 96);
  EXPECT_EQ((*arena)->used(), 0);
}

TEST(KvArenaTest, TooSmallNamesBothSizes) {
  HeapBackend backend(1 << 20);
  EXPECT_THAT(KvArena::Create(backend, 95, 96),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       testing::AllOf(testing::HasSubstr("95"), testing::HasSubstr("96"))));
  EXPECT_THAT(KvArena::Create(backend, -1, 96), StatusIs(absl::StatusCode::kResourceExhausted, testing::_));
  EXPECT_THAT(KvArena::Create(backend, 100, 0), StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  EXPECT_THAT(KvArena::Create(backend, 2 << 20, 96), StatusIs(absl::StatusCode::kResourceExhausted, testing::_));
}

TEST(KvArenaTest, SlotsAreDisjointAndComeBack) {
  HeapBackend backend(1 << 20);
  auto arena = *KvArena::Create(backend, 64 * 100, 64);
  auto entropy = MakeSeededEntropy(4);
  std::vector<std::pair<ArenaSlot, unsigned char>> held;
  for (int step = 0; step < 5000; ++step) {
    if (entropy->Next() % 2 == 0) {
      ArenaSlot slot = arena->TryTake();
      EXPECT_EQ(static_cast<bool>(slot), held.size() < 100);
      if (!slot) continue;
      const auto fill = static_cast<unsigned char>(entropy->Next());
      std::memset(slot.data(), fill, 64);
      held.emplace_back(std::move(slot), fill);
    } else if (!held.empty()) {
      std::swap(held[entropy->Next() % held.size()], held.back());
      const std::vector<std::byte> want(64, static_cast<std::byte>(held.back().second));
      EXPECT_EQ(std::memcmp(held.back().first.data(), want.data(), 64), 0) << "another slot wrote here";
      held.pop_back();
    }
    EXPECT_EQ(arena->used(), static_cast<int32_t>(held.size()));
  }
}

TEST(KvArenaTest, MovedSlotsAreHeldOnce) {
  HeapBackend backend(1 << 20);
  auto arena = *KvArena::Create(backend, 64 * 4, 64);
  ArenaSlot a = arena->TryTake(), b = arena->TryTake();
  std::byte* at = b.data();
  a = std::move(b);  // gives back what a held
  EXPECT_EQ(arena->used(), 1);
  EXPECT_FALSE(b);  // NOLINT: a moved-from slot is empty by contract
  EXPECT_EQ(a.data(), at);
  ArenaSlot& self = a;
  a = std::move(self);
  EXPECT_EQ(a.data(), at);
  ArenaSlot c(std::move(a));
  EXPECT_EQ(arena->used(), 1);
  c = ArenaSlot();
  EXPECT_EQ(arena->used(), 0);
}

TEST(KvArenaDeathTest, OutlivesItsSlots) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_DEATH(
      {
        HeapBackend backend(1 << 20);
        ArenaSlot slot;
        auto arena = *KvArena::Create(backend, 64 * 4, 64);
        slot = arena->TryTake();
      },
      "slots held");
}

}  // namespace
}  // namespace interlace
