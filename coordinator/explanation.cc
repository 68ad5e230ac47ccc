#include "coordinator/explanation.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"

namespace interlace {
namespace {

// $0, $1 and $2 are the figures, $3 is the detail.
struct Row {
  DecisionKind kind;
  absl::string_view name, text;
};
constexpr Row kRows[] = {
    {DecisionKind::kRouted, "routed", "routed to $3"},
    {DecisionKind::kQueued, "queued", "queued: $0 others wait, $1 hold KV"},
    {DecisionKind::kNoRoom, "no_room", "waits for room: $0 blocks wanted, $1 free"},
    {DecisionKind::kReserved, "reserved",
     "waits for room: $0 blocks wanted, $1 free, $2 of these are left for those who run"},
    {DecisionKind::kStreamLate, "stream_late",
     "waits for room for all its layers: $0 blocks wanted, $1 free; none starts with less while a stream is late"},
    {DecisionKind::kParkedBound, "parked_bound",
     "waits for room for all its layers: $0 blocks wanted, $1 free; $2 requests are parked or short of layers, and no "
     "more may be"},
    {DecisionKind::kCoresBusy, "cores_busy",
     "waits for room for all its layers: $0 blocks wanted, $1 free; the cores have no time left that an earlier start "
     "would use"},
    {DecisionKind::kBehindParked, "behind_parked", "waits: a parked request needs the room for the rest of its answer"},
    {DecisionKind::kRunningBound, "running_bound", "waits: $0 requests hold KV, and no more may (sched.max_running)"},
    {DecisionKind::kNoRows, "no_rows", "waits: others take the step's $0 rows for prompts"},
    {DecisionKind::kTiersAsked, "tiers_asked", "waits for the tiers to say which of $0 blocks they hold"},
    {DecisionKind::kAnotherComputes, "another_computes", "waits for another request to compute its block $0 too"},
    {DecisionKind::kStepsInFlight, "steps_in_flight", "waits for $0 steps of its former attempt"},
    {DecisionKind::kSuspectAlone, "suspect_alone",
     "waits: request $3, which was in flight at $0 losses of the replica, runs alone"},
    {DecisionKind::kStarted, "started", "started with $0 of $1 layers kept; $2 blocks of its prompt were there"},
    {DecisionKind::kResumed, "resumed", "resumed with $0 of $1 layers kept; $2 blocks were there"},
    {DecisionKind::kFetches, "fetches",
     "fetches $0 blocks from the tiers: predicted in $1 us, to compute them in $2 us"},
    {DecisionKind::kPromoted, "promoted", "keeps $0 of $1 layers from now on, after $2: there is room"},
    {DecisionKind::kLowered, "lowered", "keeps $0 of $1 layers from now on, after $2: others need room"},
    {DecisionKind::kSatOut, "sat_out", "sits a step out: it would read $0 bytes from the host, the step has $1 left"},
    {DecisionKind::kParkedStream, "parked_stream",
     "parked: it would read $0 bytes from the host in each step, this one had $1 left; it resumes when all layers fit"},
    {DecisionKind::kParkedForRoom, "parked_for_room", "parked: request $3, which comes before it, needs room"},
    {DecisionKind::kPreempted, "preempted",
     "preempted: request $3, which comes before it, needs room; it is computed again"},
    {DecisionKind::kParkedAllStuck, "parked_all_stuck", "parked: the device holds too few blocks for all that run"},
    {DecisionKind::kParkedForSuspect, "parked_for_suspect",
     "parked: request $3, which may bring the replica down, runs alone"},
    {DecisionKind::kParkedToRefit, "parked_to_refit", "parked: it begins again with other layers kept"},
    {DecisionKind::kHeldGivenUp, "held_given_up", "what was held for it is given up: those before it need the room"},
    {DecisionKind::kCacheGivenUp, "cache_given_up",
     "what was held for it and what is cached is given up: it does not fit beside them"},
    {DecisionKind::kLostBlock, "lost_block", "layer $0 block $1 lost: computed again from position $2 ($3)"},
    {DecisionKind::kNewAttempt, "new_attempt", "begins a new attempt"},
    {DecisionKind::kLostReplica, "lost_replica", "replica lost: $3"},
    {DecisionKind::kHandedOver, "handed_over", "handed over to other replicas after $0 tokens: $3"},
    {DecisionKind::kFetchFailed, "fetch_failed",
     "a tier could not give back all of $0 blocks that it was said to have; they are computed instead"},
    {DecisionKind::kShed, "shed", "shed ($3): it would take $0 ms from now on if all went well, $1 ms are left"},
    {DecisionKind::kDrafted, "drafted", "drafted by $3, $0 of $1 guesses right"},
    {DecisionKind::kBounded, "bounded", "computed with fidelity=bounded: $3"},
    {DecisionKind::kSwitchedOff, "switched_off",
     "goes through all layers from now on: $0 of $1 audited steps gave the whole model's token ($3)"},
    {DecisionKind::kFromCache, "from_cache", "answered with what an earlier request was answered: $3"},
    {DecisionKind::kEnded, "ended", "ended: $3"},
};
static_assert(std::size(kRows) == kDecisionKinds);
static_assert(
    [] {
      for (size_t i = 0; i < kDecisionKinds; ++i) {
        if (static_cast<size_t>(kRows[i].kind) != i) return false;
      }
      return true;
    }(),
    "the table is in the order of the kinds");

constexpr absl::string_view kSpendingNames[] = {"queued", "fetching", "prefill", "decode", "parked", "sat_out"};
static_assert(std::size(kSpendingNames) == kSpendings);

}  // namespace

absl::string_view SpendingName(Spending spending) { return kSpendingNames[static_cast<size_t>(spending)]; }

absl::string_view DecisionName(DecisionKind kind) { return kRows[static_cast<size_t>(kind)].name; }

std::string DecisionText(const Decision& d) {
  return absl::Substitute(kRows[static_cast<size_t>(d.kind)].text, d.figures[0], d.figures[1], d.figures[2], d.detail);
}

std::vector<std::string> Explanation::Texts() const {
  std::vector<std::string> texts;
  for (const Decision& decision : decisions) texts.push_back(DecisionText(decision));
  return texts;
}

void Explanation::Add(Decision decision) {
  if (!decisions.empty() && decisions.back().kind == decision.kind && decisions.back().detail == decision.detail) {
    Decision& last = decisions.back();
    ++last.times;
    last.until = decision.at;
    last.figures = decision.figures;
    return;
  }
  decision.until = decision.at;
  decisions.push_back(std::move(decision));
  if (decisions.size() <= kMostDecisions) return;
  decisions.erase(decisions.begin() + kFirstDecisions);
  ++decisions_left_out;
}

}  // namespace interlace
