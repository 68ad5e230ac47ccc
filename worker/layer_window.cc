#include "worker/layer_window.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace interlace {
namespace {

LossCause CauseOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kDataLoss:
      return LossCause::kCorrupt;
    case absl::StatusCode::kDeadlineExceeded:
      return LossCause::kLate;
    default:
      return LossCause::kMissing;
  }
}

}  // namespace

LayerWindow::LayerWindow(const Options& options, Backend& backend, KvArena& arena, TransferEngine& transfers,
                         Clock& clock)
    : options_(options), backend_(backend), arena_(arena), transfers_(transfers), clock_(clock) {
  CHECK(static_cast<int64_t>(options.attention.size()) >= options.shard.layer_end);
}

LayerWindow::~LayerWindow() { Reset(); }

// ---- opening and closing a step ----

void LayerWindow::Open(const StepPlan& plan) {
  running_.clear();
  lost_.clear();
  stall_ = absl::ZeroDuration();
  current_ = options_.shard.layer_begin;
  for (RequestId request : plan.releases) Forget(request);
  for (const ResidencyChange& change : plan.residency) {
    auto it = sequences_.find(change.request);
    if (it == sequences_.end()) continue;
    SetResidency(change.request, *it->second, change.residency, it->second->length());
  }
  int32_t row = 0;
  for (const PlanSequence& planned : plan.sequences) {
    OpenSequence(planned, row);
    row += static_cast<int32_t>(planned.tokens.size());
  }
}

void LayerWindow::OpenSequence(const PlanSequence& planned, int32_t row) {
  auto it = sequences_.find(planned.request);
  if (it != sequences_.end() && it->second->attempt() != planned.attempt) {
    Forget(planned.request);
    it = sequences_.end();
  }
  if (it == sequences_.end()) {
    ChainSeed seed = options_.seed;
    seed.salt = planned.salt;
    it =
        sequences_
            .emplace(planned.request, std::make_unique<SequenceKv>(options_.shard, options_.shape.block_tokens,
                                                                   planned.generation, planned.attempt, RootHash(seed)))
            .first;
  }
  SequenceKv& kv = *it->second;
  const int32_t block_tokens = options_.shape.block_tokens;
  const bool unknown = planned.start > kv.length();
  const bool rollback = planned.start < kv.end();  // or the last step of this sequence did not count
  const bool torn = rollback && planned.start % block_tokens != 0;
  SetResidency(planned.request, kv, planned.residency, unknown || torn ? kv.length() : planned.start);
  running_.push_back(
      {planned.request, &kv, planned.start, row, static_cast<int32_t>(planned.tokens.size()), false, {}});
  const LayerId first{options_.shard.layer_begin};
  if (unknown) {
    return Lose(running_.back(), first, kv.length() / block_tokens, LossCause::kMissing,
                absl::StrCat("positions ", kv.length(), "..", planned.start - 1, " were never computed on this rank"));
  }
  if (torn) {
    return Lose(running_.back(), first, planned.start / block_tokens, LossCause::kMissing,
                "a rollback must start at a block");
  }
  for (int32_t l = options_.shard.layer_begin; rollback && l < options_.shard.layer_end; ++l) {
    GiveUpBlocks(planned.request, kv, LayerId{l}, planned.start / block_tokens);
  }
  kv.Extend(planned.start, planned.tokens);
}

void LayerWindow::SetResidency(RequestId request, SequenceKv& kv, const LayerResidencyPlan& residency,
                               int32_t computed) {
  if (kv.residency == residency) return;
  kv.residency = residency;
  for (int32_t l = options_.shard.layer_begin; l < options_.shard.layer_end; ++l) {
    WriteBack(request, kv, LayerId{l}, computed / options_.shape.block_tokens);
  }
}

void LayerWindow::Close(StepResult* result) {
  for (Running& sequence : running_) {
    CancelAllReads(sequence);
    if (!sequence.lost) sequence.kv->Commit();
  }
  current_ = options_.shard.layer_end;
  ReapWrites();
  if (std::any_of(running_.begin(), running_.end(), [](const Running& r) { return r.lost; })) {
    FreeStored(LayerId{options_.shard.layer_end});  // what was held back for turns that never came
  }
  const std::vector<std::string> tiers = transfers_.tiers();
  for (Running& sequence : running_) {
    for (int32_t l = options_.shard.layer_begin; l < options_.shard.layer_end; ++l) {
      LayerTraffic& traffic = sequence.kv->Traffic(LayerId{l});
      LayerUse use{sequence.request,
                   LayerId{l},
                   traffic.bytes_in,
                   traffic.bytes_out,
                   absl::ToInt64Microseconds(traffic.stall),
                   0,
                   std::vector<int32_t>(tiers.size())};
      for (const BlockPlace& place : sequence.kv->Layer(LayerId{l})) {
        if (place.slot) ++use.blocks_device;
        if (place.stored()) ++use.blocks_tier[place.tier];
      }
      traffic = {};
      result->layers.push_back(std::move(use));
    }
  }
  result->lost = std::move(lost_);
  lost_.clear();
  ReportUsage(result);
  const TransferStats stats = transfers_.Stats();
  result->stall_us = absl::ToInt64Microseconds(stall_);
  result->transfer_in_us = absl::ToInt64Microseconds(stats.busy_in - reported_.busy_in);
  result->transfer_out_us = absl::ToInt64Microseconds(stats.busy_out - reported_.busy_out);
  result->bytes_in = stats.bytes_in - reported_.bytes_in;
  result->bytes_out = stats.bytes_out - reported_.bytes_out;
  result->corrupt = static_cast<int32_t>(stats.corrupt - reported_.corrupt);
  result->missing = static_cast<int32_t>(stats.missing - reported_.missing);
  reported_ = stats;
  running_.clear();
}

void LayerWindow::ReportUsage(StepResult* result) {
  ReapWrites();
  result->arena_used = arena_.used();
  for (const TierUsage& usage : transfers_.Usage()) {
    result->tiers.push_back({usage.blocks, usage.bytes, usage.capacity_bytes});
  }
}

void LayerWindow::MarkLost(size_t index) {
  running_[index].lost = true;
  CancelAllReads(running_[index]);
}

void LayerWindow::Lose(Running& sequence, LayerId layer, int32_t block, LossCause cause, absl::string_view detail) {
  sequence.lost = true;
  lost_.push_back({sequence.request, sequence.kv->attempt(), layer, block, cause, std::string(detail)});
}

void LayerWindow::Reset() {
  running_.clear();
  while (!sequences_.empty()) Forget(sequences_.begin()->first);
  for (Write& write : writes_) {
    write.ticket.Wait(clock_.Now() + options_.read_timeout);
  }
  writes_.clear();
}

void LayerWindow::Forget(RequestId request) {
  auto it = sequences_.find(request);
  if (it == sequences_.end()) return;
  for (int32_t l = options_.shard.layer_begin; l < options_.shard.layer_end; ++l) {
    GiveUpBlocks(request, *it->second, LayerId{l}, 0);
  }
  transfers_.Drop(it->second->generation());
  sequences_.erase(it);
}

void LayerWindow::GiveUpBlocks(RequestId request, SequenceKv& kv, LayerId layer, int32_t from) {
  std::vector<BlockPlace>& places = kv.Layer(layer);
  for (int32_t block = from; block < static_cast<int32_t>(places.size()); ++block) {
    BlockPlace& place = places[block];
    if (place.leaving) {  // the slot belongs to its write until that is done
      auto write = std::find_if(writes_.begin(), writes_.end(), [&](const Write& w) {
        return w.generation == kv.generation() && w.layer == layer &&
               std::find(w.blocks.begin(), w.blocks.end(), block) != w.blocks.end();
      });
      CHECK_MSG(write != writes_.end(), "a leaving block has no write");
      *std::find(write->blocks.begin(), write->blocks.end(), block) = -1;
      write->orphans.push_back(std::move(place.slot));
    }
    place = BlockPlace{};
  }
}

// ---- one layer ----

void LayerWindow::Begin(LayerId layer) {
  current_ = Value(layer);
  ReapWrites();
  const int32_t last = std::min(Value(layer) + options_.lookahead, options_.shard.layer_end - 1);
  for (int32_t l = Value(layer); l <= last; ++l) {
    for (Running& sequence : running_) {
      if (!sequence.lost) StartReads(sequence, LayerId{l}, /*may_wait=*/false);
    }
  }
}

int32_t LayerWindow::FirstSeen(const Running& sequence, LayerId layer) const {
  const int32_t window = options_.attention[Value(layer)].window;
  return window > 0 ? std::max(0, sequence.start + 1 - window) / options_.shape.block_tokens : 0;
}

void LayerWindow::StartReads(Running& sequence, LayerId layer, bool may_wait) {
  std::vector<BlockPlace>& places = sequence.kv->Layer(layer);
  const int32_t before = (sequence.start + options_.shape.block_tokens - 1) / options_.shape.block_tokens;
  Read read{layer, {}, {}};
  std::vector<KvRead> moves;
  for (int32_t block = FirstSeen(sequence, layer); block < before; ++block) {
    BlockPlace& place = places[block];
    if (place.slot) continue;
    if (!place.stored()) {
      if (may_wait) Lose(sequence, layer, block, LossCause::kMissing, "on the device no more, and no tier has it");
      break;
    }
    place.slot = may_wait ? TakeSlot(layer) : arena_.TryTake();
    if (!place.slot) {
      if (may_wait) Lose(sequence, layer, block, LossCause::kNoSlot, "the device arena is full; raise kv.device_bytes");
      break;
    }
    place.arriving = true;
    read.blocks.push_back(block);
    moves.push_back({sequence.kv->KeyOf(layer, block), place.slot.data()});
  }
  if (moves.empty()) return;
  // The mover will write into slots that queued ops may still read. An error shows at the end of the step.
  (void)backend_.Synchronize();
  read.ticket = transfers_.Read(std::move(moves), clock_.Now() + options_.read_timeout);
  sequence.reads.push_back(std::move(read));
}

bool LayerWindow::Arriving(const Running& sequence, LayerId layer) {
  return std::any_of(sequence.reads.begin(), sequence.reads.end(),
                     [layer](const Read& read) { return read.layer == layer && !read.ticket.done(); });
}

void LayerWindow::AwaitReads(Running& sequence, LayerId layer) {
  for (size_t i = 0; i < sequence.reads.size();) {
    Read& read = sequence.reads[i];
    if (read.layer != layer) {
      ++i;
      continue;
    }
    const absl::Time begin = clock_.Now();
    const std::vector<MoveResult> results = read.ticket.Wait(begin + options_.read_timeout);
    const absl::Duration waited = clock_.Now() - begin;
    stall_ += waited;
    LayerTraffic& traffic = sequence.kv->Traffic(layer);
    traffic.stall += waited;
    for (size_t r = 0; r < results.size(); ++r) {
      BlockPlace& place = sequence.kv->Layer(layer)[read.blocks[r]];
      place.arriving = false;
      if (results[r].status.ok()) {
        traffic.bytes_in += options_.shape.bytes();
        continue;
      }
      place = BlockPlace{};
      if (!sequence.lost) {
        Lose(sequence, layer, read.blocks[r], CauseOf(results[r].status), results[r].status.ToString());
      }
    }
    sequence.reads.erase(sequence.reads.begin() + static_cast<ptrdiff_t>(i));
  }
}

void LayerWindow::CancelReads(Running& sequence, Read& read) {
  read.ticket = TransferTicket();  // abandoned: nothing lands in the slots any more
  for (int32_t block : read.blocks) {
    BlockPlace& place = sequence.kv->Layer(read.layer)[block];
    place.arriving = false;
    place.slot = ArenaSlot();
  }
  sequence.reads.erase(sequence.reads.begin() + (&read - sequence.reads.data()));
}

void LayerWindow::CancelAllReads(Running& sequence) {
  while (!sequence.reads.empty()) CancelReads(sequence, sequence.reads.back());
}

bool LayerWindow::TakeSlots(Running& sequence, LayerId layer) {
  std::vector<BlockPlace>& places = sequence.kv->Layer(layer);
  for (size_t block = sequence.start / options_.shape.block_tokens; block < places.size(); ++block) {
    BlockPlace& place = places[block];
    if (!place.slot) place.slot = TakeSlot(layer);
    if (!place.slot) {
      Lose(sequence, layer, static_cast<int32_t>(block), LossCause::kNoSlot,
           "the device arena is full; raise kv.device_bytes");
      return false;
    }
  }
  return true;
}

void LayerWindow::AttendReady(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                              std::vector<Running*>* ready) {
  if (ready->empty()) return;
  std::vector<std::vector<std::byte*>> blocks;
  std::vector<SequenceRows> rows;
  for (Running* sequence : *ready) {
    std::vector<std::byte*>& mine = blocks.emplace_back();
    for (const BlockPlace& place : sequence->kv->Layer(layer)) {
      mine.push_back(place.slot ? place.slot.data() : nullptr);  // null: behind the window
    }
    rows.push_back({sequence->row, sequence->rows, sequence->start, mine});
  }
  backend_.ops().kv_append({options_.shape, k, v, rows}, backend_.context());
  const AttentionSpec& attention = options_.attention[Value(layer)];
  backend_.ops().paged_attention({.out = out,
                                  .q = q,
                                  .shape = options_.shape,
                                  .sequences = rows,
                                  .heads = options_.heads,
                                  .scale = attention.scale,
                                  .window = attention.window,
                                  .soft_cap = attention.soft_cap},
                                 backend_.context());
  for (Running* sequence : *ready) {
    if (sequence->kv->residency.ModeOf(layer) != LayerMode::kStream) continue;
    for (BlockPlace& place : sequence->kv->Layer(layer)) {
      if (place.stored() && !place.leaving) place.slot = ArenaSlot();
    }
  }
  ready->clear();
}

void LayerWindow::Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) {
  std::vector<Running*> ready;
  for (Running& sequence : running_) {
    // Those that are ready hold slots which this one may need.
    const std::vector<BlockPlace>& places = sequence.kv->Layer(layer);
    const auto wanted = std::count_if(places.begin() + FirstSeen(sequence, layer), places.end(),
                                      [](const BlockPlace& place) { return !place.slot; });
    if (wanted > arena_.slots() - arena_.used()) AttendReady(layer, q, k, v, out, &ready);
    if (!sequence.lost) StartReads(sequence, layer, /*may_wait=*/true);
    if (!sequence.lost) TakeSlots(sequence, layer);
    // Compute rather than wait.
    if (Arriving(sequence, layer)) AttendReady(layer, q, k, v, out, &ready);
    if (!sequence.lost) AwaitReads(sequence, layer);
    if (sequence.lost) {
      CancelAllReads(sequence);  // others may need the slots
      const Tensor rows = out.Rows(sequence.row, sequence.rows);
      (void)backend_.Synchronize();
      std::memset(rows.data, 0, rows.bytes());
      continue;
    }
    ready.push_back(&sequence);
  }
  AttendReady(layer, q, k, v, out, &ready);
}

void LayerWindow::End(LayerId layer) {
  for (Running& sequence : running_) {
    if (!sequence.lost) WriteBack(sequence.request, *sequence.kv, layer, sequence.kv->SealedBlocks());
  }
}

// ---- slots and write-back ----

void LayerWindow::WriteBack(RequestId request, SequenceKv& kv, LayerId layer, int32_t sealed) {
  if (kv.residency.ModeOf(layer) == LayerMode::kKeep) return;
  std::vector<BlockPlace>& places = kv.Layer(layer);
  Write write{request, kv.generation(), layer, {}, {}, {}};
  std::vector<KvWrite> moves;
  for (int32_t block = 0; block < std::min(sealed, static_cast<int32_t>(places.size())); ++block) {
    BlockPlace& place = places[block];
    if (!place.slot || place.arriving || place.leaving) continue;
    if (place.stored()) {
      place.slot = ArenaSlot();
      continue;
    }
    place.leaving = true;
    write.blocks.push_back(block);
    moves.push_back({kv.KeyOf(layer, block), place.slot.data()});
  }
  if (moves.empty()) return;
  // Queued ops may still write these blocks; after an error of theirs nothing is stored.
  if (!backend_.Synchronize().ok()) {
    for (int32_t block : write.blocks) places[block].leaving = false;
    return;
  }
  write.ticket = transfers_.Write(std::move(moves), clock_.Now() + options_.read_timeout);
  writes_.push_back(std::move(write));
}

void LayerWindow::SettleWrite(Write& write, const std::vector<MoveResult>& results) {
  auto it = sequences_.find(write.request);
  if (it == sequences_.end() || it->second->generation() != write.generation) return;  // all its slots are orphans
  SequenceKv& kv = *it->second;
  for (size_t i = 0; i < results.size(); ++i) {
    if (write.blocks[i] < 0) continue;  // given up meanwhile
    BlockPlace& place = kv.Layer(write.layer)[write.blocks[i]];
    place.leaving = false;
    if (!results[i].status.ok()) continue;  // refused: it stays on the device and is tried again
    place.tier = results[i].tier;
    kv.Traffic(write.layer).bytes_out += options_.shape.bytes();
    const bool ahead =
        Value(write.layer) >= current_ &&
        std::any_of(running_.begin(), running_.end(), [&](const Running& r) { return r.kv == &kv && !r.lost; });
    if (!ahead && kv.residency.ModeOf(write.layer) == LayerMode::kStream) place.slot = ArenaSlot();
  }
}

void LayerWindow::ReapWrites() {
  for (size_t i = 0; i < writes_.size();) {
    if (!writes_[i].ticket.done()) {
      ++i;
      continue;
    }
    SettleWrite(writes_[i], writes_[i].ticket.Wait(absl::InfiniteFuture()));
    writes_.erase(writes_.begin() + static_cast<ptrdiff_t>(i));
  }
}

void LayerWindow::FreeStored(LayerId layer) {
  for (auto& [request, kv] : sequences_) {
    const bool attends = std::any_of(running_.begin(), running_.end(),
                                     [&kv = kv](const Running& r) { return r.kv == kv.get() && !r.lost; });
    for (int32_t l = options_.shard.layer_begin; l < options_.shard.layer_end; ++l) {
      if ((LayerId{l} == layer && attends) || kv->residency.ModeOf(LayerId{l}) == LayerMode::kKeep) continue;
      for (BlockPlace& place : kv->Layer(LayerId{l})) {
        if (place.slot && place.stored() && !place.arriving && !place.leaving) place.slot = ArenaSlot();
      }
    }
  }
}

ArenaSlot LayerWindow::TakeSlot(LayerId layer) {
  if (ArenaSlot slot = arena_.TryTake()) return slot;
  ReapWrites();
  FreeStored(layer);
  while (true) {
    if (ArenaSlot slot = arena_.TryTake()) return slot;
    if (writes_.empty()) break;
    const absl::Time begin = clock_.Now();
    const std::vector<MoveResult> results = writes_.front().ticket.Wait(begin + options_.read_timeout);
    stall_ += clock_.Now() - begin;
    SettleWrite(writes_.front(), results);
    writes_.erase(writes_.begin());
    FreeStored(layer);
  }
  // Reads ahead of this layer, the farthest first.
  for (int32_t l = options_.shard.layer_end - 1; l > Value(layer); --l) {
    for (Running& sequence : running_) {
      for (size_t i = sequence.reads.size(); i-- > 0;) {
        if (sequence.reads[i].layer == LayerId{l}) CancelReads(sequence, sequence.reads[i]);
      }
    }
    if (ArenaSlot slot = arena_.TryTake()) return slot;
  }
  return ArenaSlot();
}

}  // namespace interlace
