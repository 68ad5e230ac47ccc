// Ops over paged KV: kv_append and paged_attention, for every type of KV that the backend stores. The reference reads
// F32 blocks that hold what the device's blocks decode to.
#include <limits>

#include "kernels/dequantise.h"
#include "kernels/kv_append/kv_append_cases.h"
#include "kernels/paged_attention/paged_attention_cases.h"
#include "tests/kernels/device_tensor.h"
#include "tests/kernels/op_checks.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr DType kKvTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8};

const OpTable& Reference() { return **FindOpTable("reference"); }

// The KV of one sequence in blocks at shuffled places of the device's memory; bytes never written are 0xFF (NaN).
class DeviceKv {
 public:
  DeviceKv(Backend& device, const KvBlockShape& shape, int64_t tokens, Random& random)
      : device_(device),
        shape_(shape),
        count_((tokens + shape.block_tokens - 1) / shape.block_tokens),
        memory_(device, std::vector<uint8_t>(count_ * shape.bytes(), 0xFF).data(), count_ * shape.bytes()) {
    for (int64_t i = 0; i < count_; ++i) blocks_.push_back(memory_.data() + i * shape.bytes());
    random.Shuffle(blocks_);
  }
  absl::Span<std::byte* const> blocks() const { return blocks_; }
  bool Intact() { return memory_.Intact(); }

  float K(int64_t position, int64_t head, int64_t d) const {
    const int64_t slot = position % shape_.block_tokens;
    return At(position, 0, (head * shape_.head_dim + d) * shape_.block_tokens + slot, head, slot);
  }
  float V(int64_t position, int64_t head, int64_t d) const {
    const int64_t slot = position % shape_.block_tokens;
    return At(position, 1, (head * shape_.block_tokens + slot) * shape_.head_dim + d, head, slot);
  }
  // F32 blocks of what is stored, in the sequence's order.
  std::vector<std::vector<std::byte>> Decoded(int64_t tokens) {
    (void)device_.Synchronize();
    const KvBlockShape plain{shape_.block_tokens, shape_.kv_heads, shape_.head_dim};
    std::vector<std::vector<std::byte>> blocks(count_, std::vector<std::byte>(plain.bytes(), std::byte{0xFF}));
    for (int64_t p = 0; p < tokens; ++p) {
      auto* k = reinterpret_cast<float*>(blocks[p / plain.block_tokens].data());
      float* v = k + plain.k_elements();
      const int64_t slot = p % plain.block_tokens;
      for (int64_t h = 0; h < plain.kv_heads; ++h) {
        for (int64_t d = 0; d < plain.head_dim; ++d) {
          k[(h * plain.head_dim + d) * plain.block_tokens + slot] = K(p, h, d);
          v[(h * plain.block_tokens + slot) * plain.head_dim + d] = V(p, h, d);
        }
      }
    }
    return blocks;
  }
  // The byte at [block][offset] in the sequence's order; the stream must be done.
  std::byte Raw(int64_t block, int64_t offset) const { return blocks_[block][offset]; }
  int64_t count() const { return count_; }

 private:
  float At(int64_t position, int half, int64_t index, int64_t head, int64_t slot) const {
    const std::byte* block = blocks_[position / shape_.block_tokens];
    const int64_t element = TraitsOf(shape_.dtype).block_bytes;
    const std::byte* from = block + (half * shape_.k_elements() + index) * element;
    if (shape_.dtype == DType::kI8) {
      const std::byte* scales = block + 2 * shape_.k_elements() + half * shape_.scale_bytes();
      float scale;
      std::memcpy(&scale, scales + (head * shape_.block_tokens + slot) * 4, sizeof scale);
      return scale * static_cast<float>(static_cast<int8_t>(*from));
    }
    float value;
    DequantiseRow(shape_.dtype, from, 1, &value);
    return value;
  }

  Backend& device_;
  const KvBlockShape shape_;
  const int64_t count_;
  DeviceBytes memory_;
  std::vector<std::byte*> blocks_;
};

// What is stored of `value`, whose head's largest magnitude is `largest`.
float Stored(DType dtype, float value, float largest) {
  switch (dtype) {
    case DType::kF16:
      return F16ToF32(F32ToF16(value));
    case DType::kBF16:
      return RoundedToBf16(value);
    case DType::kI8:
      return largest == 0 ? 0 : largest / 127 * std::nearbyint(value / (largest / 127));
    default:
      return value;
  }
}

float LargestOf(const float* head, int64_t head_dim) {
  float largest = 0;
  for (int64_t d = 0; d < head_dim; ++d) largest = std::max(largest, std::abs(head[d]));
  return largest;
}

// Two sequences of one call, with a row of no sequence between them.
struct Two {
  Two(Backend& device, const KvBlockShape& shape, int64_t tokens, int32_t start, Random& random)
      : tokens(tokens),
        rows(2 * tokens + 1),
        start{start, start / 2},
        first(device, shape, start + tokens, random),
        second(device, shape, start / 2 + tokens, random) {}
  std::vector<SequenceRows> Rows() const {
    return {{tokens + 1, tokens, start[0], first.blocks()}, {0, tokens, start[1], second.blocks()}};
  }
  const int64_t tokens, rows;
  const int32_t start[2];
  DeviceKv first, second;
};

void CheckStored(const KvBlockShape& shape, const DeviceKv& kv, int64_t row, int32_t start, int64_t tokens,
                 const std::vector<float>& k, const std::vector<float>& v, OpCheck* check) {
  const int64_t width = int64_t{shape.kv_heads} * shape.head_dim;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < width && check->fault.empty(); ++i) {
      const int64_t h = i / shape.head_dim, d = i % shape.head_dim, at = (row + t) * width;
      const float want_k = Stored(shape.dtype, k[at + i], LargestOf(&k[at + h * shape.head_dim], shape.head_dim));
      const float want_v = Stored(shape.dtype, v[at + i], LargestOf(&v[at + h * shape.head_dim], shape.head_dim));
      if (kv.K(start + t, h, d) != want_k || kv.V(start + t, h, d) != want_v) {
        check->fault = absl::StrCat("position ", start + t, " head ", h, " [", d, "]: ", kv.K(start + t, h, d), ", ",
                                    kv.V(start + t, h, d), " instead of ", want_k, ", ", want_v);
      }
    }
  }
  // Slots before the first new token were not touched: their bytes are all 0xFF still.
  for (int64_t p = 0; p < start && check->fault.empty(); ++p) {
    const int64_t offset = p % shape.block_tokens * TraitsOf(shape.dtype).block_bytes;
    if (kv.Raw(p / shape.block_tokens, offset) != std::byte{0xFF}) check->fault = "an older slot was written";
  }
}

struct AttentionVariant {
  const char* name;
  DType dtype;
  int32_t window;
  float soft_cap;
  bool nan;
};
// Of cases whose own type is F32; the first is the case as it stands.
constexpr AttentionVariant kVariants[] = {
    {"", DType::kF32, 0, 0, false},          {"/nan", DType::kF32, 0, 0, true},
    {"/window", DType::kF32, 37, 0, false},  {"/window_1", DType::kF32, 1, 0, false},
    {"/soft_cap", DType::kF32, 0, 3, false}, {"/f16", DType::kF16, 0, 0, false},
    {"/bf16", DType::kBF16, 200, 0, false},  {"/i8", DType::kI8, 0, 0, false},
};

OpCheck CheckAttention(Backend& device, const PagedAttentionCase& c, const AttentionVariant& variant) {
  OpCheck check{"paged_attention", absl::StrCat(c.name, variant.name)};
  Random random(7);
  KvBlockShape shape = c.shape;
  const bool as_it_stands = variant.name[0] == '\0';
  if (!as_it_stands) shape.dtype = variant.dtype;
  const int64_t kv_width = int64_t{shape.kv_heads} * shape.head_dim, width = int64_t{c.heads} * shape.head_dim;
  Two two(device, shape, c.tokens, c.start, random);
  // All positions are written through kv_append, from 0, then only the last `tokens` are asked.
  for (int s = 0; s < 2; ++s) {
    const int64_t positions = two.start[s] + c.tokens;
    DeviceTensor k(device, positions, kv_width, random.Floats(positions * kv_width, 2));
    DeviceTensor v(device, positions, kv_width, random.Floats(positions * kv_width));
    const SequenceRows all{0, positions, 0, (s == 0 ? two.first : two.second).blocks()};
    device.ops().kv_append({shape, k.tensor(), v.tensor(), {&all, 1}}, device.context());
  }
  std::vector<float> q = random.Floats(two.rows * width, 2);
  if (variant.nan && c.tokens > 0) q[shape.head_dim - 1] = kNan;
  const std::vector<float> untouched(two.rows * width, 77), untouched_lse(two.rows * c.heads, 77);
  DeviceTensor queries(device, two.rows, width, q), out(device, two.rows, width, untouched);
  DeviceTensor lse(device, two.rows, c.heads, untouched_lse);
  const std::vector<SequenceRows> sequences = two.Rows();
  PagedAttentionArgs args{.out = out.tensor(),
                          .q = queries.tensor(),
                          .lse = lse.tensor().f32(),
                          .shape = shape,
                          .sequences = sequences,
                          .heads = c.heads,
                          .scale = 1 / std::sqrt(static_cast<float>(shape.head_dim)),
                          .window = as_it_stands ? c.window : variant.window,
                          .soft_cap = as_it_stands ? c.soft_cap : variant.soft_cap};
  device.ops().paged_attention(args, device.context());

  std::vector<float> expected = untouched, expected_lse = untouched_lse;
  std::vector<std::vector<std::byte>> decoded[2] = {two.first.Decoded(two.start[0] + c.tokens),
                                                    two.second.Decoded(two.start[1] + c.tokens)};
  std::vector<std::byte*> blocks[2];
  std::vector<SequenceRows> plain = sequences;
  for (int s = 0; s < 2; ++s) {
    for (std::vector<std::byte>& block : decoded[s]) blocks[s].push_back(block.data());
    plain[s].blocks = blocks[s];
  }
  args.shape.dtype = DType::kF32;
  args.sequences = plain;
  args.out.data = expected.data();
  args.q.data = q.data();
  args.lse = expected_lse.data();
  ThreadTeam team(1);
  Reference().paged_attention(args, team);
  Compare(out.values(), expected, kPagedAttentionTolerance, &check);
  Compare(lse.values(), expected_lse, kPagedAttentionTolerance * 8, &check);
  Finish(device, {&queries, &out, &lse}, &check);
  if (!two.first.Intact() || !two.second.Intact()) check.fault = "memory beside the KV was written";
  return check;
}

}  // namespace

std::vector<OpCheck> CheckKvAppend(Backend& device) {
  std::vector<OpCheck> checks;
  for (const KvAppendCase& c : kKvAppendCases) {
    for (const DType dtype : kKvTypes) {
      if (c.shape.dtype != DType::kF32 && c.shape.dtype != dtype) continue;
      OpCheck check{"kv_append", absl::StrCat(c.name, "/", TraitsOf(dtype).name)};
      Random random(6);
      KvBlockShape shape = c.shape;
      shape.dtype = dtype;
      const int64_t width = int64_t{shape.kv_heads} * shape.head_dim;
      Two two(device, shape, c.tokens, c.start, random);
      std::vector<float> k = random.Floats(two.rows * width), v = random.Floats(two.rows * width, 3);
      if (c.tokens > 0) std::fill_n(k.begin(), shape.head_dim, 0.0f);  // a head of zeros has no scale
      DeviceTensor on_device_k(device, two.rows, width, k), on_device_v(device, two.rows, width, v);
      const std::vector<SequenceRows> rows = two.Rows();
      device.ops().kv_append({shape, on_device_k.tensor(), on_device_v.tensor(), rows}, device.context());
      Finish(device, {&on_device_k, &on_device_v}, &check);
      CheckStored(shape, two.first, c.tokens + 1, two.start[0], c.tokens, k, v, &check);
      CheckStored(shape, two.second, 0, two.start[1], c.tokens, k, v, &check);
      if (!two.first.Intact() || !two.second.Intact()) check.fault = "memory beside the KV was written";
      checks.push_back(std::move(check));
    }
  }
  return checks;
}

std::vector<OpCheck> CheckPagedAttention(Backend& device) {
  std::vector<OpCheck> checks;
  for (const PagedAttentionCase& c : kPagedAttentionCases) {
    // It is the reference that takes long.
    if (c.tokens * (c.start + c.tokens) > 1 << 20) continue;
    for (const AttentionVariant& variant : kVariants) {
      const bool plain = c.shape.dtype == DType::kF32 && c.tokens < 512;
      if (!plain && variant.name[0] != '\0') continue;
      checks.push_back(CheckAttention(device, c, variant));
    }
  }
  return checks;
}

}  // namespace interlace
