// Scheduler: guesses of what streams say next, which a step verifies.
#include <algorithm>
#include <utility>

#include "coordinator/scheduler.h"

namespace interlace {
namespace {

// Of the sublayers between the first and the last layer, passed over by a stream that has all its KV on the device.
// SWIFT (arXiv 2410.06916) passes over 45 of 100.
constexpr double kPassedOver = 0.4;

Drafter DrafterOf(const PlanSequence& planned) {
  return planned.model_drafts ? Drafter::kModel : planned.own_drafts ? Drafter::kSelf : Drafter::kNgram;
}

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
    sequence.drafts->model.rate = drafts_.model.rate;
  }
  StreamDrafts& drafts = *sequence.drafts;
  const bool streams = sequence.kept_layers < shape()->layers;
  if (std::exchange(drafts.self_streams, streams) != streams) drafts.self_rate = FirstRate(sequence);
  return drafts;
}

StreamModel& Scheduler::ModelDrafts(SequenceState& sequence) {
  StreamModel& model = DraftsOf(sequence).model;
  if (std::exchange(model.attempt, sequence.attempt) != sequence.attempt) model.seen = 0;
  return model;
}

ReplicaDrafts::Passes& Scheduler::PassesOf(const SequenceState& sequence, Drafter drafter) {
  if (drafter == Drafter::kModel) return drafts_.model;
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

bool Scheduler::MayModel() const {
  return (options_.speculate == Speculate::kModel || options_.speculate == Speculate::kAuto) && shape()->draft_model;
}

DraftStream Scheduler::DraftStreamOf(SequenceState& sequence) {
  StreamDrafts& drafts = DraftsOf(sequence);
  DraftStream stream;
  stream.position = sequence.known + sequence.pending - 1;
  stream.most = MostDrafts(sequence);
  stream.left = sequence.request.max_tokens - sequence.made();
  if (MayNgram()) stream.ngram.rate = drafts.ngram_rate.value();
  if (MaySelf(sequence)) {
    stream.self.rate = drafts.self_rate.value();
    stream.self.pass = PassesOf(sequence, Drafter::kSelf).pass * ShareOfPass(sequence);
  }
  if (MayModel() && sequence.known >= drafts.model.waits_until) {
    stream.model.rate = drafts.model.rate.value();
    stream.model.pass = drafts_.model.pass;
    // It takes the same share of a prompt's time as of a step's.
    const int32_t seen = ModelDrafts(sequence).seen;
    if (seen + 1 < stream.position) {
      stream.model.first = drafts_.model.pass * cost_.Prefill(seen, stream.position, kDraftRows);
    }
  }
  return stream;
}

// Streams of a step guess together or run ahead together: one that waits for its judgement while others run ahead would
// be in every second step alone.
void Scheduler::ChooseDrafts() {
  draft_rows_ = kDraftRows;
  if (!Adapts()) return;
  draft_streams_.clear();
  drafting_.clear();
  int64_t bytes = 0;
  for (SequenceState* sequence : RunningInOrder()) {
    if (!MayDraft(*sequence)) continue;
    if (cost_.known()) TakeAdvice(*sequence);
    draft_streams_.push_back(DraftStreamOf(*sequence));
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
  const DraftGuess guess = GuessesFor(sequence, most, planned.start);
  if (guess.drafter == Drafter::kModel && guess.tokens.empty()) planned.model_drafts = true;  // it reads
  const int32_t end = sequence.scheduled + static_cast<int32_t>(guess.tokens.size());
  if (guess.tokens.empty() || !placement_->Reserve(sequence, end)) return;
  if (!placement_->Stream(sequence, end, plan->id)) return;
  planned.tokens.insert(planned.tokens.end(), guess.tokens.begin(), guess.tokens.end());
  planned.drafts = static_cast<int32_t>(guess.tokens.size());
  planned.model_drafts = guess.drafter == Drafter::kModel;
  if (guess.drafter == Drafter::kSelf) {
    TakeAdvice(sequence);
    planned.own_drafts = SkipPlanFor(sequence);
  }
  sequence.scheduled = end;
  sequence.drafting = true;
}

// What the stream's drafter has to say: by a rank's, kOwnDraft for each guess. None: nothing.
Scheduler::DraftGuess Scheduler::GuessesFor(SequenceState& sequence, int32_t most, int32_t start) {
  StreamDrafts& drafts = DraftsOf(sequence);
  DraftChoice choice = drafts.choice;
  if (!options_.adapt_drafts) choice = {MayNgram() ? Drafter::kNgram : Drafter::kNone, options_.draft_tokens};
  DraftGuess guess{choice.drafter, {}};
  const int32_t depth = std::min(most, choice.depth);
  if (choice.drafter == Drafter::kNgram) guess.tokens = drafts.ngram.Draft(sequence.tokens, depth);
  if (!options_.adapt_drafts && guess.tokens.empty()) {
    guess.drafter = MayModel() ? Drafter::kModel : MaySelf(sequence) ? Drafter::kSelf : Drafter::kNone;
  }
  const bool reads = guess.drafter == Drafter::kModel && !ReadsAll(sequence, start);
  if ((guess.drafter == Drafter::kSelf || guess.drafter == Drafter::kModel) && !reads) {
    guess.tokens.assign(depth, kOwnDraft);
  }
  return guess;
}

// Before it guesses what follows position `start`, the draft model reads all up to it. False: that is more than it may
// read in this step, so it reads what it may and guesses nothing.
bool Scheduler::ReadsAll(SequenceState& sequence, int32_t start) {
  StreamModel& model = ModelDrafts(sequence);
  const int32_t missing = start + 1 - model.seen;
  model.reads = std::min(missing, draft_rows_);
  draft_rows_ -= model.reads;
  return model.reads == missing;
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
  const Drafter drafter = DrafterOf(planned);
  metrics_.draft(drafter).drafted.Add(planned.drafts);
  metrics_.draft(drafter).accepted.Add(accepted);
  if (drafter != Drafter::kSelf) return;
  StreamDrafts& drafts = *sequence.drafts;
  drafts.self_rate.NoteChain(planned.drafts, accepted);
  if (drafts.skip.advice && drafts.skip.advice->explores()) return;  // other streams draft by other plans
  PassesOf(sequence, drafter).rate.NoteChain(planned.drafts, accepted);
}

// Likewise where the draft model was asked. `drafted`: what it did, where that is not all; a row whose guess it did not
// make may hold the right token by chance, which says nothing of it.
void Scheduler::NoteModel(SequenceState& sequence, const PlanSequence& planned, const ModelDrafted* drafted,
                          int32_t accepted) {
  StreamModel& model = ModelDrafts(sequence);
  const int32_t made = drafted != nullptr ? std::min(drafted->drafts, planned.drafts) : planned.drafts;
  const int32_t right = std::min(made, accepted);
  // Behind the accepted guesses it has read what the stream does not say.
  const int32_t seen = drafted != nullptr ? drafted->seen : planned.start + planned.drafts;
  model.seen = std::min(seen, planned.start + 1 + accepted);
  if (drafted != nullptr && !drafted->room) model.waits_until = sequence.known + StreamModel::kWait;
  metrics_.draft(Drafter::kModel).drafted.Add(made);
  metrics_.draft(Drafter::kModel).accepted.Add(right);
  model.rate.NoteChain(made, right);
  drafts_.model.rate.NoteChain(made, right);
  model.judged += right + (right < made ? 1 : 0);
  model.right += right;
}

void Scheduler::EndModelDrafts(SequenceState& sequence) {
  if (sequence.drafts == nullptr) return;
  StreamModel& model = sequence.drafts->model;
  if (model.judged > 0) Note(sequence, DecisionKind::kDrafted, {model.right, model.judged}, "the draft model");
  model.judged = model.right = 0;
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
  drafts.model.rate.Forget(StreamDrafts::kUntried);
  for (const Drafter drafter : {Drafter::kSelf, Drafter::kModel}) {
    PassesOf(sequence, drafter).rate.Forget(StreamDrafts::kUntried);
  }
}

Scheduler::RankPasses Scheduler::PassesIn(const StepPlan& plan) {
  RankPasses all;
  for (const PlanSequence& planned : plan.sequences) {
    SequenceState* const sequence = planned.rank_drafts() ? Find(planned.request) : nullptr;
    if (sequence == nullptr) continue;
    const Drafter drafter = DrafterOf(planned);
    auto& [passes, share, of] = drafter == Drafter::kModel ? all.model : all.self;
    // A pass takes as long as its longest plan.
    share = std::max(share, drafter == Drafter::kModel ? 1 : ShareOfPass(*sequence));
    if (planned.drafts > passes) of = &PassesOf(*sequence, drafter);
    passes = std::max(passes, planned.drafts);
    // In each step it reads the newest token, and the last guess of the step before if that was right.
    if (planned.model_drafts) all.reads |= ModelDrafts(*sequence).reads > 2;
  }
  return all;
}

// From one step's end to the next one's; zero where nothing is learned of it.
absl::Duration Scheduler::ExpectInterval(const StepPlan& plan, const StepWork& work) {
  if (!Adapts()) return absl::ZeroDuration();
  int64_t bytes = 0;
  for (const PlanSequence& planned : plan.sequences) {
    if (const SequenceState* sequence = Find(planned.request)) bytes += StreamedBytes(*sequence);
  }
  const RankPasses ranks = PassesIn(plan);
  if (ranks.reads) return absl::ZeroDuration();
  double passes = 0;  // in steps' computing
  for (const RankPasses::Of& some : {ranks.self, ranks.model}) {
    if (some.of != nullptr) passes += some.passes * some.share * some.of->pass;
  }
  return std::max((1 + passes) * cost_.Expect(work), TransferOf(bytes));
}

void Scheduler::LearnDrafts(const InFlight& step, absl::Duration interval) {
  if (!Adapts() || !cost_.known()) return;
  for (const PlanSequence& planned : step.plan.sequences) {
    const auto rows = static_cast<int32_t>(planned.tokens.size());
    if (!planned.sample || rows != 1 + planned.drafts) return;  // a prompt's share of it is not what is learned here
  }
  const RankPasses ranks = PassesIn(step.plan);
  // Where two drafters shared the time, or one read, what a pass takes is not to be told.
  const RankPasses::Of& some = ranks.self.passes > 0 ? ranks.self : ranks.model;
  const bool one = some.passes > 0 && (ranks.self.passes == 0 || ranks.model.passes == 0);
  const double computes = absl::ToDoubleSeconds(cost_.Expect(step.work));
  if (one && !ranks.reads && step.results[0].drafted.empty() && computes > 0) {
    const double took = 1e-6 * static_cast<double>(step.results[0].draft_us) / (some.passes * some.share);
    some.of->pass += (took / computes - some.of->pass) / 8;
  }
  if (!step.follows || step.expected <= absl::ZeroDuration()) return;
  drafts_.NotePace(step.drafts, absl::FDivDuration(interval, step.expected));
}

}  // namespace interlace
