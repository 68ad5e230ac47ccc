// Every op of the cuda backend on the emulated device: the device code's bodies against the reference.
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/cuda/emulated_device.h"
#include "tests/kernels/device_tensor.h"
#include "tests/kernels/op_checks.h"
#include "tests/kernels/op_test.h"
#include "tests/kernels/random_tensor.h"
#include "tests/status_matchers.h"

namespace interlace {

void PrintTo(const OpCheckGroup& group, std::ostream* out) { *out << group.op; }

namespace {

class CudaOpsTest : public ::testing::TestWithParam<OpCheckGroup> {};

TEST_P(CudaOpsTest, AgreesWithTheReference) {
  const auto state = std::make_shared<EmulatedDevice>();
  {
    auto backend = MakeCudaBackendOver(std::make_unique<EmulatedDriver>(state), {});
    ASSERT_OK(backend);
    const std::vector<OpCheck> checks = GetParam().run(**backend);
    EXPECT_GE(checks.size(), 5u);
    for (const OpCheck& check : checks) EXPECT_EQ(check.fault, "") << check.op << " " << check.name;
    EXPECT_OK((*backend)->Synchronize());
  }
  EXPECT_TRUE(state->violations.empty()) << state->violations[0];
  EXPECT_TRUE(state->NothingHeld());
}

INSTANTIATE_TEST_SUITE_P(Ops, CudaOpsTest, ::testing::ValuesIn(kOpChecks),
                         [](const auto& info) { return std::string(info.param.op); });

// A row's attention is the same bit for bit alone, in a chunk, and in a call with others (docs/contracts.md,
// exact.cuda).
TEST(CudaExactRowsTest, AttentionOfARowDependsOnThatRowAlone) {
  const auto backend = *MakeCudaBackendOver(std::make_unique<EmulatedDriver>(std::make_shared<EmulatedDevice>()), {});
  const KvBlockShape shape{8, 2, 16, DType::kBF16};
  constexpr int64_t kPositions = 300, kHeads = 4, kWidth = kHeads * 16, kKvWidth = 2 * 16;
  Random random(11);
  DeviceTensor k(*backend, kPositions, kKvWidth, random.Floats(kPositions * kKvWidth));
  DeviceTensor v(*backend, kPositions, kKvWidth, random.Floats(kPositions * kKvWidth));
  DeviceTensor q(*backend, kPositions, kWidth, random.Floats(kPositions * kWidth));
  const int64_t count = kPositions / shape.block_tokens + 1;
  const auto memory = *backend->Allocate(count * shape.bytes());
  std::vector<std::byte*> blocks;
  for (int64_t b = 0; b < count; ++b) blocks.push_back(memory->data() + b * shape.bytes());
  random.Shuffle(blocks);
  const SequenceRows all{0, kPositions, 0, blocks};
  backend->ops().kv_append({shape, k.tensor(), v.tensor(), {&all, 1}}, backend->context());
  const auto attend = [&](const std::vector<SequenceRows>& rows, DeviceTensor& out) {
    backend->ops().paged_attention(
        {.out = out.tensor(), .q = q.tensor(), .shape = shape, .sequences = rows, .heads = kHeads, .window = 170},
        backend->context());
  };
  DeviceTensor whole(*backend, kPositions, kWidth), parts(*backend, kPositions, kWidth);
  attend({all}, whole);
  for (int32_t from = 0; from < kPositions;) {
    std::vector<SequenceRows> call;
    for (int64_t n = random.Between(1, 4); n > 0 && from < kPositions; --n) {
      const int64_t rows = std::min(random.Between(1, 40), kPositions - from);
      call.push_back({from, rows, from, blocks});
      from += static_cast<int32_t>(rows);
    }
    attend(call, parts);
  }
  EXPECT_TRUE(SameBits(whole.values(), parts.values()));
}

}  // namespace
}  // namespace interlace
