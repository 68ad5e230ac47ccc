// Election: the thread that stands for the lead of the cluster, and tells who has it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/log_limit.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "coordinator/election/election_state.h"
#include "coordinator/election/lead_store.h"
#include "coordinator/election/lead_window.h"

namespace interlace {

// Does the turns of an ElectionState on a LeadStore and keeps the LeadWindow. Owned by Candidacy. Events come on its
// own thread, in order: the window is open before `lead` and `resume`, and closed before `follow`. The trap: Events
// must outlive it.
class Election {
 public:
  struct Events {
    // `drained`: what the leader before it had drained, which is now its own to keep.
    std::function<void(uint64_t epoch, const std::vector<int32_t>& drained)> lead;
    // Its lead was over for a while, since it was late, and nobody else had it: it goes on in the same epoch with what
    // it has. What it wanted to say meanwhile was not said.
    std::function<void()> resume;
    // It does not lead: `leader` does, or, if that is empty, nobody is known to.
    std::function<void(const std::optional<LeadRecord>& leader)> follow;
    // Asked while it leads: the replicas that are drained.
    std::function<std::vector<int32_t>()> drained;
  };
  Election(const ElectionState::Options& options, LeadStore& store, LeadWindow& window, Clock& clock, Metrics& metrics,
           Events events);
  ~Election();  // leaves the record as it is: others take the lead when its lease is over

  // Gives the lead back, if this coordinator has it, so that another one may take it at once; returns when the store
  // has it, or after about `within`.
  void Resign(absl::Duration within);

 private:
  void Run();
  void Do(const ElectionState::Turn& turn);
  void Write(const ElectionState::Turn& turn);
  // The window and the events follow the state.
  void Tell();
  void Resume(absl::Time until);
  void Follow(const std::optional<LeadRecord>& leader);
  absl::Time NextTelling() const;
  bool Wait(absl::Time until);  // false: it is over
  void Fail(absl::Time began, const absl::Status& status);

  ElectionState state_;  // of the thread
  LeadStore& store_;
  LeadWindow& window_;
  Clock& clock_;
  const Events events_;
  const Metrics::Gauge leads_, epoch_;
  const Metrics::Counter failures_;
  LogLimit complaints_{absl::Seconds(10)};                // of the thread, as what follows
  std::optional<uint64_t> told_lead_;                     // the epoch, while it was told that it leads
  std::optional<std::optional<LeadRecord>> told_follow_;  // what was told else; nothing: nothing yet
  absl::Mutex mutex_;
  bool resigning_ = false;  // protected by mutex_
  bool resigned_ = false;   // protected by mutex_
  bool stop_ = false;       // protected by mutex_
  Thread thread_;
};

}  // namespace interlace
