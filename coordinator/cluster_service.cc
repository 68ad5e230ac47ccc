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

constexpr int kFormings = 20;       // bits of an epoch that count the formings of one lead
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
  grpc::ServerUnaryReactor* Lead(grpc::CallbackServerContext* context, const v1::LeadRequest*,
                                 v1::LeadReply* reply) override {
    const std::optional<uint64_t> epoch = owner_.LeadEpoch();
    reply->set_leads(epoch.has_value());
    reply->set_lead_epoch(epoch.value_or(0));
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  ClusterService& owner_;
};

class ClusterService::Channel final : public PlanChannel {
 public:
  Channel(ClusterService& owner, int32_t replica) : owner_(owner), replica_(replica) {}
  void Send(const StepPlan& plan) override { owner_.Send(replica_, plan); }
  void Reset(const absl::Status& why) override { owner_.Reset(replica_, why); }

 private:
  ClusterService& owner_;
  const int32_t replica_;
};

ClusterService::ClusterService(const Options& options, Transport& transport, Clock& clock, Metrics& metrics)
    : options_(options),
      clock_(clock),
      metrics_(metrics),
      replayed_(metrics.counter(kRefusedPeers, {{"port", "ranks"}, {"cause", "replayed"}})),
      unconfirmed_(metrics.counter(kRefusedPeers, {{"port", "ranks"}, {"cause", "unconfirmed"}})),
      service_(std::make_unique<Service>(*this)),
      replicas_(static_cast<size_t>(options.replicas)),
      epoch_(options.first_epoch),
      links_(transport, options.replicas * Ranks(), clock, metrics,
             {.opened = [this](LinkId id, absl::Status status) { OnLinked(id, status); },
              .lost = [this](LinkId id, absl::Status why) { OnLinkLost(id, why); },
              .result = [this](LinkId id, absl::string_view bytes) { OnResult(id, bytes); }}),
      watch_("ranks", [this] { Run(); }) {
  for (int32_t r = 0; r < options.replicas; ++r) replicas_[static_cast<size_t>(r)].channel.reset(new Channel(*this, r));
}

ClusterService::~ClusterService() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  watch_.Join();
}

PlanChannel& ClusterService::channel(int32_t replica) { return *replicas_[static_cast<size_t>(replica)].channel; }
void ClusterService::Connect(int32_t replica, ReplicaLoop* loop) {
  absl::MutexLock lock(&mutex_);
  replicas_[static_cast<size_t>(replica)].loop = loop;
}
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
    held_.emplace_back(link, std::move(order));
    SendHeld();
  });
}

// What may not be said now is held, with all behind it, until it may be said again or its link is closed.
void ClusterService::SendHeld() {
  while (!held_.empty() && options_.leads()) {  // asked last: this thread may have stood still
    links_.Send(held_.front().first, std::move(held_.front().second));
    held_.pop_front();
  }
}

void ClusterService::Dismiss(Stream& stream, const absl::Status& why, bool abandon) {
  stream.place = -1;
  stream.claim.reset();
  stream.confirm_until = absl::InfiniteFuture();
  Do([this, to = stream.stream, link = std::exchange(stream.link, LinkId{}), why, abandon] {
    abandon ? to->Abandon(why) : to->Close(why);
    links_.Close(link);
  });
}

absl::Status ClusterService::CheckIncarnation(const RankInfo& rank) const {
  const auto former = former_.find(PlaceOf(rank));
  if (!members_.contains(PlaceOf(rank)) || former == former_.end() || !former->second.contains(rank.incarnation)) {
    return absl::OkStatus();
  }
  return absl::AlreadyExistsError(absl::StrCat(Name(PlaceOf(rank)), " is held by a newer rank"));
}

absl::Status ClusterService::CheckClaim(const RankInfo& rank) const {
  RETURN_IF_ERROR(following_);
  if (draining_) return absl::UnavailableError("the coordinator is draining");
  const ReplicaTerms terms{options_.stages,   options_.tensor_ranks, options_.sequence_ranks, options_.model_digest,
                           options_.adapters, options_.block_tokens, options_.replicas,       options_.draft_model};
  RETURN_IF_ERROR(CheckTerms(rank, terms));
  std::map<int32_t, const RankInfo*> others;  // of its replica
  for (const auto& [place, member] : members_) {
    if (member.rank.replica != rank.replica) {
      RETURN_IF_ERROR(CheckAlike(rank, member.rank));
    } else if (place != PlaceOf(rank)) {
      others[member.rank.index()] = &member.rank;
    }
  }
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
  if (links_.Open(link, PlaceOf(rank), rank.transport_address, session)) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("too many ranks register for ", Name(PlaceOf(rank)), " at once"));
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
        order.mutable_linked()->set_lead_epoch(lead_epoch_);
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
    stream->place >= 0 ? Remove(stream->place, lost, false) : Dismiss(*stream, lost, false);
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
  const int32_t place = PlaceOf(rank);
  const auto held = members_.find(place);
  if (held != members_.end()) {
    std::set<uint64_t>& former = former_[place];
    if (former.size() >= kMostFormer) former.erase(former.begin());
    if (held->second.rank.incarnation != rank.incarnation) former.insert(held->second.rank.incarnation);
    Remove(place, absl::AbortedError(absl::StrCat(Name(place), " was taken over by a newer rank")), false);
  }
  former_[place].erase(rank.incarnation);
  stream.place = place;
  stream.confirm_until = absl::InfiniteFuture();
  Member& member = members_.emplace(place, Member{stream.stream.get(), rank}).first->second;
  ++replicas_[static_cast<size_t>(rank.replica)].members;
  Do([rank] {
    LOG(INFO) << "rank registered" << Field("replica", rank.replica) << Field("stage", Value(rank.stage))
              << Field("stages", rank.stages) << Field("tensor_rank", rank.tensor_rank)
              << Field("tensor_ranks", rank.tensor_ranks) << Field("sequence_rank", rank.sequence_rank)
              << Field("sequence_ranks", rank.sequence_ranks) << Field("slots", rank.device_slots)
              << Field("frames", rank.host_frames);
  });
  if (options_.runtime_adapters) TellAdapters(member);
  FormIfComplete(rank.replica);
}

std::string ClusterService::Name(int32_t place) const {
  const std::string name = NameOfRank(place % Ranks(), StageRanks());
  return options_.replicas == 1 ? name : absl::StrCat("replica ", place / Ranks(), ", ", name);
}

// A rank hands its activations to the one of the next stage that has the same heads or rows, and shares its layers with
// those of its own stage.
void ClusterService::FillStart(Epoch epoch, const RankInfo& rank, v1::Start* start) const {
  start->set_epoch(Value(epoch));
  const auto member = [this, &rank](int32_t index) -> const RankInfo& {
    return members_.at(rank.replica * Ranks() + index).rank;
  };
  const auto address = [&](int32_t index) { return member(index).transport_address; };
  const bool last = Value(rank.stage) + 1 == options_.stages;
  if (!last) start->set_next_stage_address(address(rank.index() + StageRanks()));
  if (last && Value(rank.stage) > 0) start->set_first_stage_address(address(rank.stage_rank()));
  const int32_t first = rank.index() - rank.stage_rank();
  for (int32_t t = 0; StageRanks() > 1 && t < StageRanks(); ++t) {
    start->add_collective_addresses(member(first + t).collective_address);
  }
}

bool ClusterService::IsComplete(int32_t number) const {
  if (replicas_[static_cast<size_t>(number)].members < Ranks()) return false;
  for (const auto& [place, member] : members_) {
    if (member.rank.replica == number && !member.has_adapters()) return false;
  }
  return true;
}

void ClusterService::FormIfComplete(int32_t number) {
  Replica& replica = replicas_[static_cast<size_t>(number)];
  if (replica.formed || !IsComplete(number)) return;
  replica.formed = true;
  const Epoch epoch = replica.epoch = Epoch{epoch_++};
  std::vector<RankInfo> ranks;
  for (auto& [place, member] : members_) {
    if (member.rank.replica != number) continue;
    ranks.push_back(member.rank);
    v1::Order order;
    FillStart(epoch, member.rank, order.mutable_start());
    Order(member, BytesOf(order));
  }
  Do([loop = replica.loop, epoch, ranks = std::move(ranks)]() mutable { loop->OnFormed(epoch, std::move(ranks)); });
}

void ClusterService::Remove(int32_t place, const absl::Status& why, bool abandon) {
  const auto member = members_.find(place);
  Replica& replica = replicas_[static_cast<size_t>(member->second.rank.replica)];
  Dismiss(streams_.at(member->second.stream), why, abandon);
  members_.erase(member);
  --replica.members;
  if (!std::exchange(replica.formed, false) || draining_) return;
  Do([loop = replica.loop, name = Name(place), why] {
    LOG(WARNING) << "rank gone" << Field("rank", name) << why;
    loop->OnLost(absl::UnavailableError(absl::StrCat("the rank of ", name, " is gone: ", why.message())));
  });
}

absl::StatusOr<StepResult> ClusterService::OfRank(int32_t place, StepResult result) const {
  const RankInfo& rank = members_.at(place).rank;
  if (result.stage == rank.stage && result.stage_rank == rank.stage_rank()) return result;
  return absl::InvalidArgumentError(absl::StrCat("a result names stage ", Value(result.stage), ", rank ",
                                                 result.stage_rank, "; this rank is that of ", Name(place)));
}

void ClusterService::OnResult(LinkId id, absl::string_view bytes) {
  if (bytes.empty()) return OnConfirmed(id);
  v1::StepResultMessage wire;
  absl::StatusOr<StepResult> result = absl::InvalidArgumentError("a rank sent bytes that are no result");
  if (wire.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    if (wire.has_adapters()) return OnAdapters(id, DecodeAnswer(wire.adapters()));
    result = DecodeResult(wire);
  }
  int32_t vocab = 0;  // of the rank
  ReplicaLoop* loop = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    Stream* const stream = FindStream(id);
    if (stream == nullptr || stream->place < 0) return;  // of a rank that was put out
    const int32_t place = stream->place;
    if (result.ok()) result = OfRank(place, *std::move(result));
    if (result.ok()) {
      const RankInfo& rank = members_.at(place).rank;
      vocab = rank.vocab;
      loop = replicas_[static_cast<size_t>(rank.replica)].loop;
    } else {
      Remove(place, result.status(), false);
    }
  }
  if (!result.ok()) return CarryOut();
  if (const int unknown = TakeOutUnknownTokens(vocab, &*result); unknown > 0) {
    LOG(ERROR) << "a rank chose tokens outside the vocabulary" << Field("stage", Value(result->stage))
               << Field("tokens", unknown) << Field("vocab", vocab);
  }
  loop->OnResult(*std::move(result));
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
  int32_t place = -1;
  {
    absl::MutexLock lock(&mutex_);
    const auto open = streams_.find(stream);
    if (open == streams_.end() || open->second.place < 0) return;
    place = open->second.place;
    auto& [incarnation, known] = refused_[place];
    if (incarnation != members_.at(place).rank.incarnation) known = {};
    incarnation = members_.at(place).rank.incarnation;
    const size_t said = std::min(more.size(), static_cast<size_t>(heartbeat.refused_size()));
    for (size_t cause = 0; cause < said; ++cause) {
      const int64_t count = heartbeat.refused(static_cast<int>(cause));
      more[cause] = count - std::exchange(known[cause], count);
    }
  }
  for (size_t cause = 0; cause < more.size(); ++cause) {
    if (more[cause] <= 0) continue;
    metrics_.Add(kRefusedPeers, static_cast<double>(more[cause]),
                 {{"port", absl::StrCat("rank-", place)}, {"cause", kRefusalCauses[cause]}});
  }
}

void ClusterService::OnGone(RankStream* stream) {
  {
    absl::MutexLock lock(&mutex_);
    const auto open = streams_.find(stream);
    if (open == streams_.end()) return;
    const absl::Status why = absl::UnavailableError("its stream ended");
    open->second.place >= 0 ? Remove(open->second.place, why, false) : Dismiss(open->second, why, false);
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
        stream.place >= 0 ? Remove(stream.place, why, true) : Dismiss(stream, why, true);
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

void ClusterService::Send(int32_t number, const StepPlan& plan) {
  v1::Order order;
  EncodePlan(plan, order.mutable_plan());
  const SharedBytes bytes = BytesOf(order);
  {
    absl::MutexLock lock(&mutex_);
    const Replica& replica = replicas_[static_cast<size_t>(number)];
    if (!replica.formed || plan.epoch != replica.epoch) return;  // the loop is about to hear that the replica is lost
    const int32_t end = (number + 1) * Ranks();
    for (auto it = members_.lower_bound(number * Ranks()); it != members_.end() && it->first < end; ++it) {
      Order(it->second, bytes);
    }
  }
  CarryOut();
}

std::optional<uint64_t> ClusterService::LeadEpoch() {
  if (!options_.leads()) return std::nullopt;
  absl::MutexLock lock(&mutex_);
  return following_.ok() && !draining_ ? std::optional(lead_epoch_) : std::nullopt;
}

void ClusterService::Lead(uint64_t lead_epoch) {
  absl::MutexLock lock(&mutex_);
  following_ = absl::OkStatus();
  lead_epoch_ = lead_epoch;
  epoch_ = std::max(epoch_, lead_epoch << kFormings);
}

void ClusterService::Resume() {
  {
    absl::MutexLock lock(&mutex_);
    Do([this] { SendHeld(); });
  }
  CarryOut();
}

void ClusterService::Follow(const absl::Status& why) {
  {
    absl::MutexLock lock(&mutex_);
    following_ = why;
    Do([this] { held_.clear(); });
    while (!members_.empty()) Remove(members_.begin()->first, why, false);
    for (auto& [key, stream] : streams_) {
      if (stream.claim) Dismiss(stream, why, false);
    }
  }
  CarryOut();
}

void ClusterService::Reset(int32_t number, const absl::Status& why) {
  {
    absl::MutexLock lock(&mutex_);
    replicas_[static_cast<size_t>(number)].formed = false;  // which the loop knows: no OnLost
    for (int32_t place = number * Ranks(); place < (number + 1) * Ranks(); ++place) {
      if (members_.contains(place)) Remove(place, why, false);
    }
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
    for (const auto& [place, member] : members_) Order(member, bytes);
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
