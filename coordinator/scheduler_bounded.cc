// Scheduler: streams whose steps may pass sublayers over (fidelity `bounded`): when they do, when they are audited, and
// what their KV is called.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/scheduler.h"
#include "coordinator/skip_index/skip_advisor.h"

namespace interlace {
namespace {

// Between salt and nonce, so that no salt of a client or tenant, which has one NUL at most, makes the same root.
constexpr absl::string_view kOwnRoot("\0\0own", 5);

std::string TextOf(const FidelityReport& report) {
  return absl::StrFormat(
      "%d of %d tokens by steps that passed sublayers over (%.1f%% of all sublayers saved); %d of %d audited steps "
      "gave the "
      "whole model's token, asked for is %.2f",
      report.skipped, report.steps(), 100 * report.saved_share(), report.agreed, report.audited, report.target);
}

}  // namespace

// A pass that an audit makes cannot see KV that is on the host, so it would not be the pass that it judges: while a
// stream reads layers from there, its steps go through all of them.
bool Scheduler::MaySkipNow(const SequenceState& sequence) const {
  return sequence.skips && sequence.kept_layers == shape()->layers && shape()->ranks() == 1 &&
         shape()->layers >= kLeastSkipLayers;
}

// Its next step is audited, which makes a guess behind a token that is known: it does not run ahead of that.
bool Scheduler::AwaitsAudit(const SequenceState& sequence) const {
  return MaySkipNow(sequence) && sequence.bounded->AuditDue(options_.audit_every);
}

// What it passes over, chosen once: what the client says, what the skip index advises, or an evenly spread plan. Plans
// on trial are for streams that cannot come to harm.
const SkipPlan& Scheduler::BoundedPlan(SequenceState& sequence) {
  BoundedStream& bounded = *sequence.bounded;
  if (bounded.plan) return *bounded.plan;
  const int32_t layers = shape()->layers, exit = sequence.request.fidelity.exit_layer;
  if (exit > 0) {
    bounded.plan = SkipPlan::After(exit, layers);
  } else {
    TakeAdvice(sequence);
    if (sequence.drafts != nullptr && sequence.drafts->skip.advice) {
      if (sequence.drafts->skip.advice->explores()) {
        EndAdvice(sequence);
      } else {
        bounded.plan = sequence.drafts->skip.advice->plan;
      }
    }
  }
  if (!bounded.plan) {
    bounded.plan =
        SkipPlan::Evenly(std::max(1, static_cast<int32_t>(options_.bounded_share * 2 * (layers - 2))), layers);
  }
  bounded.passed = bounded.plan->Passed(layers);
  return *bounded.plan;
}

// A step that makes one token of the answer from the one before passes over what the plan says, unless it is to be
// audited. What came with the request and what is computed again is computed whole.
void Scheduler::PlanSkip(SequenceState& sequence, PlanSequence* planned) {
  BoundedStream& bounded = *sequence.bounded;
  if (!planned->sample || planned->tokens.size() != 1 || planned->start < bounded.whole_to) return;
  if (!MaySkipNow(sequence) || bounded.AuditDue(options_.audit_every)) return;
  const SkipPlan& skip = BoundedPlan(sequence);
  if (bounded.passed == 0) return;
  planned->skip = skip;
  ++bounded.unaudited;
  OwnFrom(sequence, planned->start);
}

// The rank guesses by a pass over what the plan leaves, and the whole model says whether that is its token too, which
// counts alone. Where there is no room for the guess, the step is a whole one, and so is the next until there is.
void Scheduler::AddAudit(SequenceState& sequence, int32_t budget, StepPlan* plan) {
  PlanSequence& planned = plan->sequences.back();
  if (planned.skip || !planned.sample || planned.tokens.size() != 1 || planned.start < sequence.bounded->whole_to)
    return;
  if (planned.tokens[0] == kLastSample || !AwaitsAudit(sequence)) return;
  // `sequence` counts the token of this very step as made; the guess is behind it.
  const bool last =
      sequence.made() >= sequence.request.max_tokens || sequence.known + sequence.pending >= options_.context;
  const int32_t end = sequence.scheduled + 1;
  if (last || budget < 1 || RowsToSample(*plan) < 1 || !placement_->Reserve(sequence, end)) return;
  if (!placement_->Stream(sequence, end, plan->id)) return;
  planned.tokens.push_back(kOwnDraft);
  planned.drafts = 1;
  planned.own_drafts = BoundedPlan(sequence);
  sequence.scheduled = end;
  sequence.drafting = true;
}

// The request's positions from now on, but for what was adopted, are computed in a new attempt: whole, as far as its
// tokens are known. Behind blocks that are the model's so is what comes of that.
void Scheduler::BeginAttempt(SequenceState& sequence) {
  BoundedStream& bounded = *sequence.bounded;
  bounded.whole_to = sequence.known;
  const auto adopted = static_cast<size_t>(sequence.adopted);
  if (sequence.ids.size() > adopted) sequence.ids.resize(adopted);
  if (sequence.scheduled <= bounded.own_from) {
    bounded.ForgetKv();
  } else {
    bounded.own_chain.reset();  // names of this attempt are others
  }
  ExtendIds(sequence);
}

// The KV of this position, and of all behind it, is not the model's.
void Scheduler::OwnFrom(SequenceState& sequence, int32_t position) {
  BoundedStream& bounded = *sequence.bounded;
  if (position >= bounded.own_from) return;
  bounded.own_from = position;
  const auto shared = static_cast<size_t>(position / shape()->block_tokens);
  if (sequence.ids.size() <= shared) return;
  sequence.ids.resize(shared);
  ExtendIds(sequence);
}

ChainSeed Scheduler::SeedFor(const SequenceState& sequence) const {
  ChainSeed seed = shape()->seed;
  seed.salt = sequence.request.salt;
  seed.adapter = std::string(AdapterDigest(sequence.request));
  seed.secret = options_.secret;
  return seed;
}

// The names of blocks whose KV is not the model's.
const BlockChain& Scheduler::OwnChain(SequenceState& sequence) const {
  std::unique_ptr<BlockChain>& chain = sequence.bounded->own_chain;
  if (chain == nullptr) {
    ChainSeed seed = SeedFor(sequence);
    absl::StrAppend(&seed.salt, kOwnRoot, absl::Hex(sequence.request.fidelity.nonce, absl::kZeroPad16), ".",
                    sequence.attempt);
    chain = std::make_unique<BlockChain>(seed);
  }
  return *chain;
}

// ---- what came of it

// Of a step that made 1 + `accepted` tokens.
void Scheduler::NoteBounded(SequenceState& sequence, const PlanSequence& planned, int32_t accepted) {
  BoundedStream& bounded = *sequence.bounded;
  FidelityReport& report = bounded.report;
  report.layers = shape()->layers;
  const bool audit = sequence.skips && planned.own_drafts.has_value();
  if (planned.skip) {
    ++report.skipped;
    report.saved += bounded.passed;
    metrics_.bounded_saved.Add(bounded.passed);
  } else {
    report.whole += accepted + (audit ? 0 : 1);
  }
  (planned.skip ? metrics_.bounded_skipped : audit ? metrics_.bounded_audited : metrics_.bounded_whole).Add();
  if (accepted > 0) metrics_.bounded_whole.Add(accepted);
  if (audit) {
    bounded.NoteAudit(accepted > 0);
    (accepted > 0 ? metrics_.bounded_agreed : metrics_.bounded_differed).Add();
    if (bounded.FallsShort()) SwitchOff(sequence);
  }
  deliveries_.push_back({sequence.request.sink.get(), Delivery::Kind::kFidelity, 0, reports_.size()});
  reports_.push_back(report);
}

// From the next step on it is computed as others are, guesses included. Nothing of it is in flight: an audit is waited
// for.
void Scheduler::SwitchOff(SequenceState& sequence) {
  FidelityReport& report = sequence.bounded->report;
  report.switched_off = true;
  sequence.skips = false;
  EndAdvice(sequence);
  Note(sequence, DecisionKind::kSwitchedOff, {report.agreed, report.audited},
       absl::StrFormat("at most %.2f by what is known, asked for is %.2f", sequence.bounded->agreement.Upper(),
                       report.target));
}

void Scheduler::EndBounded(SequenceState& sequence) {
  const FidelityReport& report = sequence.bounded->report;
  const char* const outcome = report.switched_off ? "switched_off" : report.skipped > 0 ? "kept" : "whole";
  metrics_.registry.Add("interlace_bounded_requests_total", 1, {{"outcome", outcome}});
  Note(sequence, DecisionKind::kBounded, {}, TextOf(report));
}

// The request is gone, and nobody else will ask for these: they do not stay as cache.
void Scheduler::ForgetOwn(absl::Span<const BlockId> blocks) {
  for (const BlockId& id : blocks) {
    if (BlockEntry* const entry = placement_->directory().Find(id)) placement_->Forget(*entry);
  }
}

}  // namespace interlace
