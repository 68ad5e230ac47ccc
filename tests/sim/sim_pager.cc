#include "tests/sim/sim_pager.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace interlace::sim {
namespace {

// What a rank that looks at nothing reads where a block lies nowhere.
constexpr Extent kNothing{};

}  // namespace

SimPager::SimPager(const Options& options, const SimPool::Options& pool, const DigestModel& model,
                   std::unique_ptr<SimPool> made, Ledger& ledger)
    : options_(options), pool_options_(pool), model_(model), pool_(std::move(made)), ledger_(ledger) {}

void SimPager::Reset() {
  running_.clear();
  for (auto& [request, kv] : sequences_) DropTail(*kv);
  pool_->Reset();
  sequences_.clear();
}

int32_t SimPager::tail_slots() const {
  int32_t slots = 0;
  for (const auto& [request, kv] : sequences_) {
    for (const SimSequence::Tail& tail : kv->tails) slots += static_cast<int32_t>(tail.slots.size());
  }
  return slots;
}

// ---- the layers

std::vector<uint64_t> SimPager::Embed() const {
  std::vector<uint64_t> x;
  for (const Running& running : running_) {
    for (int32_t r = 0; r < running.rows; ++r) {
      const int32_t position = running.start + r;
      x.push_back(running.lost ? 0 : model_.Embed(running.kv->tokens[position], position));
    }
  }
  return x;
}

void SimPager::RunLayers(std::vector<uint64_t>* x) {
  for (int32_t l = 0; l < layers(); ++l) {
    ReadAhead(l);
    for (Running& running : running_) TakeTail(l, running);
    for (Running& running : running_) ReadNow(l, running);
    for (const Running& running : running_) Append(l, running, *x);
    for (Running& running : running_) AwaitReads(l, running);
    for (const Running& running : running_) Attend(l, running, x);
    pool_->EndTurn(l);
    for (Running& running : running_) {
      if (running.lost || running.seal_to <= running.kv->shared) continue;
      if (SealLayer(*running.kv, l, running.seal_to)) continue;
      Lose(running, l, running.kv->shared, LossCause::kNoSlot, "no host frame for a sealed block");
    }
  }
}

void SimPager::ReadAhead(int32_t layer) {
  const int32_t reserved = new_blocks_ * (layers() - layer);
  for (int32_t l = std::max(read_ahead_, layer); l < layers(); ++l) {
    for (const Running& running : running_) {
      const SimSequence& kv = *running.kv;
      if (running.lost) continue;
      for (int32_t b = kv.seen_from[l]; b < kv.shared; ++b) {
        if (pool_->Shown(kv.blocks[b], l) != nullptr) continue;
        if (pool_->slots().free() <= reserved) return;
        if (pool_->Read(kv.blocks[b], l, /*must=*/false) == SimPool::Presence::kNoSlot) return;
      }
    }
    read_ahead_ = l + 1;
  }
}

void SimPager::TakeTail(int32_t layer, Running& running) {
  SimSequence& kv = *running.kv;
  if (running.lost) return;
  SimSequence::Tail& tail = kv.tails[layer];
  while (tail.first + static_cast<int32_t>(tail.slots.size()) < BlocksOf(kv)) {
    const int32_t slot = pool_->TakeSlot();
    if (slot < 0) {
      return Lose(running, layer, tail.first + static_cast<int32_t>(tail.slots.size()), LossCause::kNoSlot,
                  "the device arena is full");
    }
    tail.slots.push_back(slot);
  }
}

void SimPager::ReadNow(int32_t layer, Running& running) {
  const SimSequence& kv = *running.kv;
  for (int32_t b = kv.seen_from[layer]; b < kv.shared && !running.lost; ++b) {
    const SimPool::Presence presence = pool_->Read(kv.blocks[b], layer, /*must=*/true);
    if (presence == SimPool::Presence::kHere || presence == SimPool::Presence::kComing) continue;
    if (options_.canary == Canary::kAdoptsUnchecked) continue;
    const LossCause cause = presence == SimPool::Presence::kCorrupt  ? LossCause::kCorrupt
                            : presence == SimPool::Presence::kNoSlot ? LossCause::kNoSlot
                                                                     : LossCause::kMissing;
    Lose(running, layer, b, cause, "a block cannot be read");
  }
}

void SimPager::AwaitReads(int32_t layer, Running& running) {
  const SimSequence& kv = *running.kv;
  for (int32_t b = kv.seen_from[layer]; b < kv.shared && !running.lost;) {
    const SimPool::Presence presence = pool_->Read(kv.blocks[b], layer, /*must=*/true);
    if (presence == SimPool::Presence::kComing) {
      pool_->Await();
    } else if (presence == SimPool::Presence::kHere || options_.canary == Canary::kAdoptsUnchecked) {
      ++b;
    } else {
      Lose(running, layer, b, presence == SimPool::Presence::kCorrupt ? LossCause::kCorrupt : LossCause::kMissing,
           "a block could not be read");
    }
  }
}

void SimPager::Append(int32_t layer, const Running& running, const std::vector<uint64_t>& x) {
  if (running.lost) return;
  const SimSequence::Tail& tail = running.kv->tails[layer];
  for (int32_t r = 0; r < running.rows; ++r) {
    const int32_t position = running.start + r;
    Extent& extent = pool_->slot(tail.slots[position / block_tokens() - tail.first]);
    const int32_t at = position % block_tokens();
    const uint64_t kv = model_.Kv(pool_options_.layer_begin + layer, x[running.row + r], position);
    extent[at] = at > 0 ? Add(extent[at - 1], kv) : kv;
  }
}

void SimPager::Attend(int32_t layer, const Running& running, std::vector<uint64_t>* x) {
  if (running.lost) return;
  const SimSequence& kv = *running.kv;
  const int32_t global = pool_options_.layer_begin + layer;
  const SimSequence::Tail& tail = kv.tails[layer];
  extents_.assign(BlocksOf(kv), &kNothing);
  for (int32_t b = kv.seen_from[layer]; b < kv.shared; ++b) {
    if (const Extent* shown = pool_->Shown(kv.blocks[b], layer)) extents_[b] = shown;
  }
  for (size_t i = 0; i < tail.slots.size(); ++i) extents_[tail.first + i] = &pool_->slot(tail.slots[i]);
  for (int32_t r = 0; r < running.rows; ++r) {
    const int32_t position = running.start + r, first = model_.FirstSeen(global, position);
    uint64_t attended = 0;
    for (int32_t b = first / block_tokens(); b <= position / block_tokens(); ++b) {
      const Extent& extent = *extents_[b];
      const int32_t begin = b * block_tokens();
      uint64_t seen = extent[std::min(position - begin, block_tokens() - 1)];
      if (first > begin) seen = Subtract(seen, extent[first - 1 - begin]);
      attended = Add(attended, Multiply(model_.Weight(b), seen));
    }
    uint64_t& row = (*x)[running.row + r];
    row = model_.Next(global, row, attended);
  }
}

std::vector<SampledToken> SimPager::Sample(const StepPlan& plan, const std::vector<uint64_t>& x) {
  std::vector<SampledToken> sampled;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlanSequence& s = plan.sequences[i];
    const Running& running = running_[i];
    if (!s.sample || running.lost) continue;
    for (int32_t d = 0; d <= s.drafts; ++d) {
      const int32_t row = running.row + running.rows - 1 - s.drafts + d;
      const int32_t token = model_.TokenOf(x[row], running.kv->sampling_seed);
      sampled.push_back({s.request, s.attempt, s.sample_index + d, token, {}});
      running.kv->sample_before = std::exchange(running.kv->last_sample, token);
    }
  }
  return sampled;
}

// ---- losses, and the end of a step

void SimPager::Lose(Running& running, int32_t layer, int32_t block, LossCause cause, std::string detail) {
  SimSequence& kv = *running.kv;
  const bool blameless = cause == LossCause::kRefused ? options_.refused.contains(kv.request)
                                                      : block < static_cast<int32_t>(kv.blocks.size()) &&
                                                            ledger_.damaged.contains(kv.blocks[block]->id);
  if (!blameless || cause == LossCause::kNoSlot) {
    const std::string id = block < static_cast<int32_t>(kv.blocks.size()) ? IdText(kv.blocks[block]->id) : "unnamed";
    ledger_.Fail("stage ", Value(options_.stage), " loses request ", Value(kv.request), " in layer ", layer, " block ",
                 block, " (", LossCauseName(cause), ", ", id, "), and nothing had damaged it");
  }
  ++ledger_.losses;
  running.lost = kv.lost = true;
  lost_.push_back(
      {kv.request, kv.attempt, LayerId{pool_options_.layer_begin + layer}, block, cause, std::move(detail)});
  NeverSealed(kv, running.planned->names);
  DropTail(kv);
}

void SimPager::MarkLost(size_t index) {
  Running& running = running_[index];
  if (running.lost) return;
  running.lost = running.kv->lost = true;
  NeverSealed(*running.kv, running.planned->names);
  DropTail(*running.kv);
}

void SimPager::Close(StepResult* result, absl::Time now) {
  for (Running& running : running_) {
    if (running.lost) continue;
    SimSequence& kv = *running.kv;
    if (!result->status.ok()) {
      kv.lost = true;
      continue;
    }
    kv.length = static_cast<int32_t>(kv.tokens.size());
    kv.shared = std::max(kv.shared, running.seal_to);
    if (running.planned->sample && options_.first && !options_.last) kv.sampled_by = PlanId{result->plan};
  }
  running_.clear();
  result->lost = std::exchange(lost_, {});
  for (const LostSequence& lost : result->lost) {
    if (const SimSequence* kv = Find(lost.request)) {
      ledger_.lost_tokens += static_cast<int64_t>(kv->tokens.size()) - int64_t{lost.block} * block_tokens();
    }
  }
  Report(result, now);
}

void SimPager::Report(StepResult* result, absl::Time now) {
  pool_->Poll(now);
  result->fetched = pool_->TakeFetched();
  result->probed = pool_->TakeProbed();
  result->slots_used = pool_->slots().used();
  result->frames_used = pool_->frames().used();
}

}  // namespace interlace::sim
