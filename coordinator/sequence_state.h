// SequenceState: one request in the scheduler's eyes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/ids.h"
#include "coordinator/block_directory.h"
#include "coordinator/explanation.h"
#include "coordinator/request.h"

namespace interlace {

// kWaiting: no rank knows it; it may hold sealed blocks from an earlier attempt (then it is parked). kFetching: its
// room is taken and blocks of it are on their way from the tiers. kRunning: ranks know it.
enum class Phase : uint8_t { kWaiting, kFetching, kRunning };

// What the tiers below are known to have of a waiting request's prefix.
enum class Below : uint8_t { kUnknown, kAsked, kKnown };

// Owned by the Scheduler; thread: the replica's. Positions [0, confirmed) are computed and acknowledged, positions
// [0, scheduled) are computed or in plans. While a plan is in flight that samples, the ranks know a token more than
// `tokens` does (pending).
struct SequenceState {
  Request request;
  Phase phase = Phase::kWaiting;
  uint32_t attempt = 0;         // of its latest opening; results of others are stale
  bool void_attempt = false;    // a step of the attempt was lost: what else comes of it counts for nothing
  std::vector<int32_t> tokens;  // prompt, then what was accepted
  std::vector<BlockId> ids;     // of the whole blocks of `tokens`
  int32_t confirmed = 0;
  int32_t scheduled = 0;
  int32_t pending = 0;    // sampling steps in flight
  int32_t in_flight = 0;  // plans of the attempt whose results are not all back
  bool drafting = false;  // a step with drafts is in flight: nothing is planned until it is back

  // Its KV. KvPlacement alone writes these.
  std::vector<BlockEntry*> blocks;  // sealed ones, in order: used while it runs, held while it is parked
  LayerSet kept;                    // layers whose blocks all lie on the device
  bool kept_changed = false;        // the ranks do not know yet
  int32_t reserved = 0;             // blocks after the sealed ones that it has room for
  KvAmounts charge;                 // of these
  std::vector<int32_t> seen_from;   // by window group: the first block that it still sees

  bool opened = false;  // the ranks know the attempt
  int32_t named = 0;    // blocks whose name the ranks know
  int32_t adopted = 0;  // blocks of this attempt that others computed
  Below below = Below::kUnknown;
  int32_t below_blocks = 0;  // from the first on, that replica and tiers hold together
  int32_t stages_answered = 0;
  int32_t probe_answers = 0;  // the least of theirs
  int32_t fetched = 0;        // blocks under way from the tiers
  absl::Time fetch_began;
  int32_t losses = 0;  // of a replica that met it since it last got on

  absl::Time started, first_token, last_token;  // infinite past: not yet
  absl::Duration largest_gap;                   // between two of its tokens
  int32_t computed_before = 0;                  // positions below it were computed in an earlier attempt
  int32_t cached_tokens = -1;                   // of the prompt, when it first started; -1: not yet
  Explanation explanation;

  explicit SequenceState(Request r) : request(std::move(r)), tokens(request.prompt) {}
  int32_t prompt_tokens() const { return static_cast<int32_t>(request.prompt.size()); }
  int32_t length() const { return static_cast<int32_t>(tokens.size()); }
  int32_t generated() const { return length() - prompt_tokens(); }
  bool parked() const { return phase == Phase::kWaiting && !blocks.empty(); }
  // Known tokens that are in no plan.
  int32_t unscheduled() const { return length() - scheduled; }
  // At most one known token is in no plan: a step of one position makes the next one.
  bool decodes() const { return unscheduled() <= 1; }
  // What is known by now of its first token and its gaps.
  void FillPace(RequestTiming* timing) const {
    if (first_token == absl::InfinitePast()) return;
    timing->first_token = first_token - request.arrival;
    timing->largest_gap = largest_gap;
    if (generated() > 1) timing->tpot = (last_token - first_token) / (generated() - 1);
  }
  // The replica is gone, and all that it held. Requires: its placement goes too.
  void ForgetReplica() {
    phase = Phase::kWaiting;
    void_attempt = true;
    pending = in_flight = 0;
    scheduled = confirmed = 0;
    drafting = opened = kept_changed = false;
    blocks.clear();
    kept = {};
    reserved = named = adopted = 0;
    charge.clear();
    below = Below::kUnknown;
    below_blocks = 0;
  }
  void Note(std::string text) {
    if (explanation.notes.size() < 32) explanation.notes.push_back(std::move(text));
  }
};

// Orders sets of sequences by request id, so that the same history gives the same order.
struct SequenceBefore {
  bool operator()(const SequenceState* a, const SequenceState* b) const {
    return Value(a->request.id) < Value(b->request.id);
  }
};

}  // namespace interlace
