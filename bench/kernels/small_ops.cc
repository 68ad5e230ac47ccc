#include "bench/kernels/small_ops.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/embedding/embedding_cases.h"
#include "kernels/kv_append/kv_append_cases.h"
#include "kernels/rms_norm/rms_norm_cases.h"
#include "kernels/rope/rope_cases.h"
#include "kernels/sample/sample_cases.h"
#include "tests/kernels/packed_weight.h"
#include "tests/kernels/paged_kv.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

Tensor View(std::vector<float>& values, int64_t cols) {
  return {values.data(), DType::kF32, static_cast<int64_t>(values.size()) / cols, cols};
}

void BenchEmbedding(benchmark::State& state, Backend& backend, const EmbeddingCase& c) {
  Random random(1);
  std::vector<uint8_t> bytes = RandomWeights(c.dtype, c.vocab, c.width, random);
  std::vector<int32_t> tokens(c.tokens);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.Below(c.vocab));
  std::vector<float> out(c.tokens * c.width);
  const PackedWeight table(backend.ops(), backend, {bytes.data(), c.dtype, c.vocab, c.width});
  for (auto _ : state) backend.ops().embedding({View(out, c.width), table.weight(), tokens}, backend.context());
}

void BenchRmsNorm(benchmark::State& state, Backend& backend, const RmsNormCase& c) {
  Random random(1);
  std::vector<float> x = random.Floats(c.tokens * c.width);
  std::vector<float> weight = random.Floats(c.width);
  std::vector<float> out(x.size());
  for (auto _ : state) {
    backend.ops().rms_norm({View(out, c.width), View(x, c.width), View(weight, c.width)}, backend.context());
  }
}

void BenchRope(benchmark::State& state, Backend& backend, const RopeCase& c) {
  Random random(1);
  std::vector<float> x = random.Floats(c.tokens * c.heads * c.head_dim);
  std::vector<float> frequencies(c.head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = static_cast<float>(std::pow(100000.0, -2.0 * static_cast<double>(i) / c.head_dim));
  }
  std::vector<int32_t> positions(c.tokens);
  std::iota(positions.begin(), positions.end(), c.first_position);
  for (auto _ : state) {
    backend.ops().rope({View(x, c.heads * c.head_dim), positions, frequencies, c.head_dim}, backend.context());
  }
}

void BenchKvAppend(benchmark::State& state, Backend& backend, const KvAppendCase& c) {
  Random random(1);
  const int64_t width = int64_t{c.shape.kv_heads} * c.shape.head_dim;
  std::vector<float> k = random.Floats(c.tokens * width);
  std::vector<float> v = random.Floats(c.tokens * width);
  PagedKv kv(backend, c.shape, c.start + c.tokens, random);
  for (auto _ : state) kv.Append(backend.ops(), k, v, c.start, backend.context());
}

void BenchSample(benchmark::State& state, Backend& backend, const SampleCase& c) {
  Random random(1);
  std::vector<float> logits = random.Floats(c.rows * c.vocab, 10);
  std::vector<SampleRow> rows(c.rows, c.settings);
  std::vector<int32_t> tokens(c.rows);
  constexpr int64_t kStride = 21;
  std::vector<TokenLogprob> logprobs(c.rows * kStride);
  for (auto _ : state) {
    for (SampleRow& row : rows) ++row.index;
    backend.ops().sample({absl::MakeSpan(tokens), View(logits, c.vocab), rows, absl::MakeSpan(logprobs), kStride},
                         backend.context());
  }
}

template <typename Cases, typename Bench>
void RegisterCases(absl::string_view op, const Cases& cases, Bench bench, const MakeBackendFor& backend_for,
                   const RegisterBench& add) {
  for (const auto& c : cases) {
    if (!absl::StartsWith(c.name, "smollm2")) continue;
    add(absl::StrCat(op, "/", c.name), [&c, bench, backend_for](benchmark::State& state) {
      std::unique_ptr<Backend> backend = backend_for(static_cast<int>(state.range(0)));
      bench(state, *backend, c);
    });
  }
}

}  // namespace

void RegisterSmallOps(const MakeBackendFor& backend_for, const RegisterBench& add) {
  RegisterCases("embedding", kEmbeddingCases, BenchEmbedding, backend_for, add);
  RegisterCases("rms_norm", kRmsNormCases, BenchRmsNorm, backend_for, add);
  RegisterCases("rope", kRopeCases, BenchRope, backend_for, add);
  RegisterCases("kv_append", kKvAppendCases, BenchKvAppend, backend_for, add);
  RegisterCases("sample", kSampleCases, BenchSample, backend_for, add);
}

}  // namespace interlace
