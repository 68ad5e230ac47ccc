// RankStream: the reactor of one rank's stream, which is its registration and its lease.
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

// Holds itself until OnDone; whoever else holds it may call Push and Close at any time, from any thread, without effect
// once the stream has ended. gRPC threads otherwise. One write in flight, the rest queued in order.
// After Close nothing is written but what was queued; the stream ends when that is out. Abandon does not wait for it.
class RankStream final : public grpc::ServerBidiReactor<v1::FromRank, v1::ToRank> {
 public:
  // The stream is open once this returns.
  static std::shared_ptr<RankStream> Open(ClusterService& service, grpc::CallbackServerContext* context);

  void Push(v1::ToRank message);
  void Close(const absl::Status& status);
  // Ends the stream to a peer that may take nothing any more: with `status` if it can still be told, else by a reset.
  void Abandon(const absl::Status& status);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  RankStream(ClusterService& service, grpc::CallbackServerContext* context) : service_(service), context_(context) {}
  absl::Status Take(const v1::FromRank& message);
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  ClusterService& service_;
  v1::FromRank incoming_;
  absl::Mutex mutex_;
  grpc::CallbackServerContext* context_;  // protected by mutex_; null once gRPC is done with it
  std::deque<v1::ToRank> outgoing_;       // protected by mutex_; the front one is being written
  bool writing_ = false;                  // protected by mutex_
  bool finished_ = false;                 // protected by mutex_
  std::optional<absl::Status> close_;     // protected by mutex_
  bool registered_ = false;               // read thread only
  std::shared_ptr<RankStream> self_;      // until OnDone
};

}  // namespace interlace
