// ZmqPublisher: KV events over ZeroMQ, as vLLM publishes them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "coordinator/kv_events/kv_event_log.h"

namespace interlace {

// A PUB socket sends each batch as three frames: topic, number (8 bytes, big-endian), payload (EncodeAsVllm). A ROUTER
// socket, if asked for, answers ["", number] with each batch that is kept from that number on, as ["", number,
// payload], and then ["", -1, ""]. A reader that does not take what it is sent loses it, and sees a gap in the numbers.
// Whoever reaches the ports reads all: they know no keys. Owned by KvEvents. Threads: PUB is the log's executor's,
// ROUTER that of `replays_`. The trap: Stop comes before the executor ends, and the publisher dies after it.
class ZmqPublisher {
 public:
  struct Options {
    std::string publish;  // HOST:PORT, the host numeric; port 0: any free one
    std::string replay;   // likewise; empty: there is no ROUTER socket
    std::string topic;
    absl::Duration patience = absl::Seconds(1);  // with a reader that does not take its replay
  };
  // FailedPrecondition says which setting names an address that cannot be had.
  static absl::StatusOr<std::unique_ptr<ZmqPublisher>> Open(const Options& options, KvEventLog& log, Metrics& metrics);
  ~ZmqPublisher();
  ZmqPublisher(const ZmqPublisher&) = delete;
  ZmqPublisher& operator=(const ZmqPublisher&) = delete;

  // Nothing is sent or answered any more.
  void Stop();
  // HOST:PORT of each, as they listen.
  const std::string& publish_at() const { return publish_at_; }
  const std::string& replay_at() const { return replay_at_; }  // empty: there is none

 private:
  struct EndContext {
    void operator()(void* context) const;
  };
  struct EndSocket {
    void operator()(void* socket) const;
  };
  using Socket = std::unique_ptr<void, EndSocket>;

  ZmqPublisher(const Options& options, KvEventLog& log, Metrics& metrics);
  absl::StatusOr<std::string> Bind(int kind, const std::string& setting, const std::string& address, Socket* socket);
  void Publish();
  void ServeReplays();
  bool Replay(const std::string& reader, uint64_t first);  // false: the reader does not take it

  const Options options_;
  KvEventLog& log_;
  const Metrics::Counter replays_done_, replays_broken_;
  const std::unique_ptr<void, EndContext> context_;
  Socket publish_, replay_;
  std::string publish_at_, replay_at_;
  uint64_t sent_ = 0;  // number of the last batch; the executor's
  Thread replays_;
};

}  // namespace interlace
