// How often a test kills the process that it watches.
#pragma once

#include <cstdlib>

namespace interlace {

// INTERLACE_TIER_KILLS where it is set (tests/nightly.sh does), else `usual`.
inline int KillCount(int usual) {
  const char* said = std::getenv("INTERLACE_TIER_KILLS");
  return said == nullptr ? usual : std::atoi(said);
}

}  // namespace interlace
