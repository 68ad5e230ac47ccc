// Ops over rows: embedding, rms_norm, rope, linear, gated_linear, sample.
#include "tests/kernels/op_checks.h"

#include <limits>
#include <utility>

#include "kernels/embedding/embedding_cases.h"
#include "kernels/linear/linear_cases.h"
#include "kernels/residual_add/residual_add.h"
#include "kernels/rms_norm/rms_norm_cases.h"
#include "kernels/rope/rope_cases.h"
#include "kernels/sample/sample_cases.h"
#include "kernels/soft_cap/soft_cap_cases.h"
#include "tests/kernels/device_tensor.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
// Relative to sum(|x| * |w|), both rounded: orders of sums, and the tensor cores' truncation of partial sums.
constexpr double kProductTolerance = 2e-5;

const OpTable& Reference() { return **FindOpTable("reference"); }

// Weights in the file's layout, their values rounded as the device rounds them, and the device's own copy.
struct CheckedWeight {
  CheckedWeight(Backend& device, DType dtype, int64_t rows, int64_t k, Random& random)
      : bytes(RandomWeights(dtype, rows, k, random)), rounded(rows * k) {
    const Tensor file{bytes.data(), dtype, rows, k};
    for (int64_t r = 0; r < rows; ++r) DequantiseRow(dtype, file.Rows(r, 1).data, k, &rounded[r * k]);
    for (float& value : rounded) value = RoundedToBf16(value);
    memory = device.Allocate(device.ops().weight_bytes(dtype, rows, k)).value();
    device.ops().pack_weight(file, memory->data(), device.context());
    on_device = {dtype, rows, k, memory->data()};
    on_host = {DType::kF32, rows, k, reinterpret_cast<const std::byte*>(rounded.data())};
  }
  std::vector<uint8_t> bytes;
  std::vector<float> rounded;  // [rows, k]
  std::unique_ptr<DeviceBuffer> memory;
  LinearWeight on_device, on_host;
};

std::vector<float> Rounded(std::vector<float> values) {
  for (float& value : values) value = RoundedToBf16(value);
  return values;
}

// Per element of y [tokens, rows]: kProductTolerance * (sum(|x| * |w|) + what is added).
std::vector<double> ProductTolerance(const std::vector<float>& x, const std::vector<float>& w, int64_t tokens,
                                     int64_t rows, int64_t k, double added) {
  std::vector<double> tolerance(tokens * rows);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < rows; ++r) {
      double sum = added;
      for (int64_t i = 0; i < k; ++i) sum += std::abs(double{x[t * k + i]} * w[r * k + i]);
      tolerance[t * rows + r] = kProductTolerance * sum;
    }
  }
  return tolerance;
}

}  // namespace

std::vector<OpCheck> CheckEmbedding(Backend& device) {
  std::vector<OpCheck> checks;
  ThreadTeam team(1);
  for (const EmbeddingCase& c : kEmbeddingCases) {
    OpCheck check{"embedding", std::string(c.name)};
    Random random(1);
    const CheckedWeight table(device, c.dtype, c.vocab, c.width, random);
    std::vector<int32_t> tokens(c.tokens);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random.Below(c.vocab));
    const float scale = c.tokens > 4 ? 1.5f : 1;
    DeviceTensor actual(device, c.tokens, c.width);
    std::vector<float> expected(c.tokens * c.width);
    device.ops().embedding({actual.tensor(), table.on_device, tokens, scale}, device.context());
    Reference().embedding({{expected.data(), DType::kF32, c.tokens, c.width}, table.on_host, tokens, scale}, team);
    Compare(actual.values(), expected, 0, &check);
    Finish(device, {&actual}, &check);
    checks.push_back(std::move(check));
  }
  return checks;
}

std::vector<OpCheck> CheckRmsNorm(Backend& device) {
  std::vector<OpCheck> checks;
  ThreadTeam team(1);
  for (const RmsNormCase& c : kRmsNormCases) {
    OpCheck check{"rms_norm", std::string(c.name)};
    Random random(2);
    std::vector<float> x = random.Floats(c.tokens * c.width, 3), w = random.Floats(c.width, 2);
    if (c.tokens > 2) x[2 * c.width - 1] = kNan;
    if (c.tokens > 4) x[3 * c.width] = -kInf;
    DeviceTensor in(device, c.tokens, c.width, x), weight(device, 1, c.width, w), separate(device, c.tokens, c.width);
    DeviceTensor& out = c.in_place ? in : separate;
    std::vector<float> expected(x.size());
    device.ops().rms_norm({out.tensor(), in.tensor(), weight.tensor()}, device.context());
    Reference().rms_norm({{expected.data(), DType::kF32, c.tokens, c.width},
                          {x.data(), DType::kF32, c.tokens, c.width},
                          {w.data(), DType::kF32, 1, c.width}},
                         team);
    double largest = 0;
    for (float value : expected) largest = std::isfinite(value) ? std::max(largest, std::abs(double{value})) : largest;
    Compare(out.values(), expected, kRmsNormTolerance * largest, &check);
    Finish(device, {&in, &weight, &separate}, &check);
    checks.push_back(std::move(check));
  }
  return checks;
}

std::vector<OpCheck> CheckRope(Backend& device) {
  std::vector<OpCheck> checks;
  ThreadTeam team(1);
  for (const RopeCase& c : kRopeCases) {
    for (const RopePairs pairs : {RopePairs::kAdjacent, RopePairs::kHalves}) {
      const bool adjacent = pairs == RopePairs::kAdjacent;
      OpCheck check{"rope", absl::StrCat(c.name, adjacent ? "" : "/halves")};
      Random random(3);
      const int64_t width = c.heads * c.head_dim;
      std::vector<float> x = random.Floats(c.tokens * width, 2),
                         frequencies((c.rotated > 0 ? c.rotated : c.head_dim) / 2);
      for (size_t i = 0; i < frequencies.size(); ++i) {
        frequencies[i] = static_cast<float>(std::pow(100000.0, -2.0 * static_cast<double>(i) / c.head_dim));
      }
      std::vector<int32_t> positions(c.tokens);
      for (int64_t t = 0; t < c.tokens; ++t) positions[t] = static_cast<int32_t>(c.first_position + t);
      if (c.tokens > 2) x[width + 3] = kNan;
      const float magnitude = adjacent ? 1 : 1.25f;
      DeviceTensor actual(device, c.tokens, width, x);
      RopeArgs args{actual.tensor(), positions, frequencies, c.head_dim, pairs, magnitude};
      device.ops().rope(args, device.context());
      args.x = {x.data(), DType::kF32, c.tokens, width};
      Reference().rope(args, team);
      Compare(actual.values(), x, kRopeTolerance * 4, &check);
      Finish(device, {&actual}, &check);
      checks.push_back(std::move(check));
    }
  }
  return checks;
}

std::vector<OpCheck> CheckLinear(Backend& device) {
  std::vector<OpCheck> checks;
  ThreadTeam team(1);
  for (const LinearCase& c : kLinearCases) {
    OpCheck check{"linear", std::string(c.name)};
    Random random(4);
    // A second product beside the first, with a bias, as Q, K and V are one call.
    const int64_t more = c.rows > 0 && c.rows < 1000 ? 5 : 0;
    const CheckedWeight w(device, c.dtype, c.rows, c.k, random), second(device, c.dtype, more, c.k, random);
    std::vector<float> x = random.Floats(c.tokens * c.k);
    if (c.tokens > 3) x[2 * c.k - 1] = kNan;
    if (c.tokens > 3) x[2 * c.k] = -kInf;
    const std::vector<float> before = random.Floats(c.tokens * c.rows), bias = random.Floats(more);
    DeviceTensor in(device, c.tokens, c.k, x), y(device, c.tokens, c.rows, before), y2(device, c.tokens, more);
    DeviceTensor bias_on_device(device, 1, more, bias);
    device.ops().linear({in.tensor(),
                         {{y.tensor(), w.on_device, nullptr, c.accumulate},
                          {y2.tensor(), second.on_device, bias_on_device.tensor().f32(), false}}},
                        device.context());
    x = Rounded(std::move(x));
    std::vector<float> expected = before, expected2(c.tokens * more);
    Reference().linear({{x.data(), DType::kF32, c.tokens, c.k},
                        {{{expected.data(), DType::kF32, c.tokens, c.rows}, w.on_host, nullptr, c.accumulate},
                         {{expected2.data(), DType::kF32, c.tokens, more}, second.on_host, bias.data(), false}}},
                       team);
    Compare(y.values(), expected, ProductTolerance(x, w.rounded, c.tokens, c.rows, c.k, c.accumulate ? 1 : 0), &check);
    Compare(y2.values(), expected2, ProductTolerance(x, second.rounded, c.tokens, more, c.k, 1), &check);
    Finish(device, {&in, &y, &y2, &bias_on_device}, &check);
    checks.push_back(std::move(check));
  }
  return checks;
}

std::vector<OpCheck> CheckGatedLinear(Backend& device) {
  std::vector<OpCheck> checks;
  ThreadTeam team(1);
  struct {
    const char* name;
    DType dtype;
    int64_t tokens, rows, k;
  } const cases[] = {{"no_tokens", DType::kF32, 0, 8, 32},
                     {"one", DType::kF32, 1, 1, 1},
                     {"odd_tail", DType::kBF16, 5, 7, 45},
                     {"smollm2_decode", DType::kQ4_1, 1, 1536, 576},
                     {"smollm2_chunk", DType::kQ8_0, 33, 1536, 576}};
  for (const auto& c : cases) {
    for (const GateKind kind : {GateKind::kSilu, GateKind::kGeluTanh}) {
      OpCheck check{"gated_linear", absl::StrCat(c.name, kind == GateKind::kSilu ? "" : "/gelu")};
      Random random(5);
      const CheckedWeight gate(device, c.dtype, c.rows, c.k, random), up(device, c.dtype, c.rows, c.k, random);
      std::vector<float> x = random.Floats(c.tokens * c.k, 0.3f);
      DeviceTensor in(device, c.tokens, c.k, x), out(device, c.tokens, c.rows);
      device.ops().gated_linear({out.tensor(), in.tensor(), gate.on_device, up.on_device, kind}, device.context());
      x = Rounded(std::move(x));
      std::vector<float> expected(c.tokens * c.rows);
      Reference().gated_linear({{expected.data(), DType::kF32, c.tokens, c.rows},
                                {x.data(), DType::kF32, c.tokens, c.k},
                                gate.on_host,
                                up.on_host,
                                kind},
                               team);
      // |act(g) u| grows by at most |u| * 1.2 per unit of g, and by |g| per unit of u.
      const std::vector<double> of_gate = ProductTolerance(x, gate.rounded, c.tokens, c.rows, c.k, 0);
      const std::vector<double> of_up = ProductTolerance(x, up.rounded, c.tokens, c.rows, c.k, 0);
      std::vector<double> tolerance(of_gate.size());
      for (size_t i = 0; i < tolerance.size(); ++i) {
        const double sum_gate = of_gate[i] / kProductTolerance, sum_up = of_up[i] / kProductTolerance;
        tolerance[i] = 1.2 * of_gate[i] * sum_up + of_up[i] * sum_gate + 1e-7;
      }
      Compare(out.values(), expected, tolerance, &check);
      Finish(device, {&in, &out}, &check);
      checks.push_back(std::move(check));
    }
  }
  return checks;
}

std::vector<OpCheck> CheckGate(Backend& device) {
  std::vector<OpCheck> checks;
  ThreadTeam team(1);
  for (const auto& [tokens, rows] : {std::pair<int64_t, int64_t>{0, 8}, {1, 1}, {3, 7}, {1, 1536}, {33, 1537}}) {
    for (const GateKind kind : {GateKind::kSilu, GateKind::kGeluTanh}) {
      OpCheck check{"gate", absl::StrCat(tokens, " x ", rows, kind == GateKind::kSilu ? "" : "/gelu")};
      Random random(12);
      std::vector<float> gate = random.Floats(tokens * rows, 4);
      const std::vector<float> up = random.Floats(tokens * rows, 4);
      if (tokens > 2) gate[rows] = kNan;
      DeviceTensor actual(device, tokens, rows, gate), on_device_up(device, tokens, rows, up);
      device.ops().gate({actual.tensor(), on_device_up.tensor(), kind}, device.context());
      std::vector<float> ups = up;
      Reference().gate({{gate.data(), DType::kF32, tokens, rows}, {ups.data(), DType::kF32, tokens, rows}, kind}, team);
      Compare(actual.values(), gate, 1e-5, &check);
      Finish(device, {&actual, &on_device_up}, &check);
      checks.push_back(std::move(check));
    }
  }
  return checks;
}

std::vector<OpCheck> CheckSample(Backend& device) {
  std::vector<OpCheck> checks;
  ThreadTeam team(1);
  for (const SampleCase& c : kSampleCases) {
    OpCheck check{"sample", std::string(c.name)};
    Random random(9);
    std::vector<float> logits = random.Floats(c.rows * c.vocab, 10);
    if (logits.size() > 10) logits[3] = kNan;
    if (logits.size() > 10) logits[5] = -kInf;
    std::vector<SampleRow> rows(c.rows, c.settings);
    for (int64_t i = 0; i < c.rows; ++i) rows[i].index = i;
    DeviceTensor on_device(device, c.rows, c.vocab, logits);
    std::vector<int32_t> actual(c.rows, -7), expected(c.rows, -7);
    const int64_t stride = c.settings.logprobs + 1;
    std::vector<TokenLogprob> actual_logprobs(c.rows * stride), expected_logprobs(c.rows * stride);
    device.ops().sample({absl::MakeSpan(actual), on_device.tensor(), rows, absl::MakeSpan(actual_logprobs), stride},
                        device.context());
    Reference().sample({absl::MakeSpan(expected),
                        {logits.data(), DType::kF32, c.rows, c.vocab},
                        rows,
                        absl::MakeSpan(expected_logprobs),
                        stride},
                       team);
    if (actual_logprobs != expected_logprobs) check.fault = "other log probabilities than the reference's";
    if (actual != expected) check.fault = "another token than the reference's";
    Finish(device, {&on_device}, &check);
    checks.push_back(std::move(check));
  }
  return checks;
}

std::vector<OpCheck> CheckResidualAdd(Backend& device) {
  std::vector<OpCheck> checks;
  for (const auto& [tokens, width] : {std::pair<int64_t, int64_t>{0, 8}, {1, 1}, {3, 7}, {1, 576}, {33, 577}}) {
    for (const float scale : {1.0f, 0.22f}) {
      OpCheck check{"residual_add", absl::StrCat(tokens, " x ", width, scale == 1 ? "" : " scaled")};
      Random random(10);
      std::vector<float> x = random.Floats(tokens * width), y = random.Floats(tokens * width);
      if (tokens > 2) y[width] = kNan;
      DeviceTensor on_device_x(device, tokens, width, x), on_device_y(device, tokens, width, y);
      device.ops().residual_add({on_device_x.tensor(), on_device_y.tensor(), scale}, device.context());
      for (size_t i = 0; i < x.size(); ++i) x[i] += scale * y[i];
      Compare(on_device_x.values(), x, kResidualAddTolerance, &check);
      Finish(device, {&on_device_x, &on_device_y}, &check);
      checks.push_back(std::move(check));
    }
  }
  return checks;
}

std::vector<OpCheck> CheckSoftCap(Backend& device) {
  std::vector<OpCheck> checks;
  ThreadTeam team(1);
  for (const SoftCapCase& c : kSoftCapCases) {
    OpCheck check{"soft_cap", std::string(c.name)};
    Random random(11);
    std::vector<float> x = random.Floats(c.tokens * c.width, 4 * c.cap);
    if (c.tokens > 2) x[c.width] = kNan;
    DeviceTensor actual(device, c.tokens, c.width, x);
    device.ops().soft_cap({actual.tensor(), c.cap}, device.context());
    Reference().soft_cap({{x.data(), DType::kF32, c.tokens, c.width}, c.cap}, team);
    Compare(actual.values(), x, kSoftCapTolerance * c.cap, &check);
    Finish(device, {&actual}, &check);
    checks.push_back(std::move(check));
  }
  return checks;
}

}  // namespace interlace
