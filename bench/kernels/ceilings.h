// What a core can do at best: the denominators of every share in a NOTES.md.
#pragma once

#include <cstdint>

namespace interlace {

// `rounds` times 12 independent chains of 8-lane fused multiply-adds; returns something that depends on all.
float RunFmaChains(int64_t rounds);
inline constexpr int64_t kFlopsPerRound = 12 * 8 * 2;
// The same with 16 lanes. Requires: a CPU with AVX-512 F.
float RunFmaChains512(int64_t rounds);
inline constexpr int64_t kFlopsPerRound512 = 12 * 16 * 2;

// Adds up all words; bytes is a multiple of 128.
float ReadAll(const void* data, int64_t bytes);

}  // namespace interlace
