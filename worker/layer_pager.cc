#include "worker/layer_pager.h"

#include <algorithm>
#include <cstring>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace interlace {
namespace {

std::vector<int32_t> WindowedLayers(const LayerPager::Options& options) {
  std::vector<int32_t> layers;
  for (int32_t l = options.shard.layer_begin; l < options.shard.layer_end; ++l) {
    if (options.attention[l].window > 0) layers.push_back(l - options.shard.layer_begin);
  }
  return layers;
}

int32_t BlocksOf(int32_t tokens, int32_t block_tokens) { return (tokens + block_tokens - 1) / block_tokens; }

LossCause CauseOf(KvPool::Presence presence) {
  if (presence == KvPool::Presence::kCorrupt) return LossCause::kCorrupt;
  return presence == KvPool::Presence::kNoSlot ? LossCause::kNoSlot : LossCause::kMissing;
}

std::string DetailOf(KvPool::Presence presence) {
  if (presence == KvPool::Presence::kCorrupt) return "the block's bytes on the host do not match their checksum";
  if (presence == KvPool::Presence::kNoSlot) return "the device arena is full; raise kv.device_bytes";
  return "the block is neither on the device nor on the host";
}

}  // namespace

LayerPager::LayerPager(const Options& options, Backend& backend, KvPool& pool, Clock& clock)
    : options_(options), windowed_(WindowedLayers(options)), backend_(backend), pool_(pool), clock_(clock) {
  CHECK(static_cast<int64_t>(options.attention.size()) >= options.shard.layer_end);
}

LayerPager::~LayerPager() { Reset(); }

void LayerPager::Reset() {
  running_.clear();
  active_.clear();
  pool_.Reset();
  sequences_.clear();
}

// ---- one layer ----

void LayerPager::Begin(LayerId layer) {
  const OwnTime own_time(*this);
  pool_.Poll();
  if (reading_.empty()) return;
  // Slots that the step's own new blocks will take in this layer and those behind it are not spare.
  const int32_t reserved = new_blocks_ * (options_.shard.layer_end - Value(layer));
  read_ahead_ = std::max(read_ahead_, Value(layer));
  const auto read = [&](size_t i) {
    const LayerId ahead{read_ahead_};
    return !Attends(running_[i], ahead) || ReadAhead(*running_[i].kv, ahead, reserved, {});
  };
  while (read_ahead_ < options_.shard.layer_end && absl::c_all_of(reading_, read)) ++read_ahead_;
  pool_.Flush();
}

bool LayerPager::ReadAhead(const SequenceKv& kv, LayerId layer, int32_t reserved, const BlockSet& moved) {
  const int32_t l = Local(layer);
  if (kv.lost || kv.pointers.absent(l) == 0) return true;
  int64_t reads = 0;
  bool room = true;
  for (int32_t b = kv.pointers.NextAbsent(l, 0); b < kv.shared(); b = kv.pointers.NextAbsent(l, b + 1)) {
    if (!moved.empty() && moved.contains(kv.blocks[b]->id)) continue;
    room = pool_.arena().slots() - pool_.arena().used() > reserved;
    bool started = false;
    if (room) room = pool_.Read(kv.blocks[b], layer, /*must=*/false, &started) != KvPool::Presence::kNoSlot;
    if (!room) break;
    reads += started ? 1 : 0;
  }
  if (reads > 0) TrafficOf(kv.request(), layer).bytes_in += reads * options_.shape.bytes();
  return room;
}

void LayerPager::AttendRows(LayerId layer, int64_t begin, const Tensor& q, absl::Span<const KvRows> all,
                            const Tensor& out) {
  TakeTurn(layer);
  for (const KvRows& some : all) {
    const absl::Span<const SequenceRows> rows = CutRows(some.begin, some.k.rows);
    if (!rows.empty()) backend_.ops().kv_append({options_.shape, some.k, some.v, rows}, backend_.context());
  }
  AwaitTurn(layer);
  Attention(layer, CutRows(begin, q.rows), q, out);
  if (!any_lost_) return;
  (void)backend_.Synchronize();  // an error shows at the end of the step
  for (const Running& running : running_) {
    const int64_t from = std::max(running.row, begin), to = std::min(running.row + running.rows, begin + q.rows);
    if (!running.lost || from >= to) continue;
    const Tensor rows = out.Rows(from - begin, to - from);
    std::memset(rows.data, 0, static_cast<size_t>(rows.bytes()));
  }
}

absl::Span<const SequenceRows> LayerPager::CutRows(int64_t begin, int64_t count) {
  const int64_t end = begin + count;
  // As most often: all of them are computed at once.
  if (begin == 0 && (rows_.empty() || rows_.back().row + rows_.back().rows <= end)) return rows_;
  cut_.clear();
  for (const SequenceRows& r : rows_) {
    const int64_t from = std::max(r.row, begin), to = std::min(r.row + r.rows, end);
    if (from >= to) continue;
    const auto start = static_cast<int32_t>(r.start + (from - r.row));
    const int32_t blocks = BlocksOf(start + static_cast<int32_t>(to - from), options_.shape.block_tokens);
    cut_.push_back({from - begin, to - from, start, r.blocks.first(static_cast<size_t>(blocks))});
  }
  return cut_;
}

void LayerPager::Attention(LayerId layer, absl::Span<const SequenceRows> rows, const Tensor& q, const Tensor& out) {
  if (rows.empty()) return;
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
}

void LayerPager::AttendDraft(LayerId layer, absl::Span<const DraftRow> rows, const Tensor& q, const Tensor& k,
                             const Tensor& v, const Tensor& out) {
  {
    const OwnTime own_time(*this);
    TakeTail(layer);
  }
  const auto l = static_cast<size_t>(Local(layer));
  rows_.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    const Running& running = running_[rows[i].sequence];
    const BlockPointers& pointers = running.kv->pointers;
    // A slot that the tail took may have been another layer's that was read ahead.
    if (running.lost || pointers.absent(Local(layer)) > 0) continue;
    const auto blocks = static_cast<size_t>(BlocksOf(rows[i].position + 1, options_.shape.block_tokens));
    rows_.push_back({static_cast<int64_t>(i), 1, rows[i].position, {pointers.data() + l * pointers.stride(), blocks}});
  }
  if (!rows_.empty()) backend_.ops().kv_append({options_.shape, k, v, rows_}, backend_.context());
  Attention(layer, rows_, q, out);
  rows_.resize(active_.size());
}

void LayerPager::End(LayerId layer) {
  const OwnTime own_time(*this);
  pool_.EndTurn(layer);
  for (const size_t i : sealing_) {
    Running& running = running_[i];
    if (running.lost) continue;
    SequenceKv& kv = *running.kv;
    int32_t copied = 0;
    const bool sealed = SealLayer(kv, Local(layer), running.seal_to, &copied);
    if (copied > 0) TrafficOf(kv.request(), layer).bytes_out += copied * options_.shape.bytes();
    if (!sealed) {
      Lose(running, layer, kv.shared(), LossCause::kNoSlot, "no host frame for a sealed block; raise kv.host_bytes");
    }
  }
  pool_.Flush();
}

void LayerPager::TakeTurn(LayerId layer) {
  const OwnTime own_time(*this);
  pool_.BeginTurn(layer);
  TakeTail(layer);
  for (const size_t i : reading_) ReadNow(layer, running_[i]);
  pool_.Flush();
  FillRows(layer);
}

void LayerPager::AwaitTurn(LayerId layer) {
  const OwnTime own_time(*this);
  const size_t lost = lost_.size();
  for (const size_t i : reading_) AwaitReads(layer, running_[i]);
  if (lost_.size() != lost) FillRows(layer);
}

void LayerPager::TakeTail(LayerId layer) {
  const int32_t l = Local(layer);
  for (const size_t i : growing_) {
    Running& running = running_[i];
    SequenceKv& kv = *running.kv;
    while (!running.lost && kv.TailEnd(l) < kv.Blocks()) {
      ArenaSlot slot = pool_.TakeSlot();
      if (slot) {
        kv.PushSlot(l, std::move(slot));
      } else {
        Lose(running, layer, kv.TailEnd(l), LossCause::kNoSlot, DetailOf(KvPool::Presence::kNoSlot));
      }
    }
  }
}

void LayerPager::ReadNow(LayerId layer, Running& running) {
  const int32_t l = Local(layer);
  const SequenceKv& kv = *running.kv;
  if (running.lost || kv.pointers.absent(l) == 0 || !Attends(running, layer)) return;
  for (int32_t b = kv.pointers.NextAbsent(l, 0); b < kv.shared(); b = kv.pointers.NextAbsent(l, b + 1)) {
    bool started = false;
    const KvPool::Presence presence = pool_.Read(kv.blocks[b], layer, /*must=*/true, &started);
    if (started) TrafficOf(kv.request(), layer).bytes_in += options_.shape.bytes();
    if (presence != KvPool::Presence::kHere && presence != KvPool::Presence::kComing) {
      return Lose(running, layer, b, CauseOf(presence), DetailOf(presence));
    }
  }
}

void LayerPager::AwaitReads(LayerId layer, Running& running) {
  const int32_t l = Local(layer);
  const SequenceKv& kv = *running.kv;
  if (running.lost || kv.pointers.absent(l) == 0 || !Attends(running, layer)) return;
  const absl::Duration waited = pool_.waited();
  for (int32_t b = kv.pointers.NextAbsent(l, 0); b < kv.shared(); b = kv.pointers.NextAbsent(l, b)) {
    bool started = false;  // never: a read whose copy failed finds no place any more
    const KvPool::Presence presence = pool_.Read(kv.blocks[b], layer, /*must=*/true, &started);
    if (presence == KvPool::Presence::kComing) {
      pool_.Await();
    } else if (presence != KvPool::Presence::kHere) {
      Lose(running, layer, b, CauseOf(presence), DetailOf(presence));
      break;
    }
  }
  TrafficOf(kv.request(), layer).stall_us += absl::ToInt64Microseconds(pool_.waited() - waited);
}

void LayerPager::FindActive() {
  active_.clear();
  for (const Running& running : running_) {
    if (running.lost) continue;
    const BlockPointers& pointers = running.kv->pointers;
    active_.push_back(
        {running.row, running.rows, running.start, pointers.blocks(), pointers.data(), pointers.stride()});
  }
  rows_.resize(active_.size());
}

void LayerPager::FillRows(LayerId layer) {
  const auto l = static_cast<size_t>(Local(layer));
  for (size_t i = 0; i < active_.size(); ++i) {
    const Active& active = active_[i];
    rows_[i] = {active.row,
                active.rows,
                active.start,
                {active.addresses + l * active.stride, static_cast<size_t>(active.blocks)}};
  }
}

void LayerPager::Lose(Running& running, LayerId layer, int32_t block, LossCause cause, std::string detail) {
  running.lost = running.kv->lost = any_lost_ = true;
  lost_.push_back({running.kv->request(), running.kv->attempt(), layer, block, cause, std::move(detail)});
  running.kv->DropTail();
  FindActive();
}

void LayerPager::MarkLost(size_t index) {
  Running& running = running_[index];
  if (running.lost) return;
  running.lost = running.kv->lost = any_lost_ = true;
  running.kv->DropTail();
  FindActive();
}

LayerTraffic& LayerPager::TrafficOf(RequestId request, LayerId layer) {
  const auto [it, fresh] = traffic_of_.try_emplace({request, layer}, traffic_.size());
  if (fresh) traffic_.push_back({request, layer});
  return traffic_[it->second];
}

// ---- the end of a step ----

void LayerPager::EndLayers(const StepPlan* next) {
  const OwnTime own_time(*this);
  for (const Running& running : running_) {
    if (running.lost) continue;
    running.kv->Commit();
    if (running.seal_to > running.kv->shared()) Share(*running.kv, running.seal_to);
  }
  if (next != nullptr && next->epoch == epoch_) ReadForNext(*next);
}

// What `next` opens is left to it, since its sequences are not known yet; so are blocks that it moves, since they may
// go, and sequences that do not go on as they are.
void LayerPager::ReadForNext(const StepPlan& next) {
  const int32_t block_tokens = options_.shape.block_tokens;
  std::vector<const SequenceKv*> reading;
  int32_t reserved = 0;
  for (const PlanSequence& s : next.sequences) {
    const auto end = s.start + static_cast<int32_t>(s.tokens.size());
    reserved += (BlocksOf(end, block_tokens) - BlocksOf(s.start, block_tokens)) * options_.shard.layers();
    SequenceKv* const kv = Find(s.request);
    if (kv == nullptr || kv->attempt() != s.attempt || kv->lost || s.opening || !kv->CanStart(s.start)) continue;
    SeeFrom(*kv, s.start);
    if (kv->pointers.absent() > 0) reading.push_back(kv);
  }
  if (reading.empty()) return;
  const LayerSet layers = LayerSet::Range(options_.shard.layer_begin, options_.shard.layer_end);
  BlockSet moved;
  for (const BlockMove& move : next.moves) {
    moved.insert(move.block);
    const bool comes_in = move.kind == MoveKind::kCopyIn || move.kind == MoveKind::kFetchDevice;
    if (comes_in) reserved += (move.layers & layers).size();
  }
  for (int32_t l = options_.shard.layer_begin; l < options_.shard.layer_end; ++l) {
    const auto read = [&](const SequenceKv* kv) { return ReadAhead(*kv, LayerId{l}, reserved, moved); };
    if (!absl::c_all_of(reading, read)) break;
  }
  pool_.Flush();
}

void LayerPager::Close(StepResult* result) {
  const OwnTime own_time(*this);
  if (!result->status.ok()) {
    for (const Running& running : running_) running.kv->lost = true;
    for (int32_t l = options_.shard.layer_begin; l < options_.shard.layer_end; ++l) pool_.EndTurn(LayerId{l});
  }
  running_.clear();
  active_.clear();
  result->lost = std::exchange(lost_, {});
  result->traffic = std::exchange(traffic_, {});
  result->stall_us = absl::ToInt64Microseconds(pool_.waited() - waited_before_);
  Report(result);
}

void LayerPager::Report(StepResult* result) {
  pool_.Poll();
  for (const KvPool::Fetched& f : pool_.TakeFetched()) result->fetched.push_back({f.block, f.arrived, f.failed});
  for (const KvPool::Probed& p : pool_.TakeProbed()) result->probed.push_back({p.request, p.blocks});
  result->slots_used = pool_.arena().used();
  result->frames_used = pool_.frames().used();
  std::vector<TierUse> usage;
  for (const TierUsage& use : pool_.tiers().Usage()) usage.push_back({use.blocks, use.bytes, use.capacity_bytes});
  if (usage != reported_usage_) result->tiers = reported_usage_ = std::move(usage);
  const CopyStats copies = pool_.copy_stats();
  const TierStats tiers = pool_.tiers().Stats();
  result->transfer_in_us = absl::ToInt64Microseconds(copies.busy_in - reported_copies_.busy_in);
  result->transfer_out_us = absl::ToInt64Microseconds(copies.busy_out - reported_copies_.busy_out);
  result->bytes_in = copies.bytes_in - reported_copies_.bytes_in;
  result->bytes_out = copies.bytes_out - reported_copies_.bytes_out;
  result->corrupt =
      static_cast<int32_t>(copies.corrupt - reported_copies_.corrupt + tiers.corrupt - reported_tiers_.corrupt);
  result->missing =
      static_cast<int32_t>(copies.missing - reported_copies_.missing + tiers.missing - reported_tiers_.missing);
  reported_copies_ = copies;
  reported_tiers_ = tiers;
}

}  // namespace interlace
