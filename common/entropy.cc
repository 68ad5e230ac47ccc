#include "common/entropy.h"

#include <random>

namespace interlace {
namespace {

uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
class SplitMix final : public Entropy {
 public:
  explicit SplitMix(uint64_t seed) : state_(seed) {}
  uint64_t Next() override { return Mix(state_ += 0x9e3779b97f4a7c15ULL); }
  std::unique_ptr<Entropy> Fork(absl::string_view name) override {
    uint64_t seed = Next();
    for (unsigned char c : name) seed = Mix(seed ^ c) + 0x9e3779b97f4a7c15ULL;
    return std::make_unique<SplitMix>(seed);
  }

 private:
  uint64_t state_;
};

}  // namespace

std::unique_ptr<Entropy> MakeSeededEntropy(uint64_t seed) { return std::make_unique<SplitMix>(seed); }

std::unique_ptr<Entropy> MakeOsEntropy() {
  std::random_device device;
  return MakeSeededEntropy((uint64_t{device()} << 32) | device());
}

}  // namespace interlace
