// The runner and the window on the cuda backend over an emulated device, which runs everything as late as it may: a
// wait that is missing shows as other tokens.
#include <gtest/gtest.h>

#include <map>

#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/cuda/emulated_device.h"
#include "tests/status_matchers.h"
#include "tests/worker/tiny_file.h"
#include "worker/rank.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int32_t kLayers = 4, kBlockTokens = 8;

std::shared_ptr<EmulatedDevice> device_of_next_rank;

// A rank of one stage on an emulated device.
class DeviceRank {
 public:
  DeviceRank(const std::string& path, int32_t slots) {
    Config config;
    config.model.path = path;
    config.engine.threads = 1;
    config.kv.block_tokens = kBlockTokens;
    config.kv.dtype = "f32";
    config.kv.device_bytes.value = slots * kSlotBytes;
    config.kv.host_bytes.value = 1 << 24;
    config.kv.read_timeout = absl::Seconds(20);
    config.sched.step_tokens = 64;
    config.sched.max_running = 8;
    device_of_next_rank = device_;
    auto rank = Rank::Create(
        config, 1, clock_, faults_, nullptr, [](int64_t, int64_t) {},
        [](const BackendOptions& options) {
          return MakeCudaBackendOver(std::make_unique<EmulatedDriver>(device_of_next_rank), options);
        });
    EXPECT_OK(rank);
    rank_ = *std::move(rank);
    EXPECT_EQ(rank_->arena().slots(), slots);
  }
  ~DeviceRank() {
    rank_.reset();
    EXPECT_TRUE(device_->violations.empty()) << device_->violations[0];
    EXPECT_TRUE(device_->NothingHeld());
  }
  ModelRunner& runner() { return rank_->runner(); }
  EmulatedDevice& device() { return *device_; }

 private:
  static constexpr int64_t kSlotBytes = 2 * 4 * kBlockTokens * 2 * 16;  // K and V, F32, 2 heads of 16
  const std::shared_ptr<EmulatedDevice> device_ = std::make_shared<EmulatedDevice>();
  RealClock clock_;
  FaultPoints faults_;
  std::unique_ptr<Rank> rank_;
};

PlanSequence Sequence(uint64_t request, int32_t start, std::vector<int32_t> tokens, int32_t keep) {
  PlanSequence s{.request = RequestId{request}, .attempt = 1, .generation = Generation{request}, .start = start};
  s.tokens = std::move(tokens);
  s.residency = {kLayers, keep};
  s.sample = true;
  s.sample_index = start;
  s.sampling.temperature = 1;
  s.sampling.seed = request;
  return s;
}

// Tokens of three requests of different lengths that run together, `keep` layers of each kept.
std::map<uint64_t, std::vector<int32_t>> Streams(DeviceRank& rank, int32_t keep, int64_t* fetched) {
  constexpr int kSteps = 20;
  std::map<uint64_t, std::vector<int32_t>> streams;
  std::map<uint64_t, int32_t> positions;
  std::map<uint64_t, std::vector<int32_t>> next;
  for (uint64_t r = 1; r <= 3; ++r) {
    for (uint64_t i = 0; i < 5 + 7 * r; ++i) next[r].push_back(static_cast<int32_t>(3 + (i * 37 + r * 11) % 250));
  }
  for (int step = 0; step < kSteps; ++step) {
    StepPlan plan{.epoch = Epoch{1}, .id = PlanId{static_cast<uint64_t>(step + 1)}};
    for (auto& [request, tokens] : next) {
      const int32_t start = positions[request];
      positions[request] += static_cast<int32_t>(tokens.size());
      plan.sequences.push_back(Sequence(request, start, tokens, keep));
    }
    const StepResult result = rank.runner().Execute(plan);
    EXPECT_OK(result.status);
    EXPECT_TRUE(result.lost.empty()) << result.lost[0].detail;
    EXPECT_EQ(result.sampled.size(), 3u);
    *fetched += result.bytes_in;
    for (const SampledToken& sampled : result.sampled) {
      streams[Value(sampled.request)].push_back(sampled.token);
      next[Value(sampled.request)] = {sampled.token};
    }
    if (testing::Test::HasFailure()) break;
  }
  rank.runner().Reset();
  return streams;
}

TEST(DeviceRunnerTest, StreamsAreTheSameWhateverMovesBetweenDeviceAndTiers) {
  const TinyFile file({.layers = kLayers});
  int64_t fetched = 0;
  DeviceRank ample(file.path(), 200);
  const auto kept = Streams(ample, kLayers, &fetched);
  EXPECT_EQ(fetched, 0);
  for (const int32_t keep : {0, 1, 2}) {
    // Room for all blocks; then for the kept ones (15 of each layer) and little more, so that slots are used again.
    for (const int32_t slots : {200, 15 * keep + 22}) {
      DeviceRank rank(file.path(), slots);
      fetched = 0;
      EXPECT_EQ(Streams(rank, keep, &fetched), kept) << slots << " slots, " << keep << " layers kept";
      // With slots to spare it is a matter of timing whether a block leaves before it is needed again.
      if (slots < 60) {
        EXPECT_GT(fetched, 0);
      }
    }
  }
}

TEST(DeviceRunnerTest, AFaultOfTheDeviceEndsTheStepWithoutTokens) {
  const TinyFile file({.layers = kLayers});
  DeviceRank rank(file.path(), 200);
  StepPlan plan{.epoch = Epoch{1}, .id = PlanId{1}};
  plan.sequences.push_back(Sequence(1, 0, std::vector<int32_t>(20, 5), 0));
  rank.device().fault_in_kernel = true;
  const StepResult result = rank.runner().Execute(plan);
  EXPECT_THAT(result.status, StatusIs(absl::StatusCode::kInternal, AllOf(HasSubstr("cuda"), HasSubstr("illegal"))));
  EXPECT_TRUE(result.sampled.empty());
  EXPECT_EQ(result.bytes_out, 0) << "blocks of a step that failed are not stored";
}

TEST(DeviceRunnerTest, ABackendThatARankCannotHaveSaysWhy) {
  const TinyFile file({.layers = kLayers});
  RealClock clock;
  FaultPoints faults;
  Config config;
  config.model.path = file.path();
  config.engine.backend = "tpu";
  EXPECT_THAT(Rank::Create(config, 1, clock, faults, nullptr, [](int64_t, int64_t) {}),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("engine.backend=tpu"), HasSubstr("cpu"), HasSubstr("cuda"))));
  config.engine.backend = "cuda";
  const auto rank = Rank::Create(config, 1, clock, faults, nullptr, [](int64_t, int64_t) {});
  if (rank.ok()) GTEST_SKIP() << "a GPU is here";
  EXPECT_THAT(std::string(rank.status().message()),
              AllOf(HasSubstr("engine.backend=cuda"), testing::AnyOf(HasSubstr("GPU"), HasSubstr("nvcc"))));
}

}  // namespace
}  // namespace interlace
