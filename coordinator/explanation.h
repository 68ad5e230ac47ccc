// Explanation: what happened to one request, layer by layer and decision by decision.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/ids.h"
#include "coordinator/request.h"

namespace interlace {

// What the time of a request goes by; at any moment one of them.
enum class Spending : uint8_t {
  kQueued,    // it waits and has not been in a plan
  kFetching,  // its blocks are on their way from the tiers
  kPrefill,   // it runs: its prompt is computed, or what it lost is computed again
  kDecode,    // it runs: each step makes a token
  kParked,    // it waits after it has been in a plan
  kSatOut,    // it runs, and a step leaves it out: its layers on the host are more than the step can read
};
inline constexpr size_t kSpendings = 6;
absl::string_view SpendingName(Spending spending);

// From the arrival until now, or until the end; the parts add up to the whole, exactly.
struct TimeSpent {
  std::array<absl::Duration, kSpendings> of{};
  absl::Duration& operator[](Spending spending) { return of[static_cast<size_t>(spending)]; }
  absl::Duration operator[](Spending spending) const { return of[static_cast<size_t>(spending)]; }
  absl::Duration Sum() const {
    absl::Duration sum;
    for (absl::Duration part : of) sum += part;
    return sum;
  }
};

// Why a request waits, starts, gives way, comes back, or is computed again. Rows of a table in explanation.cc.
enum class DecisionKind : uint8_t {
  // It waits.
  kRouted,
  kQueued,
  kNoRoom,
  kReserved,
  kStreamLate,
  kParkedBound,
  kCoresBusy,
  kBehindParked,
  kRunningBound,
  kNoRows,
  kTiersAsked,
  kAnotherComputes,
  kStepsInFlight,
  kSuspectAlone,
  // It goes on.
  kStarted,
  kResumed,
  kFetches,
  kPromoted,
  // It gives way.
  kLowered,
  kSatOut,
  kParkedStream,
  kParkedForRoom,
  kPreempted,
  kParkedAllStuck,
  kParkedForSuspect,
  kParkedToRefit,
  kHeldGivenUp,
  kCacheGivenUp,
  // It is computed again, or ends.
  kLostBlock,
  kNewAttempt,
  kLostReplica,
  kHandedOver,
  kFetchFailed,
  kShed,
  kDrafted,
  kBounded,
  kSwitchedOff,
  kFromCache,
  kEnded,
};
inline constexpr size_t kDecisionKinds = static_cast<size_t>(DecisionKind::kEnded) + 1;

// The same decision again, with nothing else between, only counts up: `times`, `until` and the figures are the last's.
struct Decision {
  DecisionKind kind{};
  int32_t times = 1;
  absl::Duration at, until;          // since the arrival: the first of them, and the last
  std::array<int64_t, 3> figures{};  // what they mean, the kind says
  std::string detail;                // whom it was for, or what failed; may be empty
};
absl::string_view DecisionName(DecisionKind kind);   // "no_room"
std::string DecisionText(const Decision& decision);  // "waits for room: 33 blocks wanted, 12 free"

struct LayerExplanation {
  int32_t stage = 0;
  bool kept = false;
  int32_t blocks_device = 0;  // sealed blocks, now
  int32_t blocks_host = 0;
  // Where the blocks of its latest attempt came from: what it found when it started, and what it computed since.
  int32_t found_device = 0;
  int32_t found_host = 0;
  int32_t found_below = 0;  // in the tiers below the host
  int32_t computed = 0;
  int64_t bytes_in = 0;  // over the request's life, towards the device
  int64_t bytes_out = 0;
  int64_t stall_us = 0;
  absl::Duration first_move, last_move;  // since the arrival: the first step that moved bytes for it, and the last
};

struct Explanation {
  static constexpr size_t kFirstDecisions = 16, kMostDecisions = 48;  // the first ones are kept, and the last

  std::string name;
  std::string state;  // waiting, fetching, running, parked, finished, failed
  RequestEnd end;     // as far as it is known
  Targets targets;
  absl::Duration deadline = absl::InfiniteDuration();  // from its arrival
  int32_t keep_layers = 0;
  int32_t steps = 0;
  int32_t recomputes = 0;
  int32_t recomputed_tokens = 0;
  int32_t preemptions = 0;
  int64_t step_reads = 0;    // bytes of the host that a step with it reads for it, when that was last looked at
  int64_t step_budget = -1;  // bytes that a step could read for all streams then; -1: never limited
  TimeSpent spent;
  std::vector<LayerExplanation> layers;  // one for each layer of the model
  std::vector<Decision> decisions;
  int32_t decisions_left_out = 0;  // between the first ones and the last

  void Add(Decision decision);
  std::vector<std::string> Texts() const;  // of the decisions
};

}  // namespace interlace
