#include "common/entropy.h"

#include <sys/random.h>

#include <array>
#include <cerrno>
#include <utility>

#include "common/check.h"

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

// Taken from the system a few words at a time. Nobody can tell a word from those that went before: nonces and names of
// sessions are made of them.
class OsWords final : public Entropy {
 public:
  uint64_t Next() override {
    if (at_ == words_.size()) Refill();
    return std::exchange(words_[at_++], 0);
  }
  std::unique_ptr<Entropy> Fork(absl::string_view) override { return std::make_unique<OsWords>(); }

 private:
  // So few bytes come whole or not at all (getrandom(2)).
  void Refill() {
    ssize_t got = 0;
    do {
      got = getrandom(words_.data(), sizeof words_, 0);
    } while (got < 0 && errno == EINTR);
    CHECK_MSG(got == static_cast<ssize_t>(sizeof words_), "the system gives no random bytes");
    at_ = 0;
  }

  std::array<uint64_t, 32> words_{};
  size_t at_ = words_.size();
};

}  // namespace

std::unique_ptr<Entropy> MakeSeededEntropy(uint64_t seed) { return std::make_unique<SplitMix>(seed); }

std::unique_ptr<Entropy> MakeOsEntropy() { return std::make_unique<OsWords>(); }

}  // namespace interlace
