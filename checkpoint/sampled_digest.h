// The digest that tells two models apart without reading gigabytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace interlace {

// XXH3-128, as 32 hex digits, over the header, the file's size, and some bytes from the start, the middle and the end
// of each part: models that differ only in their weights must differ here too, and a whole file may take minutes to
// read.
std::string SampledDigest(absl::Span<const std::byte> header, uint64_t file_bytes,
                          const std::vector<absl::Span<const std::byte>>& parts);

}  // namespace interlace
