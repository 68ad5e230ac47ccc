// SaturationWatch: whether a server's queue grows without end.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"

namespace interlace {

// A server is over-saturated when both the number of open requests and the time to first token rise on a straight line:
// both slopes, over the means of 10 equal stretches of the last two thirds of the run, are positive at 99.9 % (a
// t-test), and both have at least doubled on that line. A queue goes up and down by itself, and slowly when it is long,
// so one look proves little: looks are 25 % of the run apart, from 10 s on, and four in a row must say so. Of simulated
// servers of one place this stops none of 100 runs of 300 s at 80 % load and 1 at 90 %; at 150 % it stops all, half of
// them within 31 s. Owned by the runner; thread: one.
class SaturationWatch {
 public:
  void NoteOpen(absl::Duration now, int64_t open) { open_.push_back({now, static_cast<double>(open)}); }
  void NoteFirstToken(absl::Duration now, absl::Duration ttft) { ttft_.push_back({now, absl::ToDoubleSeconds(ttft)}); }
  // Looks, if it is time to. Why the server is over-saturated, for people; empty: it is not, as far as is known.
  std::string Verdict(absl::Duration now);

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
  absl::Duration next_look_ = absl::Seconds(10);
  int in_a_row_ = 0;  // looks that found both rising
};

}  // namespace interlace
