// SaturationWatch: whether a server's queue grows without end.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"

namespace interlace {

// A server is over-saturated when both the number of open requests and the time to first token rise on a straight line:
// both slopes, over the means of 20 equal stretches of the last two thirds of the run, are positive at 99.9 % (a
// t-test), and both have at least doubled on that line. Bursts and a queue that is merely long do not pass. Owned by
// the runner; thread: one.
class SaturationWatch {
 public:
  // Neither verdict before that much time and that many first tokens.
  static constexpr absl::Duration kLeastTime = absl::Seconds(10);
  static constexpr size_t kLeastFirstTokens = 40;

  void NoteOpen(absl::Duration now, int64_t open) { open_.push_back({now, static_cast<double>(open)}); }
  void NoteFirstToken(absl::Duration now, absl::Duration ttft) { ttft_.push_back({now, absl::ToDoubleSeconds(ttft)}); }
  // Why the server is over-saturated, for people; empty: it is not.
  std::string Verdict(absl::Duration now) const;

 private:
  struct Sample {
    absl::Duration at;
    double value;
  };
  struct Trend {
    bool rises = false;
    double from = 0, to = 0;  // of the line
  };
  static Trend TrendOf(const std::vector<Sample>& samples, absl::Duration begin, absl::Duration end);

  std::vector<Sample> open_, ttft_;  // by time
};

}  // namespace interlace
