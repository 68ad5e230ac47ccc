// KvEventStreams: the subscribers of KV events over gRPC.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "coordinator/kv_events/kv_event_log.h"
#include "proto/compat/smg_common.pb.h"

namespace interlace {

// A subscriber that has the batches up to a number gets those behind it; one that has none gets a snapshot first. Who
// asks for batches that are not kept any more is told OutOfRange, and who falls behind all that are kept, DataLoss:
// either has to start anew. At most kMostSubscribers at once. Owned by VllmEngineService; Open: threads of gRPC. The
// trap: the log outlives it and every stream.
class KvEventStreams {
 public:
  using Reactor = ::grpc::ServerWriteReactor<smg::grpc::common::KvEventBatch>;
  static constexpr size_t kMostSubscribers = 64;

  explicit KvEventStreams(KvEventLog& log);
  ~KvEventStreams();
  Reactor* Open(uint64_t start);
  // Every stream that is open ends with `why`, and none is opened any more.
  void End(const absl::Status& why);
  // A stream that ends at once.
  static Reactor* Refuse(const absl::Status& why);

 private:
  class Stream;
  struct OpenStreams;
  KvEventLog& log_;
  const std::shared_ptr<OpenStreams> open_;  // the log's executor's
};

}  // namespace interlace
