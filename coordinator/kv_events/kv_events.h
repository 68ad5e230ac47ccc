// KvEvents: the KV events of all replicas and the ways on which they leave the process, as configured.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/config.h"
#include "common/executor.h"
#include "common/metrics.h"
#include "coordinator/kv_events/kv_event_log.h"
#include "coordinator/kv_events/zmq_publisher.h"

namespace interlace {

// Owned by main. It outlives the replicas' loops, which tell it of blocks, and the gRPC server, whose streams read it.
class KvEvents {
 public:
  // Null if nothing of kv_events is switched on.
  static absl::StatusOr<std::unique_ptr<KvEvents>> Open(const Config& config, size_t replicas, Metrics& metrics);
  ~KvEvents();
  KvEvents(const KvEvents&) = delete;
  KvEvents& operator=(const KvEvents&) = delete;

  KvEventLog& log() { return log_; }
  // Lines NAME=HOST:PORT of the sockets it listens on, for the ready file.
  std::string doors() const;

 private:
  KvEvents(size_t replicas, Metrics& metrics);
  std::unique_ptr<ThreadExecutor> executor_;
  KvEventLog log_;
  std::unique_ptr<ZmqPublisher> zmq_;  // null: nothing goes over ZeroMQ
};

}  // namespace interlace
