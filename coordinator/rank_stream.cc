#include "coordinator/rank_stream.h"

#include <utility>

#include "common/grpc_status.h"
#include "coordinator/cluster_service.h"
#include "proto/plan/plan_codec.h"

namespace interlace {

RankStream::RankStream(ClusterService& service) : service_(service) {
  service_.OnOpened();
  StartRead(&incoming_);
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

void RankStream::OnReadDone(bool ok) {
  if (!ok) return Close(absl::OkStatus());  // the rank ended its side, or is gone
  absl::Status status = absl::InvalidArgumentError("a rank must register before anything else");
  if (incoming_.has_register_() && !registered_) {
    const absl::StatusOr<RankInfo> rank = DecodeRank(incoming_.register_());
    status = rank.ok() ? service_.OnRegister(this, *rank) : rank.status();
    registered_ = status.ok();
  } else if (incoming_.has_result() && registered_) {
    absl::StatusOr<StepResult> result = DecodeResult(incoming_.result());
    status = result.status();
    if (result.ok()) status = service_.OnResult(this, *std::move(result));
  }
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
  service_.OnGone(this);
  delete this;
}

}  // namespace interlace
