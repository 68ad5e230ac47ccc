// Types that tell overloads what sixteen bits hold.
#pragma once

#include <cstdint>

namespace interlace {

struct F16Bits {
  uint16_t bits;
};
struct BF16Bits {
  uint16_t bits;
};

}  // namespace interlace
