// The `modular` backend: exact arithmetic modulo a prime in the place of floating point, for tests of everything around
// the kernels. Not in the table of backends: tests hand MakeModularBackend to whoever makes a rank.
//
// Every op has the shape and the data flow of the real one, and computes on residues, kept as whole numbers in F32
// tensors. Sums of residues do not depend on order, so chunks, batches, stages, threads and tensor-parallel shards give
// the same numbers as the unsplit model, with no tolerance. Products with a hash of the position take the place of
// scores and rotations, so a block of KV that is lost, stale, swapped or zeroed changes all that comes after it, except
// by a collision of 1 in kPrime.
#pragma once

#include <cmath>
#include <memory>

#include "kernels/backend.h"

namespace interlace {

// The largest prime below 2^18: 64 residues add up without rounding in F32, as a sum over 64 shards would.
inline constexpr int64_t kPrime = 262139;

// The residue that an element of a tensor stands for, in [0, kPrime): of a sum of residues, too. Requires: a whole
// number below 2^24 in magnitude; anything else (NaN of a slot never written) has a residue of its own.
inline int64_t ResidueOf(float value) {
  if (!(std::fabs(value) < 0x1p24f)) return 1;
  const int64_t whole = static_cast<int64_t>(value) % kPrime;
  return whole < 0 ? whole + kPrime : whole;
}
// The residue of a weight, norm, bias or setting: a hash of its bits; 0 stays 0.
int64_t ResidueOfWeight(float value);

// KV blocks are F32 (kv.dtype=f32). Sampling is greedy: the largest logit by residue, or where the temperature is not
// 0, the largest after a product with a hash of (seed, index).
const OpTable& ModularOps();
// The memory and threads of the cpu backend with the modular ops; options.ops is not looked at.
absl::StatusOr<std::unique_ptr<Backend>> MakeModularBackend(const BackendOptions& options);

}  // namespace interlace
