#include "kernels/backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <limits>

#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(OpTableTest, KnownNamesAreComplete) {
  for (absl::string_view name : OpTableNames()) {
    const absl::StatusOr<const OpTable*> table = FindOpTable(name);
    if (!table.ok()) {
      EXPECT_THAT(table, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(std::string(name))));
      continue;
    }
    const OpTable& ops = **table;
    EXPECT_EQ(ops.name, name);
    EXPECT_TRUE(ops.embedding && ops.rms_norm && ops.rope && ops.linear && ops.gated_linear && ops.gate &&
                ops.kv_append && ops.paged_attention && ops.sample);
  }
}

TEST(OpTableTest, AutoIsTheFastestThatRunsHere) {
  absl::string_view fastest;
  for (absl::string_view name : OpTableNames()) {
    if (FindOpTable(name).ok()) fastest = name;
  }
  EXPECT_EQ(FindOpTable("auto").value()->name, fastest);
}

TEST(OpTableTest, AnUnknownNameListsTheKnownOnes) {
  EXPECT_THAT(FindOpTable("neon"), StatusIs(absl::StatusCode::kNotFound,
                                            AllOf(HasSubstr("neon"), HasSubstr("reference"), HasSubstr("avx2"))));
}

TEST(BackendTest, BadOptionsAreNamed) {
  EXPECT_THAT(CreateBackend("tpu", {}),
              StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("tpu"), HasSubstr("cpu"))));
  EXPECT_THAT(CreateBackend("cpu", {.threads = 0}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("threads")));
  EXPECT_THAT(CreateBackend("cpu", {.threads = 1 << 20}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("threads")));
  EXPECT_THAT(CreateBackend("cpu", {.ops = "neon"}), StatusIs(absl::StatusCode::kNotFound, HasSubstr("neon")));
}

TEST(BackendTest, MemoryIsAlignedZeroedAndWritable) {
  std::unique_ptr<Backend> backend = CreateBackend("cpu", {.ops = "reference", .threads = 2}).value();
  EXPECT_EQ(backend->name(), "cpu");
  EXPECT_EQ(backend->ops().name, "reference");
  EXPECT_EQ(backend->threads(), 2);
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{4096}, (int64_t{2} << 20) + 17, int64_t{16} << 20}) {
    std::unique_ptr<DeviceBuffer> buffer = backend->Allocate(bytes).value();
    ASSERT_EQ(buffer->bytes(), bytes);
    ASSERT_NE(buffer->data(), nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    EXPECT_TRUE(std::all_of(buffer->data(), buffer->data() + bytes, [](std::byte b) { return b == std::byte{0}; }));
    std::fill(buffer->data(), buffer->data() + bytes, std::byte{7});
  }
}

TEST(BackendTest, CopiesGoBetweenMemoryOfTheDeviceAndOfTheHost) {
  std::unique_ptr<Backend> backend = CreateBackend("cpu", {.ops = "reference", .threads = 1}).value();
  for (const int64_t bytes : {int64_t{64}, int64_t{4096}, (int64_t{2} << 20) + 64}) {
    std::unique_ptr<DeviceBuffer> device = backend->AllocateDevice(bytes).value();
    std::unique_ptr<DeviceBuffer> from = backend->AllocateHost(bytes).value(),
                                  to = backend->AllocateHost(bytes).value();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(device->data()) % 64, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(from->data()) % 4096, 0u);
    for (int64_t i = 0; i < bytes; ++i) from->data()[i] = static_cast<std::byte>(i * 2654435761u >> 13);
    DeviceCopies& copies = backend->copies();
    copies.Copy(device->data(), from->data(), bytes, copies.Mark());
    EXPECT_OK(copies.Finish());
    copies.Copy(to->data(), device->data(), bytes, copies.Mark());
    EXPECT_OK(copies.Finish());
    EXPECT_TRUE(std::equal(from->data(), from->data() + bytes, to->data()));
  }
}

// Pages come into being when they are written.
TEST(BackendTest, HostMemoryThatIsNotUsedCostsNothing) {
  constexpr int64_t kBytes = int64_t{2} << 30;
  const auto resident_kib = [] {
    rusage usage{};
    EXPECT_EQ(getrusage(RUSAGE_SELF, &usage), 0);
    return usage.ru_maxrss;
  };
  std::unique_ptr<Backend> backend = CreateBackend("cpu", {.ops = "reference", .threads = 1}).value();
  const int64_t before = resident_kib();
  std::unique_ptr<DeviceBuffer> buffer = backend->AllocateHost(kBytes).value();
  buffer->data()[kBytes - 1] = std::byte{7};
  EXPECT_EQ(buffer->data()[kBytes / 2], std::byte{0});
  EXPECT_LT(resident_kib() - before, kBytes / 1024 / 8);
}

TEST(BackendTest, TooMuchIsResourceExhausted) {
  std::unique_ptr<Backend> backend = CreateBackend("cpu", {}).value();
  EXPECT_THAT(backend->Allocate(int64_t{1} << 60),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("1152921504606846976")));
  EXPECT_THAT(backend->Allocate(std::numeric_limits<int64_t>::max()),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("bytes")));
  EXPECT_THAT(backend->Allocate(-1), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("-1")));
}

}  // namespace
}  // namespace interlace
