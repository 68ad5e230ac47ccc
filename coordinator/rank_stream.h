// RankStream: the reactor of one rank's plan stream.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "proto/cluster.grpc.pb.h"

namespace interlace {

class ClusterService;

// Deletes itself in OnDone. gRPC threads; Push and Close from any. One write in flight, the rest queued in order.
// The trap: after Close nothing is written but what was queued; the stream ends when that is out.
class RankStream final : public grpc::ServerBidiReactor<v1::FromRank, v1::ToRank> {
 public:
  explicit RankStream(ClusterService& service);
  void Push(v1::ToRank message);
  void Close(const absl::Status& status);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  ClusterService& service_;
  v1::FromRank incoming_;
  absl::Mutex mutex_;
  std::deque<v1::ToRank> outgoing_;    // protected by mutex_; the front one is being written
  bool writing_ = false;               // protected by mutex_
  bool finished_ = false;              // protected by mutex_
  std::optional<absl::Status> close_;  // protected by mutex_
  bool registered_ = false;            // read thread only
};

}  // namespace interlace
