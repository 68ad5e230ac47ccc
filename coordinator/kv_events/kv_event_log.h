// KvEventLog: what routers of others are told of the replicas' blocks, as numbered batches that can be read again.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "common/executor.h"
#include "common/metrics.h"
#include "coordinator/kv_events/kv_changes.h"
#include "coordinator/kv_events/kv_event.h"
#include "coordinator/kv_events/kv_event_picture.h"

namespace interlace {

// A replica's thread leaves its changes with its observer and goes on; the executor makes batches of them, keeps the
// last ones, and calls those who listen. A reader is a number: that of the last batch it has. One that is behind all
// that is kept starts anew, with a snapshot. Owned by KvEvents; but for observer() all is called on the executor, or
// before anybody else knows the log. The trap: the executor stops before the log dies.
class KvEventLog {
 public:
  using Batch = std::shared_ptr<const KvEventBatch>;
  struct Options {
    uint64_t first_number = 0;  // of its batches; above those of any former process
    size_t replicas = 1;
    size_t most_batches = 10000;
    size_t most_weight = size_t{16} << 20;  // of all batches that are kept (WeightOf)
  };
  KvEventLog(const Options& options, Executor& executor, Metrics& metrics);

  KvObserver& observer(size_t replica = 0) { return *changes_[replica]; }
  Executor& executor() { return executor_; }

  uint64_t last() const { return batches_.back()->number; }
  // Whether all batches behind this number are still here. False for a number that was not given yet.
  bool Reaches(uint64_t number) const { return number + 1 >= batches_.front()->number && number <= last(); }
  // The batch behind this number, which Reaches; null: there is none yet.
  Batch After(uint64_t number) const {
    return number == last() ? nullptr : batches_[number + 1 - batches_.front()->number];
  }
  // All batches that are kept from `first` on.
  std::vector<Batch> From(uint64_t first) const;
  // All that is told as of the last batch, in batches whose numbers end with last(). Readers that ask at the same
  // moment share one.
  std::shared_ptr<const std::vector<Batch>> Snapshot();
  size_t told() const { return picture_.told(); }

  // `listener` is called whenever there are new batches. It must not call Listen or Ignore.
  uint64_t Listen(std::function<void()> listener);
  void Ignore(uint64_t listening);
  // A reader has to begin anew: it was too slow, or asked for what is not here.
  void NoteBehind() { behind_.Add(); }
  void NoteUnknown() { unknown_.Add(); }

 private:
  void Tell(size_t replica);
  void Add(std::vector<KvEvent> events);

  const Options options_;
  Executor& executor_;
  const Metrics::Counter batches_told_, stored_, removed_, cleared_;
  const Metrics::Counter snapshots_, behind_, unknown_;
  const Metrics::Gauge told_, readers_;
  std::vector<std::unique_ptr<KvChanges>> changes_;  // by replica
  KvEventPicture picture_;
  uint64_t events_ = 0;
  std::deque<Batch> batches_;  // never empty; their numbers follow each other
  size_t weight_ = 0;          // of batches_
  std::weak_ptr<const std::vector<Batch>> snapshot_;
  std::map<uint64_t, std::function<void()>> listeners_;
  uint64_t next_listener_ = 0;
};

}  // namespace interlace
