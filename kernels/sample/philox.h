// Philox4x32-10: four random words from a counter and a key, with no state.
#pragma once

#include <array>
#include <cstdint>

namespace interlace {

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

}  // namespace interlace
