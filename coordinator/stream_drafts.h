// StreamDrafts: what one stream guesses ahead by, and how well.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/ngram_drafter.h"
#include "coordinator/skip_index/skip_advice.h"
#include "coordinator/speculation.h"

namespace interlace {

// The skip plan that the advisor gave a stream, and what came of it. A part of StreamDrafts.
struct StreamSkip {
  std::vector<float> key;            // of its prompt, as the rank took it; empty: there is none
  std::optional<SkipAdvice> advice;  // nullopt: it has asked for none yet, or is to ask again
  double share = 1;                  // of a whole pass, that the advice's plan leaves
  SkipOutcome since;                 // the advice, or since the advisor was last told
  int32_t judged = 0, right = 0;     // guesses since the advice

  // Judged guesses after which the advisor is told, though the stream goes on.
  static constexpr double kTellEvery = 256;
};

// How far the rank's draft model has read a stream, as far as the scheduler knows, and how well it guesses it. A part
// of StreamDrafts.
struct StreamModel {
  DraftRate rate;
  uint32_t attempt = 0;           // of which `seen` is: a new one is read anew
  int32_t seen = 0;               // positions, from 0 on
  int32_t reads = 0;              // rows that it reads in the step in flight
  int32_t waits_until = 0;        // there was no room for the stream: not before it knows so many tokens
  int32_t judged = 0, right = 0;  // guesses

  static constexpr int32_t kWait = 64;  // tokens
};

// Owned by the sequence's state; thread: the replica's.
struct StreamDrafts {
  NgramDrafter ngram;
  // By what the drafter would have said of each token that came, so that it costs nothing while it is not used.
  DraftRate ngram_rate{0};
  DraftRate self_rate{kUntried};
  StreamModel model{DraftRate(kUntried)};
  bool self_streams = false;  // self_rate is of passes without the layers that lie on the host
  int32_t expected = -1;      // the next token by `ngram`; -1: it has none
  DraftChoice choice;         // for the plan being made
  StreamSkip skip;

  static constexpr double kUntried = 0.8;  // a rate that makes it worth a try where passes are cheap
};

// What a replica has learned of drafting. Owned by the Scheduler; thread: the replica's.
struct ReplicaDrafts {
  bool on = false;    // streams wait for the judgement of their guesses instead of running ahead
  bool pays = false;  // they do since that promises more tokens, and not for the sake of a trial alone
  // Of passes without the layers on the host, of those of streams that have all on the device, and of those of the
  // draft model.
  struct Passes {
    DraftRate rate{StreamDrafts::kUntried};  // where a new stream begins
    double pass = 1;                         // of a plain step's computing; with an advisor, one over all sublayers
  };
  Passes streamed, resident, model;
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
