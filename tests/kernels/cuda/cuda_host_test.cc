// The host side of the cuda backend on a device that records calls and runs late: order, lifetimes, sizes, errors.
#include <gtest/gtest.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/plan_cache.h"
#include "kernels/cuda/staging_ring.h"
#include "tests/kernels/cuda/emulated_device.h"
#include "tests/kernels/random_tensor.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class CudaHostTest : public ::testing::Test {
 protected:
  // A failure that a test wants at creation is set on `device_` before.
  std::unique_ptr<Backend> Make() {
    auto backend = MakeCudaBackendOver(std::make_unique<EmulatedDriver>(device_), {});
    EXPECT_OK(backend);
    return *std::move(backend);
  }
  void TearDown() override {
    EXPECT_TRUE(device_->violations.empty()) << device_->violations[0];
    EXPECT_TRUE(device_->NothingHeld()) << device_->memory.size() << " allocations, " << device_->streams
                                        << " streams, " << device_->events << " events";
  }
  void FailNext(const std::string& call, int at = 0, CudaResult::Kind kind = CudaResult::kFailed) {
    device_->fails = call;
    device_->fails_at = at;
    device_->failure = {kind, "the device says no"};
  }
  // rms_norm in place over one row of two.
  static void Norm(Backend& backend, DeviceBuffer& x, DeviceBuffer& weight) {
    const Tensor row{x.data(), DType::kF32, 1, 2};
    backend.ops().rms_norm({row, row, {weight.data(), DType::kF32, 1, 2}, 0}, backend.context());
  }

  const std::shared_ptr<EmulatedDevice> device_ = std::make_shared<EmulatedDevice>();
};

TEST_F(CudaHostTest, MemoryIsAlignedZeroedAndReachableByTheHost) {
  const std::unique_ptr<Backend> backend = Make();
  EXPECT_EQ(backend->name(), "cuda");
  EXPECT_EQ(backend->ops().name, "cuda");
  for (const int64_t bytes : {0, 1, 4096, 1 << 20}) {
    const auto buffer = backend->Allocate(bytes);
    ASSERT_OK(buffer);
    EXPECT_EQ((*buffer)->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>((*buffer)->data()) % 64, 0u);
    for (int64_t i = 0; i < bytes; ++i) ASSERT_EQ((*buffer)->data()[i], std::byte{0});
    std::memset((*buffer)->data(), 7, bytes);
  }
}

// Row counts vary without end; plans must not.
TEST(PlanCacheTest, HoldsThePlansUsedLast) {
  PlanCache<std::pair<int, int>, int> cache(8);
  for (int n = 0; n < 1000; ++n) {
    EXPECT_EQ(cache.Find({1, n}), nullptr);
    EXPECT_EQ(*cache.Put({1, n}, std::make_unique<int>(n)), n);
    ASSERT_NE(cache.Find({1, 0}), nullptr) << "used all the time, so never the oldest";
    EXPECT_LE(cache.size(), 8u);
  }
  for (int n = 994; n < 1000; ++n) EXPECT_EQ(*cache.Find({1, n}), n);
  EXPECT_EQ(cache.Find({1, 992}), nullptr);
  cache.Clear();
  EXPECT_EQ(cache.Find({1, 999}), nullptr);
}

TEST_F(CudaHostTest, OpsAreQueuedAndDoneAfterSynchronize) {
  const std::unique_ptr<Backend> backend = Make();
  const auto x = *backend->Allocate(8), weight = *backend->Allocate(8);
  const float values[] = {3, 3}, ones[] = {1, 1};
  std::memcpy(x->data(), values, 8);
  std::memcpy(weight->data(), ones, 8);
  Norm(*backend, *x, *weight);
  EXPECT_EQ(reinterpret_cast<float*>(x->data())[0], 3) << "the emulated device runs late: this is what makes it a test";
  EXPECT_OK(backend->Synchronize());
  EXPECT_EQ(reinterpret_cast<float*>(x->data())[0], 1);
}

TEST_F(CudaHostTest, SynchronizeWithNothingQueuedAsksTheDeviceNothing) {
  const std::unique_ptr<Backend> backend = Make();
  const auto x = *backend->Allocate(8);
  const size_t calls = device_->calls.size();
  EXPECT_OK(backend->Synchronize());
  EXPECT_OK(backend->Synchronize());
  EXPECT_EQ(device_->calls.size(), calls);
}

TEST_F(CudaHostTest, OutOfMemoryNamesTheBytes) {
  const std::unique_ptr<Backend> backend = Make();
  device_->limit_bytes = 1000;
  EXPECT_THAT(backend->Allocate(12345), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("12345 bytes")));
  EXPECT_THAT(backend->Allocate(-1), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("-1")));
  EXPECT_THAT(backend->Allocate(std::numeric_limits<int64_t>::max()),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("9223372036854775807")));
  // It was the caller's question, not the stream's end.
  EXPECT_OK(backend->Allocate(100));
  EXPECT_OK(backend->Synchronize());
}

TEST_F(CudaHostTest, ScratchThatDoesNotFitNamesTheOpAndTheBytes) {
  const std::unique_ptr<Backend> backend = Make();
  const auto x = *backend->Allocate(4 * 512), y = *backend->Allocate(4 * 512), w = *backend->Allocate(2 * 8 * 8);
  device_->limit_bytes = 1000;
  backend->ops().linear(
      {{x->data(), DType::kF32, 64, 8}, {{{y->data(), DType::kF32, 64, 8}, {DType::kF32, 8, 8, w->data()}}}},
      backend->context());
  EXPECT_THAT(backend->Synchronize(),
              StatusIs(absl::StatusCode::kResourceExhausted, AllOf(HasSubstr("linear"), HasSubstr("1024 bytes"))));
}

TEST_F(CudaHostTest, ALaunchThatFailsNamesTheOpAndStopsTheStream) {
  const std::unique_ptr<Backend> backend = Make();
  const auto x = *backend->Allocate(8), weight = *backend->Allocate(8);
  FailNext("Launch");
  Norm(*backend, *x, *weight);
  const int64_t launches = device_->CountOf("Launch");
  Norm(*backend, *x, *weight);
  EXPECT_EQ(device_->CountOf("Launch"), launches) << "nothing is queued after an error";
  EXPECT_THAT(backend->Synchronize(),
              StatusIs(absl::StatusCode::kInternal, AllOf(HasSubstr("rms_norm"), HasSubstr("the device says no"))));
  EXPECT_THAT(backend->Synchronize(), StatusIs(absl::StatusCode::kInternal, HasSubstr("rms_norm"))) << "it stays";
  EXPECT_FALSE(backend->Allocate(8).ok());
}

TEST_F(CudaHostTest, AFaultInAKernelShowsAtSynchronize) {
  const std::unique_ptr<Backend> backend = Make();
  const auto x = *backend->Allocate(8), weight = *backend->Allocate(8);
  device_->fault_in_kernel = true;
  Norm(*backend, *x, *weight);
  EXPECT_THAT(backend->Synchronize(),
              StatusIs(absl::StatusCode::kInternal, AllOf(HasSubstr("rms_norm"), HasSubstr("illegal memory"))));
}

// Every call that can fail, failing once at each of its first times: never a crash, a leak or a silent result.
TEST_F(CudaHostTest, AnyCallMayFail) {
  int times = 0;
  for (const char* call : {"Allocate", "Fill", "Copy", "Launch", "Gemm", "Synchronize", "Record", "Await"}) {
    for (int at = 0; at < 12; ++at) {
      const auto state = std::make_shared<EmulatedDevice>();
      state->fails = call;
      state->fails_at = at;
      state->failure = {CudaResult::kFailed, "no"};
      bool failed = false;
      {
        auto backend = MakeCudaBackendOver(std::make_unique<EmulatedDriver>(state), {});
        ASSERT_OK(backend);
        Backend& b = **backend;
        const auto x = b.Allocate(4 * 64), w = b.Allocate(2 * 64), y = b.Allocate(4 * 64);
        failed = !x.ok() || !w.ok() || !y.ok();
        if (!failed) {
          const Tensor in{(*x)->data(), DType::kF32, 8, 8}, out{(*y)->data(), DType::kF32, 8, 8};
          std::vector<float> file(64, 0.5f);
          const std::vector<int32_t> tokens(8, 3);
          const LinearWeight weight{DType::kF32, 8, 8, (*w)->data()};
          b.ops().pack_weight({file.data(), DType::kF32, 8, 8}, (*w)->data(), b.context());
          for (int i = 0; i < 2; ++i) {
            b.ops().embedding({in, weight, tokens}, b.context());
            b.ops().linear({in, {{out, weight}}}, b.context());
          }
          std::vector<int32_t> chosen(8, -7);
          const std::vector<SampleRow> rows(8);
          b.ops().sample({absl::MakeSpan(chosen), out, rows}, b.context());
          failed = !b.Synchronize().ok();
          times += state->failed ? 1 : 0;
          for (int32_t token : chosen) EXPECT_EQ(token, failed ? -1 : 0) << call << " " << at;
        }
        EXPECT_EQ(failed, state->failed) << call << " " << at;
      }
      EXPECT_TRUE(state->violations.empty()) << call << " " << at << ": " << state->violations[0];
      EXPECT_TRUE(state->NothingHeld()) << call << " " << at;
    }
  }
  EXPECT_GE(times, 12) << "failures while ops were queued";
}

TEST_F(CudaHostTest, ABufferThatDiesWaitsForTheOpsThatUseIt) {
  const std::unique_ptr<Backend> backend = Make();
  const auto weight = *backend->Allocate(8);
  {
    const auto x = *backend->Allocate(8);
    Norm(*backend, *x, *weight);
  }  // the device reports a free with commands queued
}

TEST_F(CudaHostTest, BadOptionsAreNamed) {
  const auto make = [&](const BackendOptions& options) {
    return MakeCudaBackendOver(std::make_unique<EmulatedDriver>(device_), options);
  };
  EXPECT_THAT(make({.threads = 0}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("threads")));
  EXPECT_THAT(make({.ops = "avx2"}),
              StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("avx2"), HasSubstr("cuda"))));
  FailNext("CreateStream");
  EXPECT_THAT(make({}), StatusIs(absl::StatusCode::kInternal, HasSubstr("stream")));
}

TEST_F(CudaHostTest, AKvTypeThatIsNotStoredIsUnimplemented) {
  const std::unique_ptr<Backend> backend = Make();
  const auto memory = *backend->Allocate(4096);
  std::byte* block = memory->data();
  const SequenceRows rows{0, 1, 0, {&block, 1}};
  const Tensor kv{memory->data(), DType::kF32, 1, 8};
  backend->ops().kv_append({{8, 1, 8, DType::kQ8_0}, kv, kv, {&rows, 1}}, backend->context());
  EXPECT_THAT(backend->Synchronize(), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("Q8_0")));
}

// A build with no device: the error says why.
TEST_F(CudaHostTest, ABackendThatCannotRunSaysWhy) {
  const auto backend = CreateBackend("cuda", {});
  if (backend.ok()) GTEST_SKIP() << "a GPU is here";
  EXPECT_TRUE(backend.status().code() == absl::StatusCode::kFailedPrecondition ||
              backend.status().code() == absl::StatusCode::kUnimplemented)
      << backend.status();
  EXPECT_THAT(std::string(backend.status().message()),
              ::testing::AnyOf(HasSubstr("GPU"), HasSubstr("nvcc"), HasSubstr("cuBLASLt")));
}

// ---- the ring ----

class StagingRingTest : public CudaHostTest {
 protected:
  StagingRingTest() : driver_(device_) { EXPECT_TRUE(driver_.CreateStream(&stream_).ok()); }
  void TearDown() override {
    (void)driver_.DestroyStream(stream_);
    CudaHostTest::TearDown();
  }
  // Stages `value` repeated and queues a copy of it to `to`.
  bool Send(StagingRing& ring, std::byte* to, int64_t bytes, uint8_t value) {
    std::byte* on_device = nullptr;
    const CudaResult r = ring.Stage(
        bytes, [&](std::byte* from) { std::memset(from, value, bytes); }, &on_device);
    return r.ok() && driver_.Copy(to, on_device, bytes, stream_).ok();
  }

  EmulatedDriver driver_;
  CudaDriver::Stream stream_ = nullptr;
};

// Thousands of arrays through a small ring; nothing runs before it must, so a segment written too early would show.
TEST_F(StagingRingTest, MemoryIsUsedAgainOnlyAfterItsEvent) {
  for (const uint64_t seed : {1, 2, 3}) {
    Random random(seed);
    void* memory = nullptr;
    constexpr int kArrays = 600;
    constexpr int64_t kLargest = 700;
    ASSERT_TRUE(driver_.Allocate(CudaMemory::kManaged, kArrays * kLargest, &memory).ok());
    auto* out = static_cast<std::byte*>(memory);
    {
      StagingRing ring(driver_, stream_, 2048);
      std::vector<int64_t> sizes;
      for (int i = 0; i < kArrays; ++i) {
        sizes.push_back(random.Between(1, kLargest));
        ASSERT_TRUE(Send(ring, out + i * kLargest, sizes.back(), static_cast<uint8_t>(i)));
      }
      ASSERT_TRUE(driver_.Synchronize(stream_).ok());
      for (int i = 0; i < kArrays; ++i) {
        for (int64_t b = 0; b < sizes[i]; ++b) ASSERT_EQ(out[i * kLargest + b], std::byte(i)) << "array " << i;
      }
    }
    EXPECT_GT(device_->CountOf("Await"), 20);
    EXPECT_EQ(device_->CountOf("Synchronize"), 2 * static_cast<int64_t>(seed)) << "the ring waits for events alone";
    ASSERT_TRUE(driver_.Free(CudaMemory::kManaged, memory).ok());
  }
}

TEST_F(StagingRingTest, AnArrayLargerThanASegmentMakesTheSegmentsLarger) {
  void* memory = nullptr;
  ASSERT_TRUE(driver_.Allocate(CudaMemory::kManaged, 1 << 20, &memory).ok());
  auto* out = static_cast<std::byte*>(memory);
  {
    StagingRing ring(driver_, stream_, 512);
    ASSERT_TRUE(Send(ring, out, 100, 1));
    ASSERT_TRUE(Send(ring, out + 1000, 100000, 2));
    ASSERT_TRUE(Send(ring, out + 200000, 100, 3));
    EXPECT_GE(ring.segment_bytes(), 100000);
    ASSERT_TRUE(driver_.Synchronize(stream_).ok());
    EXPECT_EQ(out[99], std::byte{1});
    EXPECT_EQ(out[1000 + 99999], std::byte{2});
    EXPECT_EQ(out[200000], std::byte{3});
  }
  ASSERT_TRUE(driver_.Free(CudaMemory::kManaged, memory).ok());
}

}  // namespace
}  // namespace interlace
