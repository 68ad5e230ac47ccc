#include "coordinator/cluster_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "coordinator/rank_stream.h"
#include "coordinator/replica_loop.h"
#include "proto/plan/plan_codec.h"

namespace interlace {
namespace {

constexpr size_t kMostFormer = 64;  // incarnations remembered of a stage

// What all ranks of a replica must have in common: one line a field.
struct Agreed {
  absl::string_view field;
  std::string (*of)(const RankInfo&);
};
constexpr Agreed kAgreed[] = {
    {"cluster.stages", [](const RankInfo& r) { return absl::StrCat(r.stages); }},
    {"the model's digest", [](const RankInfo& r) { return r.model_digest; }},
    {"the number of its layers", [](const RankInfo& r) { return absl::StrCat(r.layers); }},
    {"kv.block_tokens", [](const RankInfo& r) { return absl::StrCat(r.block_tokens); }},
    {"kv.dtype", [](const RankInfo& r) { return r.dtype; }},
    {"the bytes of a KV slot", [](const RankInfo& r) { return absl::StrCat(r.slot_bytes); }},
    {"the model's KV heads", [](const RankInfo& r) { return absl::StrCat(r.kv_heads); }},
    {"the size of its heads", [](const RankInfo& r) { return absl::StrCat(r.head_dim); }},
    {"its vocabulary", [](const RankInfo& r) { return absl::StrCat(r.vocab); }},
    {"its windows", [](const RankInfo& r) { return absl::StrJoin(r.windows, ","); }},
    {"engine.backend and engine.ops", [](const RankInfo& r) { return r.numerics; }},
    {"kv.tiers", [](const RankInfo& r) { return absl::StrJoin(r.tiers, ","); }},
};

absl::Status Unfit(absl::string_view field, absl::string_view theirs, absl::string_view ours, absl::string_view whose) {
  return absl::FailedPreconditionError(
      absl::StrCat("this rank does not fit the replica: ", field, " is ", theirs, ", ", whose, " has ", ours));
}

absl::Status CheckAgreed(const RankInfo& rank, const RankInfo& other) {
  for (const Agreed& agreed : kAgreed) {
    const std::string theirs = agreed.of(rank), ours = agreed.of(other);
    if (theirs != ours) return Unfit(agreed.field, theirs, ours, absl::StrCat("stage ", Value(other.stage)));
  }
  return absl::OkStatus();
}

// A token that no text has becomes -1, which ends its request and nothing else. How many there were.
int TakeOutUnknownTokens(int32_t vocab, StepResult* result) {
  int unknown = 0;
  const auto is_unknown = [vocab](const auto& t) { return t.token < 0 || t.token >= vocab; };
  for (SampledToken& sampled : result->sampled) {
    std::erase_if(sampled.scores, is_unknown);
    if (sampled.token == -1 || !is_unknown(sampled)) continue;
    sampled.token = -1;
    ++unknown;
  }
  return unknown;
}

v1::ToRank HeartbeatMessage() {
  v1::ToRank message;
  message.mutable_heartbeat();
  return message;
}

}  // namespace

class ClusterService::Service final : public v1::Cluster::CallbackService {
 public:
  explicit Service(ClusterService& owner) : owner_(owner) {}
  grpc::ServerBidiReactor<v1::FromRank, v1::ToRank>* Attach(grpc::CallbackServerContext* context) override {
    return RankStream::Open(owner_, context).get();  // holds itself until the stream is done
  }

 private:
  ClusterService& owner_;
};

ClusterService::ClusterService(const Options& options, Clock& clock)
    : options_(options),
      clock_(clock),
      service_(std::make_unique<Service>(*this)),
      epoch_(options.first_epoch),
      watch_("ranks", [this] { Run(); }) {}

ClusterService::~ClusterService() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  watch_.Join();
}

void ClusterService::Connect(ReplicaLoop* loop) { loop_ = loop; }
grpc::Service* ClusterService::service() { return service_.get(); }

// One thread at a time, so that what was decided first is done first: the loop must not hear of a forming before it
// hears of the loss that went before. A thread that finds another one at it leaves its actions to that one.
void ClusterService::CarryOut() {
  while (true) {
    std::deque<Action> actions;
    {
      absl::MutexLock lock(&mutex_);
      if (acting_ || actions_.empty()) return;
      acting_ = true;
      actions.swap(actions_);
    }
    for (Action& action : actions) action();
    absl::MutexLock lock(&mutex_);
    acting_ = false;
  }
}

void ClusterService::PushTo(Stream& stream, v1::ToRank message) {
  stream.liveness.Spoke(clock_.Now());
  Do([to = stream.stream, message = std::move(message)]() mutable { to->Push(std::move(message)); });
}

absl::Status ClusterService::CheckRank(const RankInfo& rank) const {
  if (rank.stages != options_.stages) {
    return Unfit("cluster.stages", absl::StrCat(rank.stages), absl::StrCat(options_.stages), "the coordinator");
  }
  if (rank.model_digest != options_.model_digest) {
    return Unfit("the model's digest", rank.model_digest, options_.model_digest, "the coordinator");
  }
  if (rank.block_tokens != options_.block_tokens) {
    return Unfit("kv.block_tokens", absl::StrCat(rank.block_tokens), absl::StrCat(options_.block_tokens),
                 "the coordinator");
  }
  for (const auto& [stage, member] : members_) {
    if (stage != Value(rank.stage)) RETURN_IF_ERROR(CheckAgreed(rank, member.rank));
  }
  // Stages hold all layers, each once and in order.
  const auto before = members_.find(Value(rank.stage) - 1), after = members_.find(Value(rank.stage) + 1);
  const auto at = [&rank](absl::string_view field, int32_t theirs, int32_t ours, absl::string_view whose) {
    return theirs == ours ? absl::OkStatus() : Unfit(field, absl::StrCat(theirs), absl::StrCat(ours), whose);
  };
  if (Value(rank.stage) == 0) RETURN_IF_ERROR(at("its first layer", rank.layer_begin, 0, "the model"));
  if (before != members_.end()) {
    RETURN_IF_ERROR(at("its first layer", rank.layer_begin, before->second.rank.layer_end, "the stage before"));
  }
  if (after != members_.end()) {
    RETURN_IF_ERROR(at("its layer end", rank.layer_end, after->second.rank.layer_begin, "the stage behind"));
  }
  if (Value(rank.stage) == options_.stages - 1) {
    RETURN_IF_ERROR(at("its layer end", rank.layer_end, rank.layers, "the model"));
  }
  return absl::OkStatus();
}

absl::Status ClusterService::CheckIncarnation(const RankInfo& rank) const {
  const auto former = former_.find(Value(rank.stage));
  if (!members_.contains(Value(rank.stage)) || former == former_.end() || !former->second.contains(rank.incarnation)) {
    return absl::OkStatus();
  }
  return absl::AlreadyExistsError(absl::StrCat("stage ", Value(rank.stage), " is held by a newer rank"));
}

absl::Status ClusterService::OnRegister(RankStream* stream, const RankInfo& rank) {
  const int32_t stage = Value(rank.stage);
  {
    absl::MutexLock lock(&mutex_);
    if (draining_) return absl::UnavailableError("the coordinator is draining");
    RETURN_IF_ERROR(CheckRank(rank));
    RETURN_IF_ERROR(CheckIncarnation(rank));
    const auto held = members_.find(stage);
    if (held != members_.end()) {
      std::set<uint64_t>& former = former_[stage];
      if (former.size() >= kMostFormer) former.erase(former.begin());
      if (held->second.rank.incarnation != rank.incarnation) former.insert(held->second.rank.incarnation);
      Remove(stage, absl::AbortedError(absl::StrCat("stage ", stage, " was taken over by a newer rank")), false);
    }
    former_[stage].erase(rank.incarnation);
    const auto open = streams_.find(stream);
    if (open == streams_.end()) return absl::CancelledError("the stream is gone");
    open->second.stage = stage;
    members_.emplace(stage, Member{stream, rank});
    Do([stage, stages = rank.stages, slots = rank.device_slots, frames = rank.host_frames] {
      LOG(INFO) << "rank registered" << Field("stage", stage) << Field("stages", stages) << Field("slots", slots)
                << Field("frames", frames);
    });
    FormIfComplete();
  }
  CarryOut();
  return absl::OkStatus();
}

void ClusterService::FormIfComplete() {
  if (formed_ || static_cast<int32_t>(members_.size()) < options_.stages) return;
  formed_ = true;
  const Epoch epoch{epoch_++};
  std::vector<RankInfo> ranks;
  for (auto& [stage, member] : members_) {
    ranks.push_back(member.rank);
    v1::ToRank message;
    message.mutable_start()->set_epoch(Value(epoch));
    auto next = members_.find(stage + 1);
    if (next != members_.end()) message.mutable_start()->set_next_stage_address(next->second.rank.transport_address);
    if (next == members_.end() && stage > 0) {
      message.mutable_start()->set_first_stage_address(members_.at(0).rank.transport_address);
    }
    PushTo(streams_.at(member.stream), std::move(message));
  }
  Do([loop = loop_, epoch, ranks = std::move(ranks)]() mutable { loop->OnFormed(epoch, std::move(ranks)); });
}

void ClusterService::Remove(int32_t stage, const absl::Status& why, bool abandon) {
  const auto member = members_.find(stage);
  Stream& stream = streams_.at(member->second.stream);
  stream.stage = -1;
  members_.erase(member);
  Do([to = stream.stream, why, abandon] { abandon ? to->Abandon(why) : to->Close(why); });
  if (!std::exchange(formed_, false) || draining_) return;
  Do([loop = loop_, stage, why] {
    LOG(WARNING) << "rank gone" << Field("stage", stage) << why;
    loop->OnLost(absl::UnavailableError(absl::StrCat("the rank of stage ", stage, " is gone: ", why.message())));
  });
}

absl::Status ClusterService::OnResult(RankStream* stream, StepResult result) {
  int32_t vocab = 0;  // of the rank
  {
    absl::MutexLock lock(&mutex_);
    const auto open = streams_.find(stream);
    if (open == streams_.end() || open->second.stage < 0) return absl::OkStatus();  // of a rank that was put out
    if (open->second.stage != Value(result.stage)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a result names stage ", Value(result.stage), ", this rank holds stage ", open->second.stage));
    }
    vocab = members_.at(open->second.stage).rank.vocab;
  }
  if (const int unknown = TakeOutUnknownTokens(vocab, &result); unknown > 0) {
    LOG(ERROR) << "a rank chose tokens outside the vocabulary" << Field("stage", Value(result.stage))
               << Field("tokens", unknown) << Field("vocab", vocab);
  }
  loop_->OnResult(std::move(result));
  return absl::OkStatus();
}

void ClusterService::OnOpened(std::shared_ptr<RankStream> stream) {
  absl::MutexLock lock(&mutex_);
  const absl::Time now = clock_.Now();
  RankStream* const key = stream.get();
  streams_.emplace(key, Stream{std::move(stream), Liveness(options_.liveness, now), now});
}

void ClusterService::OnHeard(RankStream* stream) {
  absl::MutexLock lock(&mutex_);
  const auto open = streams_.find(stream);
  if (open != streams_.end()) open->second.liveness.Heard(clock_.Now());
}

void ClusterService::OnGone(RankStream* stream) {
  {
    absl::MutexLock lock(&mutex_);
    const auto open = streams_.find(stream);
    if (open == streams_.end()) return;
    if (open->second.stage >= 0) Remove(open->second.stage, absl::UnavailableError("its stream ended"), false);
    streams_.erase(stream);
  }
  CarryOut();
}

absl::Time ClusterService::Watch() {
  absl::Time next = absl::InfiniteFuture();
  {
    absl::MutexLock lock(&mutex_);
    const absl::Time now = clock_.Now();
    for (auto& [key, stream] : streams_) {
      if (stream.liveness.IsSilent(now)) {
        const absl::Status why = absl::UnavailableError(
            absl::StrCat("the rank was silent for ", absl::FormatDuration(stream.liveness.silence())));
        if (stream.stage >= 0)
          Remove(stream.stage, why, true);
        else
          Do([to = stream.stream, why] { to->Abandon(why); });
        stream.liveness.Heard(now);  // its end is on the way
      } else if (stream.stage < 0 && now >= stream.opened + options_.register_within) {
        Do([to = stream.stream] { to->Abandon(absl::DeadlineExceededError("a rank must register at once")); });
        stream.opened = now;
      } else if (stream.liveness.MustSpeak(now)) {
        PushTo(stream, HeartbeatMessage());
      }
      next = std::min(next, stream.liveness.NextLook());
    }
  }
  CarryOut();
  return next;
}

void ClusterService::Run() {
  while (true) {
    const absl::Time next = std::min(Watch(), clock_.Now() + options_.liveness.speak_every);
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), next - clock_.Now())) return;
  }
}

void ClusterService::Send(const StepPlan& plan) {
  v1::ToRank message;
  EncodePlan(plan, message.mutable_plan());
  {
    absl::MutexLock lock(&mutex_);
    if (!formed_ || Value(plan.epoch) + 1 != epoch_) return;  // the loop is about to hear that the replica is lost
    for (auto& [stage, member] : members_) PushTo(streams_.at(member.stream), message);
  }
  CarryOut();
}

void ClusterService::Reset(const absl::Status& why) {
  {
    absl::MutexLock lock(&mutex_);
    formed_ = false;  // which the loop knows: no OnLost
    while (!members_.empty()) Remove(members_.begin()->first, why, false);
  }
  CarryOut();
}

void ClusterService::Drain() {
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    v1::ToRank message;
    message.mutable_drain();
    for (auto& [stage, member] : members_) PushTo(streams_.at(member.stream), message);
  }
  CarryOut();
  size_t left = 0;
  {
    absl::MutexLock lock(&mutex_);
    const auto none = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return streams_.empty(); };
    mutex_.AwaitWithTimeout(absl::Condition(&none), absl::Seconds(10));
    left = streams_.size();
  }
  if (left > 0) LOG(WARNING) << "ranks still attached after the drain" << Field("streams", left);
}

}  // namespace interlace
