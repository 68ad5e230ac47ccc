#include "kernels/linear/weight_strips.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/check.h"
#include "kernels/dequantise.h"

namespace interlace::strips {
namespace {

template <typename T>
T Load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <typename T>
void Store(uint8_t* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

// One block of one row, whatever the type: codes as unsigned numbers.
struct Block {
  uint8_t codes[kBlock];            // Q8_0: signed
  uint16_t scale = 0, minimum = 0;  // F16
  // Of Q4_K and Q5_K: scale and minimum; of Q6_K and Q3_K: of each half; of IQ4_XS: scale; of MXFP4: exponent; of Q2_K:
  // the scales of the halves, then their minima.
  uint8_t sub_scale[4] = {};
};

void TakeNibbles(const uint8_t* bytes, Block* block) {
  for (int i = 0; i < 16; ++i) {
    block->codes[i] = bytes[i] & 15;
    block->codes[i + 16] = bytes[i] >> 4;
  }
}
void AddHighBits(uint32_t bits, Block* block) {
  for (int i = 0; i < kBlock; ++i) block->codes[i] |= static_cast<uint8_t>((bits >> i & 1) << 4);
}

Block DecodeK(const uint8_t* super, int sub, bool five) {
  Block block;
  block.scale = Load<uint16_t>(super);
  block.minimum = Load<uint16_t>(super + 2);
  const SubScales of = SubScalesOfK(super + 4, sub);
  block.sub_scale[0] = of.scale;
  block.sub_scale[1] = of.minimum;
  const uint8_t* bytes = super + (five ? 48 : 16) + 32 * (sub / 2);
  for (int i = 0; i < kBlock; ++i) {
    block.codes[i] = sub % 2 == 0 ? bytes[i] & 15 : bytes[i] >> 4;
    if (five) block.codes[i] |= static_cast<uint8_t>((super[16 + i] >> sub & 1) << 4);
  }
  return block;
}

Block DecodeQ6_K(const uint8_t* super, int sub) {
  Block block;
  block.scale = Load<uint16_t>(super + 208);
  block.sub_scale[0] = super[192 + 2 * sub];
  block.sub_scale[1] = super[192 + 2 * sub + 1];
  const int part = sub / 4, quarter = sub % 4;
  for (int i = 0; i < kBlock; ++i) {
    const int low_byte = super[64 * part + 32 * (quarter % 2) + i];
    const int low = quarter < 2 ? low_byte & 15 : low_byte >> 4;
    const int high = super[128 + 32 * part + i] >> (2 * quarter) & 3;
    block.codes[i] = static_cast<uint8_t>(low | high << 4);
  }
  return block;
}

// Two bits of each element.
void TakeCrumbs(const uint8_t* bytes, int sub, Block* block) {
  for (int i = 0; i < kBlock; ++i) {
    block->codes[i] = static_cast<uint8_t>(bytes[32 * (sub / 4) + i] >> (2 * (sub % 4)) & 3);
  }
}

Block DecodeQ3_K(const uint8_t* super, int sub) {
  Block block;
  block.scale = Load<uint16_t>(super + 108);
  for (int half = 0; half < 2; ++half) {
    block.sub_scale[half] = static_cast<uint8_t>(ScaleOfQ3_K(super + 96, 2 * sub + half));
  }
  TakeCrumbs(super + 32, sub, &block);
  for (int i = 0; i < kBlock; ++i) block.codes[i] |= static_cast<uint8_t>((super[i] >> sub & 1) << 2);
  return block;
}

Block DecodeQ2_K(const uint8_t* super, int sub) {
  Block block;
  block.scale = Load<uint16_t>(super + 80);
  block.minimum = Load<uint16_t>(super + 82);
  for (int half = 0; half < 2; ++half) {
    block.sub_scale[half] = super[2 * sub + half] & 15;
    block.sub_scale[2 + half] = super[2 * sub + half] >> 4;
  }
  TakeCrumbs(super + 16, sub, &block);
  return block;
}

// Block `index` of a row in the file's layout.
Block Decode(DType dtype, const uint8_t* row, int64_t index) {
  const DTypeTraits traits = TraitsOf(dtype);
  const int64_t in_file = traits.block_elements / kBlock;  // blocks of ours in one of the file's
  const uint8_t* at = row + index / in_file * traits.block_bytes;
  const int sub = static_cast<int>(index % in_file);
  Block block;
  switch (dtype) {
    case DType::kQ8_0:
      block.scale = Load<uint16_t>(at);
      for (int i = 0; i < kBlock; ++i) block.codes[i] = at[2 + i];
      return block;
    case DType::kQ4_0:
      block.scale = Load<uint16_t>(at);
      TakeNibbles(at + 2, &block);
      return block;
    case DType::kQ4_1:
      block.scale = Load<uint16_t>(at);
      block.minimum = Load<uint16_t>(at + 2);
      TakeNibbles(at + 4, &block);
      return block;
    case DType::kQ5_0:
      block.scale = Load<uint16_t>(at);
      TakeNibbles(at + 6, &block);
      AddHighBits(Load<uint32_t>(at + 2), &block);
      return block;
    case DType::kQ5_1:
      block.scale = Load<uint16_t>(at);
      block.minimum = Load<uint16_t>(at + 2);
      TakeNibbles(at + 8, &block);
      AddHighBits(Load<uint32_t>(at + 4), &block);
      return block;
    case DType::kQ4_K:
    case DType::kQ5_K:
      return DecodeK(at, sub, dtype == DType::kQ5_K);
    case DType::kQ6_K:
      return DecodeQ6_K(at, sub);
    case DType::kIQ4_NL:
      block.scale = Load<uint16_t>(at);
      TakeNibbles(at + 2, &block);
      return block;
    case DType::kIQ4_XS:
      block.scale = Load<uint16_t>(at);
      block.sub_scale[0] = static_cast<uint8_t>(ScaleOfIQ4_XS(at, sub));
      TakeNibbles(at + 8 + 16 * sub, &block);
      return block;
    case DType::kMXFP4:
      block.sub_scale[0] = at[0];
      TakeNibbles(at + 1, &block);
      return block;
    case DType::kQ3_K:
      return DecodeQ3_K(at, sub);
    case DType::kQ2_K:
      return DecodeQ2_K(at, sub);
    default:
      CHECK_MSG(false, "not a quantised weight type");
  }
  return block;
}

// Where the parts of one strip lie.
struct Parts {
  Layout layout;
  uint8_t* strip;
  uint8_t* codes(int64_t b) const { return strip + layout.codes_at(b); }
  uint8_t* high(int64_t b) const { return strip + layout.high_at(b); }
  uint8_t* scales(int64_t b) const { return strip + layout.scales_at(b); }
  uint8_t* supers(int64_t b) const { return strip + layout.supers_at(b); }
};

void PackCodes(DType dtype, const Block& block, const Parts& to, int64_t b, int64_t r) {
  if (dtype == DType::kQ8_0) {
    for (int j = 0; j < 8; ++j) std::memcpy(to.codes(b) + 64 * j + 4 * r, block.codes + 4 * j, 4);
    return;
  }
  const bool crumbs = to.layout.codes == 128;
  if (crumbs) {
    for (int i = 0; i < kBlock; ++i) {
      to.codes(b)[64 * (i / 16) + 4 * r + i % 4] |= static_cast<uint8_t>((block.codes[i] & 3) << 2 * (i % 16 / 4));
    }
  }
  for (int j = 0; !crumbs && j < 4; ++j) {
    const auto low = Load<uint32_t>(block.codes + 4 * j) & 0x0f0f0f0f;
    const auto high = Load<uint32_t>(block.codes + 16 + 4 * j) & 0x0f0f0f0f;
    Store(to.codes(b) + 64 * j + 4 * r, low | high << 4);
  }
  if (to.layout.high == 64) {
    for (int i = 0; i < kBlock; ++i) {
      const int64_t bit = 4 * r + i % 4;
      const int set = block.codes[i] >> (crumbs ? 2 : 4) & 1;
      to.high(b)[8 * (i / 4) + bit / 8] |= static_cast<uint8_t>(set << bit % 8);
    }
  } else if (to.layout.high == 128) {
    for (int i = 0; i < kBlock; ++i) {
      to.high(b)[64 * (i / 16) + 4 * r + i % 4] |= static_cast<uint8_t>((block.codes[i] >> 4) << 2 * (i % 16 / 4));
    }
  }
}

void PackScales(DType dtype, const Block& block, const Parts& to, int64_t b, int64_t r) {
  switch (dtype) {
    case DType::kQ4_1:
    case DType::kQ5_1:
      Store(to.scales(b) + 32 + 2 * r, block.minimum);
      [[fallthrough]];
    case DType::kQ8_0:
    case DType::kQ4_0:
    case DType::kQ5_0:
    case DType::kIQ4_NL:
      Store(to.scales(b) + 2 * r, block.scale);
      return;
    case DType::kMXFP4:
      to.scales(b)[r] = block.sub_scale[0];
      return;
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ2_K:
      Store(to.supers(b) + 32 + 2 * r, block.minimum);
      [[fallthrough]];
    default:  // and Q6_K, Q3_K, IQ4_XS
      Store(to.supers(b) + 2 * r, block.scale);
      for (int64_t i = 0; i < to.layout.scales / kRows; ++i) to.scales(b)[kRows * i + r] = block.sub_scale[i];
  }
}

bool IsFloat(DType dtype) { return TraitsOf(dtype).block_elements == 1; }

void PackStrip(const Tensor& rows, int64_t strip, uint8_t* out) {
  const int64_t first = strip * kRows, count = std::min(kRows, rows.rows - first);
  const int64_t row_bytes = RowBytes(rows.dtype, rows.cols);
  const auto* from = static_cast<const uint8_t*>(rows.data) + first * row_bytes;
  if (IsFloat(rows.dtype)) {
    const int64_t size = TraitsOf(rows.dtype).block_bytes;
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t i = 0; i < rows.cols; ++i) {
        std::memcpy(out + (i * kRows + r) * size, from + r * row_bytes + i * size, static_cast<size_t>(size));
      }
    }
    return;
  }
  const Parts to{LayoutOf(rows.dtype), out};
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t b = 0; b < rows.cols / kBlock; ++b) {
      const Block block = Decode(rows.dtype, from + r * row_bytes, b);
      PackCodes(rows.dtype, block, to, b, r);
      PackScales(rows.dtype, block, to, b, r);
    }
  }
}

int CodeOf(DType dtype, const Parts& strip, int64_t b, int64_t r, int i) {
  if (dtype == DType::kQ8_0) return static_cast<int8_t>(strip.codes(b)[64 * (i / 4) + 4 * r + i % 4]);
  const bool crumbs = strip.layout.codes == 128;
  const int64_t row_byte = 4 * r + i % 4;
  const int byte = strip.codes(b)[64 * (crumbs ? i / 16 : i % 16 / 4) + row_byte];
  int code = crumbs ? byte >> 2 * (i % 16 / 4) & 3 : i < 16 ? byte & 15 : byte >> 4;
  if (strip.layout.high == 64) {
    code |= (strip.high(b)[8 * (i / 4) + row_byte / 8] >> row_byte % 8 & 1) << (crumbs ? 2 : 4);
  } else if (strip.layout.high == 128) {
    code |= (strip.high(b)[64 * (i / 16) + 4 * r + i % 4] >> 2 * (i % 16 / 4) & 3) << 4;
  }
  return code;
}

// The same operations in the same order as DequantiseRow.
void UnpackBlock(DType dtype, const Parts& strip, int64_t b, int64_t r, float* out) {
  const auto f16 = [&](const uint8_t* at) { return F16ToF32(Load<uint16_t>(at + 2 * r)); };
  const auto code = [&](int i) { return CodeOf(dtype, strip, b, r, i); };
  switch (dtype) {
    case DType::kQ4_1:
    case DType::kQ5_1: {
      const float scale = f16(strip.scales(b)), minimum = f16(strip.scales(b) + 32);
      for (int i = 0; i < kBlock; ++i) out[i] = scale * static_cast<float>(code(i)) + minimum;
      return;
    }
    case DType::kQ4_K:
    case DType::kQ5_K: {
      const float d = f16(strip.supers(b)) * static_cast<float>(strip.scales(b)[r]);
      const float m = f16(strip.supers(b) + 32) * static_cast<float>(strip.scales(b)[16 + r]);
      for (int i = 0; i < kBlock; ++i) out[i] = d * static_cast<float>(code(i)) - m;
      return;
    }
    case DType::kQ6_K:
    case DType::kQ3_K: {
      const int offset = dtype == DType::kQ6_K ? 32 : 4;
      const float scale = f16(strip.supers(b));
      for (int i = 0; i < kBlock; ++i) {
        const auto sub = static_cast<int8_t>(strip.scales(b)[16 * (i / 16) + r]);
        out[i] = scale * static_cast<float>(sub) * static_cast<float>(code(i) - offset);
      }
      return;
    }
    case DType::kQ2_K: {
      const float scale = f16(strip.supers(b)), minimum = f16(strip.supers(b) + 32);
      for (int i = 0; i < kBlock; ++i) {
        const uint8_t* of_half = strip.scales(b) + 16 * (i / 16) + r;
        out[i] = scale * static_cast<float>(of_half[0]) * static_cast<float>(code(i)) -
                 minimum * static_cast<float>(of_half[32]);
      }
      return;
    }
    case DType::kIQ4_NL:
    case DType::kIQ4_XS:
    case DType::kMXFP4: {
      const auto& values = dtype == DType::kMXFP4 ? kMxfp4Values : kIq4Values;
      const float scale = dtype == DType::kMXFP4 ? HalfOfE8M0(strip.scales(b)[r])
                          : dtype == DType::kIQ4_NL
                              ? f16(strip.scales(b))
                              : f16(strip.supers(b)) * static_cast<float>(static_cast<int8_t>(strip.scales(b)[r]));
      for (int i = 0; i < kBlock; ++i) out[i] = scale * static_cast<float>(values[code(i)]);
      return;
    }
    default: {
      const int offset = dtype == DType::kQ8_0 ? 0 : dtype == DType::kQ5_0 ? 16 : 8;
      const float scale = f16(strip.scales(b));
      for (int i = 0; i < kBlock; ++i) out[i] = scale * static_cast<float>(code(i) - offset);
    }
  }
}

}  // namespace

int64_t StripBytes(DType dtype, int64_t k) {
  if (IsFloat(dtype)) return (k * kRows * TraitsOf(dtype).block_bytes + 63) / 64 * 64;
  const Layout layout = LayoutOf(dtype);
  return (k / kBlock + layout.group - 1) / layout.group * layout.group_bytes();
}

int64_t WeightBytes(DType dtype, int64_t rows, int64_t k) {
  return std::max<int64_t>(64, (rows + kRows - 1) / kRows * StripBytes(dtype, k));
}

void PackWeight(const Tensor& rows, std::byte* out, OpContext on) {
  const int64_t strip_bytes = StripBytes(rows.dtype, rows.cols);
  auto* bytes = reinterpret_cast<uint8_t*>(out);
  on.team().ParallelFor((rows.rows + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) PackStrip(rows, s, bytes + s * strip_bytes);
  });
}

void UnpackRow(const LinearWeight& w, int64_t row, float* out) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(w.data);
  auto* strip = const_cast<uint8_t*>(bytes) + row / kRows * StripBytes(w.dtype, w.k);
  const int64_t r = row % kRows;
  if (IsFloat(w.dtype)) {
    const int64_t size = TraitsOf(w.dtype).block_bytes;
    for (int64_t i = 0; i < w.k; ++i) DequantiseRow(w.dtype, strip + (i * kRows + r) * size, 1, out + i);
    return;
  }
  for (int64_t b = 0; b < w.k / kBlock; ++b) UnpackBlock(w.dtype, {LayoutOf(w.dtype), strip}, b, r, out + b * kBlock);
}

void Embedding(const EmbeddingArgs& args, OpContext on) {
  constexpr int64_t kTokensPerTask = 16;
  on.team().ParallelFor(args.out.rows, kTokensPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      CHECK(args.tokens[t] >= 0 && args.tokens[t] < args.table.rows);
      float* out = args.out.f32_row(t);
      UnpackRow(args.table, args.tokens[t], out);
      if (args.scale == 1) continue;
      for (int64_t i = 0; i < args.table.k; ++i) out[i] *= args.scale;
    }
  });
}

}  // namespace interlace::strips
