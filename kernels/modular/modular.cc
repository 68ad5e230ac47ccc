#include "kernels/modular/modular.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "common/check.h"
#include "kernels/dequantise.h"

namespace interlace {
namespace {

// splitmix64's mixer. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
int64_t Hash(uint64_t a, uint64_t b = 0) { return static_cast<int64_t>(Mix(Mix(a) ^ b) % kPrime); }
uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
float Stored(int64_t residue) { return static_cast<float>(residue); }

void ForRows(const OpContext& on, int64_t rows, absl::FunctionRef<void(int64_t)> body) {
  on.team().ParallelFor(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

// Residues of a row of x.
std::vector<int64_t> RowOf(const Tensor& x, int64_t row) {
  std::vector<int64_t> out(static_cast<size_t>(x.cols));
  for (int64_t i = 0; i < x.cols; ++i) out[i] = ResidueOf(x.f32_row(row)[i]);
  return out;
}

// Weights are packed as residues, [rows, k] of uint32.
const uint32_t* WeightRow(const LinearWeight& w, int64_t row) {
  return reinterpret_cast<const uint32_t*>(w.data) + row * w.k;
}
int64_t Dot(const std::vector<int64_t>& x, const LinearWeight& w, int64_t row) {
  const uint32_t* weights = WeightRow(w, row);
  int64_t sum = 0;  // below 2^36 a product: room for 2^27 of them
  for (int64_t i = 0; i < w.k; ++i) sum += x[i] * weights[i];
  return sum % kPrime;
}

int64_t WeightBytes(DType, int64_t rows, int64_t k) { return (rows * k * int64_t{sizeof(uint32_t)} + 63) / 64 * 64; }

void PackWeight(const Tensor& rows, std::byte* out, OpContext on) {
  auto* packed = reinterpret_cast<uint32_t*>(out);
  ForRows(on, rows.rows, [&](int64_t row) {
    std::vector<float> values(static_cast<size_t>(rows.cols));
    DequantiseRow(rows.dtype, static_cast<const std::byte*>(rows.data) + row * RowBytes(rows.dtype, rows.cols),
                  rows.cols, values.data());
    for (int64_t i = 0; i < rows.cols; ++i) {
      packed[row * rows.cols + i] = static_cast<uint32_t>(ResidueOfWeight(values[i]));
    }
  });
}

void Embedding(const EmbeddingArgs& args, OpContext on) {
  const int64_t scale = ResidueOfWeight(args.scale);
  ForRows(on, args.out.rows, [&](int64_t row) {
    const uint32_t* values = WeightRow(args.table, args.tokens[row]);
    for (int64_t i = 0; i < args.table.k; ++i) args.out.f32_row(row)[i] = Stored(scale * values[i] % kPrime);
  });
}

// Each element depends on the whole row, as in the real one.
void RmsNorm(const RmsNormArgs& args, OpContext on) {
  ForRows(on, args.x.rows, [&](int64_t row) {
    const std::vector<int64_t> x = RowOf(args.x, row);
    int64_t squares = 0;
    for (const int64_t value : x) squares = (squares + value * value) % kPrime;
    for (int64_t i = 0; i < args.x.cols; ++i) {
      args.out.f32_row(row)[i] = Stored((x[i] + squares) * ResidueOfWeight(args.weight.f32()[i]) % kPrime);
    }
  });
}

// A pair is multiplied by a 2x2 matrix of two hashes of position and frequency, shaped as a rotation.
void Rope(const RopeArgs& args, OpContext on) {
  const auto half = static_cast<int64_t>(args.frequencies.size());
  const bool adjacent = args.pairs == RopePairs::kAdjacent;
  ForRows(on, args.x.rows, [&](int64_t row) {
    for (int64_t head = 0; head < args.x.cols / args.head_dim; ++head) {
      float* x = args.x.f32_row(row) + head * args.head_dim;
      for (int64_t i = 0; i < half; ++i) {
        const uint64_t turn = static_cast<uint64_t>(args.positions[row]) << 32 | Bits(args.frequencies[i]);
        const int64_t c = Hash(turn, 1), s = Hash(turn, 2);
        float& first = x[adjacent ? 2 * i : i];
        float& second = x[adjacent ? 2 * i + 1 : i + half];
        const int64_t a = ResidueOf(first), b = ResidueOf(second);
        first = Stored((a * c + b * (kPrime - s)) % kPrime);
        second = Stored((a * s + b * c) % kPrime);
      }
    }
  });
}

void Linear(const LinearArgs& args, OpContext on) {
  ForRows(on, args.x.rows, [&](int64_t row) {
    const std::vector<int64_t> x = RowOf(args.x, row);
    for (const LinearOut& out : args.outs) {
      for (int64_t r = 0; r < out.w.rows; ++r) {
        float& y = out.y.f32_row(row)[r];
        int64_t sum = Dot(x, out.w, r);
        if (out.bias != nullptr) sum += ResidueOfWeight(out.bias[r]);
        if (out.accumulate) sum += ResidueOf(y);
        y = Stored(sum % kPrime);
      }
    }
  });
}

void GatedLinear(const GatedLinearArgs& args, OpContext on) {
  const int64_t kind = Hash(static_cast<uint64_t>(args.kind), 3);
  ForRows(on, args.x.rows, [&](int64_t row) {
    const std::vector<int64_t> x = RowOf(args.x, row);
    for (int64_t r = 0; r < args.gate.rows; ++r) {
      const int64_t gate = Dot(x, args.gate, r), up = Dot(x, args.up, r);
      args.out.f32_row(row)[r] = Stored((gate * gate % kPrime + kind) % kPrime * up % kPrime);
    }
  });
}

void Gate(const GateArgs& args, OpContext on) {
  const int64_t kind = Hash(static_cast<uint64_t>(args.kind), 3);
  ForRows(on, args.gate.rows, [&](int64_t row) {
    for (int64_t r = 0; r < args.gate.cols; ++r) {
      float& out = args.gate.f32_row(row)[r];
      const int64_t gate = ResidueOf(out), up = ResidueOf(args.up.f32_row(row)[r]);
      out = Stored((gate * gate % kPrime + kind) % kPrime * up % kPrime);
    }
  });
}

void SoftCap(const SoftCapArgs& args, OpContext on) {
  const int64_t cap = Hash(Bits(args.cap), 4);
  ForRows(on, args.x.rows, [&](int64_t row) {
    for (int64_t i = 0; i < args.x.cols; ++i) {
      float& x = args.x.f32_row(row)[i];
      x = Stored((ResidueOf(x) * ResidueOf(x) + cap) % kPrime);
    }
  });
}

// With a scale of 1 it is the sum that `linear` makes with accumulate, so that parts may be added up by either.
void ResidualAdd(const ResidualAddArgs& args, OpContext on) {
  const int64_t scale = args.scale == 1 ? 1 : ResidueOfWeight(args.scale);
  ForRows(on, args.x.rows, [&](int64_t row) {
    for (int64_t i = 0; i < args.x.cols; ++i) {
      float& x = args.x.f32_row(row)[i];
      x = Stored((ResidueOf(x) + scale * ResidueOf(args.y.f32_row(row)[i])) % kPrime);
    }
  });
}

// The largest residues are chosen, and are the weights.
void MoeRoute(const MoeRouteArgs& args, OpContext on) {
  const int64_t slots = args.weights.cols, scale = ResidueOfWeight(args.scale);
  ForRows(on, args.logits.rows, [&](int64_t row) {
    std::vector<std::pair<int64_t, int32_t>> order;
    for (int64_t e = 0; e < args.logits.cols; ++e) {
      order.emplace_back(-ResidueOf(args.logits.f32_row(row)[e]), static_cast<int32_t>(e));
    }
    std::sort(order.begin(), order.end());
    for (int64_t s = 0; s < slots; ++s) {
      const bool shared = s == args.top_k;
      args.experts[row * slots + s] = shared ? static_cast<int32_t>(args.logits.cols) : order[s].second;
      const int64_t weight = shared ? ResidueOf(args.shared.f32_row(row)[0]) : -order[s].first;
      args.weights.f32_row(row)[s] = Stored(weight * scale % kPrime);
    }
  });
}

void MoeFfn(const MoeFfnArgs& args, OpContext on) {
  const int64_t kind = Hash(static_cast<uint64_t>(args.kind), 3), slots = args.weights.cols;
  ForRows(on, args.x.rows, [&](int64_t row) {
    const std::vector<int64_t> x = RowOf(args.x, row);
    for (int64_t s = 0; s < slots; ++s) {
      const ExpertWeight& w = args.table[args.experts[row * slots + s]];
      if (w.gate.data == nullptr) continue;
      const int64_t weight = ResidueOf(args.weights.f32_row(row)[s]);
      std::vector<int64_t> gated(w.gate.rows);
      for (int64_t r = 0; r < w.gate.rows; ++r) {
        const int64_t gate = Dot(x, w.gate, r), up = Dot(x, w.up, r);
        gated[r] = (gate * gate % kPrime + kind) % kPrime * up % kPrime;
      }
      for (int64_t r = 0; r < w.down.rows; ++r) {
        float& y = args.out.f32_row(row)[r];
        y = Stored((ResidueOf(y) + weight * Dot(gated, w.down, r)) % kPrime);
      }
    }
  });
}

void KvAppend(const KvAppendArgs& args, OpContext on) {
  const KvBlockShape& s = args.shape;
  CHECK_MSG(s.dtype == DType::kF32, "modular KV is F32: set kv.dtype=f32");
  for (const SequenceRows& sequence : args.sequences) {
    ForRows(on, sequence.rows, [&](int64_t i) {
      const int64_t position = sequence.start + i, slot = position % s.block_tokens;
      auto* block = reinterpret_cast<float*>(sequence.blocks[position / s.block_tokens]);
      for (int64_t c = 0; c < int64_t{s.kv_heads} * s.head_dim; ++c) {
        const int64_t head = c / s.head_dim, d = c % s.head_dim;
        block[c * s.block_tokens + slot] = Stored(ResidueOf(args.k.f32_row(sequence.row + i)[c]));
        block[s.k_elements() + (head * s.block_tokens + slot) * s.head_dim + d] =
            Stored(ResidueOf(args.v.f32_row(sequence.row + i)[c]));
      }
    });
  }
}

// out = sum over the positions that the row sees of f(q.k, position) * v, f(s, p) = (s + h(p))^2 * h'(p) + h''(p), with
// scale and cap among what the hashes are of.
void AttendRow(const PagedAttentionArgs& args, const SequenceRows& sequence, int64_t i) {
  const KvBlockShape& s = args.shape;
  const int64_t position = sequence.start + i;
  const int64_t first = args.window > 0 ? std::max<int64_t>(0, position + 1 - args.window) : 0;
  const uint64_t settings = uint64_t{Bits(args.scale)} << 32 | Bits(args.soft_cap);
  const std::vector<int64_t> q = RowOf(args.q, sequence.row + i);
  for (int64_t h = 0; h < args.heads; ++h) {
    const int64_t kv_head = h / (args.heads / s.kv_heads);
    std::vector<int64_t> sums(static_cast<size_t>(s.head_dim));
    int64_t weights = 0;
    for (int64_t p = first; p <= position; ++p) {
      const auto* block = reinterpret_cast<const float*>(sequence.blocks[p / s.block_tokens]);
      const int64_t slot = p % s.block_tokens;
      const float* k = block + kv_head * s.head_dim * s.block_tokens + slot;
      const float* v = block + s.k_elements() + (kv_head * s.block_tokens + slot) * s.head_dim;
      int64_t score = 0;
      for (int64_t d = 0; d < s.head_dim; ++d) score += q[h * s.head_dim + d] * ResidueOf(k[d * s.block_tokens]);
      const auto at = static_cast<uint64_t>(p) ^ Mix(settings);
      const int64_t shifted = (score + Hash(at, 4)) % kPrime;
      const int64_t weight = (shifted * shifted % kPrime * Hash(at, 5) + Hash(at, 6)) % kPrime;
      weights += weight;
      for (int64_t d = 0; d < s.head_dim; ++d) sums[d] = (sums[d] + weight * ResidueOf(v[d])) % kPrime;
    }
    for (int64_t d = 0; d < s.head_dim; ++d) args.out.f32_row(sequence.row + i)[h * s.head_dim + d] = Stored(sums[d]);
    if (args.lse != nullptr) args.lse[(sequence.row + i) * args.heads + h] = Stored(weights % kPrime);
  }
}

void PagedAttention(const PagedAttentionArgs& args, OpContext on) {
  CHECK_MSG(args.shape.dtype == DType::kF32, "modular KV is F32: set kv.dtype=f32");
  for (const SequenceRows& sequence : args.sequences) {
    ForRows(on, sequence.rows, [&](int64_t i) { AttendRow(args, sequence, i); });
  }
}

// All that a row's settings and history say, so that one that is lost or stale changes the token.
uint64_t HistoryOf(const SampleRow& how) {
  uint64_t history = 0;
  for (const TokenBias& b : how.bias) history = Mix(history ^ static_cast<uint64_t>(ResidueOfWeight(b.bias) + b.token));
  for (const SeenToken& s : how.seen) history = Mix(history ^ static_cast<uint64_t>(kPrime * s.in_output + s.token));
  return history;
}

void Sample(const SampleArgs& args, OpContext on) {
  ForRows(on, args.logits.rows, [&](int64_t row) {
    const SampleRow& how = args.rows[row];
    const uint64_t history = HistoryOf(how);
    int64_t best = -1;
    if (how.given >= 0) {
      const float* const logits = args.logits.f32_row(row);
      const int64_t own = ResidueOf(logits[how.given]);
      int32_t rank = 1;
      for (int64_t i = 0; i < args.logits.cols; ++i) {
        rank += ResidueOf(logits[i]) > own || (ResidueOf(logits[i]) == own && i < how.given) ? 1 : 0;
      }
      args.tokens[row] = how.given;
      if (!args.ranks.empty()) args.ranks[row] = rank;
      best = own;
    }
    for (int64_t i = 0; how.given < 0 && i < args.logits.cols; ++i) {
      if (std::find(how.masked.begin(), how.masked.end(), i) != how.masked.end()) continue;
      int64_t value = ResidueOf(args.logits.f32_row(row)[i]);
      // A row of zero weights has the residue 0 and is never chosen where any other is not.
      if (how.temperature > 0) value = value * (1 + Hash(how.seed ^ Mix(how.index), 7)) % kPrime;
      if (history != 0) value = value * (1 + Hash(history, static_cast<uint64_t>(i))) % kPrime;
      if (value > best) {
        best = value;
        args.tokens[row] = static_cast<int32_t>(i);
      }
    }
    for (int64_t k = 0; k <= how.logprobs; ++k) args.logprobs[row * args.logprobs_stride + k] = {};
    if (how.logprobs >= 0) args.logprobs[row * args.logprobs_stride] = {args.tokens[row], -static_cast<float>(best)};
  });
}

constexpr OpTable kModular = {
    .name = "modular",
    .embedding = &Embedding,
    .rms_norm = &RmsNorm,
    .rope = &Rope,
    .linear = &Linear,
    .gated_linear = &GatedLinear,
    .gate = &Gate,
    .kv_append = &KvAppend,
    .paged_attention = &PagedAttention,
    .sample = &Sample,
    .residual_add = &ResidualAdd,
    .soft_cap = &SoftCap,
    .moe_route = &MoeRoute,
    .moe_ffn = &MoeFfn,
    .weight_bytes = &WeightBytes,
    .pack_weight = &PackWeight,
};

// Owns the cpu backend that it takes memory and threads from. Owned by the rank; thread: runner.
class ModularBackend final : public Backend {
 public:
  explicit ModularBackend(std::unique_ptr<Backend> cpu) : cpu_(std::move(cpu)) {}
  absl::string_view name() const override { return "modular"; }
  const OpTable& ops() const override { return kModular; }
  OpContext context() override { return cpu_->context(); }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  int threads() const override { return cpu_->threads(); }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(int64_t bytes) override { return cpu_->Allocate(bytes); }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateDevice(int64_t bytes) override {
    return cpu_->AllocateDevice(bytes);
  }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateHost(int64_t bytes) override {
    return cpu_->AllocateHost(bytes);
  }
  DeviceCopies& copies() override { return cpu_->copies(); }

 private:
  const std::unique_ptr<Backend> cpu_;
};

}  // namespace

int64_t ResidueOfWeight(float value) {
  if (value == 0) return 0;
  return 1 + static_cast<int64_t>(Mix(Bits(value)) % (kPrime - 1));
}

const OpTable& ModularOps() { return kModular; }

absl::StatusOr<std::unique_ptr<Backend>> MakeModularBackend(const BackendOptions& options) {
  absl::StatusOr<std::unique_ptr<Backend>> cpu = CreateBackend("cpu", {.ops = "reference", .threads = options.threads});
  if (!cpu.ok()) return cpu.status();
  return std::make_unique<ModularBackend>(*std::move(cpu));
}

}  // namespace interlace
