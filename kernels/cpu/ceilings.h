// What a core can do at best: the denominators of every share that a benchmark prints.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

namespace interlace {

// Loops over one instruction set. Each returns something that depends on all it did.
struct CeilingLoops {
  absl::string_view name;  // as the op table that uses the instructions: "reference", "avx2", "avx512"
  // `rounds` times independent chains of fused multiply-adds.
  float (*fma)(int64_t rounds);
  int64_t fma_flops;  // per round
  // The same of 8-bit products summed in 32 bits.
  int32_t (*dot)(int64_t rounds);
  int64_t dot_ops;  // per round; a product and a sum are two
  // Reads all bytes, a multiple of kReadGrain, from kReadStreams places at once, as kernels of several rows do.
  uint64_t (*read)(const std::byte* data, int64_t bytes);
};
inline constexpr int kReadStreams = 8;
inline constexpr int64_t kReadGrain = 4096;

// Those that this CPU runs, slowest first; never empty.
std::vector<const CeilingLoops*> CeilingLoopsHere();
// Those of the op table `ops`, or the best that this CPU runs if there are none of that name.
const CeilingLoops& CeilingLoopsOf(absl::string_view ops);

extern const CeilingLoops kAvx2CeilingLoops;
extern const CeilingLoops kAvx512CeilingLoops;  // F, BW, VL and VNNI

}  // namespace interlace
