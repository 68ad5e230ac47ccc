// The policies: what each adds to the others is seen side by side.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "coordinator/policy/early_start.h"
#include "coordinator/policy/pace.h"
#include "coordinator/policy/policy.h"
#include "coordinator/policy/reserve.h"

namespace interlace {
namespace {

constexpr double kAging = 30;  // seconds of waiting that outweigh one step of priority

constexpr double kNothingYet = 1e10;

// Of the bytes that a step can still read from the host, what streams that run again may take: all of them grow.
constexpr double kResumeShare = 0.8;

double Seconds(absl::Time time) { return absl::ToDoubleSeconds(time - absl::UnixEpoch()); }

// ---- orders

double Arrival(const SequenceView& sequence, const CostModel&) { return Seconds(sequence.arrival); }

// Those who wait for the rest of an answer come first (LatestStart says why), by when their next token is due.
double Deadline(const SequenceView& sequence, const CostModel&) {
  if (sequence.begun()) return Seconds(Due(sequence));
  return kNothingYet + Seconds(std::min(sequence.deadline, sequence.arrival + sequence.ttft));
}

// Priority that ages: who waits long enough comes before whoever arrives now, at any priority.
double Priority(const SequenceView& sequence, const CostModel&) {
  return Seconds(sequence.arrival) + kAging * sequence.priority;
}

// What the request's tenant had been served, or had ahead of it, when it came: tenants advance side by side.
double Attained(const SequenceView& sequence, const CostModel&) { return sequence.tenant_tag; }

// Those who wait for the rest of an answer come before those who have nothing yet: these start early all the same, with
// few layers, and when all are late it is of no use that everybody is. Among the former, by the latest moment at which
// a request can go on and have its next token in time: least slack first, at any moment. Among the latter, by when the
// first token is due, whatever the prompt's length: by slack the longest prompts would come first, and everybody behind
// them would wait.
double LatestStart(const SequenceView& sequence, const CostModel& cost) {
  absl::Time latest = Due(sequence);
  if (!sequence.begun()) return kNothingYet + Seconds(latest) + kAging * sequence.priority;
  if (cost.known()) latest -= cost.Prefill(std::min(sequence.scheduled, sequence.known), sequence.known, 256);
  return Seconds(latest) + kAging * sequence.priority;
}

// ---- what a step may hold

// Somebody may start, or take layers back: only then does it matter what is left free.
bool SomebodyNeedsRoom(const StepView& view) { return !view.waiting.empty() || view.parked > 0; }

bool SomebodyAsks(const StepView& view) {
  return SomebodyNeedsRoom(view) ||
         std::any_of(view.running.begin(), view.running.end(), [](const SequenceView* s) { return !s->decodes(); });
}

int64_t SpareBlocks(const StepView& view) { return SomebodyNeedsRoom(view) ? ReservedBlocks(view) : 0; }

// Paged KV by request: all layers or none; whoever comes last computes again.
StepDraft Whole(const StepView& view) {
  StepDraft draft;
  draft.least_layers = draft.resume_layers = view.layers;
  draft.spare_blocks = SpareBlocks(view);
  draft.give_way = GiveWay::kRecompute;
  return draft;
}

// The same, and whoever comes last waits with its KV on the host.
StepDraft Swap(const StepView& view) {
  StepDraft draft = Whole(view);
  draft.give_way = GiveWay::kPark;
  return draft;
}

// Starts with as many layers as fit and reads the others from the host in every step, whatever that costs: the literal
// reading of offloading by layer, kept as what the others are compared with.
StepDraft Stream(const StepView& view) {
  StepDraft draft;
  draft.spare_blocks = SpareBlocks(view);
  return draft;
}

// LayerKV's admission (arXiv 2410.00428): prompts join as far as the streams that run can afford the pause, and none
// starts early while one of them is late.
StepDraft AtPace(const StepView& view, const StreamPace& pace) {
  StepDraft draft = Stream(view);
  draft.prompt_rows = PromptRows(view, pace);
  if (pace.allowed <= absl::ZeroDuration()) {
    draft.starts = 0;
    draft.hold_up = HoldUp::kStreamLate;
  }
  return draft;
}

// The pace of those who run is asked for where something depends on it: somebody waits, or computes a prompt, or reads
// layers from the host. Else each step would look at all of them for nothing.
StreamPace PaceIfAsked(const StepView& view) {
  return SomebodyAsks(view) ? PaceOf(view) : StreamPace{.allowed = absl::InfiniteDuration()};
}

StepDraft LayerKv(const StepView& view) { return AtPace(view, PaceIfAsked(view)); }

bool SomebodyIsNew(const StepView& view) {
  return std::any_of(view.waiting.begin(), view.waiting.end(), [](const SequenceView* s) { return !s->begun(); });
}

// Ours: starts early with what is free, where room is the limit; a stream whose host layers do not travel within the
// step's own time is parked, and runs again once they do, least slack first: it then keeps as many layers as that takes
// and no more, so that others start in what is left. As many may be parked after their first token as the operator
// bounds, since parking moves waiting from before the first token to after it.
StepDraft Slack(const StepView& view) {
  const StreamPace pace = PaceIfAsked(view);
  StepDraft draft = AtPace(view, pace);
  if (SomebodyAsks(view)) draft.stream_bytes = StreamBytes(view, pace);
  draft.park_streams = true;
  draft.resume_layers = view.layers;
  if (view.begun_waiting > 0) {
    draft.resume_bytes = static_cast<int64_t>(kResumeShare * static_cast<double>(BytesLeft(view, draft.stream_bytes)));
  }
  draft.overtake = true;
  draft.give_way = GiveWay::kLowerLast;
  const int32_t bound = std::max(0, view.options.max_parked - view.parked);
  if (bound == 0 && draft.starts > 0) draft.hold_up = HoldUp::kParkedBound;
  draft.starts = std::min(draft.starts, bound);
  if (draft.starts > 0 && SomebodyIsNew(view) && !RoomIsTheLimit(view)) {
    draft.starts = 0;
    draft.hold_up = HoldUp::kCoresBusy;
  }
  if (view.parked > 0) draft.most_layers = 0;  // what is free is for those who wait for the rest of their answer
  return draft;
}

constexpr Policy kPolicies[] = {
    {"slack", "least slack first; starts early, parks what cannot stream, resumes what can", &LatestStart, &Slack},
    {"layerkv", "first come first; starts early while running streams can afford it", &Arrival, &LayerKv},
    {"fcfs", "first come first; all layers or none, computes again", &Arrival, &Whole},
    {"swap", "first come first; all layers or none, parks on the host", &Arrival, &Swap},
    {"stream", "first come first; starts early, reads host layers in every step", &Arrival, &Stream},
    {"priority", "slack's steps; by priority, which ages", &Priority, &Slack},
    {"edf", "slack's steps; by deadline", &Deadline, &Slack},
    {"fair", "slack's steps; tenants advance side by side", &Attained, &Slack},
};

}  // namespace

absl::Span<const Policy> Policies() { return kPolicies; }

absl::StatusOr<const Policy*> FindPolicy(absl::string_view name) {
  std::string known;
  for (const Policy& policy : kPolicies) {
    if (policy.name == name) return &policy;
    absl::StrAppend(&known, known.empty() ? "" : ", ", policy.name);
  }
  return absl::NotFoundError(absl::StrCat("sched.policy='", name, "' is not built in; known: ", known));
}

}  // namespace interlace
