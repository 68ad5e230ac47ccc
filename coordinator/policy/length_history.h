// LengthHistory: how long the answers of late were, and so how long the present ones may become.
#pragma once

#include <array>
#include <cstdint>

namespace interlace {

// The lengths of the last answers that ended by themselves. Owned by the Scheduler; thread: the replica's.
class LengthHistory {
 public:
  static constexpr int32_t kKept = 256;
  void Ended(int32_t tokens);
  // Tokens that an answer of `generated` tokens has still to come, in all but `share` of such answers; at most `most`.
  // 0 while too few answers of that length have been seen.
  int32_t AtLeast(int32_t generated, double share, int32_t most) const;
  // Of answers that reached `generated` tokens, the share that reached `generated` + `more`. 1 where nothing is known.
  double Reaching(int32_t generated, int32_t more) const;

 private:
  std::array<int32_t, kKept> sorted_{};  // ascending, [0, count_)
  std::array<int32_t, kKept> ring_{};    // in the order in which they came
  int32_t count_ = 0;
  int64_t seen_ = 0;
};

}  // namespace interlace
