// Scheduler: how requests come to run, and how they stop running without ending.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "coordinator/policy/pace.h"
#include "coordinator/scheduler.h"

namespace interlace {
namespace {

constexpr int64_t kMostSlack = 24 * 3600 * 1000;  // milliseconds

}  // namespace

void Scheduler::ExtendIds(SequenceState& sequence) {
  const int32_t block_tokens = shape()->block_tokens;
  const size_t whole = static_cast<size_t>(sequence.known / block_tokens);
  if (sequence.ids.size() >= whole) return;
  const std::pair<std::string, std::string> owner(sequence.request.salt, AdapterDigest(sequence.request));
  auto chain = chains_.find(owner);
  if (chain == chains_.end()) {
    if (chains_.size() >= 1024) chains_.clear();  // salts come from clients: the cache of keys is bounded
    chain = chains_.emplace(owner, BlockChain(SeedFor(sequence))).first;
  }
  sequence.ids.reserve(sequence.tokens.capacity() / static_cast<size_t>(block_tokens));
  while (sequence.ids.size() < whole) {
    const auto block = static_cast<int32_t>(sequence.ids.size());
    const BlockId parent = sequence.ids.empty() ? BlockId{} : sequence.ids.back();
    const BlockChain& names = sequence.IsOwn(block, block_tokens) ? OwnChain(sequence) : chain->second;
    sequence.ids.push_back(names.Next(
        parent, absl::MakeConstSpan(sequence.tokens).subspan(size_t{1} * block * block_tokens, block_tokens)));
    placement_->directory().Prefetch(sequence.ids.back());  // it is sealed soon
  }
}

// A running sequence is about to compute this very block, or it is on its way: sooner than computing it once more.
bool Scheduler::AnotherComputes(const SequenceState& sequence, int32_t block) const {
  if (block >= static_cast<int32_t>(sequence.ids.size())) return false;
  if (placement_->Arriving(sequence, block) || placement_->SealedBy(sequence, block, PlanId{next_plan_})) return true;
  auto it = computing_.find(sequence.ids[block]);
  return it != computing_.end() && it->second != sequence.request.id;
}

// Blocks after the adopted ones that the tiers below are said to have, if fetching them is predicted to be faster than
// computing them.
int32_t Scheduler::WorthFetching(const SequenceState& sequence, int32_t adopted) const {
  const int32_t most = sequence.FirstWanted() / shape()->block_tokens;
  const int32_t blocks = std::min(sequence.below_blocks, most) - adopted;
  if (blocks <= 0) return 0;
  if (!cost_.known() || cost_.bytes_per_second(Route::kBelow) <= 0) return blocks;  // nothing was measured yet: try
  const int64_t bytes = int64_t{blocks} * shape()->layers * shape()->slot_bytes;
  const int32_t from = adopted * shape()->block_tokens, to = from + blocks * shape()->block_tokens;
  return cost_.Transfer(Route::kBelow, bytes) < cost_.Prefill(from, to, options_.chunk_tokens) ? blocks : 0;
}

void Scheduler::SetBelow(SequenceState& sequence, Below below) {
  asked_ += (below == Below::kAsked ? 1 : 0) - (sequence.below == Below::kAsked ? 1 : 0);
  sequence.below = below;
}

// How many layers of the sequence a step reads from the host within `bytes`.
int32_t Scheduler::LayersReadWithin(const SequenceState& sequence, int64_t bytes) const {
  const int64_t layer = int64_t{shape()->BlocksFor(sequence.known + 1)} * shape()->slot_bytes;
  return static_cast<int32_t>(std::min<int64_t>(shape()->layers, bytes / layer));
}

// A request with a token already runs on as the policy resumes, a new one as it starts; one that is alone as it can.
KvPlacement::StartRoom Scheduler::LimitsFor(const SequenceState& sequence, bool alone) const {
  const absl::Duration slack = Due(sequence) - clock_.Now();
  const auto slack_ms =
      static_cast<int32_t>(std::clamp<int64_t>(absl::ToInt64Milliseconds(slack), -kMostSlack, kMostSlack));
  if (alone) return {.slack_ms = slack_ms};
  // Those who start in this plan will want a block each, too.
  const bool reserves = options_.policy.reserve != ReserveRule::kNone;
  KvPlacement::StartRoom limits{draft_.resume_layers, kAll, draft_.spare_blocks + (reserves ? started_ : 0), slack_ms};
  if (sequence.begun() && draft_.resume_bytes > 0) {
    limits.least = shape()->layers - LayersReadWithin(sequence, draft_.resume_bytes);
    limits.most = limits.least;  // the rest is left to those who start
  }
  if (!sequence.begun()) {
    limits.least = starts_ > 0 ? draft_.least_layers : shape()->layers;
    limits.most = std::max(draft_.most_layers, limits.least);
    // Those who run take what they need from those who stream, of whom it will be one.
    if (limits.least < shape()->layers && draft_.give_way == GiveWay::kLowerLast) limits.spare = 0;
  }
  if (!placement_->CouldBeWhole(sequence.known)) limits.least = 0;
  return limits;
}

Scheduler::Started Scheduler::TryStart(SequenceState& sequence, const KvPlacement::StartRoom& limits, StepPlan* plan) {
  if (sequence.in_flight > 0) {  // tokens of it may still be on their way
    Note(sequence, DecisionKind::kStepsInFlight, {sequence.in_flight});
    return Started::kLater;
  }
  const int32_t most = sequence.FirstWanted() / shape()->block_tokens;
  const int32_t adopted = sequence.found = placement_->Match(sequence, most, plan->id);
  if (adopted < most && AnotherComputes(sequence, adopted)) {
    Note(sequence, DecisionKind::kAnotherComputes, {adopted});
    return Started::kLater;
  }
  if (sequence.ask_again <= clock_.Now()) {
    sequence.ask_again = absl::InfiniteFuture();
    SetBelow(sequence, Below::kUnknown);
  }
  if (!shape()->tiers.empty() && adopted < most && sequence.below == Below::kUnknown) {
    plan->probes.push_back({sequence.request.id, {sequence.ids.begin() + adopted, sequence.ids.begin() + most}});
    metrics_.probed_blocks.Add(most - adopted);
    metrics_.external_queries.Add(static_cast<double>(most - adopted) * shape()->block_tokens);
    SetBelow(sequence, Below::kAsked);
    sequence.below_blocks = adopted;
    sequence.ranks_answered = 0;
    sequence.probe_answers = most - adopted;
  }
  if (sequence.below == Below::kAsked) {
    Note(sequence, DecisionKind::kTiersAsked, {most - adopted});
    return Started::kLater;
  }
  const int32_t fetched = WorthFetching(sequence, adopted);
  if (!placement_->Start(sequence, adopted, fetched, limits)) {
    NoteNoRoom(sequence, limits, adopted);
    return Started::kNoRoom;
  }
  Open(sequence, adopted, fetched);
  return Started::kYes;
}

void Scheduler::Open(SequenceState& sequence, int32_t adopted, int32_t fetched) {
  StopWaiting(sequence);
  tenants_.Started(sequence.tenant_tag);
  ++started_;
  if (!sequence.begun() && sequence.kept_layers < shape()->layers) --starts_;
  const int32_t block_tokens = shape()->block_tokens;
  ++sequence.attempt;
  sequence.void_attempt = false;
  sequence.scheduled = sequence.confirmed = (adopted + fetched) * block_tokens;
  sequence.pending = 0;
  sequence.named = sequence.adopted = adopted + fetched;
  sequence.opened = false;
  if (sequence.bounded != nullptr) BeginAttempt(sequence);
  if (sequence.cached_tokens < 0) {
    sequence.cached_tokens = std::min(sequence.scheduled, sequence.prompt);
    metrics_.prefix_queries.Add(sequence.prompt);
    metrics_.prefix_hits.Add(sequence.cached_tokens);
    metrics_.prompt_cached.Add(sequence.cached_tokens);
    deliveries_.push_back({sequence.request.sink.get(), Delivery::Kind::kCached, sequence.cached_tokens});
  }
  sequence.blocks.reserve(sequence.ids.capacity());
  for (int32_t l = 0; l < shape()->layers; ++l) {
    for (size_t s = 0; s < shape()->stages.size(); ++s) {
      if (shape()->stages[s].layers.Has(LayerId{l})) sequence.explanation.layers[l].stage = static_cast<int32_t>(s);
    }
  }
  sequence.explanation.keep_layers = sequence.kept_layers;
  const bool first = sequence.started == absl::InfinitePast();
  if (sequence.begun()) draft_.resume_bytes -= std::min(draft_.resume_bytes, StreamedBytes(sequence));
  Note(sequence, first ? DecisionKind::kStarted : DecisionKind::kResumed,
       {sequence.kept_layers, shape()->layers, adopted});
  if (fetched > 0) NoteFetch(sequence, adopted, fetched);
  if (!placement_->Waits(sequence)) return Run(sequence);
  sequence.phase = Phase::kFetching;
  sequence.Spend(Spending::kFetching, clock_.Now());
  sequence.fetch_began = clock_.Now();
  sequence.fetched = fetched;
  fetching_.push_back(&sequence);
}

void Scheduler::Run(SequenceState& sequence) {
  sequence.phase = Phase::kRunning;
  sequence.Spend(sequence.begun() && sequence.decodes() ? Spending::kDecode : Spending::kPrefill, clock_.Now());
  sequence.key = policy_.key(sequence, cost_);
  running_.insert(&sequence);
  order_stale_ = true;
  for (size_t b = sequence.blocks.size(); b < sequence.ids.size(); ++b) {
    computing_.try_emplace(sequence.ids[b], sequence.request.id);
  }
}

// Sequences whose fetches are all answered run; where one failed, the sequence starts anew with what is there.
void Scheduler::SettleFetching() {
  for (size_t i = 0; i < fetching_.size();) {
    SequenceState& sequence = *fetching_[i];
    if (placement_->Waits(sequence)) {
      ++i;
      continue;
    }
    fetching_.erase(fetching_.begin() + static_cast<ptrdiff_t>(i));
    if (placement_->Whole(sequence)) {
      LearnTransfer(Route::kBelow, int64_t{sequence.fetched} * shape()->layers * shape()->slot_bytes,
                    std::max(absl::Microseconds(1), clock_.Now() - sequence.fetch_began));
      metrics_.fetched_ok.Add(sequence.fetched);
      metrics_.external_hits.Add(static_cast<double>(sequence.fetched) * shape()->block_tokens);
      Run(sequence);
      continue;
    }
    metrics_.fetched_missing.Add(sequence.fetched);
    Note(sequence, DecisionKind::kFetchFailed, {sequence.fetched});
    placement_->Release(sequence);
    sequence.phase = Phase::kWaiting;
    sequence.below_blocks = 0;
    if (!sequence.begun()) sequence.cached_tokens = -1;  // counted again at the next start
    Wait(sequence);
  }
}

// Names for blocks that the ranks do not know the names of, as far as [0, end) fills them; they are sealed with `plan`.
std::optional<SealedNames> Scheduler::NamesFor(SequenceState& sequence, int32_t end, PlanId plan) {
  int32_t count = std::min(static_cast<int32_t>(sequence.ids.size()), end / shape()->block_tokens);
  for (int32_t b = sequence.named; b < count; ++b) {
    if (placement_->Arriving(sequence, b)) count = b;  // for another request; it takes its name from there
  }
  if (count <= sequence.named) return std::nullopt;
  placement_->Seal(sequence, count, plan);
  SealedNames names{sequence.named, {sequence.ids.begin() + sequence.named, sequence.ids.begin() + count}};
  for (const BlockId& id : names.ids) {
    if (computing_.empty()) break;
    auto it = computing_.find(id);
    if (it != computing_.end() && it->second == sequence.request.id) computing_.erase(it);
  }
  sequence.named = count;
  return names;
}

// The ranks forget a running sequence; blocks that it has filled stay under their names.
void Scheduler::Halt(SequenceState& sequence) {
  running_.erase(&sequence);
  order_stale_ = true;
  if (sequence.opened) {
    Release release{sequence.request.id, std::nullopt};
    // Blocks are sealed where the ranks believe that they stay. They have not heard of layers that changed just now:
    // what would be sealed by that is given up.
    const bool seals = !sequence.void_attempt && !sequence.kept_changed;
    if (seals) release.names = NamesFor(sequence, sequence.scheduled, PlanId{next_plan_});
    releases_.push_back(std::move(release));
  }
  for (size_t b = sequence.blocks.size(); b < sequence.ids.size(); ++b) {
    auto it = computing_.find(sequence.ids[b]);
    if (it != computing_.end() && it->second == sequence.request.id) computing_.erase(it);
  }
}

void Scheduler::Park(SequenceState& sequence, absl::string_view cause) {
  Halt(sequence);
  placement_->Park(sequence);
  sequence.phase = Phase::kWaiting;
  sequence.computed_before = std::max(sequence.computed_before, sequence.scheduled);
  sequence.recompute_cause = cause;
  Wait(sequence);
}

}  // namespace interlace
