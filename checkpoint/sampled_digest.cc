#include "checkpoint/sampled_digest.h"

#include <xxhash.h>

#include "absl/strings/str_format.h"
#include "common/check.h"

namespace interlace {

std::string SampledDigest(absl::Span<const std::byte> header, uint64_t file_bytes,
                          const std::vector<absl::Span<const std::byte>>& parts) {
  constexpr size_t kSample = 512;
  XXH3_state_t* state = XXH3_createState();
  CHECK(state != nullptr);
  XXH3_128bits_reset_withSeed(state, file_bytes);
  XXH3_128bits_update(state, header.data(), header.size());
  for (const absl::Span<const std::byte> part : parts) {
    if (part.size() <= 3 * kSample) {
      XXH3_128bits_update(state, part.data(), part.size());
      continue;
    }
    for (size_t at : {size_t{0}, (part.size() - kSample) / 2, part.size() - kSample}) {
      XXH3_128bits_update(state, part.data() + at, kSample);
    }
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(state);
  XXH3_freeState(state);
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

}  // namespace interlace
