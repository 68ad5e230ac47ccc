// The runner and the pager on the cuda backend over an emulated device, which runs everything as late as it may: a
// wait that is missing shows as other tokens.
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/cuda/emulated_device.h"
#include "tests/status_matchers.h"
#include "tests/worker/plan_maker.h"
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
    Config config = OneThreadConfig(path, kBlockTokens);
    config.kv.device_bytes.value = slots * kSlotBytes;
    config.kv.host_bytes.value = 1 << 24;
    config.kv.tiers = "";
    config.sched.step_tokens = 128;
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
  Rank& rank() { return *rank_; }
  ModelRunner& runner() { return rank_->runner(); }
  EmulatedDevice& device() { return *device_; }

 private:
  static constexpr int64_t kSlotBytes = 2 * 4 * kBlockTokens * 2 * 16;  // K and V, F32, 2 heads of 16
  const std::shared_ptr<EmulatedDevice> device_ = std::make_shared<EmulatedDevice>();
  RealClock clock_;
  FaultPoints faults_;
  std::unique_ptr<Rank> rank_;
};

std::vector<MakerRequest> Requests() {
  std::vector<MakerRequest> requests(3);
  for (int32_t r = 0; r < 3; ++r) {
    for (int32_t i = 0; i < 12 + 7 * r; ++i) requests[r].prompt.push_back(3 + (i * 37 + r * 11) % 250);
    requests[r].sampling.temperature = 1;
    requests[r].sampling.seed = static_cast<uint64_t>(r);
  }
  return requests;
}

TEST(DeviceRunnerTest, StreamsAreTheSameWhateverMovesBetweenDeviceAndHost) {
  const TinyFile file({.layers = kLayers});
  DeviceRank ample(file.path(), 200);
  PlanMaker baseline(ample.runner(), ample.rank().info());
  const auto want = baseline.Run(Requests(), 20, {});
  EXPECT_EQ(baseline.bytes_in(), 0);
  for (const int32_t keep : {0, 1, 2}) {
    // Room for all blocks; then for the kept ones (15 of each layer), an open block of three requests in each other
    // layer and one turn, so that slots are used again and again.
    for (const int32_t slots : {200, 15 * keep + 3 * (kLayers - keep) + 15}) {
      DeviceRank rank(file.path(), slots);
      PlanMaker maker(rank.runner(), rank.rank().info());
      MakerOptions options{.kept = LayerSet::Interleaved(keep, kLayers)};
      if (slots < 200) options.after_plan = [&] { rank.rank().pool().Drain(); };
      EXPECT_EQ(maker.Run(Requests(), 20, options), want) << slots << " slots, " << keep << " layers kept";
      if (slots < 200) {
        EXPECT_GT(maker.bytes_in(), 0);
      }
    }
  }
}

// No step waits for the device before its end: what is copied out waits for an event.
TEST(DeviceRunnerTest, LayersDoNotWaitForTheDevice) {
  const TinyFile file({.layers = kLayers});
  const auto waits = [&](const LayerSet& kept) {
    DeviceRank rank(file.path(), 200);
    PlanMaker maker(rank.runner(), rank.rank().info());
    maker.Run(Requests(), 1, {.kept = kept});
    rank.rank().pool().Drain();
    const int64_t copies = rank.device().CountOf("WaitEvent");
    EXPECT_EQ(copies > 0, kept.empty());
    return rank.device().CountOf("Synchronize") - copies;  // the thread that copies waits for each of its batches
  };
  EXPECT_LE(waits(LayerSet()), waits(LayerSet::Range(0, kLayers)) + 2);
}

TEST(DeviceRunnerTest, AFaultOfTheDeviceEndsTheStepWithoutTokens) {
  const TinyFile file({.layers = kLayers});
  DeviceRank rank(file.path(), 200);
  StepPlan plan{.epoch = Epoch{1}, .id = PlanId{1}};
  PlanSequence& s = plan.sequences.emplace_back();
  s.request = RequestId{1};
  s.attempt = 1;
  s.tokens.assign(20, 5);
  s.opening = Opening{};
  s.kept = LayerSet();
  s.names = SealedNames{0, {BlockId{1, 1}, BlockId{1, 2}}};
  s.sample = true;
  rank.device().fault_in_kernel = true;
  const StepResult result = rank.runner().Execute(plan);
  EXPECT_THAT(result.status, StatusIs(absl::StatusCode::kInternal, AllOf(HasSubstr("cuda"), HasSubstr("illegal"))));
  EXPECT_TRUE(result.sampled.empty());
  rank.rank().pool().Drain();
  EXPECT_EQ(rank.runner().Report(Epoch{1}).bytes_out, 0) << "blocks of a step that failed are not kept";
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
