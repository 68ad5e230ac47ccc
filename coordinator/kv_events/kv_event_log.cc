#include "coordinator/kv_events/kv_event_log.h"

#include <utility>

#include "absl/time/time.h"
#include "common/clock.h"

namespace interlace {
namespace {

double Seconds1970() { return absl::ToDoubleSeconds(WallTime() - absl::UnixEpoch()); }

}  // namespace

KvEventLog::KvEventLog(const Options& options, Executor& executor, Metrics& metrics)
    : options_(options),
      executor_(executor),
      batches_told_(metrics.counter("interlace_kv_event_batches_total")),
      stored_(metrics.counter("interlace_kv_events_total", {{"event", "stored"}})),
      removed_(metrics.counter("interlace_kv_events_total", {{"event", "removed"}})),
      cleared_(metrics.counter("interlace_kv_events_total", {{"event", "cleared"}})),
      snapshots_(metrics.counter("interlace_kv_event_snapshots_total")),
      behind_(metrics.counter("interlace_kv_event_missed_total", {{"reason", "behind"}})),
      unknown_(metrics.counter("interlace_kv_event_missed_total", {{"reason", "unknown"}})),
      told_(metrics.gauge("interlace_kv_event_blocks")),
      readers_(metrics.gauge("interlace_kv_event_readers")),
      picture_(options.replicas) {
  for (size_t r = 0; r < options.replicas; ++r) {
    changes_.push_back(std::make_unique<KvChanges>([this, r] { executor_.Post([this, r] { Tell(r); }); }));
  }
  // What readers know of a former process is void.
  KvEventList events;
  events.Clear();
  Add(events.Take());
}

void KvEventLog::Tell(size_t replica) {
  std::vector<KvEvent> events = picture_.Apply(replica, changes_[replica]->Take());
  if (events.empty()) return;
  Add(std::move(events));
  told_.Set(static_cast<double>(picture_.told()));
  for (const auto& [number, listener] : listeners_) listener();
}

void KvEventLog::Add(std::vector<KvEvent> events) {
  for (const KvEvent& event : events) {
    const auto blocks = static_cast<double>(event.blocks.size());
    if (event.kind == KvEvent::Kind::kStored) stored_.Add(blocks);
    if (event.kind == KvEvent::Kind::kRemoved) removed_.Add(blocks);
    if (event.kind == KvEvent::Kind::kCleared) cleared_.Add();
  }
  for (KvEventBatch& part : InBatches(std::move(events))) {
    auto batch = std::make_shared<KvEventBatch>(std::move(part));
    batch->number = batches_.empty() ? options_.first_number : last() + 1;
    batch->first_event = events_ + 1;
    batch->time = Seconds1970();
    events_ += batch->events.size();
    weight_ += WeightOf(*batch);
    batches_.push_back(std::move(batch));
    batches_told_.Add();
  }
  while (batches_.size() > 1 && (batches_.size() > options_.most_batches || weight_ > options_.most_weight)) {
    weight_ -= WeightOf(*batches_.front());
    batches_.pop_front();
  }
}

std::vector<KvEventLog::Batch> KvEventLog::From(uint64_t first) const {
  const uint64_t oldest = batches_.front()->number;
  if (first > last()) return {};
  const uint64_t skipped = first > oldest ? first - oldest : 0;
  return {batches_.begin() + static_cast<ptrdiff_t>(skipped), batches_.end()};
}

std::shared_ptr<const std::vector<KvEventLog::Batch>> KvEventLog::Snapshot() {
  snapshots_.Add();
  std::shared_ptr<const std::vector<Batch>> shared = snapshot_.lock();
  if (shared != nullptr && shared->back()->number == last()) return shared;
  KvEventList nothing;
  nothing.Clear();
  std::vector<KvEvent> events = nothing.Take(), all = picture_.All();
  events.insert(events.end(), std::make_move_iterator(all.begin()), std::make_move_iterator(all.end()));
  std::vector<KvEventBatch> parts = InBatches(std::move(events));
  auto snapshot = std::make_shared<std::vector<Batch>>();
  const double now = Seconds1970();
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i].number = last() + 1 - (parts.size() - i);
    parts[i].time = now;
    parts[i].snapshot = {static_cast<uint32_t>(i), static_cast<uint32_t>(parts.size()), picture_.told()};
    snapshot->push_back(std::make_shared<const KvEventBatch>(std::move(parts[i])));
  }
  snapshot_ = snapshot;
  return snapshot;
}

uint64_t KvEventLog::Listen(std::function<void()> listener) {
  listeners_[next_listener_] = std::move(listener);
  readers_.Set(static_cast<double>(listeners_.size()));
  return next_listener_++;
}

void KvEventLog::Ignore(uint64_t listening) {
  listeners_.erase(listening);
  readers_.Set(static_cast<double>(listeners_.size()));
}

}  // namespace interlace
