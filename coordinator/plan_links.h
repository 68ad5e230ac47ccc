// PlanLinks: the coordinator's connections to the ranks, over which orders go out and results come in.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/bounded_queue.h"
#include "common/clock.h"
#include "common/gate.h"
#include "common/log_limit.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "common/transport.h"

namespace interlace {

enum class LinkId : uint64_t {};  // of one registration; the owner counts them

// A link belongs to one registration of a rank. We connect to the address that the rank gave; every message, in either
// direction, is headed by the session that the rank drew and told over its gRPC stream alone. What comes from anybody
// else, or under another session, is counted and dropped.
// Owned by ClusterService; any thread. Connecting and hanging up may take seconds, so each stage has a thread for it:
// an address that never answers holds up no other stage. All else returns at once.
class PlanLinks {
 public:
  // On threads of this object and of the transport. A link that is closed causes none of them any more, but for one
  // that is already on its way.
  struct Events {
    std::function<void(LinkId, absl::Status)> opened;       // OK: Send reaches the rank
    std::function<void(LinkId, absl::Status)> lost;         // once connected; perhaps before `opened`
    std::function<void(LinkId, absl::string_view)> result;  // bytes that claim to be a StepResultMessage
  };
  // `transport` outlives this object; nothing else listens on its result channel.
  PlanLinks(Transport& transport, int32_t stages, Clock& clock, Metrics& metrics, Events events);
  ~PlanLinks();

  // `opened` says how it went. False: so many wait at this stage that this one is refused.
  bool Open(LinkId id, int32_t stage, std::string address, std::string session);
  // In the order of the calls. Of a link that is gone, nothing happens: `lost` says it or has said it.
  void Send(LinkId id, SharedBytes order);
  void Close(LinkId id);
  // No event runs or comes any more when this returns. Waits for a connection that is being made.
  void Stop();

 private:
  struct Link {
    int32_t stage = 0;
    std::string session;
    std::optional<PeerId> peer;  // once connected
  };
  struct Task {
    LinkId id{};
    std::string address;
    std::optional<PeerId> hang_up;  // else: connect
  };

  void Run(BoundedQueue<Task>& tasks);
  void Connect(const Task& task);
  void Take(const Message& message);
  void Lose(PeerId peer, const absl::Status& why);
  void HangUp(int32_t stage, PeerId peer) { tasks_[static_cast<size_t>(stage)]->TryPush({.hang_up = peer}); }
  bool Wanted(LinkId id);

  Transport& transport_;
  Clock& clock_;
  const Metrics::Counter strangers_;
  const Events events_;
  const std::shared_ptr<Gate> gate_ = std::make_shared<Gate>();  // the transport's callbacks may outlive this object
  absl::Mutex mutex_;
  std::map<LinkId, Link> links_;                            // protected by mutex_
  absl::flat_hash_map<PeerId, LinkId> by_peer_;             // protected by mutex_
  LogLimit told_{absl::Seconds(1)};                         // protected by mutex_
  std::vector<std::unique_ptr<BoundedQueue<Task>>> tasks_;  // by stage
  std::vector<Thread> threads_;
};

}  // namespace interlace
