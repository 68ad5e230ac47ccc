// How the LayerPager takes a plan.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "worker/layer_pager.h"

namespace interlace {

void LayerPager::Open(const StepPlan& plan, const Refusals& refused) {
  epoch_ = plan.epoch;
  plan_ = plan.id;
  running_.clear();
  reading_.clear();
  growing_.clear();
  sealing_.clear();
  lost_.clear();
  traffic_.clear();
  traffic_of_.clear();
  own_time_ = absl::ZeroDuration();
  waited_before_ = pool_.waited();
  const OwnTime own_time(*this);
  read_ahead_ = options_.shard.layer_begin;
  new_blocks_ = 0;
  any_lost_ = false;
  pool_.Poll();
  for (const interlace::Release& release : plan.releases) Release(release);
  for (const SequenceChange& change : plan.changes) {
    SequenceKv* const kv = Find(change.request);
    if (kv != nullptr) Change(*kv, change.kept, change.names, kv->length());
  }
  for (const PlanSequence& s : plan.sequences) {
    SequenceKv* const kv = Find(s.request);
    if (kv == nullptr || kv->attempt() != s.attempt || kv->lost) continue;
    if (s.start < kv->length() && kv->CanStart(s.start)) kv->Truncate(s.start);  // guesses that were wrong
  }
  for (const BlockMove& move : plan.moves) Move(move);
  // Moves make the room that these blocks take, and may drop an older copy of one of them.
  for (const PlanSequence& s : plan.sequences) {
    SequenceKv* const kv = Find(s.request);
    if (kv == nullptr || kv->attempt() != s.attempt || kv->lost) continue;
    Change(*kv, s.kept, s.names, std::min(kv->length(), s.start));
  }
  holds_turns_ = pool_.HoldsTurns();
  running_.reserve(plan.sequences.size());
  int64_t row = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const auto refusal = refused.find(i);
    OpenSequence(plan.sequences[i], row, refusal == refused.end() ? nullptr : &refusal->second);
    row += static_cast<int64_t>(plan.sequences[i].tokens.size());
  }
  FindActive();
  for (const interlace::Probe& probe : plan.probes) pool_.Probe(probe.request, probe.blocks);
  pool_.Flush();
}

SequenceKv* LayerPager::Find(RequestId request) {
  const auto it = sequences_.find(request);
  return it == sequences_.end() ? nullptr : it->second.get();
}

void LayerPager::Release(const interlace::Release& release) {
  SequenceKv* const kv = Find(release.request);
  if (kv == nullptr) return;
  Change(*kv, std::nullopt, release.names, kv->length());
  Forget(release.request);
}

void LayerPager::Forget(RequestId request) {
  const auto it = sequences_.find(request);
  if (it == sequences_.end()) return;
  SequenceKv& kv = *it->second;
  for (size_t i = 0; i < kv.blocks.size(); ++i) {
    pool_.Release(kv.blocks[i], {&kv.pointers, static_cast<int32_t>(i)});
  }
  sequences_.erase(it);
}

void LayerPager::Change(SequenceKv& kv, const std::optional<LayerSet>& kept, const std::optional<SealedNames>& names,
                        int32_t computed) {
  if (kv.lost) return;
  if (kept) kv.kept = *kept;
  if (!names) return;
  kv.Name(*names);
  const int32_t seal_to = kv.Sealable(computed);
  if (seal_to == kv.shared()) return;
  HoldNamed(kv, seal_to);
  for (int32_t l = 0; l < options_.shard.layers(); ++l) {
    const LayerId layer{options_.shard.layer_begin + l};
    int32_t copied = 0;
    const bool sealed = SealLayer(kv, l, seal_to, &copied);
    if (copied > 0) TrafficOf(kv.request(), layer).bytes_out += copied * options_.shape.bytes();
    if (sealed) continue;
    kv.lost = true;
    LostSequence& loss = lost_.emplace_back();
    loss = {.request = kv.request(), .attempt = kv.attempt(), .layer = layer, .block = kv.shared()};
    loss.cause = LossCause::kNoSlot;
    loss.detail = "no host frame for a sealed block; raise kv.host_bytes";
    return;
  }
  Share(kv, seal_to);
}

void LayerPager::Move(const BlockMove& move) {
  switch (move.kind) {
    case MoveKind::kCopyOut:
      return pool_.CopyOut(move.block, move.layers);
    case MoveKind::kCopyIn:
      return pool_.CopyIn(move.block, move.layers);
    case MoveKind::kDropDevice:
      return pool_.DropDevice(move.block, move.layers);
    case MoveKind::kDropHost:
      return pool_.DropHost(move.block, move.layers);
    case MoveKind::kFetchHost:
    case MoveKind::kFetchDevice:
      return pool_.Fetch(move.block, move.layers, move.kind == MoveKind::kFetchDevice,
                         absl::Milliseconds(move.slack_ms));
  }
}

void LayerPager::OpenSequence(const PlanSequence& planned, int64_t row, const std::string* refusal) {
  SequenceKv* kv = Find(planned.request);
  if (kv != nullptr && kv->attempt() < planned.attempt) {
    Forget(planned.request);
    kv = nullptr;
  }
  const bool fresh = kv == nullptr;
  if (fresh) {
    auto made = std::make_unique<SequenceKv>(planned.request, planned.attempt, options_.shard.layers(),
                                             options_.shape.block_tokens);
    kv = made.get();
    sequences_[planned.request] = std::move(made);
  }
  running_.push_back({kv, planned.start, row, static_cast<int64_t>(planned.tokens.size()), 0});
  Running& running = running_.back();
  if (planned.skip) running.skip = &*planned.skip;
  // It was lost before, here or where it samples, and the scheduler knows or will know.
  if (kv->attempt() != planned.attempt || kv->lost || SampledNothing(*kv, planned)) {
    running.lost = any_lost_ = true;
    if (kv->attempt() == planned.attempt && !kv->lost) {
      kv->lost = true;
      kv->DropTail();
    }
    return;
  }
  std::string why = refusal != nullptr ? *refusal : Continue(*kv, planned, fresh);
  if (!why.empty()) {
    const LayerId first{options_.shard.layer_begin};
    return Lose(running, first, std::max(0, planned.start) / options_.shape.block_tokens, LossCause::kRefused,
                std::move(why));
  }
  if (fresh) CheckAdopted(running);
  if (!running.lost) Prepare(running_.size() - 1);
}

bool LayerPager::SampledNothing(const SequenceKv& kv, const PlanSequence& planned) const {
  const bool knows = options_.shard.first() || options_.shard.last();
  return knows && planned.tokens[0] == kLastSample && kv.sampled_in != PlanId{} && kv.last_sample < 0;
}

PlanId LayerPager::AwaitedSamples(const StepPlan& plan) {
  PlanId newest{};
  for (const PlanSequence& s : plan.sequences) {
    if (s.tokens[0] != kLastSample) continue;
    const SequenceKv* const kv = Find(s.request);
    if (kv != nullptr && kv->attempt() == s.attempt && !kv->lost) newest = std::max(newest, kv->sampled_in);
  }
  return newest;
}

void LayerPager::NoteReturned(PlanId plan, RequestId request, uint32_t attempt, int32_t token) {
  SequenceKv* const kv = Find(request);
  if (kv != nullptr && kv->attempt() == attempt && kv->sampled_in == plan) kv->last_sample = token;
}

std::string LayerPager::Continue(SequenceKv& kv, const PlanSequence& planned, bool fresh) {
  if (fresh && !planned.opening) return "opening: missing in the first plan of the attempt";
  if (!fresh && planned.opening) return "opening: the attempt has begun already";
  const int32_t block_tokens = options_.shape.block_tokens;
  if (fresh) {
    const Opening& opening = *planned.opening;
    const size_t adopted = opening.adopted.size() * static_cast<size_t>(block_tokens);
    if (opening.prefix.size() != adopted) {
      return absl::StrCat("opening.prefix: ", opening.prefix.size(), " tokens for ", opening.adopted.size(),
                          " adopted blocks of ", block_tokens);
    }
    Adopt(kv, opening);
    if (planned.kept) kv.kept = *planned.kept;
    if (planned.names) kv.Name(*planned.names);
  }
  if (!kv.CanStart(planned.start)) {
    return absl::StrCat("start: ", planned.start, " is outside of [", kv.shared() * block_tokens, ", ", kv.length(),
                        "], the unsealed positions computed here");
  }
  if (planned.pool != Pooling::kNone) {
    if (kv.pooled_to != planned.start) {
      return absl::StrCat("pool: positions ", kv.pooled_to, " to ", planned.start, " were not pooled here");
    }
    kv.pooled_to = planned.start + static_cast<int32_t>(planned.tokens.size());
  }
  if (planned.key) {
    if (std::string why = kv.key.Take(planned); !why.empty()) return why;
  }
  tokens_.assign(planned.tokens.begin(), planned.tokens.end());
  if (tokens_[0] == kLastSample) {
    if (kv.sampled_in == PlanId{}) return "tokens: its own last sample, and it has sampled none";
    tokens_[0] = kv.last_sample;  // stages between the first and the last look at no token
  }
  if (planned.rank_drafts()) std::replace(tokens_.begin(), tokens_.end(), kOwnDraft, 0);  // until they are made
  kv.Extend(tokens_);
  if (planned.sample) {
    kv.sampled_in = plan_;
    if (!options_.shard.last()) kv.last_sample = -1;
  }
  return std::string();
}

void LayerPager::Adopt(SequenceKv& kv, const Opening& opening) {
  kv.sampling = opening.sampling;
  if (!opening.adapter.empty()) kv.adapter = options_.adapters->Hold(opening.adapter);
  kv.Adopt(opening.prefix);
  for (size_t i = 0; i < opening.adopted.size(); ++i) {
    SharedBlock* const block = pool_.Hold(opening.adopted[i], {&kv.pointers, static_cast<int32_t>(i)});
    kv.blocks.push_back(block);
    kv.pointers.ShareNext([&](int32_t layer) { return pool_.AddressOf(block, layer); });
  }
}

void LayerPager::Prepare(size_t index) {
  Running& running = running_[index];
  SequenceKv& kv = *running.kv;
  SeeFrom(kv, running.start);
  if (kv.pointers.absent() > 0 || holds_turns_) reading_.push_back(index);
  const int32_t begun = (running.start + options_.shape.block_tokens - 1) / options_.shape.block_tokens;
  if (kv.Blocks() > begun) {
    growing_.push_back(index);
    new_blocks_ += kv.Blocks() - begun;
  }
  running.seal_to = kv.Sealable(kv.end());
  if (running.seal_to > kv.shared()) {
    HoldNamed(kv, running.seal_to);
    sealing_.push_back(index);
  }
}

void LayerPager::SeeFrom(SequenceKv& kv, int32_t start) {
  for (const int32_t l : windowed_) {
    const int32_t window = options_.attention[options_.shard.layer_begin + l].window;
    kv.pointers.SeeFrom(l, std::max(0, start + 1 - window) / options_.shape.block_tokens);
  }
}

void LayerPager::CheckAdopted(Running& running) {
  SequenceKv& kv = *running.kv;
  SeeFrom(kv, running.start);
  for (int32_t l = 0; l < options_.shard.layers(); ++l) {
    const LayerId layer{options_.shard.layer_begin + l};
    if (kv.pointers.absent(l) == 0) continue;
    for (int32_t b = kv.pointers.NextAbsent(l, 0); b < kv.shared(); b = kv.pointers.NextAbsent(l, b + 1)) {
      if (!pool_.Placed(kv.blocks[b], layer)) {
        return Lose(running, layer, b, LossCause::kMissing,
                    "an adopted block is neither on the device nor on the host");
      }
    }
  }
}

// ---- sealing ----

void LayerPager::HoldNamed(SequenceKv& kv, int32_t seal_to) {
  for (auto i = static_cast<int32_t>(kv.blocks.size()); i < seal_to; ++i) {
    kv.blocks.push_back(pool_.Hold(kv.name(i), {&kv.pointers, i}));
  }
}

bool LayerPager::SealLayer(SequenceKv& kv, int32_t layer, int32_t seal_to, int32_t* copied) {
  const LayerId id{options_.shard.layer_begin + layer};
  const bool kept = kv.kept.Has(id);
  for (int32_t b = kv.TailBegin(layer); b < seal_to; ++b) {
    const KvPool::Sealed sealed = pool_.Seal(kv.blocks[b], id, kv.TakeSlot(layer, b), kept, b);
    if (sealed == KvPool::Sealed::kNoFrame) return false;
    if (sealed == KvPool::Sealed::kCopiedOut) ++*copied;
  }
  kv.DropTaken(layer, seal_to);
  return true;
}

void LayerPager::Share(SequenceKv& kv, int32_t seal_to) {
  for (int32_t b = kv.shared(); b < seal_to; ++b) {
    kv.pointers.ShareNext([&](int32_t layer) { return pool_.AddressOf(kv.blocks[b], layer); });
  }
}

}  // namespace interlace
