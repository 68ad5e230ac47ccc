// kernel_bench: ceilings of this machine, the cases of linear and paged_attention, and all linear ops of a step of
// SmolLM2-135M (Q4_1 layers, Q8_0 head). Data is random, never zeros. Weights of the step benches are distinct per
// layer, so that they come from memory as in a real step.
//
// Counters: GB/s of weights or KV read, GFLOP/s, tok/s. The last argument of a name is the number of threads.
// --ops=NAME measures that op table; "auto" otherwise.
#include <benchmark/benchmark.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "bench/kernels/small_ops.h"
#include "common/check.h"
#include "kernels/backend.h"
#include "kernels/cpu/ceilings.h"
#include "kernels/linear/linear_cases.h"
#include "kernels/paged_attention/paged_attention_cases.h"
#include "tests/kernels/packed_weight.h"
#include "tests/kernels/paged_kv.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

using benchmark::Counter;

std::string& OpsFlag() {
  static std::string ops = "auto";
  return ops;
}
std::unique_ptr<Backend> CpuBackend(int threads) {
  return CreateBackend("cpu", {.ops = OpsFlag(), .threads = threads}).value();
}

void SetCounters(benchmark::State& state, double bytes, double flops, double tokens) {
  constexpr auto kRate = Counter::kIsIterationInvariantRate;
  state.counters["GB/s"] = Counter(bytes / 1e9, kRate);
  state.counters["GFLOP/s"] = Counter(flops / 1e9, kRate);
  state.counters["tok/s"] = Counter(tokens, kRate);
}

// Weights one after another in one stretch of device memory, as a rank holds them.
class WeightArena {
 public:
  WeightArena(Backend& backend, int64_t bytes) : backend_(backend), memory_(backend.Allocate(bytes).value()) {}
  LinearWeight Add(DType dtype, int64_t rows, int64_t k, Random& random) {
    std::vector<uint8_t> bytes = RandomWeights(dtype, rows, k, random);
    std::byte* at = memory_->data() + used_;
    used_ += backend_.ops().weight_bytes(dtype, rows, k);
    CHECK(used_ <= memory_->bytes());
    backend_.ops().pack_weight({bytes.data(), dtype, rows, k}, at, backend_.context());
    return {dtype, rows, k, at};
  }

 private:
  Backend& backend_;
  std::unique_ptr<DeviceBuffer> memory_;
  int64_t used_ = 0;
};

PackedWeight MakeWeight(Backend& backend, DType dtype, int64_t rows, int64_t k, Random& random) {
  std::vector<uint8_t> bytes = RandomWeights(dtype, rows, k, random);
  const Tensor view{bytes.data(), dtype, rows, k};
  return PackedWeight(backend.ops(), backend, view, std::move(bytes));
}
double BytesOf(const LinearWeight& w) { return static_cast<double>(w.rows * RowBytes(w.dtype, w.k)); }

void BenchFma(benchmark::State& state) {
  ThreadTeam team(static_cast<int>(state.range(0)));
  const CeilingLoops& loops = CeilingLoopsOf(OpsFlag());
  constexpr int64_t kRounds = 1'000'000;
  for (auto _ : state) {
    team.ParallelFor(state.range(0), 1, [&](int64_t, int64_t) { benchmark::DoNotOptimize(loops.fma(kRounds)); });
  }
  SetCounters(state, 0, static_cast<double>(state.range(0) * kRounds * loops.fma_flops), 0);
}

void BenchDot(benchmark::State& state) {
  ThreadTeam team(static_cast<int>(state.range(0)));
  const CeilingLoops& loops = CeilingLoopsOf(OpsFlag());
  constexpr int64_t kRounds = 1'000'000;
  for (auto _ : state) {
    team.ParallelFor(state.range(0), 1, [&](int64_t, int64_t) { benchmark::DoNotOptimize(loops.dot(kRounds)); });
  }
  SetCounters(state, 0, static_cast<double>(state.range(0) * kRounds * loops.dot_ops), 0);
}

void BenchRead(benchmark::State& state) {
  std::unique_ptr<Backend> backend = CpuBackend(static_cast<int>(state.range(0)));
  constexpr int64_t kBytes = int64_t{256} << 20;
  std::unique_ptr<DeviceBuffer> buffer = backend->Allocate(kBytes).value();
  std::memset(buffer->data(), 37, kBytes);
  const CeilingLoops& loops = CeilingLoopsOf(OpsFlag());
  for (auto _ : state) {
    backend->context().team().ParallelFor(kBytes, kReadGrain, [&](int64_t begin, int64_t end) {
      benchmark::DoNotOptimize(loops.read(buffer->data() + begin, end - begin));
    });
  }
  SetCounters(state, kBytes, 0, 0);
}

void BenchLinear(benchmark::State& state, const LinearCase& c) {
  std::unique_ptr<Backend> backend = CpuBackend(static_cast<int>(state.range(0)));
  Random random(1);
  const PackedWeight w = MakeWeight(*backend, c.dtype, c.rows, c.k, random);
  std::vector<float> x = random.Floats(c.tokens * c.k);
  std::vector<float> y(c.tokens * c.rows);
  const LinearOut out{{y.data(), DType::kF32, c.tokens, c.rows}, w.weight(), nullptr, c.accumulate};
  const LinearArgs args{{x.data(), DType::kF32, c.tokens, c.k}, {&out, 1}};
  for (auto _ : state) backend->ops().linear(args, backend->context());
  SetCounters(state, BytesOf(w.weight()), 2.0 * static_cast<double>(c.tokens * c.rows * c.k),
              static_cast<double>(c.tokens));
}

void BenchAttention(benchmark::State& state, const PagedAttentionCase& c) {
  std::unique_ptr<Backend> backend = CpuBackend(static_cast<int>(state.range(0)));
  Random random(2);
  constexpr int kLayers = 30;
  const int64_t kv_width = int64_t{c.shape.kv_heads} * c.shape.head_dim;
  const int64_t width = int64_t{c.heads} * c.shape.head_dim;
  const int64_t positions = c.start + c.tokens;
  std::vector<std::unique_ptr<PagedKv>> layers;
  for (int l = 0; l < kLayers; ++l) {
    layers.push_back(std::make_unique<PagedKv>(*backend, c.shape, positions, random));
    std::vector<float> k = random.Floats(positions * kv_width);
    std::vector<float> v = random.Floats(positions * kv_width);
    layers.back()->Append(backend->ops(), k, v, 0, backend->context());
  }
  std::vector<float> q = random.Floats(c.tokens * width);
  std::vector<float> out(c.tokens * width);
  for (auto _ : state) {
    for (const auto& layer : layers) {
      const SequenceRows rows{0, c.tokens, c.start, layer->blocks()};
      backend->ops().paged_attention({.out = {out.data(), DType::kF32, c.tokens, width},
                                      .q = {q.data(), DType::kF32, c.tokens, width},
                                      .shape = c.shape,
                                      .sequences = {&rows, 1},
                                      .heads = c.heads,
                                      .scale = 1 / std::sqrt(static_cast<float>(c.shape.head_dim))},
                                     backend->context());
    }
  }
  const double pairs = static_cast<double>(c.tokens) * (static_cast<double>(c.start) + (c.tokens + 1) / 2.0);
  SetCounters(state, kLayers * 2.0 * static_cast<double>(positions * kv_width) * sizeof(float),
              kLayers * 4.0 * pairs * static_cast<double>(width), static_cast<double>(c.tokens));
}

// All linear ops of `tokens` tokens; logits of the last.
void BenchStepLinears(benchmark::State& state, int64_t tokens) {
  std::unique_ptr<Backend> backend = CpuBackend(static_cast<int>(state.range(0)));
  Random random(3);
  struct Shape {
    int64_t rows;
    int64_t k;
  };
  constexpr Shape kLayer[] = {{576, 576}, {192, 576}, {192, 576}, {576, 576}, {1536, 576}, {1536, 576}, {576, 1536}};
  WeightArena arena(*backend, int64_t{128} << 20);
  std::vector<LinearWeight> weights;
  double bytes = 0;
  double flops = 0;
  for (int l = 0; l < 30; ++l) {
    for (const Shape& shape : kLayer) {
      weights.push_back(arena.Add(DType::kQ4_1, shape.rows, shape.k, random));
      flops += 2.0 * static_cast<double>(tokens * shape.rows * shape.k);
      bytes += BytesOf(weights.back());
    }
  }
  const LinearWeight head = arena.Add(DType::kQ8_0, 49152, 576, random);
  flops += 2.0 * 49152 * 576;
  bytes += BytesOf(head);
  std::vector<float> x = random.Floats(tokens * 1536);
  std::vector<float> y(std::max<int64_t>(tokens * 1536, 49152)), k(tokens * 192), v(tokens * 192);
  const auto view = [&](std::vector<float>& values, int64_t cols) {
    return Tensor{values.data(), DType::kF32, tokens, cols};
  };
  for (auto _ : state) {
    for (size_t l = 0; l < weights.size(); l += 7) {
      const LinearWeight* w = &weights[l];
      const OpContext on = backend->context();
      backend->ops().linear({view(x, 576), {{view(y, 576), w[0]}, {view(k, 192), w[1]}, {view(v, 192), w[2]}}}, on);
      backend->ops().linear({view(x, 576), {{view(y, 576), w[3]}}}, on);
      backend->ops().gated_linear({view(y, 1536), view(x, 576), w[4], w[5]}, on);
      backend->ops().linear({view(x, 1536), {{view(y, 576), w[6]}}}, on);
    }
    backend->ops().linear({{x.data(), DType::kF32, 1, 576}, {{{y.data(), DType::kF32, 1, 49152}, head}}},
                          backend->context());
  }
  SetCounters(state, bytes, flops, static_cast<double>(tokens));
}

void Register(const std::string& name, std::function<void(benchmark::State&)> body) {
  benchmark::RegisterBenchmark(name.c_str(), body)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
}

void RegisterAll() {
  Register("ceiling/fma", BenchFma);
  Register("ceiling/int8", BenchDot);
  Register("ceiling/read", BenchRead);
  for (const int64_t tokens : {1, 2, 4, 8, 32, 128, 512}) {
    Register(absl::StrCat("step_linears/", tokens),
             [tokens](benchmark::State& state) { BenchStepLinears(state, tokens); });
  }
  for (const LinearCase& c : kLinearCases) {
    if (!absl::StartsWith(c.name, "smollm2")) continue;
    Register(absl::StrCat("linear/", c.name), [&c](benchmark::State& state) { BenchLinear(state, c); });
  }
  // Thirty layers each.
  for (const PagedAttentionCase& c : kPagedAttentionCases) {
    if (!absl::StartsWith(c.name, "smollm2")) continue;
    Register(absl::StrCat("paged_attention/", c.name), [&c](benchmark::State& state) { BenchAttention(state, c); });
  }
  RegisterSmallOps(&CpuBackend, &Register);
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  absl::string_view flag;
  benchmark::Initialize(&argc, argv);
  if (argc == 2) flag = argv[1];
  if (absl::ConsumePrefix(&flag, "--ops=")) {
    interlace::OpsFlag() = std::string(flag);
    argc = 1;
  }
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  interlace::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
