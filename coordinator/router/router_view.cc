// Router: what people and doors see of several replicas as one.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/router/router.h"

namespace interlace {
namespace {

template <typename T>
void AddTo(T* sum, const T& more) {
  *sum += more;
}
void AddTo(RoomSnapshot* sum, const RoomSnapshot& more) {
  sum->held += more.held;
  sum->cached += more.cached;
  sum->ring += more.ring;
  sum->total += more.total;
}
void AddTo(LayerSnapshot* sum, const LayerSnapshot& more) {
  sum->stage = more.stage;
  sum->device += more.device;
  sum->host += more.host;
  sum->unsealed += more.unsealed;
  sum->streamed_by += more.streamed_by;
  sum->bytes_in += more.bytes_in;
  sum->bytes_out += more.bytes_out;
  sum->stall += more.stall;
}
void AddTo(StageSnapshot* sum, const StageSnapshot& more) {
  sum->layer_begin = more.layer_begin;
  sum->layer_end = more.layer_end;
  AddTo(&sum->device, more.device);
  AddTo(&sum->host, more.host);
}
void AddTo(TargetTally* sum, const TargetTally& more) {
  sum->met += more.met;
  sum->missed += more.missed;
}
void AddTo(SecondSnapshot* sum, const SecondSnapshot& more) {
  sum->tokens += more.tokens;
  sum->positions += more.positions;
}

// The last ones of both are of the same second.
void AddSeconds(std::vector<SecondSnapshot>* sum, const std::vector<SecondSnapshot>& more) {
  if (sum->size() < more.size()) sum->insert(sum->begin(), more.size() - sum->size(), {});
  for (size_t i = 1; i <= more.size(); ++i) AddTo(&(*sum)[sum->size() - i], more[more.size() - i]);
}

template <typename T>
void AddRows(std::vector<T>* sum, const std::vector<T>& more) {
  if (sum->size() < more.size()) sum->resize(more.size());
  for (size_t i = 0; i < more.size(); ++i) AddTo(&(*sum)[i], more[i]);
}

void AddRequests(std::vector<RequestSnapshot>* all, std::vector<RequestSnapshot> more, int32_t replica, size_t most) {
  for (RequestSnapshot& request : more) {
    if (all->size() == most) return;
    request.replica = replica;
    all->push_back(std::move(request));
  }
}

// Steps of several replicas take the mean of their medians, by their steps.
absl::Duration MeanStep(const ReplicaSnapshot& all, const ReplicaSnapshot& more) {
  const int64_t steps = all.steps + more.steps;
  if (steps == 0) return absl::ZeroDuration();
  const double share = static_cast<double>(more.steps) / static_cast<double>(steps);
  return all.step_p50 * (1 - share) + more.step_p50 * share;
}

void AddReplica(ReplicaSnapshot* all, ReplicaSnapshot more, int32_t number) {
  all->policy = more.policy;
  all->uptime = std::max(all->uptime, more.uptime);
  all->ranks += more.ranks;
  all->ranks_ready += more.ranks_ready;
  if (more.layers > 0) {
    all->layers = more.layers;
    all->block_tokens = more.block_tokens;
    all->slot_bytes = more.slot_bytes;
  }
  AddRows(&all->stages, more.stages);
  AddRows(&all->by_layer, more.by_layer);
  all->waiting += more.waiting;
  all->fetching += more.fetching;
  all->running += more.running;
  all->streaming += more.streaming;
  all->parked += more.parked;
  AddRequests(&all->requests, std::move(more.requests), number, ReplicaSnapshot::kMostRequests);
  AddRequests(&all->ended, std::move(more.ended), number, ReplicaSnapshot::kMostEnded * size_t{64});
  all->prompt_tokens += more.prompt_tokens;
  all->tokens += more.tokens;
  all->positions += more.positions;
  AddTo(&all->slo.ttft, more.slo.ttft);
  AddTo(&all->slo.tpot, more.slo.tpot);
  AddTo(&all->slo.largest_gap, more.slo.largest_gap);
  AddTo(&all->slo.deadline, more.slo.deadline);
  all->slo.finished += more.slo.finished;
  all->slo.failed += more.slo.failed;
  all->slo.goodput += more.slo.goodput;
  all->step_p50 = MeanStep(*all, more);
  all->step_p95 = std::max(all->step_p95, more.step_p95);
  all->steps += more.steps;
  AddSeconds(&all->seconds, more.seconds);
}

}  // namespace

// A request is known where it is, or was last.
absl::StatusOr<Explanation> Router::Explain(absl::string_view name) {
  absl::StatusOr<Explanation> explanation = absl::NotFoundError(absl::StrCat("request '", name, "' is unknown"));
  for (Engine* replica : replicas_) {
    explanation = replica->Explain(name);
    if (!absl::IsNotFound(explanation.status())) return explanation;
  }
  return explanation;
}

absl::StatusOr<ReplicaSnapshot> Router::Snapshot() {
  ReplicaSnapshot all;
  for (size_t r = 0; r < replicas_.size(); ++r) {
    absl::StatusOr<ReplicaSnapshot> one = replicas_[r]->Snapshot();
    if (!one.ok()) return one;
    const EngineLoad load = replicas_[r]->Load();
    all.replicas.push_back({.ranks = one->ranks,
                            .ranks_ready = one->ranks_ready,
                            .running = load.running,
                            .waiting = load.waiting,
                            .blocks_held = load.blocks_held,
                            .blocks_cached = load.blocks_cached,
                            .blocks = load.blocks,
                            .tokens = one->tokens});
    if (r < options_.roles.size()) all.replicas.back().role = std::string(NameOf(options_.roles[r]));
    AddReplica(&all, *std::move(one), static_cast<int32_t>(r));
  }
  std::stable_sort(all.ended.begin(), all.ended.end(),
                   [](const RequestSnapshot& a, const RequestSnapshot& b) { return a.ended < b.ended; });
  if (all.ended.size() > ReplicaSnapshot::kMostEnded) all.ended.resize(ReplicaSnapshot::kMostEnded);
  absl::MutexLock lock(&mutex_);
  for (size_t r = 0; r < all.replicas.size(); ++r) all.replicas[r].draining = draining_[r];
  all.waiting += static_cast<int64_t>(waiting_.size());
  return all;
}

EngineLoad Router::Load() {
  EngineLoad all;
  double starts = 0;  // a second, of all replicas
  absl::Duration room = absl::InfiniteDuration();
  bool drained = false;  // one that is there
  {
    absl::MutexLock lock(&mutex_);
    for (size_t r = 0; r < draining_.size(); ++r) all.replicas.push_back({draining_[r], book_.replicas()[r].open});
  }
  for (size_t r = 0; r < replicas_.size(); ++r) {
    const EngineLoad load = replicas_[r]->Load();
    all.ranks += load.ranks;
    all.ranks_ready += load.ranks_ready;
    all.running += load.running;
    all.waiting += load.waiting;
    all.parked += load.parked;
    all.running_adapters.insert(load.running_adapters.begin(), load.running_adapters.end());
    all.waiting_adapters.insert(load.waiting_adapters.begin(), load.waiting_adapters.end());
    all.blocks_held += load.blocks_held;
    all.blocks_cached += load.blocks_cached;
    all.blocks += load.blocks;
    if (load.ranks == 0 || load.ranks_ready < load.ranks) continue;
    drained |= all.replicas[r].draining;
    if (all.replicas[r].draining) continue;
    ++all.replicas_ready;
    all.names = load.names;
    room = std::min(room, load.queue_room);
    if (load.turnover > absl::ZeroDuration()) starts += 1 / absl::ToDoubleSeconds(load.turnover);
  }
  all.draining = drained && all.replicas_ready == 0;
  if (starts > 0) all.turnover = absl::Seconds(1 / starts);
  if (room < absl::InfiniteDuration()) all.queue_room = room;
  metrics_.Set("interlace_router_replicas_ready", all.replicas_ready);
  metrics_.Set("interlace_router_directory_blocks", static_cast<double>(directory_.blocks()));
  absl::MutexLock lock(&mutex_);
  all.waiting += static_cast<int32_t>(waiting_.size());
  for (size_t r = 0; r < replica_metrics_.size(); ++r) {
    replica_metrics_[r].queued.Set(static_cast<double>(book_.replicas()[r].queued));
  }
  return all;
}

}  // namespace interlace
