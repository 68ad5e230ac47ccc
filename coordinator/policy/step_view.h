// What a policy sees of the step that is about to be planned, and what it answers. Values: a policy is a pure function.
#pragma once

#include <cstdint>
#include <limits>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/ids.h"
#include "coordinator/cost_model.h"
#include "coordinator/policy/length_history.h"

namespace interlace {

// kWaiting: no rank knows it; it may hold sealed blocks from an earlier attempt (then it is parked). kFetching: its
// room is taken and blocks of it are on their way from the tiers. kRunning: ranks know it.
enum class Phase : uint8_t { kWaiting, kFetching, kRunning };

// One request as a policy sees it. SequenceState is one, so that the scheduler keeps nothing twice.
struct SequenceView {
  // What each step looks at first.
  RequestId id{};
  Phase phase = Phase::kWaiting;
  int32_t prompt = 0;     // tokens
  int32_t known = 0;      // prompt, then what was accepted
  int32_t scheduled = 0;  // positions computed or in plans
  int32_t pending = 0;    // sampling steps in flight
  int32_t max_tokens = 0;
  int32_t sealed = 0;                             // blocks that it holds or uses
  int32_t kept_layers = 0;                        // layers whose blocks all lie on the device
  int32_t found = 0;                              // blocks of its prompt that were there when that was last looked at
  int32_t had = 0;                                // tokens of the answer that its client had when it came
  absl::Time first_token = absl::InfinitePast();  // infinite past: not yet
  absl::Time last_token = absl::InfinitePast();   // when the client got, or will get, the last one that was accepted
  // What it asks for; infinite: nothing.
  absl::Duration tpot = absl::InfiniteDuration();
  absl::Duration largest_gap = absl::InfiniteDuration();
  absl::Duration ttft = absl::InfiniteDuration();
  absl::Time arrival, deadline;
  int32_t priority = 0;   // lower is earlier
  double tenant_tag = 0;  // tokens that its tenant had been served, or had ahead of it, when it came
  double key = 0;         // its place in the policy's order: lower first

  int32_t generated() const { return known - prompt; }
  // Tokens that its pace is measured by.
  int32_t given() const { return generated() - had; }
  // Tokens of the answer, those in flight among them.
  int32_t made() const { return generated() + pending; }
  // Known tokens that are in no plan.
  int32_t unscheduled() const { return known - scheduled; }
  // At most one known token is in no plan: a step of one position makes the next one.
  bool decodes() const { return unscheduled() <= 1; }
  bool parked() const { return phase == Phase::kWaiting && sealed > 0; }
  bool begun() const { return first_token != absl::InfinitePast(); }
  // Its tokens are to come at a pace.
  bool paced() const {
    return begun() && (tpot != absl::InfiniteDuration() || largest_gap != absl::InfiniteDuration());
  }
};

// How many blocks of room are kept free for those who run when another one starts.
enum class ReserveRule : uint8_t { kNone, kShare, kCap, kQuantile };

struct PolicyOptions {
  ReserveRule reserve = ReserveRule::kQuantile;
  double reserve_factor = 0;  // kShare: o blocks for every 16 requests; kCap: a blocks for each request
  int32_t max_parked = 16;    // requests between first and last token that run with less than all layers, or not at all
};

struct StepView {
  absl::Time now;
  absl::Time begins;  // when the step begins that is planned: those in flight are expected to be over by then
  absl::Span<const SequenceView* const> running;
  absl::Span<const SequenceView* const> waiting;  // the first of them, in the policy's order
  int32_t parked = 0;         // requests that wait after their first token, or run with less than all layers
  int32_t begun_waiting = 0;  // of these, those that wait
  int32_t rows = 0;           // the most of one plan
  int32_t layers = 0;
  int32_t block_tokens = 0;
  int64_t block_bytes = 0;    // of one block in one layer
  int64_t free_blocks = 0;    // whole ones, all layers, that may be had on the device; the least of the stages
  int64_t device_blocks = 0;  // that it holds in all
  const CostModel* cost = nullptr;
  // Steps take this times what the cost model expects, from one to the next: what ranks do not count among a step's
  // time, and noise. Half of them, and nine in ten of them.
  double slowdown = 1, most_slowdown = 1;
  const LengthHistory* lengths = nullptr;
  PolicyOptions options;
};

// Who gives way when one that comes earlier in the order finds no room.
enum class GiveWay : uint8_t {
  kLower,      // those who run keep fewer layers; when that is not enough, the last in the order is parked
  kLowerLast,  // the same, but only those later in the order, while the link carries what they then read
  kPark,       // the last in the order is parked: its blocks go to the host, as far as there is room
  kRecompute,  // the last in the order gives its blocks up and computes them again
};

inline constexpr int32_t kAll = std::numeric_limits<int32_t>::max();

// Why a policy lets no more requests start with less than all layers.
enum class HoldUp : uint8_t {
  kNone,
  kStreamLate,   // a running stream is late already
  kParkedBound,  // as many requests are parked, or short of layers, as may be
  kCoresBusy,    // arithmetic is the limit, not room: an early start would gain nobody anything
};

// What a policy proposes; the scheduler does it as far as there is room.
struct StepDraft {
  int32_t prompt_rows = kAll;                                  // rows of the step for prompts
  int64_t stream_bytes = std::numeric_limits<int64_t>::max();  // that decoding streams may read from the host: a limit
  bool park_streams = false;       // a stream whose bytes do not fit leaves the device; else it sits the step out
  int32_t starts = kAll;           // requests that may start with less than all layers
  HoldUp hold_up = HoldUp::kNone;  // why `starts` is 0
  int32_t least_layers = 0;        // kept by a request that starts
  int32_t most_layers = kAll;
  int32_t resume_layers = 0;  // kept at least by a parked one that runs again
  // Above 0: those that run again keep exactly so many layers that steps read so much from the host for all of them.
  int64_t resume_bytes = 0;
  bool overtake = false;     // a new request may start while a parked one waits for room
  int64_t spare_blocks = 0;  // left free for those who run
  GiveWay give_way = GiveWay::kLower;
  friend bool operator==(const StepDraft&, const StepDraft&) = default;
};

}  // namespace interlace
