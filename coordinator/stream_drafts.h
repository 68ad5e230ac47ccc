// StreamDrafts: what one stream guesses ahead by, and how well.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"
#include "coordinator/ngram_drafter.h"
#include "coordinator/speculation.h"

namespace interlace {

// Owned by the sequence's state; thread: the replica's.
struct StreamDrafts {
  NgramDrafter ngram;
  // By what the drafter would have said of each token that came, so that it costs nothing while it is not used.
  DraftRate ngram_rate{0};
  DraftRate self_rate{kUntried};
  bool self_streams = false;      // self_rate is of passes without the layers that lie on the host
  int32_t expected = -1;          // the next token by `ngram`; -1: it has none
  DraftChoice choice;             // for the plan being made
  Drafter used = Drafter::kNone;  // in the step in flight

  static constexpr double kUntried = 0.8;  // a rate that makes it worth a try where passes are cheap
};

// What a replica has learned of drafting. Owned by the Scheduler; thread: the replica's.
struct ReplicaDrafts {
  bool on = false;  // streams wait for the judgement of their guesses instead of running ahead
  // Of passes without the layers on the host, and of those of streams that have all on the device.
  struct Self {
    DraftRate rate{StreamDrafts::kUntried};  // where a new stream begins
    double pass = 1;                         // of a plain step's computing
  };
  Self streamed, resident;
  // From one step's end to the next one's, over what was expected.
  double plain_pace = 1, draft_pace = kFirstPace;

  void NotePace(bool drafts, double ratio) {
    double& pace = drafts ? draft_pace : plain_pace;
    pace += (std::clamp(ratio, 0.25, 4.0) - pace) / 16;
    if (!drafts) draft_pace += (std::max(kFirstPace, plain_pace) - draft_pace) / 1024;
  }
  static constexpr double kFirstPace = 1.05;
};

}  // namespace interlace
