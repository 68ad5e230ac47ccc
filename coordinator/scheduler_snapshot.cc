// Scheduler: one look at all it has, for people.
#include <algorithm>
#include <string>

#include "coordinator/policy/pace.h"
#include "coordinator/scheduler.h"

namespace interlace {
namespace {

constexpr size_t kBlocksLookedAt = 8;  // of a parked request: it may have thousands, and memory is slow

RequestState StateOf(const SequenceState& sequence, int32_t layers) {
  if (sequence.phase == Phase::kFetching) return RequestState::kFetching;
  if (sequence.phase == Phase::kRunning) {
    return sequence.kept_layers < layers ? RequestState::kStreaming : RequestState::kRunning;
  }
  return sequence.parked() ? RequestState::kParked : RequestState::kWaiting;
}

// Of a parked request, by some of its blocks: layers in which all lie on the device, and in which they lie at all. A
// block that lies nowhere in a layer is behind the layer's window.
std::string ResidencyOfParked(const SequenceState& sequence, const LayerSet& all, int32_t layers) {
  LayerSet device = all, placed;
  const size_t blocks = sequence.blocks.size();
  const size_t step = (blocks + kBlocksLookedAt - 1) / kBlocksLookedAt;
  for (size_t b = blocks; b > 0; b -= std::min(b, step)) {  // the last one lies within every window
    const BlockEntry& entry = *sequence.blocks[b - 1];
    device &= entry.device | (all - entry.placed());
    placed |= entry.placed();
  }
  std::string letters(layers, '-');
  placed.ForEach([&](LayerId l) { letters[Value(l)] = device.Has(l) ? 'd' : 'h'; });
  return letters;
}

}  // namespace

std::string Scheduler::ResidencyOf(const SequenceState& sequence) const {
  const int32_t layers = shape()->layers;
  if (sequence.phase == Phase::kWaiting) return ResidencyOfParked(sequence, shape()->all, layers);
  std::string letters(layers, 'h');
  sequence.kept.ForEach([&](LayerId l) { letters[Value(l)] = 'd'; });
  return letters;
}

RequestSnapshot Scheduler::SnapshotOf(const SequenceState& sequence, absl::Time now) const {
  RequestSnapshot row;
  row.name = sequence.request.name;
  row.state = StateOf(sequence, shape() == nullptr ? 0 : shape()->layers);
  row.targets = sequence.request.targets;
  row.deadline = sequence.deadline - sequence.arrival;
  row.prompt = sequence.prompt;
  row.generated = sequence.generated();
  row.max_tokens = sequence.max_tokens;
  row.computed = sequence.scheduled;
  row.cached = std::max(0, sequence.cached_tokens);
  row.kept = sequence.kept_layers;
  if (placement_ && (sequence.phase != Phase::kWaiting || sequence.parked())) row.layers = ResidencyOf(sequence);
  row.age = now - sequence.arrival;
  if (sequence.started != absl::InfinitePast()) row.started = sequence.started - sequence.arrival;
  if (sequence.begun()) {
    row.first_token = sequence.first_token - sequence.arrival;
    row.since_token = now - sequence.last_token;
  }
  row.largest_gap = sequence.largest_so_far;
  row.slack = Due(sequence) - now;
  row.phases.reserve(sequence.trace.changes().size());
  for (const RequestTrace::Change& change : sequence.trace.changes()) {
    row.phases.push_back({change.phase, change.at - sequence.arrival});
  }
  return row;
}

void Scheduler::NoteEnd(const SequenceState& sequence, const RequestEnd& end) {
  const absl::Time now = sequence.arrival + end.timing.total;
  RequestSnapshot row = SnapshotOf(sequence, now);
  row.state = end.status.ok() ? RequestState::kFinished : RequestState::kFailed;
  row.largest_gap = end.timing.largest_gap;
  row.since_token.reset();
  row.slack = absl::InfiniteDuration();
  if (!end.status.ok()) row.status = end.status.ToString();
  row.met = end.met;
  history_.OnEnd(now, std::move(row));
}

void Scheduler::SnapshotReplica(ReplicaSnapshot* snapshot) const {
  const KvBudget& budget = placement_->budget();
  const BlockDirectory& directory = placement_->directory();
  snapshot->ranks_ready = static_cast<int32_t>(shape()->ranks());
  snapshot->layers = shape()->layers;
  snapshot->block_tokens = shape()->block_tokens;
  snapshot->slot_bytes = shape()->slot_bytes;
  snapshot->by_layer.resize(shape()->layers);
  for (size_t s = 0; s < shape()->stages.size(); ++s) {
    const KvRoom &taken = budget.taken()[s], &idle = directory.idle_room()[s], &total = budget.total()[s];
    StageSnapshot& stage = snapshot->stages.emplace_back();
    stage.layer_begin = shape()->layers;
    shape()->stages[s].layers.ForEach([&](LayerId l) {
      stage.layer_begin = std::min(stage.layer_begin, Value(l));
      stage.layer_end = Value(l) + 1;
      snapshot->by_layer[Value(l)].stage = static_cast<int32_t>(s);
    });
    stage.device = {taken.slots - idle.slots, idle.slots, budget.RingOf(s), total.slots};
    stage.host = {taken.frames - idle.frames, idle.frames, 0, total.frames};
  }
  int64_t unsealed = 0;
  for (const SequenceState* sequence : running_) {
    unsealed += std::max(0, shape()->BlocksFor(sequence->scheduled) - sequence->sealed);
  }
  for (int32_t l = 0; l < shape()->layers; ++l) {
    LayerSnapshot& layer = snapshot->by_layer[l];
    layer.device = directory.by_layer()[l].device;
    layer.host = directory.by_layer()[l].host;
    layer.unsealed = unsealed;
  }
  for (const SequenceState* sequence : placement_->streaming()) {
    if (sequence->phase != Phase::kRunning) continue;
    ++snapshot->streaming;
    (shape()->all - sequence->kept).ForEach([&](LayerId l) { ++snapshot->by_layer[Value(l)].streamed_by; });
  }
}

ReplicaSnapshot Scheduler::Snapshot() const {
  const absl::Time now = clock_.Now();
  ReplicaSnapshot snapshot;
  snapshot.policy = std::string(policy_.name);
  if (placement_) SnapshotReplica(&snapshot);
  for (const SequenceState* sequence : waiting_) snapshot.parked += sequence->parked() ? 1 : 0;
  snapshot.waiting = static_cast<int64_t>(waiting_.size()) - snapshot.parked;
  snapshot.fetching = static_cast<int64_t>(fetching_.size());
  snapshot.running = static_cast<int64_t>(running_.size()) - snapshot.streaming;
  snapshot.requests.reserve(std::min(sequences_.size(), ReplicaSnapshot::kMostRequests));
  const auto add = [&](const auto& sequences) {
    for (const SequenceState* sequence : sequences) {
      if (snapshot.requests.size() == ReplicaSnapshot::kMostRequests) return;
      snapshot.requests.push_back(SnapshotOf(*sequence, now));
    }
  };
  add(running_);
  add(fetching_);
  add(waiting_);
  snapshot.prompt_tokens = static_cast<int64_t>(metrics_.registry.Total("vllm:prompt_tokens_total"));
  history_.Fill(now, &snapshot);
  return snapshot;
}

}  // namespace interlace
