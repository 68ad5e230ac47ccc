// Entropy: the only source of chance for core code.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/strings/string_view.h"

namespace interlace {

// A stream of random 64-bit words. Owned by whoever forked it. Thread: one.
// The trap: drawing from a shared stream ties components together; Fork one for each.
class Entropy {
 public:
  virtual ~Entropy() = default;
  virtual uint64_t Next() = 0;
  // An independent stream; of a seeded one, the same parent state and name give the same stream.
  virtual std::unique_ptr<Entropy> Fork(absl::string_view name) = 0;
};

// splitmix64 from a seed: same seed, same stream. Whoever sees one word can tell all others: no secrets are made of it.
std::unique_ptr<Entropy> MakeSeededEntropy(uint64_t seed);

// The operating system's: fit for nonces, keys and names that nobody may guess.
std::unique_ptr<Entropy> MakeOsEntropy();

}  // namespace interlace
