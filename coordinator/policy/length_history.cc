#include "coordinator/policy/length_history.h"

#include <algorithm>

namespace interlace {
namespace {

constexpr int32_t kFewest = 8;  // answers that say anything

}  // namespace

void LengthHistory::Ended(int32_t tokens) {
  int32_t& slot = ring_[seen_++ % kKept];
  int32_t* const begin = sorted_.data();
  if (count_ == kKept) {
    int32_t* const old = std::lower_bound(begin, begin + count_, slot);
    std::copy(old + 1, begin + count_, old);
    --count_;
  }
  slot = tokens;
  int32_t* const at = std::upper_bound(begin, begin + count_, tokens);
  std::copy_backward(at, begin + count_, begin + count_ + 1);
  *at = tokens;
  ++count_;
}

int32_t LengthHistory::AtLeast(int32_t generated, double share, int32_t most) const {
  const int32_t* const begin = sorted_.data();
  const int32_t* const end = begin + count_;
  const int32_t* const longer = std::upper_bound(begin, end, generated);
  if (end - longer < kFewest) return 0;
  return std::clamp(longer[static_cast<int64_t>(share * static_cast<double>(end - longer))] - generated, 0, most);
}

double LengthHistory::Reaching(int32_t generated, int32_t more) const {
  const int32_t* const begin = sorted_.data();
  const int32_t* const end = begin + count_;
  const auto reached = end - std::lower_bound(begin, end, generated);
  if (reached < kFewest) return 1;
  return static_cast<double>(end - std::lower_bound(begin, end, generated + more)) / static_cast<double>(reached);
}

}  // namespace interlace
