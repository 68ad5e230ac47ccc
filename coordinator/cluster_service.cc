#include "coordinator/cluster_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "coordinator/rank_stream.h"
#include "coordinator/replica_loop.h"
#include "proto/plan/plan_codec.h"

namespace interlace {

class ClusterService::Service final : public v1::Cluster::CallbackService {
 public:
  explicit Service(ClusterService& owner) : owner_(owner) {}
  grpc::ServerBidiReactor<v1::FromRank, v1::ToRank>* Attach(grpc::CallbackServerContext*) override {
    return new RankStream(owner_);  // deletes itself when the stream is done
  }

 private:
  ClusterService& owner_;
};

ClusterService::ClusterService(const Options& options)
    : options_(options), service_(std::make_unique<Service>(*this)) {}
ClusterService::~ClusterService() = default;

void ClusterService::Connect(ReplicaLoop* loop) { loop_ = loop; }
grpc::Service* ClusterService::service() { return service_.get(); }

absl::Status ClusterService::CheckRank(const RankInfo& rank) const {
  const auto refuse = [](absl::string_view field, const auto& theirs, const auto& ours) {
    return absl::FailedPreconditionError(
        absl::StrCat("this rank does not fit the replica: ", field, " is ", theirs, ", the coordinator has ", ours));
  };
  if (rank.stages != options_.stages) return refuse("cluster.stages", rank.stages, options_.stages);
  if (rank.model_digest != options_.model_digest) {
    return refuse("the model's digest", rank.model_digest, options_.model_digest);
  }
  if (rank.block_tokens != options_.block_tokens) {
    return refuse("kv.block_tokens", rank.block_tokens, options_.block_tokens);
  }
  auto held = members_.find(Value(rank.stage));
  if (held != members_.end()) {
    return absl::AlreadyExistsError(absl::StrCat("stage ", Value(rank.stage), " is held by another rank"));
  }
  // Stages hold all layers, each once and in order.
  const auto before = members_.find(Value(rank.stage) - 1), after = members_.find(Value(rank.stage) + 1);
  if (Value(rank.stage) == 0 && rank.layer_begin != 0) return refuse("its first layer", rank.layer_begin, 0);
  if (before != members_.end() && rank.layer_begin != before->second.rank.layer_end) {
    return refuse("its first layer", rank.layer_begin, before->second.rank.layer_end);
  }
  if (after != members_.end() && rank.layer_end != after->second.rank.layer_begin) {
    return refuse("its layer end", rank.layer_end, after->second.rank.layer_begin);
  }
  if (Value(rank.stage) == options_.stages - 1 && rank.layer_end != rank.layers) {
    return refuse("its layer end", rank.layer_end, rank.layers);
  }
  return absl::OkStatus();
}

absl::Status ClusterService::OnRegister(RankStream* stream, const RankInfo& rank) {
  absl::MutexLock lock(&mutex_);
  if (draining_) return absl::UnavailableError("the coordinator is draining");
  RETURN_IF_ERROR(CheckRank(rank));
  members_.emplace(Value(rank.stage), Member{stream, rank});
  LOG(INFO) << "rank registered" << Field("stage", Value(rank.stage)) << Field("stages", rank.stages)
            << Field("arena_slots", rank.arena_slots);
  FormIfComplete();
  return absl::OkStatus();
}

void ClusterService::FormIfComplete() {
  if (formed_ || static_cast<int32_t>(members_.size()) < options_.stages) return;
  formed_ = true;
  ++epoch_;
  std::vector<RankInfo> ranks;
  for (auto& [stage, member] : members_) {
    ranks.push_back(member.rank);
    v1::ToRank message;
    message.mutable_start()->set_epoch(epoch_);
    auto next = members_.find(stage + 1);
    if (next != members_.end()) message.mutable_start()->set_next_stage_address(next->second.rank.transport_address);
    member.stream->Push(std::move(message));
  }
  loop_->OnFormed(Epoch{epoch_}, std::move(ranks));
}

absl::Status ClusterService::OnResult(RankStream* stream, StepResult result) {
  {
    absl::MutexLock lock(&mutex_);
    auto member = std::find_if(members_.begin(), members_.end(),
                               [stream](const auto& entry) { return entry.second.stream == stream; });
    if (member == members_.end()) return absl::OkStatus();  // of a rank that was reset
    if (member->first != Value(result.stage)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a result names stage ", Value(result.stage), ", this rank holds stage ", member->first));
    }
  }
  loop_->OnResult(std::move(result));
  return absl::OkStatus();
}

void ClusterService::OnOpened() {
  absl::MutexLock lock(&mutex_);
  ++streams_;
}

void ClusterService::OnGone(RankStream* stream) {
  absl::MutexLock lock(&mutex_);
  --streams_;
  for (auto it = members_.begin(); it != members_.end(); ++it) {
    if (it->second.stream != stream) continue;
    const int32_t stage = it->first;
    members_.erase(it);
    if (formed_ && !draining_) {
      formed_ = false;
      LOG(WARNING) << "rank gone" << Field("stage", stage);
      loop_->OnLost(absl::UnavailableError(absl::StrCat("the rank of stage ", stage, " is gone")));
    }
    return;
  }
}

void ClusterService::Send(const StepPlan& plan) {
  v1::ToRank message;
  EncodePlan(plan, message.mutable_plan());
  absl::MutexLock lock(&mutex_);
  if (!formed_ || Value(plan.epoch) != epoch_) return;  // the loop is about to hear that the replica is lost
  for (auto& [stage, member] : members_) member.stream->Push(message);
}

void ClusterService::Reset(const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  formed_ = false;
  for (auto& [stage, member] : members_) member.stream->Close(why);
  members_.clear();
}

void ClusterService::Drain() {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
  v1::ToRank message;
  message.mutable_drain();
  for (auto& [stage, member] : members_) member.stream->Push(message);
  const auto none = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return streams_ == 0; };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&none), absl::Seconds(10))) {
    LOG(WARNING) << "ranks still attached after the drain" << Field("streams", streams_);
  }
}

}  // namespace interlace
