// Liveness: when the two ends of a stream speak, and when one of them counts as gone.
#pragma once

#include <algorithm>

#include "absl/time/time.h"

namespace interlace {

// One end's view of the other. A process that is stopped (SIGSTOP, a frozen machine) keeps its connections open, so
// both ends speak at least every `speak_every`, and `silence` without a word is a loss. Owned by whoever watches the
// stream; pure: time is passed in. Thread: one, or under the owner's lock. A watcher that was itself stopped has heard
// nothing either: after a gap between two looks as long as half of `silence` it begins to count anew.
class Liveness {
 public:
  struct Options {
    absl::Duration speak_every = absl::Milliseconds(500);
    absl::Duration silence = absl::Seconds(2);
  };
  Liveness(const Options& options, absl::Time now) : options_(options), heard_(now), spoke_(now), looked_(now) {}

  void Heard(absl::Time now) { heard_ = std::max(heard_, now); }
  void Spoke(absl::Time now) { spoke_ = std::max(spoke_, now); }
  bool MustSpeak(absl::Time now) const { return now >= spoke_ + options_.speak_every; }
  // To be asked at least as often as NextLook says.
  bool IsSilent(absl::Time now) {
    if (now - looked_ >= options_.silence / 2) heard_ = std::max(heard_, now);
    looked_ = std::max(looked_, now);
    return now >= heard_ + options_.silence;
  }
  // When there may be something to do.
  absl::Time NextLook() const { return std::min(spoke_ + options_.speak_every, heard_ + options_.silence); }
  absl::Duration silence() const { return options_.silence; }

 private:
  const Options options_;
  absl::Time heard_;
  absl::Time spoke_;
  absl::Time looked_;
};

}  // namespace interlace
