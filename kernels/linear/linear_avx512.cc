// Sixteen rows a vector; int8 products by VNNI. The sums: linear_strips.h.
#include <immintrin.h>

#include "kernels/cpu/variants.h"
#include "kernels/linear/linear_strips.h"

namespace interlace::avx512 {
namespace {

// e^x to about one unit in the last place; Cephes' expf polynomial (Moshier).
[[gnu::always_inline]] inline __m512 Exp(__m512 x) {
  x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-104.0f)), _mm512_set1_ps(89.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1));
  return _mm512_scalef_ps(p, n);
}

struct Isa {
  using F = __m512;
  using I = __m512i;
  static constexpr int kTileStrips = 2, kTileTokens = 6, kFloatTile = 6, kDirectTile = 8;
  static constexpr int32_t kWideZero = 0;

  static F ZeroF() { return _mm512_setzero_ps(); }
  static I ZeroI() { return _mm512_setzero_si512(); }
  static F SetF(float v) { return _mm512_set1_ps(v); }
  static I SetI(int32_t v) { return _mm512_set1_epi32(v); }
  static F LoadF(const float* at) { return _mm512_loadu_ps(at); }
  static void StoreF(float* at, F v) { _mm512_storeu_ps(at, v); }
  static __mmask16 First(int count) { return static_cast<__mmask16>((1u << count) - 1); }
  static F LoadSome(const float* at, int count) { return _mm512_maskz_loadu_ps(First(count), at); }
  static void StoreSome(float* at, int count, F v) { _mm512_mask_storeu_ps(at, First(count), v); }
  static I LoadBytes(const uint8_t* at) { return _mm512_loadu_si512(at); }
  static void StoreBytes(uint8_t* at, I v) { _mm512_storeu_si512(at, v); }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F Negate(F a) { return _mm512_sub_ps(_mm512_set1_ps(-0.0f), a); }
  static F FromI(I a) { return _mm512_cvtepi32_ps(a); }
  static __m128i Load16(const uint8_t* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }
  static __m256i Load32(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
  static F FromF16(const uint8_t* at) { return _mm512_cvtph_ps(Load32(at)); }
  static F FromBF16(const uint8_t* at) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(Load32(at)), 16));
  }
  static F FromU8(const uint8_t* at) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(Load16(at))); }
  static F FromI8(const uint8_t* at) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(Load16(at))); }

  static void SplitNibbles(const uint8_t* at, I* low, I* high) {
    const I v = _mm512_loadu_si512(at), mask = _mm512_set1_epi8(15);
    *low = _mm512_and_si512(v, mask);
    *high = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
  }
  static void SplitCrumbs(const uint8_t* at, I q[4]) {
    const I v = _mm512_loadu_si512(at), mask = _mm512_set1_epi8(3);
    q[0] = _mm512_and_si512(v, mask);
    q[1] = _mm512_and_si512(_mm512_srli_epi16(v, 2), mask);
    q[2] = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
    q[3] = _mm512_and_si512(_mm512_srli_epi16(v, 6), mask);
  }
  // table[code] of each byte; codes are below 16.
  static I Look(const int8_t (&table)[16], I codes) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(Load16(reinterpret_cast<const uint8_t*>(table))), codes);
  }
  static F HalfOfE8M0(const uint8_t* at) {
    const I v = _mm512_cvtepu8_epi32(Load16(at));
    const I normal = _mm512_slli_epi32(_mm512_sub_epi32(v, SetI(1)), 23);
    const I small = _mm512_sllv_epi32(SetI(0x00200000), v);
    return _mm512_castsi512_ps(_mm512_mask_blend_epi32(_mm512_cmplt_epi32_mask(v, SetI(2)), normal, small));
  }
  // Adds 2^kBit to byte i where bit i of the 64 is set.
  template <int kBit>
  static I AddBit(I v, const uint8_t* bits) {
    uint64_t mask;
    memcpy(&mask, bits, sizeof mask);
    return _mm512_mask_add_epi8(v, mask, v, _mm512_set1_epi8(1 << kBit));
  }
  static void AddBits45(const uint8_t* at, I q[4]) {
    const I v = _mm512_loadu_si512(at), mask = _mm512_set1_epi8(0x30);
    q[0] = _mm512_or_si512(q[0], _mm512_and_si512(_mm512_slli_epi16(v, 4), mask));
    q[1] = _mm512_or_si512(q[1], _mm512_and_si512(_mm512_slli_epi16(v, 2), mask));
    q[2] = _mm512_or_si512(q[2], _mm512_and_si512(v, mask));
    q[3] = _mm512_or_si512(q[3], _mm512_and_si512(_mm512_srli_epi16(v, 2), mask));
  }
  // Four elements of x a lane, times those of 16 rows.
  template <bool kWide>
  static I Dot(I sum, I codes, const uint8_t* x) {
    int32_t word;
    memcpy(&word, x, sizeof word);
    return _mm512_dpbusd_epi32(sum, _mm512_set1_epi32(word), codes);
  }
  static I AddI(I a, I b) { return _mm512_add_epi32(a, b); }
  // Wide codes are signed; others are small enough for a sum of eight in a byte.
  template <bool kWide, int kCount>
  static I SumBytes(const I* q) {
    const I ones = _mm512_set1_epi8(1);
    I sum = ZeroI();
    if constexpr (kWide) {
      for (int j = 0; j < kCount; ++j) sum = _mm512_dpbusd_epi32(sum, ones, q[j]);
    } else {
      I bytes = _mm512_add_epi8(_mm512_add_epi8(q[0], q[1]), _mm512_add_epi8(q[2], q[3]));
      if constexpr (kCount == 8) {
        bytes = _mm512_add_epi8(bytes, _mm512_add_epi8(_mm512_add_epi8(q[4], q[5]), _mm512_add_epi8(q[6], q[7])));
      }
      sum = _mm512_dpbusd_epi32(sum, bytes, ones);
    }
    return sum;
  }
  // 16-bit pairs: sum - minus, and high.
  static I PairWords(I sum, int minus, int high) {
    sum = _mm512_and_si512(_mm512_sub_epi32(sum, SetI(minus)), SetI(0xffff));
    return _mm512_or_si512(sum, SetI(high << 16));
  }
  // The low and the high half of each lane times that of `word`, and their sum.
  static I MultiplyPairs(I pairs, int32_t word) { return _mm512_madd_epi16(pairs, SetI(word)); }

  struct Range {
    float low, high;  // with 0 between them
    bool finite;
  };
  static Range RangeOf32(const float* x) {
    const F a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    constexpr int kNanOrInfinity = 0x01 | 0x08 | 0x10 | 0x80;
    const auto odd =
        static_cast<__mmask16>(_mm512_fpclass_ps_mask(a, kNanOrInfinity) | _mm512_fpclass_ps_mask(b, kNanOrInfinity));
    // Lows, and highs with their sign turned, side by side: one way down for both.
    const F low = _mm512_min_ps(a, b), high = _mm512_xor_ps(_mm512_max_ps(a, b), SetF(-0.0f));
    F v = _mm512_min_ps(_mm512_shuffle_f32x4(low, high, 0x44), _mm512_shuffle_f32x4(low, high, 0xee));
    v = _mm512_min_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
    v = _mm512_min_ps(v, _mm512_permute_ps(v, 0x4e));
    v = _mm512_min_ps(_mm512_min_ps(v, _mm512_permute_ps(v, 0xb1)), _mm512_setzero_ps());
    return {_mm512_cvtss_f32(v), -_mm_cvtss_f32(_mm512_extractf32x4_ps(v, 2)), odd == 0};
  }
  static void Quantise32(const float* x, float inverse, int32_t zero, uint8_t* q, int32_t sums[2]) {
    for (int half = 0; half < 2; ++half) {
      I v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16 * half), _mm512_set1_ps(inverse)));
      v = _mm512_max_epi32(_mm512_add_epi32(v, _mm512_set1_epi32(zero)), _mm512_set1_epi32(1));
      v = _mm512_min_epi32(v, _mm512_set1_epi32(255));
      const __m128i bytes = _mm512_cvtepi32_epi8(v);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + 16 * half), bytes);
      const __m128i eights = _mm_sad_epu8(bytes, _mm_setzero_si128());
      sums[half] = _mm_cvtsi128_si32(_mm_add_epi32(eights, _mm_unpackhi_epi64(eights, eights)));
    }
  }
  static F Activate(GateKind kind, F v) {
    // SiLU: v / (1 + e^-v). GELU: v * (1 - 1 / (1 + e^(2u))), u = sqrt(2/pi) (v + 0.044715 v^3).
    F argument = _mm512_sub_ps(_mm512_setzero_ps(), v);
    if (kind == GateKind::kGeluTanh) {
      const F cube = _mm512_mul_ps(_mm512_mul_ps(v, v), v);
      argument = _mm512_mul_ps(_mm512_fmadd_ps(cube, SetF(0.044715f), v), SetF(-1.5957691216057308f));
    }
    return _mm512_div_ps(v, _mm512_add_ps(SetF(1), Exp(argument)));
  }
};

}  // namespace

void Linear(const LinearArgs& args, OpContext on) { strips::RunLinear(args, strips::kStripKernels<Isa>, on); }
void GatedLinear(const GatedLinearArgs& args, OpContext on) {
  strips::RunGatedLinear(args, strips::kStripKernels<Isa>, on);
}
void Gate(const GateArgs& args, OpContext on) { strips::RunGate(args, strips::kStripKernels<Isa>, on); }

}  // namespace interlace::avx512
