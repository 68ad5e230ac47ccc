#include "coordinator/cluster_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "coordinator/rank_fit.h"
#include "coordinator/rank_stream.h"
#include "coordinator/replica_loop.h"
#include "proto/plan/plan_codec.h"

namespace interlace {
namespace {

constexpr size_t kMostFormer = 64;  // incarnations remembered of a place
constexpr char kRefusedPeers[] = "interlace_refused_peers_total";

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

SharedBytes BytesOf(const v1::Order& order) { return std::make_shared<const std::string>(order.SerializeAsString()); }

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

ClusterService::ClusterService(const Options& options, Transport& transport, Clock& clock, Metrics& metrics)
    : options_(options),
      clock_(clock),
      metrics_(metrics),
      replayed_(metrics.counter(kRefusedPeers, {{"port", "ranks"}, {"cause", "replayed"}})),
      unconfirmed_(metrics.counter(kRefusedPeers, {{"port", "ranks"}, {"cause", "unconfirmed"}})),
      service_(std::make_unique<Service>(*this)),
      epoch_(options.first_epoch),
      links_(transport, options.stages * options.tensor_ranks, clock, metrics,
             {.opened = [this](LinkId id, absl::Status status) { OnLinked(id, status); },
              .lost = [this](LinkId id, absl::Status why) { OnLinkLost(id, why); },
              .result = [this](LinkId id, absl::string_view bytes) { OnResult(id, bytes); }}),
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

void ClusterService::Order(const Member& member, SharedBytes order) {
  Do([this, link = streams_.at(member.stream).link, order = std::move(order)]() mutable {
    links_.Send(link, std::move(order));
  });
}

void ClusterService::Dismiss(Stream& stream, const absl::Status& why, bool abandon) {
  stream.index = -1;
  stream.claim.reset();
  stream.confirm_until = absl::InfiniteFuture();
  Do([this, to = stream.stream, link = std::exchange(stream.link, LinkId{}), why, abandon] {
    abandon ? to->Abandon(why) : to->Close(why);
    links_.Close(link);
  });
}

absl::Status ClusterService::CheckIncarnation(const RankInfo& rank) const {
  const auto former = former_.find(rank.index());
  if (!members_.contains(rank.index()) || former == former_.end() || !former->second.contains(rank.incarnation)) {
    return absl::OkStatus();
  }
  return absl::AlreadyExistsError(absl::StrCat(Name(rank.index()), " is held by a newer rank"));
}

absl::Status ClusterService::CheckClaim(const RankInfo& rank) const {
  if (draining_) return absl::UnavailableError("the coordinator is draining");
  std::map<int32_t, const RankInfo*> others;
  for (const auto& [index, member] : members_) {
    if (index != rank.index()) others[index] = &member.rank;
  }
  const ReplicaTerms terms{options_.stages, options_.tensor_ranks, options_.model_digest, options_.block_tokens};
  RETURN_IF_ERROR(CheckFit(rank, terms, others));
  return CheckIncarnation(rank);
}

absl::Status ClusterService::CheckSession(const RankStream* stream, const std::string& session) const {
  for (const auto& [key, other] : streams_) {
    if (key != stream && other.session == session) {
      return absl::AlreadyExistsError("this session is that of another stream: a rank draws one for each");
    }
  }
  return absl::OkStatus();
}

// What fits becomes a candidate; its link is made in the background.
absl::Status ClusterService::OnRegister(RankStream* stream, const RankInfo& rank, const std::string& session) {
  if (session.size() != kSessionBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a rank registers with a session of ", kSessionBytes, " bytes, not ", session.size()));
  }
  LinkId link{};
  {
    absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(CheckClaim(rank));
    if (const absl::Status status = CheckSession(stream, session); !status.ok()) {
      replayed_.Add();
      return status;
    }
    const auto open = streams_.find(stream);
    if (open == streams_.end()) return absl::CancelledError("the stream is gone");
    link = LinkId{++last_link_};
    open->second.session = session;
    open->second.claim = rank;
    open->second.link = link;
  }
  if (links_.Open(link, rank.index(), rank.transport_address, session)) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("too many ranks register for ", Name(rank.index()), " at once"));
}

void ClusterService::OnLinked(LinkId id, const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    Stream* const stream = FindStream(id);
    if (stream == nullptr) {  // it went while the link was made
      Do([this, id] { links_.Close(id); });
    } else {
      // Whom it is to fit may have changed since it registered.
      const absl::Status fit = status.ok() ? CheckClaim(*stream->claim) : status;
      if (fit.ok()) {
        stream->confirm_until = clock_.Now() + options_.register_within;
        // Tells the rank which connection is its link. One that was lost before PlanLinks knew it is found out by this.
        v1::Order order;
        order.mutable_linked();
        Do([this, id, bytes = BytesOf(order)]() mutable { links_.Send(id, std::move(bytes)); });
      } else {
        Dismiss(*stream, fit, false);
      }
    }
  }
  CarryOut();
}

void ClusterService::OnConfirmed(LinkId id) {
  {
    absl::MutexLock lock(&mutex_);
    Stream* const stream = FindStream(id);
    if (stream == nullptr || !stream->claim) return;  // it went, or said it before
    const absl::Status fit = CheckClaim(*stream->claim);
    fit.ok() ? MakeMember(*stream) : Dismiss(*stream, fit, false);
  }
  CarryOut();
}

void ClusterService::OnLinkLost(LinkId id, const absl::Status& why) {
  {
    absl::MutexLock lock(&mutex_);
    Stream* const stream = FindStream(id);
    if (stream == nullptr) return;
    const absl::Status lost = absl::UnavailableError(absl::StrCat("its plan link was lost: ", why.message()));
    stream->index >= 0 ? Remove(stream->index, lost, false) : Dismiss(*stream, lost, false);
  }
  CarryOut();
}

ClusterService::Stream* ClusterService::FindStream(LinkId id) {
  for (auto& [key, stream] : streams_) {
    if (stream.link == id) return &stream;
  }
  return nullptr;
}

void ClusterService::MakeMember(Stream& stream) {
  const RankInfo rank = *std::exchange(stream.claim, std::nullopt);
  const int32_t index = rank.index();
  const auto held = members_.find(index);
  if (held != members_.end()) {
    std::set<uint64_t>& former = former_[index];
    if (former.size() >= kMostFormer) former.erase(former.begin());
    if (held->second.rank.incarnation != rank.incarnation) former.insert(held->second.rank.incarnation);
    Remove(index, absl::AbortedError(absl::StrCat(Name(index), " was taken over by a newer rank")), false);
  }
  former_[index].erase(rank.incarnation);
  stream.index = index;
  stream.confirm_until = absl::InfiniteFuture();
  members_.emplace(index, Member{stream.stream.get(), rank});
  Do([rank] {
    LOG(INFO) << "rank registered" << Field("stage", Value(rank.stage)) << Field("stages", rank.stages)
              << Field("tensor_rank", rank.tensor_rank) << Field("tensor_ranks", rank.tensor_ranks)
              << Field("slots", rank.device_slots) << Field("frames", rank.host_frames);
  });
  FormIfComplete();
}

std::string ClusterService::Name(int32_t index) const { return NameOfRank(index, options_.tensor_ranks); }

// A rank hands its activations to the one of the next stage that has the same heads, and shares its layers with those
// of its own stage.
void ClusterService::FillStart(Epoch epoch, const RankInfo& rank, v1::Start* start) const {
  start->set_epoch(Value(epoch));
  const auto address = [this](int32_t index) { return members_.at(index).rank.transport_address; };
  const bool last = Value(rank.stage) + 1 == options_.stages;
  if (!last) start->set_next_stage_address(address(rank.index() + options_.tensor_ranks));
  if (last && Value(rank.stage) > 0) start->set_first_stage_address(address(rank.tensor_rank));
  const int32_t first = rank.index() - rank.tensor_rank;
  for (int32_t t = 0; options_.tensor_ranks > 1 && t < options_.tensor_ranks; ++t) {
    start->add_collective_addresses(members_.at(first + t).rank.collective_address);
  }
}

void ClusterService::FormIfComplete() {
  if (formed_ || static_cast<int32_t>(members_.size()) < options_.stages * options_.tensor_ranks) return;
  formed_ = true;
  const Epoch epoch{epoch_++};
  std::vector<RankInfo> ranks;
  for (auto& [index, member] : members_) {
    ranks.push_back(member.rank);
    v1::Order order;
    FillStart(epoch, member.rank, order.mutable_start());
    Order(member, BytesOf(order));
  }
  Do([loop = loop_, epoch, ranks = std::move(ranks)]() mutable { loop->OnFormed(epoch, std::move(ranks)); });
}

void ClusterService::Remove(int32_t index, const absl::Status& why, bool abandon) {
  const auto member = members_.find(index);
  Dismiss(streams_.at(member->second.stream), why, abandon);
  members_.erase(member);
  if (!std::exchange(formed_, false) || draining_) return;
  Do([loop = loop_, name = Name(index), why] {
    LOG(WARNING) << "rank gone" << Field("rank", name) << why;
    loop->OnLost(absl::UnavailableError(absl::StrCat("the rank of ", name, " is gone: ", why.message())));
  });
}

absl::StatusOr<StepResult> ClusterService::OfRank(int32_t index, StepResult result) const {
  const RankInfo& rank = members_.at(index).rank;
  if (result.stage == rank.stage && result.tensor_rank == rank.tensor_rank) return result;
  return absl::InvalidArgumentError(absl::StrCat("a result names stage ", Value(result.stage), ", tensor rank ",
                                                 result.tensor_rank, "; this rank is that of ", Name(index)));
}

void ClusterService::OnResult(LinkId id, absl::string_view bytes) {
  if (bytes.empty()) return OnConfirmed(id);
  v1::StepResultMessage wire;
  absl::StatusOr<StepResult> result = absl::InvalidArgumentError("a rank sent bytes that are no result");
  if (wire.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) result = DecodeResult(wire);
  int32_t vocab = 0;  // of the rank
  {
    absl::MutexLock lock(&mutex_);
    Stream* const stream = FindStream(id);
    if (stream == nullptr || stream->index < 0) return;  // of a rank that was put out
    const int32_t index = stream->index;
    if (result.ok()) result = OfRank(index, *std::move(result));
    if (result.ok()) {
      vocab = members_.at(index).rank.vocab;
    } else {
      Remove(index, result.status(), false);
    }
  }
  if (!result.ok()) return CarryOut();
  if (const int unknown = TakeOutUnknownTokens(vocab, &*result); unknown > 0) {
    LOG(ERROR) << "a rank chose tokens outside the vocabulary" << Field("stage", Value(result->stage))
               << Field("tokens", unknown) << Field("vocab", vocab);
  }
  loop_->OnResult(*std::move(result));
}

void ClusterService::OnOpened(std::shared_ptr<RankStream> stream) {
  absl::MutexLock lock(&mutex_);
  const absl::Time now = clock_.Now();
  RankStream* const key = stream.get();
  streams_.emplace(key, Stream{.stream = std::move(stream),
                               .liveness = Liveness(options_.liveness, now),
                               .opened = now,
                               .claim = std::nullopt});
}

void ClusterService::OnHeard(RankStream* stream) {
  absl::MutexLock lock(&mutex_);
  const auto open = streams_.find(stream);
  if (open != streams_.end()) open->second.liveness.Heard(clock_.Now());
}

void ClusterService::OnHeartbeat(RankStream* stream, const v1::Heartbeat& heartbeat) {
  RefusalCounts more{};
  int32_t index = -1;
  {
    absl::MutexLock lock(&mutex_);
    const auto open = streams_.find(stream);
    if (open == streams_.end() || open->second.index < 0) return;
    index = open->second.index;
    auto& [incarnation, known] = refused_[index];
    if (incarnation != members_.at(index).rank.incarnation) known = {};
    incarnation = members_.at(index).rank.incarnation;
    const size_t said = std::min(more.size(), static_cast<size_t>(heartbeat.refused_size()));
    for (size_t cause = 0; cause < said; ++cause) {
      const int64_t count = heartbeat.refused(static_cast<int>(cause));
      more[cause] = count - std::exchange(known[cause], count);
    }
  }
  for (size_t cause = 0; cause < more.size(); ++cause) {
    if (more[cause] <= 0) continue;
    metrics_.Add(kRefusedPeers, static_cast<double>(more[cause]),
                 {{"port", absl::StrCat("rank-", index)}, {"cause", kRefusalCauses[cause]}});
  }
}

void ClusterService::OnGone(RankStream* stream) {
  {
    absl::MutexLock lock(&mutex_);
    const auto open = streams_.find(stream);
    if (open == streams_.end()) return;
    const absl::Status why = absl::UnavailableError("its stream ended");
    open->second.index >= 0 ? Remove(open->second.index, why, false) : Dismiss(open->second, why, false);
    streams_.erase(open);
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
        stream.index >= 0 ? Remove(stream.index, why, true) : Dismiss(stream, why, true);
        stream.liveness.Heard(now);  // its end is on the way
      } else if (stream.link == LinkId{} && now >= stream.opened + options_.register_within) {
        Dismiss(stream, absl::DeadlineExceededError("a rank must register at once"), true);
        stream.opened = now;
      } else if (now >= stream.confirm_until) {
        unconfirmed_.Add();
        Dismiss(stream, absl::DeadlineExceededError("nobody at this rank's transport knows of its session"), false);
      } else if (stream.liveness.MustSpeak(now)) {
        stream.liveness.Spoke(now);
        Do([to = stream.stream] { to->Push(HeartbeatMessage()); });
      }
      next = std::min({next, stream.liveness.NextLook(), stream.confirm_until});
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
  v1::Order order;
  EncodePlan(plan, order.mutable_plan());
  const SharedBytes bytes = BytesOf(order);
  {
    absl::MutexLock lock(&mutex_);
    if (!formed_ || Value(plan.epoch) + 1 != epoch_) return;  // the loop is about to hear that the replica is lost
    for (const auto& [index, member] : members_) Order(member, bytes);
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
    v1::Order order;
    order.mutable_drain();
    const SharedBytes bytes = BytesOf(order);
    for (const auto& [index, member] : members_) Order(member, bytes);
    for (auto& [key, stream] : streams_) {
      if (stream.claim) Dismiss(stream, absl::UnavailableError("the coordinator is draining"), false);
    }
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
  links_.Stop();
}

}  // namespace interlace
