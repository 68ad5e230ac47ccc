// SequenceState: one request in the scheduler's eyes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "common/ids.h"
#include "coordinator/block_directory.h"
#include "coordinator/bounded_stream.h"
#include "coordinator/explanation.h"
#include "coordinator/policy/step_view.h"
#include "coordinator/request.h"
#include "coordinator/request_trace.h"
#include "coordinator/stream_drafts.h"

namespace interlace {

// What the tiers below are known to have of a waiting request's prefix.
enum class Below : uint8_t { kUnknown, kAsked, kKnown };

// Tokens that were accepted and are not given to the client yet, in order.
struct HeldToken {
  int32_t token = 0;
  absl::Time due;
  std::vector<TokenScore> scores;  // where the client wants them
};
struct TokenDeposit {
  std::deque<HeldToken> tokens;
  absl::Time released;  // when the last one before these was given
};

// Owned by the Scheduler; thread: the replica's. Positions [0, confirmed) are computed and acknowledged, positions
// [0, scheduled) are computed or in plans. While a plan is in flight that samples, the ranks know a token more than
// `tokens` does (pending).
struct alignas(64) SequenceState : SequenceView {
  static constexpr int32_t kTokensAhead = 4096;
  static constexpr size_t kHotBytes = 512;

  // What each step of a stream looks at stands together, so that a step touches few cache lines of each.
  bool opened = false;                    // the ranks know the attempt
  bool void_attempt = false;              // a step of the attempt was lost: what else comes of it counts for nothing
  bool drafting = false;                  // a step with drafts is in flight: nothing is planned until it is back
  bool kept_changed = false;              // the ranks do not know `kept` yet
  bool skips = false;                     // its steps may pass sublayers over: `bounded` says which, and when
  const bool scored;                      // the client wants the scores of tokens
  Spending spending = Spending::kQueued;  // what its time goes by, since `spending_since`
  uint32_t attempt = 0;                   // of its latest opening; results of others are stale
  uint64_t held_in = 0;                   // the plan that it sits out: its layers on the host are too much for it
  int32_t confirmed = 0;
  int32_t in_flight = 0;                      // plans of the attempt whose results are not all back
  PlanId planned_in{};                        // the latest plan that it is in
  int32_t named = 0;                          // blocks whose name the ranks know
  int32_t reserved = 0;                       // blocks after the sealed ones that it has room for
  int32_t losses = 0;                         // of a replica that met it since it last got on
  int32_t steps = 0;                          // of all attempts
  int32_t computed_before = 0;                // positions below it were computed in an earlier attempt
  absl::Time started = absl::InfinitePast();  // infinite past: not yet
  absl::Duration largest_so_far;              // gap between two of its tokens
  std::vector<int32_t> tokens;                // prompt, then what was accepted; `known` of them
  std::vector<BlockId> ids;                   // of the whole blocks of `tokens`
  std::vector<BlockEntry*> blocks;            // sealed ones, in order: used while it runs, held while it is parked
  LayerSet kept;                              // layers whose blocks all lie on the device
  Request request;                            // its first members are part of each step

  // KvPlacement alone writes these, `blocks`, `kept`, `kept_changed` and `reserved`.
  std::vector<int32_t> seen_from;  // by window group: the first block that it still sees
  KvAmounts charge;                // of the reserved blocks

  absl::Time forecast_at = absl::InfinitePast();  // when its first token was forecast, with sched.shed; not yet
  absl::Duration forecast_needs;                  // from then on
  int32_t adopted = 0;                            // blocks of this attempt that others computed
  Below below = Below::kUnknown;
  int32_t below_blocks = 0;  // from the first on, that replica and tiers hold together
  int32_t ranks_answered = 0;
  int32_t probe_answers = 0;                      // the least of theirs
  absl::Time ask_again = absl::InfiniteFuture();  // the tiers, since what they said is not all that they will have
  int32_t fetched = 0;                            // blocks under way from the tiers
  absl::Time fetch_began;
  int32_t scored_rows = 0;                 // of the prompt, from 0 on, whose scores have come
  bool met_loss = false;                   // it was in flight at the last loss, which is not judged yet
  int32_t cached_tokens = -1;              // of the prompt, when it first started; -1: not yet
  absl::string_view recompute_cause;       // why positions below computed_before are computed again; a literal
  int32_t faults = 0;                      // losses of KV that were not another's
  std::unique_ptr<StreamDrafts> drafts;    // null: nothing was drafted yet
  std::unique_ptr<BoundedStream> bounded;  // null: it is to be exact
  std::unique_ptr<TokenDeposit> deposit;   // null: no token was ever held back
  absl::Time spending_since;
  Explanation explanation;  // of what is not counted above
  RequestTrace trace;

  explicit SequenceState(Request r) : scored(r.sampling.logprobs >= 0), request(std::move(r)) {
    id = request.id;
    arrival = spending_since = request.arrival;
    deadline = request.deadline;
    prompt = static_cast<int32_t>(request.prompt.size());
    had = static_cast<int32_t>(request.had.size());
    known = prompt + had;
    max_tokens = request.max_tokens;
    priority = request.targets.priority;
    ttft = request.targets.ttft.value_or(absl::InfiniteDuration());
    tpot = request.targets.tpot.value_or(absl::InfiniteDuration());
    largest_gap = request.targets.largest_gap.value_or(absl::InfiniteDuration());
    // Streams that began together would else copy all their tokens in the same steps. Untouched room costs no memory.
    tokens.reserve(known + static_cast<size_t>(std::min(request.max_tokens, kTokensAhead)));
    tokens = request.prompt;
    tokens.insert(tokens.end(), request.had.begin(), request.had.end());
    if (request.fidelity.mode == FidelityMode::kBounded) bounded = std::make_unique<BoundedStream>(request.fidelity);
    skips = bounded != nullptr;
  }
  // Whether the KV of the block is not the model's, so that it is nobody else's.
  bool IsOwn(int32_t block, int32_t block_tokens) const {
    return bounded != nullptr && (block + 1) * block_tokens > bounded->own_from;
  }
  // Asks for what the next step looks at, some sequences ahead.
  void Prefetch() const {
    for (size_t at = 0; at < kHotBytes; at += 64) __builtin_prefetch(reinterpret_cast<const char*>(this) + at, 1);
  }
  // The first position that must be computed even if its KV is there: the last known token's, or an earlier one of
  // which more than KV is wanted.
  int32_t FirstWanted() const {
    if (request.pooled) return 0;
    const bool scoring = request.prompt_logprobs >= 0 && scored_rows < prompt - 1;
    return scoring ? std::min(scored_rows, known - 1) : known - 1;
  }
  // What is known by now of its first token and its gaps.
  void FillPace(RequestTiming* timing) const {
    if (!begun()) return;
    timing->first_token = first_token - arrival;
    timing->largest_gap = largest_so_far;
    if (given() > 1) timing->tpot = (last_token - first_token) / (given() - 1);
  }
  // The replica is gone, and all that it held. Requires: its placement goes too.
  void ForgetReplica() {
    phase = Phase::kWaiting;
    void_attempt = true;
    pending = in_flight = 0;
    scheduled = confirmed = 0;
    drafting = opened = kept_changed = false;
    blocks.clear();
    sealed = kept_layers = 0;
    kept = {};
    reserved = named = adopted = 0;
    charge.clear();
    if (bounded != nullptr) bounded->ForgetKv();
    below = Below::kUnknown;
    below_blocks = 0;
    ask_again = absl::InfiniteFuture();
  }
  // From `now` on its time goes by `next`: what is summed for its explanation, and the phases of its timeline.
  void Spend(Spending next, absl::Time now) {
    explanation.spent[spending] += now - spending_since;
    spending_since = now;
    spending = next;
    trace.Enter(PhaseOf(next), now);
  }
};

// Orders sets of sequences by request id, so that the same history gives the same order.
struct SequenceBefore {
  bool operator()(const SequenceState* a, const SequenceState* b) const {
    return Value(a->request.id) < Value(b->request.id);
  }
};

}  // namespace interlace
