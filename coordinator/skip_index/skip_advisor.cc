#include "coordinator/skip_index/skip_advisor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr double kMostExploring = 0.25;  // of the streams
constexpr float kNear = 0.5F;            // likeness of prompts that share a search
constexpr uint64_t kPatience = 512;      // advices after which a search that nobody came near to gives way
constexpr double kGivenUp = 3;           // fewer say nothing, not even where a stream made no more of them
constexpr double kBetter = 0.005;        // less loss than that, against the static plan, is worth no entry
constexpr double kHour = 3600;           // of streams' time, after which what trials cost fades
constexpr int32_t kTellEvery = 16;       // outcomes, between two times that the index is told of the static plan
constexpr size_t kSliceBytes = size_t{1} << 20;
constexpr double kMostTold = 1e6;       // guesses or seconds of one outcome
constexpr size_t kMostWidth = 1 << 16;  // of a key

}  // namespace

absl::string_view SkipSourceName(SkipSource source) {
  switch (source) {
    case SkipSource::kStatic:
      return "static";
    case SkipSource::kEntry:
      return "entry";
    case SkipSource::kTrial:
      return "trial";
  }
  return "?";
}

SkipAdvisor::SkipAdvisor(const Options& options, std::unique_ptr<Entropy> entropy)
    : options_(options), entropy_(std::move(entropy)) {}

// ---- advice

// False: keys of another width are known.
bool SkipAdvisor::TakeWidth(size_t width) {
  const bool other = index_ != nullptr && static_cast<size_t>(index_->options().width) != width;
  if (other) ++refused_;
  if (other && keyed_) return false;
  keyed_ = true;
  if (index_ != nullptr && !other) return true;
  index_ = std::make_unique<SkipIndex>(
      SkipIndex::Options{options_.model_digest, options_.layers, static_cast<int32_t>(width), options_.most_bytes});
  return true;
}

SkipAdvisor::State& SkipAdvisor::StateOf(const SkipScope& scope, const PassCosts& costs) {
  auto it = states_.find(scope);
  if (it == states_.end()) {
    if (states_.size() >= kMostStates) {
      states_.erase(std::min_element(states_.begin(), states_.end(),
                                     [](const auto& a, const auto& b) { return a.second->used < b.second->used; }));
    }
    const auto known = index_ == nullptr ? std::nullopt : index_->StaticOf(scope);
    std::vector<SkipPlan> first;
    if (known) first.push_back(known->first);
    it =
        states_.emplace(scope, std::make_unique<State>(State{PlanSearch(costs, entropy_->Fork("scope"), first)})).first;
    if (known) it->second->whole.Note(known->first, known->second.tried(), known->second.right());
  }
  it->second->used = ++turn_;
  return *it->second;
}

// The search of prompts like this one; null: there is none, and no room for one.
SkipAdvisor::Nearby* SkipAdvisor::NearbyOf(const SkipScope& scope, State& state, const std::vector<float>& key,
                                           const PassCosts& costs) {
  Nearby* nearest = nullptr;
  float most = kNear;
  for (Nearby& nearby : state.nearby) {
    const float likeness = index_->Likeness(scope, Dot(nearby.key, key)).value_or(0);
    if (likeness < most) continue;
    most = likeness;
    nearest = &nearby;
  }
  if (nearest == nullptr && index_->Likeness(scope, 1)) {
    const auto oldest = std::min_element(state.nearby.begin(), state.nearby.end(),
                                         [](const Nearby& a, const Nearby& b) { return a.used < b.used; });
    const bool full = state.nearby.size() == kMostSearches;
    if (full && oldest->used + kPatience > turn_) return nullptr;
    if (full) state.nearby.erase(oldest);
    state.nearby.push_back(
        {next_search_++, key, turn_, false, PlanSearch(costs, entropy_->Fork("nearby"), {state.whole.best().plan})});
    nearest = &state.nearby.back();
  }
  if (nearest != nullptr) nearest->used = turn_;
  return nearest;
}

// As long as one more that costs what the dearest of late did could be paid for.
bool SkipAdvisor::MayExplore() {
  if (options_.explore <= 0) return false;
  return lost_ + dearest_ <= options_.explore * seconds_ && Uniform() < kMostExploring;
}

SkipAdvice SkipAdvisor::Advise(const SkipScope& scope, absl::Span<const float> key, const PassCosts& costs) {
  CHECK(costs.layers == options_.layers);
  std::vector<float> unit(key.begin(), key.end());
  const bool keyed = unit.size() <= kMostWidth && Normalise(&unit);
  absl::MutexLock lock(&mutex_);
  const bool known = keyed && TakeWidth(unit.size());
  State& state = StateOf(scope, costs);
  const TriedPlan best = state.whole.best();
  SkipAdvice advice{.plan = best.plan, .scope = scope, .acceptance = best.acceptance.mean()};
  advice.judged = best.acceptance.tried() >= kJudged;
  const bool may_explore = MayExplore();
  if (known) {
    const SkipFound found = index_->Lookup(scope, unit, costs, state.whole.LossOf(best), Uniform());
    const bool hit = found.kind == SkipFound::Kind::kHit;
    if (hit || (found.kind == SkipFound::Kind::kTrial && may_explore)) {
      advice = {hit ? SkipSource::kEntry : SkipSource::kTrial,
                found.plan,
                scope,
                found.entry,
                0,
                found.similarity,
                found.likeness,
                found.acceptance,
                true};
      return advice;
    }
  }
  if (!may_explore) return advice;
  if (!state.whole.converged()) {
    advice.plan = state.whole.Propose();
    advice.source = SkipSource::kTrial;
    advice.judged = false;
    return advice;
  }
  Nearby* const nearby = known ? NearbyOf(scope, state, unit, costs) : nullptr;
  if (nearby == nullptr || nearby->empty_handed) return advice;
  advice.plan = nearby->search.Propose();
  advice.judged = false;
  advice.search = nearby->id;
  advice.source = SkipSource::kTrial;
  return advice;
}

// ---- outcomes

void SkipAdvisor::Learn(const SkipAdvice& advice, const SkipOutcome& told) {
  SkipOutcome outcome = told;
  const auto bounded = [](double value, double least, double most) {
    return std::isfinite(value) ? std::clamp(value, least, most) : 0.0;
  };
  outcome.tried = bounded(told.tried, 0, kMostTold);
  outcome.right = bounded(told.right, 0, outcome.tried);
  outcome.seconds = bounded(told.seconds, 0, kMostTold);
  outcome.saved = bounded(told.saved, -kMostTold, kMostTold);
  absl::MutexLock lock(&mutex_);
  const auto it = states_.find(advice.scope);
  if (it == states_.end()) return;
  State& state = *it->second;
  Account(advice, outcome, state);
  if (advice.entry != 0) {
    LearnEntry(advice, outcome, state);
  } else if (advice.search == 0) {
    state.whole.Note(advice.plan, outcome.tried, outcome.right);
    if (index_ != nullptr && ++state.learned % kTellEvery == 0) {
      const TriedPlan best = state.whole.best();
      index_->SetStatic(advice.scope, best.plan, best.acceptance);
    }
  } else {
    for (Nearby& nearby : state.nearby) {
      if (nearby.id == advice.search) nearby.search.Note(advice.plan, outcome.tried, outcome.right);
    }
    Advance(advice.scope, state, advice.search);
  }
}

// What trials lose is counted against what the static plan would have gained in the same time.
void SkipAdvisor::Account(const SkipAdvice& advice, const SkipOutcome& outcome, State& state) {
  seconds_ += outcome.seconds;
  if (advice.explores()) {
    const double lost = std::max(0.0, std::max(0.0, state.gain) * outcome.seconds - outcome.saved);
    lost_ += lost;
    dearest_ = std::max(lost, 0.9 * dearest_);
  } else if (outcome.seconds > 0 && advice.source == SkipSource::kStatic) {
    state.gain += (std::clamp(outcome.saved / outcome.seconds, -1.0, 8.0) - state.gain) / 16;
  }
  if (seconds_ < kHour) return;
  seconds_ /= 2;
  lost_ /= 2;
}

void SkipAdvisor::LearnEntry(const SkipAdvice& advice, const SkipOutcome& outcome, const State& state) {
  if (index_ == nullptr) return;
  SkipUse use{advice.similarity, advice.likeness, !advice.explores()};
  use.tried = outcome.tried;
  use.right = outcome.right;
  use.seconds = outcome.saved;
  // It is there to do better than the static plan does, and than no guesses.
  const double loss = std::min(state.whole.LossOf(state.whole.best()), 1 - kBetter);
  if (outcome.tried >= kJudged) {
    use.good = outcome.right / outcome.tried >= RateFor(state.whole.costs(), advice.plan, loss);
  } else if (outcome.tried >= kGivenUp && outcome.saved < 0 &&
             Acceptance(outcome.tried, outcome.right).Upper() < advice.acceptance) {
    use.good = false;  // the stream saw soon that it is not what it promised
  }
  index_->Note(advice.entry, use);
}

// A search that ended gives an entry, if its best plan beats the static one on the same prompts.
void SkipAdvisor::Advance(const SkipScope& scope, State& state, uint64_t search) {
  const auto it =
      std::find_if(state.nearby.begin(), state.nearby.end(), [&](const Nearby& nearby) { return nearby.id == search; });
  if (it == state.nearby.end() || !it->search.converged() || it->empty_handed) return;
  const TriedPlan best = it->search.best(), whole = state.whole.best();
  const TriedPlan* const here = it->search.Find(whole.plan);
  const double loss = it->search.LossOf(here != nullptr ? *here : whole);
  if (it->search.LossOf(best) >= loss - kBetter || index_ == nullptr) {
    it->empty_handed = true;
    return;
  }
  index_->Insert(scope, it->key, best.plan, best.acceptance);
  state.nearby.erase(it);
}

// ---- what outlives a process

SkipAdvisor::Exported SkipAdvisor::Export(SkipCursor since) const {
  SkipRecords records;
  SkipOrigin origin{options_.model_digest, options_.layers, 0};
  {
    absl::MutexLock lock(&mutex_);
    if (index_ == nullptr) return {};
    origin.width = index_->options().width;
    records = index_->Changes(since, kSliceBytes);
  }
  return {EncodeSkips(records, origin), records.until, records.more};
}

absl::Status SkipAdvisor::Import(absl::string_view bytes) {
  absl::MutexLock lock(&mutex_);
  const absl::StatusOr<bool> more = ImportLocked(bytes);
  if (!more.ok()) ++refused_;
  return more.status();
}

// Whether more is to come.
absl::StatusOr<bool> SkipAdvisor::ImportLocked(absl::string_view bytes) {
  SkipOrigin origin{options_.model_digest, options_.layers, 0};
  const std::optional<SkipOrigin> theirs = OriginOf(bytes);
  if (index_ != nullptr) {
    origin.width = index_->options().width;
  } else if (theirs && theirs->width > 0 && static_cast<size_t>(theirs->width) <= kMostWidth) {
    origin.width = theirs->width;
  }
  absl::StatusOr<SkipRecords> records = DecodeSkips(bytes, origin);
  if (!records.ok()) return records.status();
  std::unique_ptr<SkipIndex> made;
  if (index_ == nullptr) {
    made = std::make_unique<SkipIndex>(
        SkipIndex::Options{options_.model_digest, options_.layers, origin.width, options_.most_bytes});
  }
  RETURN_IF_ERROR((made != nullptr ? *made : *index_).Take(*records));
  if (made != nullptr) index_ = std::move(made);
  return records->more;
}

// Slices, each with its length before it; the last one says that it is.
std::string SkipAdvisor::Save() const {
  std::string text;
  SkipCursor since;
  for (int64_t slices = 1 + 2 * options_.most_bytes / static_cast<int64_t>(kSliceBytes); slices >= 0; --slices) {
    const Exported slice = Export(since);
    if (slice.bytes.empty()) return {};
    const auto size = static_cast<uint32_t>(slice.bytes.size());
    text.append(reinterpret_cast<const char*>(&size), sizeof size);
    text += slice.bytes;
    since = slice.until;
    if (!slice.more) return text;
  }
  return {};  // streams changed it faster than it was read
}

absl::Status SkipAdvisor::Load(absl::string_view bytes) {
  absl::MutexLock lock(&mutex_);
  absl::StatusOr<bool> more = true;
  while (more.ok() && *more) {
    uint32_t size = 0;
    if (bytes.size() >= sizeof size) {
      std::memcpy(&size, bytes.data(), sizeof size);
      bytes.remove_prefix(sizeof size);
    }
    if (size == 0 || bytes.size() < size) {
      more = absl::DataLossError("it is cut off");
      break;
    }
    more = ImportLocked(bytes.substr(0, size));
    bytes.remove_prefix(size);
  }
  if (more.ok() && !bytes.empty()) more = absl::DataLossError("it goes on behind its end");
  if (!more.ok()) {
    ++refused_;
    index_.reset();
    keyed_ = false;
  }
  return more.status();
}

SkipCounts SkipAdvisor::CountsLocked() const {
  SkipCounts counts = index_ == nullptr ? SkipCounts() : index_->counts();
  counts.refused = refused_;
  return counts;
}

SkipCounts SkipAdvisor::counts() const {
  absl::MutexLock lock(&mutex_);
  return CountsLocked();
}

}  // namespace interlace
