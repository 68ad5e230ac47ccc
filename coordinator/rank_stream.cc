#include "coordinator/rank_stream.h"

#include <utility>

#include "common/grpc_status.h"
#include "coordinator/cluster_service.h"
#include "proto/plan/plan_codec.h"

namespace interlace {

std::shared_ptr<RankStream> RankStream::Open(ClusterService& service, grpc::CallbackServerContext* context) {
  std::shared_ptr<RankStream> stream(new RankStream(service, context));
  stream->self_ = stream;
  service.OnOpened(stream);
  stream->StartRead(&stream->incoming_);
  return stream;
}

void RankStream::Push(v1::ToRank message) {
  absl::MutexLock lock(&mutex_);
  if (close_ || finished_) return;
  outgoing_.push_back(std::move(message));
  Advance();
}

void RankStream::Close(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (!close_) close_ = status;
  Advance();
}

void RankStream::Abandon(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (!close_) close_ = status;
  if (writing_ && context_ != nullptr) return context_->TryCancel();  // the write fails, and with it the stream ends
  outgoing_.clear();
  Advance();
}

void RankStream::Advance() {
  if (writing_ || finished_) return;
  if (!outgoing_.empty()) {
    writing_ = true;
    StartWrite(&outgoing_.front());
  } else if (close_) {
    finished_ = true;
    Finish(ToGrpcStatus(*close_));
  }
}

absl::Status RankStream::Take(const v1::FromRank& message) {
  service_.OnHeard(this);
  if (message.has_register_() && !registered_) {
    const absl::StatusOr<RankInfo> rank = DecodeRank(message.register_());
    if (!rank.ok()) return rank.status();
    registered_ = true;
    return service_.OnRegister(this, *rank, message.register_().session());
  }
  if (!registered_) return absl::InvalidArgumentError("a rank must register before anything else");
  if (message.has_heartbeat()) {
    service_.OnHeartbeat(this, message.heartbeat());
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("a rank registers once and sends heartbeats");
}

void RankStream::OnReadDone(bool ok) {
  if (!ok) return Close(absl::OkStatus());  // the rank ended its side, or is gone
  const absl::Status status = Take(incoming_);
  if (!status.ok()) return Close(status);
  incoming_.Clear();
  StartRead(&incoming_);
}

void RankStream::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  if (ok) {
    outgoing_.pop_front();
  } else {
    outgoing_.clear();
    if (!close_) close_ = absl::UnavailableError("the rank's stream broke");
  }
  Advance();
}

void RankStream::OnCancel() { Close(absl::CancelledError("the rank is gone")); }

void RankStream::OnDone() {
  {
    absl::MutexLock lock(&mutex_);
    finished_ = true;
    context_ = nullptr;
  }
  service_.OnGone(this);
  self_ = nullptr;  // may delete this
}

}  // namespace interlace
