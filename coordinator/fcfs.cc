#include <tuple>

#include "coordinator/scheduling_policy.h"

namespace interlace {

bool FcfsBefore(const RequestView& a, const RequestView& b) {
  return std::tie(a.arrival, a.request) < std::tie(b.arrival, b.request);
}

}  // namespace interlace
