// The bookkeeping of a decode step on a rank: Open, Begin, Attend, End, Close with ops that do nothing.
#include <benchmark/benchmark.h>

#include <memory>

#include "common/check.h"
#include "worker/layer_pager.h"

namespace interlace {
namespace {

constexpr KvBlockShape kShape{16, 1, 8, DType::kBF16};
constexpr int32_t kLayers = 30, kContext = 512;

// The memory of the cpu backend, and ops that do nothing.
class IdleBackend final : public Backend {
 public:
  IdleBackend() : cpu_(*CreateBackend("cpu", {.ops = "reference", .threads = 1})), ops_(cpu_->ops()) {
    ops_.kv_append = [](const KvAppendArgs& args, OpContext) { benchmark::DoNotOptimize(args.sequences.data()); };
    ops_.paged_attention = [](const PagedAttentionArgs& args, OpContext) {
      benchmark::DoNotOptimize(args.sequences.data());
    };
  }
  absl::string_view name() const override { return "idle"; }
  const OpTable& ops() const override { return ops_; }
  OpContext context() override { return cpu_->context(); }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  int threads() const override { return 1; }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(int64_t bytes) override { return cpu_->Allocate(bytes); }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateDevice(int64_t bytes) override { return Allocate(bytes); }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateHost(int64_t bytes) override { return Allocate(bytes); }
  DeviceCopies& copies() override { return cpu_->copies(); }

 private:
  const std::unique_ptr<Backend> cpu_;
  OpTable ops_;
};

// Sequences that decode, each with its own context of kContext tokens, in steps of all of them.
class DecodingRank {
 public:
  DecodingRank(int32_t sequences, int32_t window, LayerSet kept) : sequences_(sequences), kept_(kept) {
    const int64_t blocks = int64_t{sequences} * (kContext / 16 + 64) * kLayers;
    arena_ = *KvArena::Create(backend_, blocks * kShape.bytes(), kShape.bytes());
    frames_ = *FrameStore::Create(backend_, blocks * FrameStride(kShape.bytes()), kShape.bytes());
    KvPool::Options options;
    options.layer_end = kLayers;
    options.heads = {0, 1};
    options.payload_bytes = kShape.bytes();
    TierStack::Options tiers;
    tiers.payload_bytes = kShape.bytes();
    tiers.layer_end = kLayers;
    auto stack = std::make_unique<TierStack>(tiers, std::vector<std::unique_ptr<KvTier>>(), clock_, faults_);
    pool_ = *KvPool::Create(options, backend_, *arena_, *frames_, std::move(stack), clock_, faults_);
    LayerPager::Options pager{.shard = {0, 1, 0, kLayers}, .shape = kShape, .heads = 1};
    for (int32_t l = 0; l < kLayers; ++l) pager.attention.push_back({.window = l % 6 == 5 ? 0 : window});
    pager_ = std::make_unique<LayerPager>(pager, backend_, *pool_, clock_);
    for (int32_t s = 0; s < sequences; ++s) {
      StepPlan plan = Next();
      AddSequence(s, kContext, &plan);
      plan.sequences[0].opening = Opening{};
      plan.sequences[0].kept = kept_;
      Run(plan);
    }
    pool_->Drain();
    length_ = kContext;
  }

  // The plan of the next decode step, which names the blocks that it fills.
  StepPlan NextStep() {
    StepPlan plan = Next();
    for (int32_t s = 0; s < sequences_; ++s) AddSequence(s, 1, &plan);
    ++length_;
    return plan;
  }
  StepResult Run(const StepPlan& plan, const StepPlan* next = nullptr) {
    pager_->Open(plan, {});
    const Tensor none{nullptr, DType::kF32, plan.tokens(), 8};
    for (int32_t l = 0; l < kLayers; ++l) {
      pager_->Begin(LayerId{l});
      pager_->Attend(LayerId{l}, none, none, none, none);
      pager_->End(LayerId{l});
    }
    pager_->EndLayers(next);
    StepResult result;
    pager_->Close(&result);
    CHECK(result.lost.empty());
    return result;
  }

 private:
  StepPlan Next() { return {.epoch = Epoch{1}, .id = PlanId{++plans_}}; }
  void AddSequence(int32_t s, int32_t tokens, StepPlan* plan) {
    PlanSequence& p = plan->sequences.emplace_back();
    p.request = RequestId{static_cast<uint64_t>(s) + 1};
    p.attempt = 1;
    p.start = length_;
    p.tokens.assign(tokens, 7);
    const int32_t before = length_ / 16, after = (length_ + tokens) / 16;
    if (after == before) return;
    p.names = SealedNames{.first = before};
    for (int32_t b = before; b < after; ++b) {
      p.names->ids.push_back({static_cast<uint64_t>(s) + 1, static_cast<uint64_t>(b) + 1});
    }
  }

  const int32_t sequences_;
  const LayerSet kept_;
  IdleBackend backend_;
  RealClock clock_;
  FaultPoints faults_;
  std::unique_ptr<KvArena> arena_;
  std::unique_ptr<FrameStore> frames_;
  std::unique_ptr<KvPool> pool_;
  std::unique_ptr<LayerPager> pager_;
  int32_t length_ = 0;
  uint64_t plans_ = 0;
};

// All blocks on the device; `border`: of the steps in which every sequence fills its block and those in which it begins
// one, or else of the other fourteen of sixteen.
void BM_DecodeStep(benchmark::State& state) {
  DecodingRank rank(static_cast<int32_t>(state.range(0)), static_cast<int32_t>(state.range(1)),
                    LayerSet::Range(0, kLayers));
  const bool border = state.range(2) != 0;
  for (auto _ : state) {
    state.PauseTiming();
    StepPlan plan = rank.NextStep();
    while ((plan.sequences[0].start % 16 == 0 || plan.sequences[0].start % 16 == 15) != border) {
      rank.Run(plan);
      plan = rank.NextStep();
    }
    state.ResumeTiming();
    rank.Run(plan);
  }
}
BENCHMARK(BM_DecodeStep)
    ->ArgNames({"sequences", "window", "border"})
    ->Args({64, 0, 0})
    ->Args({1000, 0, 0})
    ->Args({1000, 128, 0})
    ->Args({1000, 0, 1})
    ->Iterations(32)
    ->Unit(benchmark::kMicrosecond);

// Half of the layers on the host: each step reads them through the ring. Blocks of 512 bytes: it is the count that
// costs.
void BM_StreamedStep(benchmark::State& state) {
  DecodingRank rank(static_cast<int32_t>(state.range(0)), 0, LayerSet::Interleaved(kLayers / 2, kLayers));
  int64_t bytes = 0;
  StepPlan plan = rank.NextStep();
  for (auto _ : state) {
    state.PauseTiming();
    const StepPlan next = rank.NextStep();
    state.ResumeTiming();
    bytes += rank.Run(plan, &next).bytes_in;
    state.PauseTiming();
    plan = next;
    state.ResumeTiming();
  }
  state.counters["blocks_per_step"] =
      static_cast<double>(bytes) / static_cast<double>(kShape.bytes()) / static_cast<double>(state.iterations());
}
BENCHMARK(BM_StreamedStep)->ArgName("sequences")->Arg(64)->Iterations(32)->Unit(benchmark::kMicrosecond)->UseRealTime();

}  // namespace
}  // namespace interlace

BENCHMARK_MAIN();
