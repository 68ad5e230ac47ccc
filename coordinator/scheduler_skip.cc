// Scheduler: what streams that have all their KV on the device draft by, as the skip advisor says, and what it hears of
// it.
#include <algorithm>

#include "absl/strings/str_format.h"
#include "coordinator/scheduler.h"
#include "coordinator/skip_index/skip_advisor.h"

namespace interlace {
namespace {

constexpr int32_t kKeyTokens = 64;      // the last ones of a prompt are what it is about
constexpr int32_t kLeastKeyTokens = 8;  // a mean of fewer says too little
constexpr double kHope = 0.95;          // what a trial's guesses are taken for, until some are made
constexpr int32_t kSeen = 3;            // guesses that each trial makes
constexpr int32_t kTrialDepth = 2;      // so many a step

std::string NameOf(const SkipAdvice& advice) {
  switch (advice.source) {
    case SkipSource::kStatic:
      return "the plan that serves all prompts best";
    case SkipSource::kEntry:
      return absl::StrFormat("the plan of an entry (likeness %.2f)", advice.likeness);
    case SkipSource::kTrial:
      return "a plan on trial";
  }
  return "?";
}

}  // namespace

bool Scheduler::MaySkip() const {
  return options_.skip_advisor != nullptr && options_.draft_tokens > 0 && MaySelf() &&
         shape()->layers >= kLeastSkipLayers && options_.skip_layer < shape()->layers;
}

// Of a step that computes the prompt up to `end`. Of what was adopted nobody has the hidden states, and a key that
// misses most of its positions would make prompts look alike that are not, so there is none then.
std::optional<KeyAsk> Scheduler::KeyAskFor(const SequenceState& sequence, int32_t end) const {
  if (!MaySkip() || !MaySelf(sequence)) return std::nullopt;
  if (sequence.request.max_tokens == 0 || sequence.known != sequence.prompt) return std::nullopt;
  if (sequence.drafts != nullptr && !sequence.drafts->skip.key.empty()) return std::nullopt;
  const int32_t first = std::max(sequence.prompt - kKeyTokens, sequence.adopted * shape()->block_tokens);
  if (sequence.prompt - first < kLeastKeyTokens || end <= first) return std::nullopt;
  return KeyAsk{LayerId{options_.skip_layer}, first, end == sequence.prompt};
}

// A rank that gives none costs a look-up, and nothing else.
void Scheduler::TakeKey(SequenceState& sequence, PromptKey* key) {
  if (key == nullptr || key->attempt != sequence.attempt) return;
  DraftsOf(sequence).skip.key = std::move(key->mean);
}

void Scheduler::TakeAdvice(SequenceState& sequence) {
  StreamDrafts& drafts = DraftsOf(sequence);
  StreamSkip& skip = drafts.skip;
  // While the end of the prompt is on its way, its key is.
  if (!MaySkip() || !MaySelf(sequence) || drafts.self_streams) return;
  if (skip.advice || sequence.confirmed < sequence.prompt) return;
  const ChainSeed& model = shape()->seed;
  const Request& request = sequence.request;
  PassCosts costs{.layers = shape()->layers};
  costs.most_drafts = options_.draft_tokens;
  skip.advice = options_.skip_advisor->Advise(
      ScopeOf({model.model_digest, model.numerics, options_.skip_layer, std::string(AdapterDigest(request)),
               /*chat_template=*/"", request.targets.tenant, request.salt}),
      skip.key, costs);
  skip.share = PassShare(costs, skip.advice->plan);
  skip.since = {};
  skip.judged = skip.right = 0;
  metrics_.advised[static_cast<size_t>(skip.advice->source)].Add();
  drafts.self_rate = FirstRate(sequence);
}

// What the chance of a right guess is taken for before the stream has made any: a plan of which nothing is known is
// worth a try.
DraftRate Scheduler::FirstRate(const SequenceState& sequence) const {
  if (sequence.kept_layers < shape()->layers) return drafts_.streamed.rate;
  const auto& advice = sequence.drafts->skip.advice;
  if (!advice) return drafts_.resident.rate;
  if (advice->judged) return DraftRate(advice->acceptance);
  return advice->explores() ? DraftRate(kHope) : drafts_.resident.rate;
}

double Scheduler::ShareOfPass(const SequenceState& sequence) {
  if (sequence.drafts == nullptr || sequence.drafts->self_streams || !sequence.drafts->skip.advice) return 1;
  return sequence.drafts->skip.share;
}

void Scheduler::WeighDrafts(const InFlight& step, absl::Duration took) {
  gains_ = {};
  if (options_.skip_advisor == nullptr) return;
  StepWork plain;
  int64_t bytes = 0;
  bool prompts = false;
  for (const PlanSequence& planned : step.plan.sequences) {
    const auto rows = static_cast<int32_t>(planned.tokens.size()) - planned.drafts;
    plain.Add(planned.start, rows);
    prompts |= !planned.sample || rows != 1;
    gains_.streams += planned.sample ? 1 : 0;
    if (planned.rank_drafts()) gains_.drafts += planned.drafts;
    if (const SequenceState* sequence = Find(planned.request)) bytes += StreamedBytes(*sequence);
  }
  gains_.took = absl::ToDoubleSeconds(took);
  if (prompts || !cost_.known()) return;
  gains_.plain =
      absl::ToDoubleSeconds(std::max(cost_.Expect(plain), TransferOf(bytes))) * std::max(0.0, drafts_.plain_pace);
}

// Streams of a step share its time. Those who guessed have what their tokens would have taken without guesses, and bear
// what the guesses added, each by how many it made.
void Scheduler::NoteOutcome(SequenceState& sequence, const PlanSequence& planned, int32_t accepted) {
  if (sequence.drafts == nullptr || !sequence.drafts->skip.advice || gains_.streams == 0) return;
  StreamSkip& skip = sequence.drafts->skip;
  skip.since.seconds += gains_.took / gains_.streams;
  if (!planned.own_drafts || *planned.own_drafts != skip.advice->plan) return;
  const int32_t judged = accepted + (accepted < planned.drafts ? 1 : 0);
  skip.judged += judged;
  skip.right += accepted;
  skip.since.tried += judged;
  skip.since.right += accepted;
  if (gains_.plain > 0) {
    const double added = (gains_.took - gains_.plain) * planned.drafts / gains_.drafts;
    skip.since.saved += accepted * gains_.plain / gains_.streams - added;
  }
  const bool tried_enough = skip.judged >= SkipAdvisor::kTrialTokens || sequence.drafts->self_rate.value() < kLeastRate;
  if (skip.advice->explores() && tried_enough) return EndAdvice(sequence);
  if (skip.since.tried < StreamSkip::kTellEvery) return;
  options_.skip_advisor->Learn(*skip.advice, skip.since);
  skip.since = {};
}

// A trial makes a few guesses whatever is expected of them, since else nothing would be learned of plans that may be
// better than they look; the advisor has seen to it that this can be paid for. If they then promise nothing, the stream
// asks again.
void Scheduler::ChooseForTrial(SequenceState& sequence, int32_t most) {
  StreamDrafts& drafts = *sequence.drafts;
  if (!drafts.skip.advice || !drafts.skip.advice->explores() || drafts.choice.drafter == Drafter::kSelf) return;
  if (drafts.skip.judged >= kSeen) return EndAdvice(sequence);
  drafts.choice = {Drafter::kSelf, std::min(most, kTrialDepth)};
  drafts_.on = true;
}

// The stream is over, or it asks again.
void Scheduler::EndAdvice(SequenceState& sequence) {
  if (sequence.drafts == nullptr || !sequence.drafts->skip.advice) return;
  StreamSkip& skip = sequence.drafts->skip;
  if (skip.since.seconds > 0 || skip.since.tried > 0) options_.skip_advisor->Learn(*skip.advice, skip.since);
  if (skip.judged > 0) Note(sequence, DecisionKind::kDrafted, {skip.right, skip.judged}, NameOf(*skip.advice));
  skip.advice.reset();
}

}  // namespace interlace
