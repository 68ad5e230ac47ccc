// Sixteen rows in two vectors; int8 products by multiply-add of pairs. The sums: linear_strips.h.
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/variants.h"
#include "kernels/linear/linear_strips.h"

namespace interlace::avx2 {
namespace {

struct Isa {
  struct F {
    __m256 low, high;
  };
  struct I {
    __m256i low, high;
  };
  static constexpr int kTileStrips = 1, kTileTokens = 2, kFloatTile = 2, kDirectTile = 2;
  static constexpr int32_t kWideZero = 128;  // wide products take x - 128

  static F ZeroF() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static I ZeroI() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static F SetF(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
  static F LoadF(const float* at) { return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)}; }
  static void StoreF(float* at, F v) {
    _mm256_storeu_ps(at, v.low);
    _mm256_storeu_ps(at + 8, v.high);
  }
  static int Clamp(int count) { return count < 0 ? 0 : count > 8 ? 8 : count; }
  static F LoadSome(const float* at, int count) {
    return {_mm256_maskload_ps(at, FirstLanes(Clamp(count))), _mm256_maskload_ps(at + 8, FirstLanes(Clamp(count - 8)))};
  }
  static void StoreSome(float* at, int count, F v) {
    _mm256_maskstore_ps(at, FirstLanes(Clamp(count)), v.low);
    _mm256_maskstore_ps(at + 8, FirstLanes(Clamp(count - 8)), v.high);
  }
  static __m256i Load32(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
  static __m128i Load16(const uint8_t* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }
  static __m128i Load8(const uint8_t* at) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at)); }
  static I LoadBytes(const uint8_t* at) { return {Load32(at), Load32(at + 32)}; }
  static void StoreBytes(uint8_t* at, I v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), v.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at + 32), v.high);
  }
  static F Add(F a, F b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static F Mul(F a, F b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static F Fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static F Negate(F a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_sub_ps(sign, a.low), _mm256_sub_ps(sign, a.high)};
  }
  static F FromI(I a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
  static F FromF16(const uint8_t* at) { return {_mm256_cvtph_ps(Load16(at)), _mm256_cvtph_ps(Load16(at + 16))}; }
  static __m256 Widen(__m128i bf16) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16)); }
  static F FromBF16(const uint8_t* at) { return {Widen(Load16(at)), Widen(Load16(at + 16))}; }
  static F FromU8(const uint8_t* at) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(Load8(at))),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(Load8(at + 8)))};
  }
  static F FromI8(const uint8_t* at) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(Load8(at))),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(Load8(at + 8)))};
  }

  static void SplitNibbles(const uint8_t* at, I* low, I* high) {
    const I v = LoadBytes(at);
    const __m256i mask = _mm256_set1_epi8(15);
    *low = {_mm256_and_si256(v.low, mask), _mm256_and_si256(v.high, mask)};
    *high = {_mm256_and_si256(_mm256_srli_epi16(v.low, 4), mask), _mm256_and_si256(_mm256_srli_epi16(v.high, 4), mask)};
  }
  static void SplitCrumbs(const uint8_t* at, I q[4]) {
    const I v = LoadBytes(at);
    const __m256i mask = _mm256_set1_epi8(3);
    q[0] = {_mm256_and_si256(v.low, mask), _mm256_and_si256(v.high, mask)};
    q[1] = {_mm256_and_si256(_mm256_srli_epi16(v.low, 2), mask), _mm256_and_si256(_mm256_srli_epi16(v.high, 2), mask)};
    q[2] = {_mm256_and_si256(_mm256_srli_epi16(v.low, 4), mask), _mm256_and_si256(_mm256_srli_epi16(v.high, 4), mask)};
    q[3] = {_mm256_and_si256(_mm256_srli_epi16(v.low, 6), mask), _mm256_and_si256(_mm256_srli_epi16(v.high, 6), mask)};
  }
  // table[code] of each byte; codes are below 16.
  static I Look(const int8_t (&table)[16], I codes) {
    const __m256i values = _mm256_broadcastsi128_si256(Load16(reinterpret_cast<const uint8_t*>(table)));
    return {_mm256_shuffle_epi8(values, codes.low), _mm256_shuffle_epi8(values, codes.high)};
  }
  static __m256 HalfOfE8M0(__m128i exponents) {
    const __m256i v = _mm256_cvtepu8_epi32(exponents);
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(v, _mm256_set1_epi32(1)), 23);
    const __m256i small = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), v);
    const __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), v);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, small, is_small));
  }
  static F HalfOfE8M0(const uint8_t* at) { return {HalfOfE8M0(Load8(at)), HalfOfE8M0(Load8(at + 8))}; }
  // Adds 2^kBit to byte i where bit i of the 32 is set.
  template <int kBit>
  static __m256i AddBit(__m256i v, const uint8_t* bits) {
    int32_t word;
    memcpy(&word, bits, sizeof word);
    const __m256i spread =
        _mm256_setr_epi64x(0x0000000000000000, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i each = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(word), spread);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, each), each);
    return _mm256_or_si256(v, _mm256_and_si256(set, _mm256_set1_epi8(1 << kBit)));
  }
  template <int kBit>
  static I AddBit(I v, const uint8_t* bits) {
    return {AddBit<kBit>(v.low, bits), AddBit<kBit>(v.high, bits + 4)};
  }
  static void AddBits45(const uint8_t* at, I q[4]) {
    const __m256i mask = _mm256_set1_epi8(0x30);
    const I v = LoadBytes(at);
    const auto add = [mask](__m256i to, __m256i bits) { return _mm256_or_si256(to, _mm256_and_si256(bits, mask)); };
    q[0] = {add(q[0].low, _mm256_slli_epi16(v.low, 4)), add(q[0].high, _mm256_slli_epi16(v.high, 4))};
    q[1] = {add(q[1].low, _mm256_slli_epi16(v.low, 2)), add(q[1].high, _mm256_slli_epi16(v.high, 2))};
    q[2] = {add(q[2].low, v.low), add(q[2].high, v.high)};
    q[3] = {add(q[3].low, _mm256_srli_epi16(v.low, 2)), add(q[3].high, _mm256_srli_epi16(v.high, 2))};
  }
  // Pairs of products fit 16 bits: 2 * 255 * 63; wide codes are signed, their products 2 * 127 * 128.
  template <bool kWide>
  static __m256i Dot(__m256i sum, __m256i codes, __m256i x) {
    __m256i pairs;
    if constexpr (kWide) {
      x = _mm256_xor_si256(x, _mm256_set1_epi8(static_cast<char>(0x80)));
      pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes));
    } else {
      pairs = _mm256_maddubs_epi16(x, codes);
    }
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  // Four elements of x a lane, times those of 16 rows.
  template <bool kWide>
  static I Dot(I sum, I codes, const uint8_t* x) {
    int32_t bits;
    memcpy(&bits, x, sizeof bits);
    const __m256i word = _mm256_set1_epi32(bits);
    return {Dot<kWide>(sum.low, codes.low, word), Dot<kWide>(sum.high, codes.high, word)};
  }
  static I AddI(I a, I b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
  // Wide codes are signed; others are small enough for a sum of eight in a byte.
  template <bool kWide, int kCount>
  static I SumBytes(const I* q) {
    const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
    I sum = ZeroI();
    if constexpr (kWide) {
      for (int j = 0; j < kCount; ++j) {
        sum = AddI(sum, {_mm256_madd_epi16(_mm256_maddubs_epi16(ones8, q[j].low), ones16),
                         _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, q[j].high), ones16)});
      }
    } else {
      I bytes = q[0];
      for (int j = 1; j < kCount; ++j) {
        bytes = {_mm256_add_epi8(bytes.low, q[j].low), _mm256_add_epi8(bytes.high, q[j].high)};
      }
      sum = {_mm256_madd_epi16(_mm256_maddubs_epi16(bytes.low, ones8), ones16),
             _mm256_madd_epi16(_mm256_maddubs_epi16(bytes.high, ones8), ones16)};
    }
    return sum;
  }
  // 16-bit pairs: sum - minus, and high.
  static I PairWords(I sum, int minus, int high) {
    const auto pair = [minus, high](__m256i s) {
      s = _mm256_and_si256(_mm256_sub_epi32(s, _mm256_set1_epi32(minus)), _mm256_set1_epi32(0xffff));
      return _mm256_or_si256(s, _mm256_set1_epi32(high << 16));
    };
    return {pair(sum.low), pair(sum.high)};
  }
  // The low and the high half of each lane times that of `word`, and their sum.
  static I MultiplyPairs(I pairs, int32_t word) {
    const __m256i v = _mm256_set1_epi32(word);
    return {_mm256_madd_epi16(pairs.low, v), _mm256_madd_epi16(pairs.high, v)};
  }

  struct Range {
    float low, high;  // with 0 between them
    bool finite;
  };
  static Range RangeOf32(const float* x) {
    __m256 low = _mm256_setzero_ps(), high = low;
    __m256i largest = _mm256_setzero_si256();  // magnitudes as numbers: NaN and infinity are above all others
    for (int i = 0; i < 4; ++i) {
      const __m256 v = _mm256_loadu_ps(x + 8 * i);
      low = _mm256_min_ps(v, low);
      high = _mm256_max_ps(v, high);
      largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff)));
    }
    const __m256i odd = _mm256_cmpgt_epi32(largest, _mm256_set1_epi32(0x7f7fffff));
    return {-MaxLanes(_mm256_xor_ps(low, _mm256_set1_ps(-0.0f))), MaxLanes(high), _mm256_testz_si256(odd, odd) != 0};
  }
  static void Quantise32(const float* x, float inverse, int32_t zero, uint8_t* q, int32_t sums[2]) {
    const __m256 factor = _mm256_set1_ps(inverse);
    const auto code = [&](const float* at) {
      const __m256i v = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(at), factor));
      const __m256i above = _mm256_max_epi32(_mm256_add_epi32(v, _mm256_set1_epi32(zero)), _mm256_set1_epi32(1));
      return _mm256_min_epi32(above, _mm256_set1_epi32(255));
    };
    for (int half = 0; half < 2; ++half) {
      const __m256i low = code(x + 16 * half), high = code(x + 16 * half + 8);
      const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
      const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16 * half), bytes);
      const __m256i sum = _mm256_add_epi32(low, high);
      __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
      s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
      s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
      sums[half] = _mm_cvtsi128_si32(s);
    }
  }
  static __m256 Activate(GateKind kind, __m256 v) {
    // SiLU: v / (1 + e^-v). GELU: v * (1 - 1 / (1 + e^(2u))), u = sqrt(2/pi) (v + 0.044715 v^3).
    __m256 argument = _mm256_sub_ps(_mm256_setzero_ps(), v);
    if (kind == GateKind::kGeluTanh) {
      const __m256 cube = _mm256_mul_ps(_mm256_mul_ps(v, v), v);
      argument =
          _mm256_mul_ps(_mm256_fmadd_ps(cube, _mm256_set1_ps(0.044715f), v), _mm256_set1_ps(-1.5957691216057308f));
    }
    return _mm256_div_ps(v, _mm256_add_ps(_mm256_set1_ps(1), Exp(argument)));
  }
  static F Activate(GateKind kind, F v) { return {Activate(kind, v.low), Activate(kind, v.high)}; }
};

}  // namespace

void Linear(const LinearArgs& args, OpContext on) { strips::RunLinear(args, strips::kStripKernels<Isa>, on); }
void GatedLinear(const GatedLinearArgs& args, OpContext on) {
  strips::RunGatedLinear(args, strips::kStripKernels<Isa>, on);
}
void Gate(const GateArgs& args, OpContext on) { strips::RunGate(args, strips::kStripKernels<Isa>, on); }

}  // namespace interlace::avx2
