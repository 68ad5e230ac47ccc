// Scheduler: guesses of what streams say next, which a step verifies.
#include <algorithm>
#include <utility>

#include "coordinator/scheduler.h"

namespace interlace {
namespace {

// Of the sublayers between the first and the last layer, passed over by a stream that has all its KV on the device.
// SWIFT (arXiv 2410.06916) passes over 45 of 100.
constexpr double kPassedOver = 0.4;

}  // namespace

bool Scheduler::MayDraft(const SequenceState& sequence) const {
  return sequence.decodes() && !sequence.skips && sequence.held_in != next_plan_ && MostDrafts(sequence) > 0;
}

// Tokens that it may still get beside the next one.
int32_t Scheduler::MostDrafts(const SequenceState& sequence) const {
  const int32_t made = sequence.made();
  const int32_t left = std::min(sequence.request.max_tokens - made, options_.context - sequence.prompt - made) - 1;
  return std::min(options_.draft_tokens, left);
}

StreamDrafts& Scheduler::DraftsOf(SequenceState& sequence) {
  if (sequence.drafts == nullptr) {
    sequence.drafts = std::make_unique<StreamDrafts>();
    if (sequence.request.hint != nullptr) sequence.drafts->ngram.Expect(*sequence.request.hint);
    sequence.drafts->self_rate = drafts_.resident.rate;
  }
  StreamDrafts& drafts = *sequence.drafts;
  const bool streams = sequence.kept_layers < shape()->layers;
  if (std::exchange(drafts.self_streams, streams) != streams) drafts.self_rate = FirstRate(sequence);
  return drafts;
}

ReplicaDrafts::Self& Scheduler::SelfDrafts(const SequenceState& sequence) {
  return sequence.kept_layers < shape()->layers ? drafts_.streamed : drafts_.resident;
}

bool Scheduler::MaySelf() const {
  return (options_.speculate == Speculate::kSelf || options_.speculate == Speculate::kAuto) && shape()->ranks() == 1;
}

bool Scheduler::MaySelf(const SequenceState& sequence) const {
  return MaySelf() && sequence.request.fidelity.mode != FidelityMode::kOff;
}

bool Scheduler::MayNgram() const {
  return options_.speculate == Speculate::kNgram || options_.speculate == Speculate::kAuto;
}

// Streams of a step guess together or run ahead together: one that waits for its judgement while others run ahead would
// be in every second step alone.
void Scheduler::ChooseDrafts() {
  if (!Adapts()) return;
  draft_streams_.clear();
  drafting_.clear();
  int64_t bytes = 0;
  for (SequenceState* sequence : RunningInOrder()) {
    if (!MayDraft(*sequence)) continue;
    StreamDrafts& drafts = DraftsOf(*sequence);
    if (cost_.known()) TakeAdvice(*sequence);
    DraftStream& stream = draft_streams_.emplace_back();
    stream.position = sequence->known + sequence->pending - 1;
    stream.most = MostDrafts(*sequence);
    if (MayNgram()) stream.ngram = drafts.ngram_rate.value();
    if (MaySelf(*sequence)) stream.self = drafts.self_rate.value();
    stream.pass = SelfDrafts(*sequence).pass * ShareOfPass(*sequence);
    bytes += StreamedBytes(*sequence);
    drafting_.push_back(sequence);
  }
  DraftView view;
  view.cost = &cost_;
  view.streams = draft_streams_;
  view.transfer = TransferOf(bytes);
  view.plain_pace = drafts_.plain_pace;
  view.draft_pace = drafts_.draft_pace;
  view.drafting = drafts_.pays;
  const DraftDecision decision = DecideDrafts(view);
  drafts_.on = drafts_.pays = decision.drafts;
  for (size_t i = 0; i < drafting_.size(); ++i) {
    drafting_[i]->drafts->choice = decision.choices[i];
    ChooseForTrial(*drafting_[i], draft_streams_[i].most);
  }
}

absl::Duration Scheduler::TransferOf(int64_t bytes) const {
  return cost_.Transfer(Route::kIn, bytes) / static_cast<int64_t>(shape()->stages.size());
}

// A plan samples in as many rows as there may be streams; each stream that may still join it has one. So many are left.
int32_t Scheduler::RowsToSample(const StepPlan& plan) const {
  int32_t rows = std::min(options_.max_running, options_.step_tokens) - static_cast<int32_t>(running_.size());
  for (const PlanSequence& other : plan.sequences) rows -= other.drafts;
  return rows;
}

// The step verifies what the sequence may say next.
void Scheduler::AddDrafts(SequenceState& sequence, int32_t budget, StepPlan* plan) {
  PlanSequence& planned = plan->sequences.back();
  // `sequence` counts the token of this very step as made.
  const int32_t most = std::min({MostDrafts(sequence) + 1, options_.draft_tokens, budget, RowsToSample(*plan)});
  if (planned.tokens[0] == kLastSample || most <= 0) return;
  if (planned.key) return;  // the key is of the prompt alone
  StreamDrafts& drafts = DraftsOf(sequence);
  DraftChoice choice = drafts.choice;
  if (!options_.adapt_drafts) choice = {MayNgram() ? Drafter::kNgram : Drafter::kNone, options_.draft_tokens};
  std::vector<int32_t> guesses;
  if (choice.drafter == Drafter::kNgram) guesses = drafts.ngram.Draft(sequence.tokens, std::min(most, choice.depth));
  const bool turns_to_self = !options_.adapt_drafts && guesses.empty() && MaySelf(sequence);
  if (choice.drafter == Drafter::kSelf || turns_to_self) guesses.assign(std::min(most, choice.depth), kOwnDraft);
  const int32_t end = sequence.scheduled + static_cast<int32_t>(guesses.size());
  if (guesses.empty() || !placement_->Reserve(sequence, end)) return;
  if (!placement_->Stream(sequence, end, plan->id)) return;
  planned.tokens.insert(planned.tokens.end(), guesses.begin(), guesses.end());
  planned.drafts = static_cast<int32_t>(guesses.size());
  drafts.used = guesses[0] == kOwnDraft ? Drafter::kSelf : Drafter::kNgram;
  if (drafts.used == Drafter::kSelf) {
    TakeAdvice(sequence);
    planned.own_drafts = SkipPlanFor(sequence);
  }
  sequence.scheduled = end;
  sequence.drafting = true;
}

// While layers are read from the host, a pass through all that is on the device costs nothing.
SkipPlan Scheduler::SkipPlanFor(const SequenceState& sequence) const {
  if (sequence.kept_layers < shape()->layers) return SkipPlan();
  if (const auto& advice = sequence.drafts->skip.advice) return advice->plan;
  const int32_t inner = 2 * std::max(0, shape()->layers - 2);
  return SkipPlan::Evenly(static_cast<int32_t>(kPassedOver * inner), shape()->layers);
}

// `accepted` of the step's guesses were right.
void Scheduler::NoteDrafts(SequenceState& sequence, const PlanSequence& planned, int32_t accepted) {
  StreamDrafts& drafts = *sequence.drafts;
  const bool self = drafts.used == Drafter::kSelf;
  (self ? metrics_.drafted_self : metrics_.drafted_ngram).Add(planned.drafts);
  (self ? metrics_.accepted_self : metrics_.accepted_ngram).Add(accepted);
  if (!self) return;
  drafts.self_rate.NoteChain(planned.drafts, accepted);
  if (drafts.skip.advice && drafts.skip.advice->explores()) return;  // other streams draft by other plans
  SelfDrafts(sequence).rate.NoteChain(planned.drafts, accepted);
}

// A token was accepted: what would have been guessed of it, and what of the next one.
void Scheduler::NoteAccepted(SequenceState& sequence) {
  if (!Adapts()) return;
  StreamDrafts& drafts = DraftsOf(sequence);
  if (MayNgram()) {
    drafts.ngram_rate.Note(drafts.expected == sequence.tokens.back());
    const std::vector<int32_t> next = drafts.ngram.Draft(sequence.tokens, 1);
    drafts.expected = next.empty() ? -1 : next[0];
  }
  if (drafts_.on) return;
  drafts.self_rate.Forget(StreamDrafts::kUntried);
  SelfDrafts(sequence).rate.Forget(StreamDrafts::kUntried);
}

// From one step's end to the next one's; zero where nothing is learned of it.
absl::Duration Scheduler::ExpectInterval(const StepPlan& plan, const StepWork& work) {
  if (!Adapts()) return absl::ZeroDuration();
  const absl::Duration computes = cost_.Expect(work);
  int64_t bytes = 0;
  int32_t passes = 0;
  double pass = 0;
  for (const PlanSequence& planned : plan.sequences) {
    SequenceState* const sequence = Find(planned.request);
    if (sequence == nullptr) continue;
    bytes += StreamedBytes(*sequence);
    if (!planned.own_drafts) continue;
    passes = std::max(passes, planned.drafts);
    pass = std::max(pass, SelfDrafts(*sequence).pass * ShareOfPass(*sequence));
  }
  return std::max((1 + passes * pass) * computes, TransferOf(bytes));
}

void Scheduler::LearnDrafts(const InFlight& step, absl::Duration interval) {
  if (!Adapts() || !cost_.known()) return;
  int32_t passes = 0;
  ReplicaDrafts::Self* self = nullptr;
  double share = 0;  // a pass takes as long as its longest plan
  for (const PlanSequence& planned : step.plan.sequences) {
    const auto rows = static_cast<int32_t>(planned.tokens.size());
    if (!planned.sample || rows != 1 + planned.drafts) return;  // a prompt's share of it is not what is learned here
    SequenceState* const sequence = Find(planned.request);
    if (planned.own_drafts && sequence != nullptr) share = std::max(share, ShareOfPass(*sequence));
    if (planned.own_drafts && planned.drafts > passes && sequence != nullptr) {
      passes = planned.drafts;
      self = &SelfDrafts(*sequence);
    }
  }
  const double computes = absl::ToDoubleSeconds(cost_.Expect(step.work));
  if (self != nullptr && computes > 0) {
    const double took = 1e-6 * static_cast<double>(step.results[0].draft_us) / (passes * share);
    self->pass += (took / computes - self->pass) / 8;
  }
  if (!step.follows || step.expected <= absl::ZeroDuration()) return;
  drafts_.NotePace(step.drafts, absl::FDivDuration(interval, step.expected));
}

}  // namespace interlace
