#include "tests/sim/sim_cluster.h"

#include <algorithm>
#include <string>

namespace interlace::sim {
namespace {

void Fold(EventLoop& loop, const StepPlan& plan) {
  loop.Note(Value(plan.epoch) << 32 ^ Value(plan.id));
  for (const Release& release : plan.releases) loop.Note(Value(release.request) << 8 ^ 1);
  for (const BlockMove& move : plan.moves) loop.Note(move.block.low ^ static_cast<uint64_t>(move.kind));
  for (const PlanSequence& s : plan.sequences) {
    loop.Note(Value(s.request) << 40 ^ uint64_t{s.attempt} << 20 ^ static_cast<uint64_t>(s.start));
    for (const int32_t token : s.tokens) loop.Note(static_cast<uint64_t>(token));
    if (s.names) loop.Note(s.names->ids.back().low);
  }
}

// Which blocks a plan names, and which it adopts; ToString only says how many.
std::string NamesIn(const StepPlan& plan) {
  std::string text;
  const auto add = [&text](const char* what, RequestId request, const std::vector<BlockId>& ids) {
    for (const BlockId& id : ids) absl::StrAppend(&text, " ", Value(request), what, IdText(id).substr(0, 6));
  };
  for (const Release& release : plan.releases) {
    if (release.names) add("=", release.request, release.names->ids);
  }
  for (const PlanSequence& s : plan.sequences) {
    if (s.opening) add("+", s.request, s.opening->adopted);
    if (s.names) add("=", s.request, s.names->ids);
  }
  return text;
}

void Fold(EventLoop& loop, const StepResult& result) {
  loop.Note(Value(result.epoch) << 32 ^ Value(result.plan) << 4 ^ static_cast<uint64_t>(Value(result.stage)));
  for (const SampledToken& t : result.sampled) loop.Note(Value(t.request) << 20 ^ static_cast<uint64_t>(t.token));
  for (const LostSequence& l : result.lost) loop.Note(Value(l.request) << 20 ^ static_cast<uint64_t>(l.block));
  for (const FetchAnswer& f : result.fetched) loop.Note(f.block.low ^ static_cast<uint64_t>(f.arrived.size()));
}

}  // namespace

SimCluster::SimCluster(World& world)
    : world_(world),
      entropy_(world.Fork("coordinator")),
      lost_since_(world.loop.now()),
      belief_(LayerSet::Range(0, world.scenario.shape.layers())) {
  scheduler_ = std::make_unique<Scheduler>(world.scenario.options, *world.scenario.policy, world.loop, metrics_, *this);
}

SimCluster::~SimCluster() = default;

// ---- the scheduler's loop

void SimCluster::Post(Event event) {
  inbox_.push_back(std::move(event));
  AskTurn();
}

void SimCluster::AskTurn() {
  if (std::exchange(turn_asked_, true)) return;
  world_.loop.After(absl::Microseconds(Draw(*entropy_, 0, 60)), [this] { Turn(); });
}

void SimCluster::Turn() {
  turn_asked_ = false;
  while (!inbox_.empty()) {
    const Event event = std::move(inbox_.front());
    inbox_.pop_front();
    event(*scheduler_);
  }
  CheckLoss();
  scheduler_->CheckInvariants();
  scheduler_->RunOnce();
  scheduler_->CheckInvariants();
  CheckLoss();
  if (scheduler_->shape() == nullptr) {
    published_.reset();
  } else if (!published_ || newly_formed_) {
    published_ = *scheduler_->shape();
  }
  newly_formed_ = false;
  const absl::Time next = scheduler_->NextWakeUp();
  if (next <= world_.loop.now()) world_.ledger.Fail("the scheduler's loop would spin");
  if (next >= wake_) return;
  wake_ = next;
  world_.loop.At(next, [this, next] {
    if (wake_ != next) return;
    wake_ = absl::InfiniteFuture();
    AskTurn();
  });
}

// When requests may have ended because there was no replica.
void SimCluster::CheckLoss() {
  if (scheduler_->shape() != nullptr) {
    lost_since_ = absl::InfiniteFuture();
    return;
  }
  lost_since_ = std::min(lost_since_, world_.loop.now());
  away_too_long_ |= lost_since_ + world_.scenario.options.reform_timeout <= world_.loop.now();
}

absl::Status SimCluster::Submit(Request request) {
  if (!published_) return absl::UnavailableError("no replica is ready: ranks are still loading or lost");
  const Scheduler::Options& options = world_.scenario.options;
  const AdmissionLimits limits{options.context,
                               world_.scenario.max_waiting,
                               absl::InfiniteDuration(),
                               {options.fixed_keep, options.chunk_tokens}};
  const absl::Status admitted = Admit(*published_, limits, {scheduler_->Load().waiting + submitted_, {}}, &request);
  if (!admitted.ok()) return admitted;
  ++submitted_;
  Post([this, request = std::move(request)](Scheduler& scheduler) {
    --submitted_;
    scheduler.Admit(request);
  });
  return absl::OkStatus();
}

void SimCluster::Cancel(RequestId id) {
  Post([id](Scheduler& scheduler) { scheduler.Cancel(id, absl::CancelledError("the client is gone")); });
}

// ---- members

void SimCluster::OnRegister(const std::shared_ptr<Session>& session, const RankInfo& rank) {
  if (session->over_for_coordinator) return;
  const int32_t stage = Value(rank.stage);
  world_.Say("stage ", stage, " registers");
  if (members_.contains(stage)) Remove(stage, "it was taken over by a newer rank");
  session->stage = stage;
  members_[stage] = {session, rank};
  FormIfComplete();
}

void SimCluster::FormIfComplete() {
  if (formed_ || static_cast<int32_t>(members_.size()) < world_.scenario.shape.stages) return;
  formed_ = true;
  const Epoch epoch{epoch_++};
  world_.Say("epoch ", Value(epoch), " is formed");
  world_.loop.Note(Value(epoch));
  ++world_.ledger.formings;
  std::vector<RankInfo> ranks;
  for (auto& [stage, member] : members_) {
    ranks.push_back(member.rank);
    member.session->to_rank->Send([session = member.session, epoch] { session->rank->OnStart(session, epoch); });
  }
  shapes_.push_back(ShapeOf(ranks));
  Post([this, epoch, ranks = std::move(ranks)](Scheduler& scheduler) {
    scheduler.OnFormed(epoch, ranks);
    newly_formed_ = true;
    belief_.Clear();
    open_.clear();
    open_epoch_ = epoch;
  });
}

void SimCluster::Remove(int32_t stage, const std::string& why) {
  const std::shared_ptr<Session> session = members_.at(stage).session;
  members_.erase(stage);
  session->stage = -1;
  session->over_for_coordinator = true;
  session->to_rank->Send([session, why] { session->rank->OnClosed(session, why); });
  if (!std::exchange(formed_, false)) return;
  ++losses_;
  world_.Say("the replica is lost: the rank of stage ", stage, " is gone: ", why);
  Post([this, stage, why](Scheduler& scheduler) {
    scheduler.OnLost(absl::UnavailableError(absl::StrCat("the rank of stage ", stage, " is gone: ", why)));
  });
}

void SimCluster::OnGone(const std::shared_ptr<Session>& session, const std::string& why) {
  if (session->over_for_coordinator) return;
  session->over_for_coordinator = true;
  if (session->stage >= 0) Remove(session->stage, why);
}

void SimCluster::Send(const StepPlan& plan) {
  Fold(world_.loop, plan);
  if (world_.verbose) world_.Say(plan.ToString(), NamesIn(plan));
  ++world_.ledger.plans;
  world_.ledger.planned_tokens += plan.tokens();
  if (plan.tokens() > world_.scenario.options.step_tokens) {
    world_.ledger.Fail("a plan of ", plan.tokens(), " rows where a step has ", world_.scenario.options.step_tokens);
  }
  belief_.Follow(plan);
  if (!formed_ || Value(plan.epoch) + 1 != epoch_) return;  // the loop is about to hear that the replica is lost
  auto sent = std::make_shared<StepPlan>(plan);
  if (world_.canary != Canary::kNone) open_[plan.id] = plan;
  if (world_.canary == Canary::kTokenLostAtForming && Value(plan.epoch) > 1) {
    for (PlanSequence& s : sent->sequences) {
      if (s.opening && s.sample_index > 0 && s.tokens.size() > 1) s.tokens.back() = s.tokens[s.tokens.size() - 2];
    }
  }
  for (auto& [stage, member] : members_) {
    member.session->to_rank->Send([session = member.session, sent] { session->rank->OnPlan(session, sent); });
  }
}

void SimCluster::Reset(const absl::Status& why) {
  world_.Say("the scheduler gives the replica up: ", why.message());
  if (std::exchange(formed_, false)) ++losses_;  // which the loop knows
  while (!members_.empty()) Remove(members_.begin()->first, std::string(why.message()));
}

// ---- results

void SimCluster::OnResult(const std::shared_ptr<Session>& session, StepResult result) {
  if (session->over_for_coordinator || session->stage < 0) return;  // of a rank that was put out
  if (session->stage != Value(result.stage)) {
    return world_.ledger.Fail("a result names stage ", Value(result.stage), ", its rank holds ", session->stage);
  }
  if (world_.loop.now() < duplicated_until_) Take(result);
  Take(std::move(result));
}

void SimCluster::Take(StepResult result) {
  Fold(world_.loop, result);
  if (world_.verbose) world_.Say(result.ToString());
  if (world_.canary == Canary::kOldEpochTaken && result.epoch < open_epoch_) {
    result.epoch = open_epoch_;
    if (result.plan != PlanId{} && !open_.empty()) result.plan = open_.begin()->first;
  }
  const auto plan = open_.find(result.plan);
  if (world_.canary == Canary::kDraftsUnchecked && plan != open_.end()) {
    size_t at = 0;
    for (const PlanSequence& s : plan->second.sequences) {
      if (at >= result.sampled.size() || result.sampled[at].request != s.request) continue;
      for (int32_t d = 0; d < s.drafts; ++d) result.sampled[at + d].token = s.tokens[s.tokens.size() - s.drafts + d];
      at += static_cast<size_t>(1 + s.drafts);
    }
  }
  if (world_.canary == Canary::kResultTakenTwice && plan != open_.end() && std::next(plan) != open_.end()) {
    StepResult again = result;
    again.plan = std::next(plan)->first;
    Post([again = std::move(again)](Scheduler& scheduler) { scheduler.OnResult(again); });
  }
  if (plan != open_.end() && Value(result.stage) + 1 == world_.scenario.shape.stages) open_.erase(plan);
  Post([this, result = std::move(result)](Scheduler& scheduler) {
    if (result.epoch == open_epoch_) {
      for (const FetchAnswer& answer : result.fetched) belief_.Follow(answer);
    }
    scheduler.OnResult(result);
  });
}

}  // namespace interlace::sim
