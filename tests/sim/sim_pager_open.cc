// How the SimPager takes a plan; the order of things is that of worker/layer_pager_open.cc.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tests/sim/sim_pager.h"

namespace interlace::sim {

bool SimPager::AwaitsSample(const StepPlan& plan) const {
  for (const PlanSequence& s : plan.sequences) {
    if (s.tokens[0] != kLastSample) continue;
    const auto it = sequences_.find(s.request);
    if (it == sequences_.end() || it->second->attempt != s.attempt || it->second->lost) continue;
    if (it->second->sampled_by != PlanId{}) return true;
  }
  return false;
}

void SimPager::TakeSamples(PlanId plan, absl::Span<const SampledToken> samples) {
  for (auto& [request, kv] : sequences_) {
    if (kv->sampled_by != plan) continue;
    kv->sampled_by = PlanId{};
    int32_t sample = -1;
    for (const SampledToken& token : samples) {
      if (token.request == request && token.attempt == kv->attempt) sample = token.token;
    }
    if (sample < 0) {  // a stage behind this one lost the sequence, and reports it
      kv->lost = true;
      NeverSealed(*kv, std::nullopt);
      DropTail(*kv);
      continue;
    }
    kv->sample_before = kv->last_sample;
    kv->last_sample = sample;
  }
}

void SimPager::Open(const StepPlan& plan, absl::Time now) {
  running_.clear();
  lost_.clear();
  read_ahead_ = 0;
  new_blocks_ = 0;
  pool_->Poll(now);
  for (const interlace::Release& release : plan.releases) Release(release);
  for (const SequenceChange& change : plan.changes) {
    SimSequence* const kv = Find(change.request);
    if (kv != nullptr) Change(*kv, change.kept, change.names, kv->length);
  }
  for (const PlanSequence& s : plan.sequences) {
    SimSequence* const kv = Find(s.request);
    if (kv == nullptr || kv->attempt != s.attempt || kv->lost) continue;
    if (s.start < kv->length && CanStart(*kv, s.start)) Truncate(*kv, s.start);  // guesses that were wrong
  }
  for (const BlockMove& move : plan.moves) Move(move);
  for (const PlanSequence& s : plan.sequences) {
    SimSequence* const kv = Find(s.request);
    if (kv == nullptr || kv->attempt != s.attempt || kv->lost) continue;
    Change(*kv, s.kept, s.names, std::min(kv->length, s.start));
  }
  running_.reserve(plan.sequences.size());
  int32_t row = 0;
  for (const PlanSequence& s : plan.sequences) {
    OpenSequence(s, row);
    row += static_cast<int32_t>(s.tokens.size());
  }
  for (const interlace::Probe& probe : plan.probes) pool_->Probe(probe.request, probe.blocks);
}

SimSequence* SimPager::Find(RequestId request) {
  const auto it = sequences_.find(request);
  return it == sequences_.end() ? nullptr : it->second.get();
}

void SimPager::Release(const interlace::Release& release) {
  SimSequence* const kv = Find(release.request);
  if (kv == nullptr) return;
  if (kv->lost) NeverSealed(*kv, release.names);
  Change(*kv, std::nullopt, release.names, kv->length);
  Forget(release.request);
}

void SimPager::Forget(RequestId request) {
  SimSequence* const kv = Find(request);
  if (kv == nullptr) return;
  for (SimBlock* block : kv->blocks) pool_->Release(block);
  if (options_.canary != Canary::kLeaksTail) DropTail(*kv);
  sequences_.erase(request);
}

void SimPager::Name(SimSequence& kv, const SealedNames& names) {
  const size_t end = static_cast<size_t>(names.first) + names.ids.size();
  if (kv.names.size() < end) kv.names.resize(end);
  for (size_t i = 0; i < names.ids.size(); ++i) {
    const size_t block = static_cast<size_t>(names.first) + i;
    if (static_cast<int32_t>(block) >= kv.shared) kv.names[block] = names.ids[i];
  }
}

int32_t SimPager::Sealable(const SimSequence& kv, int32_t tokens) const {
  const int32_t filled = std::min(tokens / block_tokens(), static_cast<int32_t>(kv.names.size()));
  int32_t block = kv.shared;
  while (block < filled && kv.names[block] != BlockId{}) ++block;
  return block;
}

void SimPager::Change(SimSequence& kv, const std::optional<LayerSet>& kept, const std::optional<SealedNames>& names,
                      int32_t computed) {
  if (kv.lost) return;
  if (kept) kv.kept = *kept;
  if (!names) return;
  Name(kv, *names);
  const int32_t seal_to = Sealable(kv, computed);
  if (seal_to == kv.shared) return;
  HoldNamed(kv, seal_to);
  for (int32_t l = 0; l < layers(); ++l) {
    if (SealLayer(kv, l, seal_to)) continue;
    kv.lost = true;
    lost_.push_back({kv.request, kv.attempt, LayerId{pool_options_.layer_begin + l}, kv.shared, LossCause::kNoSlot,
                     "no host frame for a sealed block"});
    ledger_.Fail("stage ", Value(options_.stage), " has no host frame for a block of request ", Value(kv.request));
    return;
  }
  kv.shared = seal_to;
}

void SimPager::Truncate(SimSequence& kv, int32_t start) {
  const int32_t left = (start + block_tokens() - 1) / block_tokens();
  kv.tokens.resize(start);
  kv.length = start;
  for (SimSequence::Tail& tail : kv.tails) {
    while (tail.first + static_cast<int32_t>(tail.slots.size()) > left && !tail.slots.empty()) {
      pool_->GiveSlot(tail.slots.back());
      tail.slots.pop_back();
    }
  }
}

void SimPager::Move(const BlockMove& move) {
  switch (move.kind) {
    case MoveKind::kCopyOut:
      return pool_->CopyOut(move.block, move.layers);
    case MoveKind::kCopyIn:
      return pool_->CopyIn(move.block, move.layers);
    case MoveKind::kDropDevice:
      return pool_->DropDevice(move.block, move.layers);
    case MoveKind::kDropHost:
      return pool_->DropHost(move.block, move.layers);
    case MoveKind::kFetchHost:
    case MoveKind::kFetchDevice:
      return pool_->Fetch(move.block, move.layers, move.kind == MoveKind::kFetchDevice,
                          absl::Milliseconds(move.slack_ms));
  }
}

void SimPager::OpenSequence(const PlanSequence& planned, int32_t row) {
  SimSequence* kv = Find(planned.request);
  if (kv != nullptr && kv->attempt < planned.attempt) {
    ledger_.Fail("request ", Value(planned.request), " opens again before it was released");
    Forget(planned.request);
    kv = nullptr;
  }
  const bool fresh = kv == nullptr;
  if (fresh) {
    auto made = std::make_unique<SimSequence>();
    kv = made.get();
    kv->request = planned.request;
    kv->attempt = planned.attempt;
    kv->tails.resize(layers());
    kv->seen_from.resize(layers());
    sequences_[planned.request] = std::move(made);
  }
  running_.push_back({kv, &planned, planned.start, row, static_cast<int32_t>(planned.tokens.size())});
  Running& running = running_.back();
  if (kv->attempt != planned.attempt || kv->lost) {  // said before
    NeverSealed(*kv, planned.names);
    running.lost = true;
    return;
  }
  std::string why;
  if (options_.refused.contains(planned.request)) why = "scripted";
  if (why.empty()) {
    why = Continue(*kv, planned, fresh);
    if (!why.empty()) ledger_.Fail("stage ", Value(options_.stage), " refuses request ", Value(kv->request), ": ", why);
  }
  if (!why.empty()) {
    return Lose(running, 0, std::max(0, planned.start) / block_tokens(), LossCause::kRefused, std::move(why));
  }
  SeeFrom(*kv, running.start);
  if (fresh) CheckAdopted(running);
  if (running.lost) return;
  new_blocks_ += std::max(0, BlocksOf(*kv) - (running.start + block_tokens() - 1) / block_tokens());
  running.seal_to = Sealable(*kv, static_cast<int32_t>(kv->tokens.size()));
  if (running.seal_to > kv->shared) HoldNamed(*kv, running.seal_to);
}

std::string SimPager::Continue(SimSequence& kv, const PlanSequence& planned, bool fresh) {
  if (fresh != planned.opening.has_value()) return "its opening is missing, or comes twice";
  if (fresh) {
    const Opening& opening = *planned.opening;
    if (opening.prefix.size() != opening.adopted.size() * static_cast<size_t>(block_tokens())) {
      return "its prefix does not fit its adopted blocks";
    }
    kv.sampling_seed = opening.sampling.seed;
    kv.tokens = opening.prefix;
    kv.length = static_cast<int32_t>(kv.tokens.size());
    kv.shared = static_cast<int32_t>(opening.adopted.size());
    for (SimSequence::Tail& tail : kv.tails) tail.first = kv.shared;
    for (const BlockId& id : opening.adopted) kv.blocks.push_back(pool_->Hold(id));
    if (planned.kept) kv.kept = *planned.kept;
    if (planned.names) Name(kv, *planned.names);
    ledger_.adopted_blocks += kv.shared;
  }
  if (!CanStart(kv, planned.start)) {
    return absl::StrCat("start ", planned.start, " is outside of [", kv.shared * block_tokens(), ", ", kv.length, "]");
  }
  kv.tokens.insert(kv.tokens.end(), planned.tokens.begin(), planned.tokens.end());
  if (planned.tokens[0] != kLastSample || !options_.first) return std::string();
  const bool stale = options_.canary == Canary::kStaleLastSample && kv.sample_before >= 0;
  const int32_t sample = stale ? kv.sample_before : kv.last_sample;
  if (sample < 0) return "its own last sample is asked for, and it has sampled none";
  kv.tokens[planned.start] = sample;
  return std::string();
}

void SimPager::SeeFrom(SimSequence& kv, int32_t start) {
  const int32_t too_far = options_.canary == Canary::kWindowOffByOne ? 1 : 0;
  for (int32_t l = 0; l < layers(); ++l) {
    const int32_t window = model_.windows()[pool_options_.layer_begin + l];
    if (window > 0) kv.seen_from[l] = std::max(0, start + 1 + too_far - window) / block_tokens();
  }
}

void SimPager::CheckAdopted(Running& running) {
  if (options_.canary == Canary::kAdoptsUnchecked) return;
  const SimSequence& kv = *running.kv;
  for (int32_t l = 0; l < layers(); ++l) {
    for (int32_t b = kv.seen_from[l]; b < kv.shared; ++b) {
      if (kv.blocks[b]->places[l].placed()) continue;
      return Lose(running, l, b, LossCause::kMissing, "an adopted block is neither on the device nor on the host");
    }
  }
}

void SimPager::HoldNamed(SimSequence& kv, int32_t seal_to) {
  for (auto i = static_cast<int32_t>(kv.blocks.size()); i < seal_to; ++i) {
    kv.blocks.push_back(pool_->Hold(kv.names[i]));
  }
}

bool SimPager::SealLayer(SimSequence& kv, int32_t layer, int32_t seal_to) {
  SimSequence::Tail& tail = kv.tails[layer];
  const bool kept = kv.kept.Has(LayerId{pool_options_.layer_begin + layer});
  while (tail.first < seal_to) {
    const int32_t slot = tail.slots.front();
    const int32_t block = tail.first++;
    tail.slots.erase(tail.slots.begin());
    if (pool_->Seal(kv.blocks[block], layer, slot, kept, block) == SimPool::Sealed::kNoFrame) return false;
  }
  return true;
}

void SimPager::DropTail(SimSequence& kv) {
  for (SimSequence::Tail& tail : kv.tails) {
    for (const int32_t slot : tail.slots) pool_->GiveSlot(slot);
    tail.slots.clear();
  }
}

void SimPager::NeverSealed(const SimSequence& kv, const std::optional<SealedNames>& names) {
  for (size_t b = static_cast<size_t>(kv.shared); b < kv.names.size(); ++b) ledger_.damaged.insert(kv.names[b]);
  if (names) ledger_.damaged.insert(names->ids.begin(), names->ids.end());
}

}  // namespace interlace::sim
