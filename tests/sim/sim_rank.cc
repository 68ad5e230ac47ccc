#include "tests/sim/sim_rank.h"

#include <algorithm>

#include "tests/sim/sim_cluster.h"

namespace interlace::sim {

SimRank::SimRank(World& world, SimCluster& cluster, int32_t stage, std::vector<SimTier*> tiers)
    : world_(world), cluster_(cluster), disks_(std::move(tiers)), entropy_(world.Fork(absl::StrCat("rank ", stage))) {
  const Shape& shape = world.scenario.shape;
  info_.stage = StageId{stage};
  info_.stages = shape.stages;
  info_.model_digest = "digest";
  info_.numerics = "simulated";
  info_.dtype = "F64";
  info_.layers = shape.layers();
  info_.layer_begin = shape.layers() * stage / shape.stages;
  info_.layer_end = shape.layers() * (stage + 1) / shape.stages;
  info_.windows = shape.windows;
  info_.vocab = shape.vocab;
  info_.kv_heads = info_.head_dim = 1;
  info_.heads = {0, 1};
  info_.block_tokens = shape.block_tokens;
  info_.device_slots = shape.slots;
  info_.host_frames = shape.frames;
  info_.slot_bytes = int64_t{8} * shape.block_tokens;
  info_.step_tokens = 4096;
  if (shape.own_tier) info_.tiers.emplace_back("rocksdb");
  if (shape.shared_tier) info_.tiers.emplace_back("remote");
}

SimRank::~SimRank() = default;

void SimRank::Later(absl::Time when, Task task) {
  world_.loop.At(when, [this, life = life_, task = std::move(task)]() mutable {
    if (life != life_) return;
    if (world_.loop.now() < stopped_until_) return Later(stopped_until_, std::move(task));
    task();
  });
}

// ---- the process

void SimRank::Boot() {
  info_.incarnation = entropy_->Next();
  const Shape& shape = world_.scenario.shape;
  SimPool::Options pool;
  pool.layer_begin = info_.layer_begin;
  pool.layer_end = info_.layer_end;
  pool.block_tokens = shape.block_tokens;
  pool.slots = shape.slots;
  pool.frames = shape.frames;
  pool.copy = world_.scenario.pace.copy;
  pool.heads = info_.heads;
  pool.canary = world_.canary;
  if (!disks_.empty()) {
    tiers_ = std::make_unique<SimTierStack>(world_.loop, disks_, info_.slot_bytes, info_.layer_begin, info_.layer_end,
                                            info_.heads, world_.canary);
  }
  SimPager::Options options;
  options.stage = info_.stage;
  options.first = Value(info_.stage) == 0;
  options.last = Value(info_.stage) + 1 == info_.stages;
  options.canary = world_.canary;
  for (const Arrival& arrival : world_.scenario.arrivals) {
    if (arrival.refused) options.refused.insert(RequestId{arrival.id});
  }
  auto wake = [this, life = life_] {
    if (life != life_ || session_ == nullptr || std::exchange(report_asked_, true)) return;
    orders_.push_back(ReportAsked{});
    Later(world_.loop.now(), [this] { RunOrders(); });
  };
  auto made = std::make_unique<SimPool>(pool, entropy_->Fork("copies"), tiers_.get(), world_.loop, world_.ledger, wake);
  pager_ = std::make_unique<SimPager>(options, pool, world_.model, std::move(made), world_.ledger);
  backoff_.emplace(Backoff::Options(), entropy_->Fork("backoff"));
  Later(world_.loop.now() + world_.scenario.pace.load, [this] { OpenSession(); });
}

// ---- sessions

void SimRank::OpenSession() {
  if (world_.loop.now() < partitioned_until_) {  // the attempt takes its time and fails
    return Later(world_.loop.now() + absl::Milliseconds(500) + backoff_->Next(), [this] { OpenSession(); });
  }
  auto session = std::make_shared<Session>();
  session->id = entropy_->Next();
  session->rank = this;
  const absl::Duration latency = world_.scenario.pace.latency;
  session->to_rank = std::make_shared<Pipe>(world_.loop, entropy_->Fork("to rank"), latency);
  session->to_coordinator = std::make_shared<Pipe>(world_.loop, entropy_->Fork("to coordinator"), latency);
  session_ = session;
  session_started_ = session_ended_ = report_asked_ = false;
  arrived_.clear();
  broken_ = true;
  session->to_coordinator->Send([this, session, info = info_] { cluster_.OnRegister(session, info); });
}

void SimRank::OnClosed(const std::shared_ptr<Session>& session, const std::string& why) {
  if (session != session_ || session->over_for_rank) return;
  EndSession(why);
}

void SimRank::EndSession(const std::string& why) {
  world_.Say("stage ", Value(info_.stage), " ends its session: ", why);
  session_->over_for_rank = true;
  session_->to_rank->Break();
  session_ = nullptr;
  orders_.clear();
  report_asked_ = false;
  if (busy_ && waits_ == Waits::kNothing) {  // the step ends first
    session_ended_ = true;
    return;
  }
  busy_ = false;
  waits_ = Waits::kNothing;
  ++step_;
  pager_->Reset();
  if (session_started_) backoff_->Reset();
  Later(world_.loop.now() + backoff_->Next(), [this] { OpenSession(); });
}

void SimRank::OnStart(const std::shared_ptr<Session>& session, Epoch epoch) {
  if (session != session_) return;
  session_started_ = true;
  // Ends a wait for what stages of a former epoch were to send.
  orders_.push_back(Started{epoch});
  if (busy_ && waits_ != Waits::kNothing) FailStep("interrupted while waiting for another stage");
  RunOrders();
}

void SimRank::OnPlan(const std::shared_ptr<Session>& session, const std::shared_ptr<const StepPlan>& plan) {
  if (session != session_) return;
  orders_.push_back(plan);
  RunOrders();
}

void SimRank::RunOrders() {
  while (!busy_ && session_ != nullptr && !orders_.empty()) {
    const Order order = std::move(orders_.front());
    orders_.pop_front();
    if (const Started* started = std::get_if<Started>(&order)) {
      Start(started->epoch);
    } else if (std::holds_alternative<ReportAsked>(order)) {
      report_asked_ = false;
      if (broken_) continue;
      StepResult result{.epoch = epoch_, .stage = info_.stage};
      pager_->Report(&result, world_.loop.now());
      Answer(std::move(result));
    } else {
      plan_ = std::get<std::shared_ptr<const StepPlan>>(order);
      if (plan_->epoch != epoch_) continue;
      result_ = StepResult{.epoch = plan_->epoch, .plan = plan_->id, .stage = info_.stage};
      if (broken_) {
        result_.status = absl::UnavailableError("an earlier error stopped this rank; it waits for a new epoch");
        Answer(std::move(result_));
        continue;
      }
      BeginStep();
    }
  }
}

void SimRank::Start(Epoch epoch) {
  world_.Say("stage ", Value(info_.stage), " starts epoch ", Value(epoch));
  pager_->Reset();
  epoch_ = epoch;
  link_lost_ = false;
  broken_ = false;
  const auto latency = world_.scenario.pace.latency;
  if (to_next_ != nullptr) to_next_->Break();
  if (to_first_ != nullptr) to_first_->Break();
  to_next_ = to_first_ = nullptr;
  const int32_t stage = Value(info_.stage);
  if (stage + 1 < info_.stages) {
    if (!ranks_[stage + 1]->up()) broken_ = true;
    to_next_ = std::make_shared<Pipe>(world_.loop, entropy_->Fork("to next"), latency);
  } else if (stage > 0) {
    to_first_ = std::make_shared<Pipe>(world_.loop, entropy_->Fork("to first"), latency);
  }
}

void SimRank::Answer(StepResult result) {
  if (session_ == nullptr) return;
  session_->to_coordinator->Send([this, session = session_, result = std::move(result)]() mutable {
    cluster_.OnResult(session, std::move(result));
  });
}

// ---- steps

bool SimRank::Poisoned(const StepPlan& plan) const {
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlanSequence& s = plan.sequences[i];
    if (pager_->IsLost(i)) continue;
    for (const Arrival& arrival : world_.scenario.arrivals) {
      if (RequestId{arrival.id} != s.request || arrival.poison_stage != Value(info_.stage)) continue;
      const int32_t end = s.start + static_cast<int32_t>(s.tokens.size());
      if (s.start <= arrival.poison_position && arrival.poison_position < end) return true;
    }
  }
  return false;
}

void SimRank::BeginStep() {
  busy_ = true;
  ++step_;
  if (Value(info_.stage) == 0 && pager_->AwaitsSample(*plan_)) {
    ++world_.ledger.late_samples;
    waits_ = Waits::kSamples;
    if (link_lost_) return FailStep("the last stage is gone");
    return;
  }
  OpenPlan();
}

void SimRank::OpenPlan() {
  waits_ = Waits::kNothing;
  pager_->Open(*plan_, world_.loop.now());
  if (Value(info_.stage) == 0 || plan_->tokens() == 0) {
    return ComputeStep(
        {plan_->epoch, plan_->id, Value(info_.stage) == 0 ? pager_->Embed() : std::vector<uint64_t>(), {}, {}});
  }
  waits_ = Waits::kActivations;
  if (link_lost_) return FailStep("the previous pipeline stage is gone");
  const absl::Duration most = world_.scenario.options.rank_timeout;
  Later(world_.loop.now() + most, [this, step = step_] {
    if (step == step_ && waits_ == Waits::kActivations) FailStep("no activations in time");
  });
  // They may be here already.
  for (StageMessage& message : std::exchange(arrived_, {})) OnStageMessage(std::move(message));
}

void SimRank::OnStageMessage(StageMessage message) {
  if (!up()) return;
  if (message.epoch < epoch_) return;
  if (Value(info_.stage) == 0) {
    if (message.epoch != epoch_) return;
    pager_->TakeSamples(message.plan, message.samples);
    if (waits_ == Waits::kSamples && !pager_->AwaitsSample(*plan_)) OpenPlan();
    return;
  }
  if (waits_ == Waits::kActivations && message.epoch == epoch_ && message.plan == plan_->id) {
    waits_ = Waits::kNothing;
    return ComputeStep(std::move(message));
  }
  const bool older = waits_ == Waits::kActivations && message.epoch == epoch_ && message.plan < plan_->id;
  if (!older) arrived_.push_back(std::move(message));
}

void SimRank::ComputeStep(StageMessage input) {
  for (const size_t index : input.lost) pager_->MarkLost(index);
  if (Poisoned(*plan_)) {
    world_.Say("stage ", Value(info_.stage), " computes a poison");
    return Later(world_.loop.now() + world_.scenario.pace.step,
                 [this] { Crash(DrawTime(*entropy_, absl::Milliseconds(50), absl::Milliseconds(800))); });
  }
  const auto rows = static_cast<int32_t>(input.rows.size());
  if (rows > 0) pager_->RunLayers(&input.rows);
  output_ = {plan_->epoch, plan_->id, {}, {}, {}};
  if (rows > 0 && Value(info_.stage) + 1 == info_.stages) {
    result_.sampled = pager_->Sample(*plan_, input.rows);
    output_.samples = result_.sampled;
  } else if (rows > 0) {
    for (size_t i = 0; i < plan_->sequences.size(); ++i) {
      if (pager_->IsLost(i)) output_.lost.push_back(i);
    }
    output_.rows = std::move(input.rows);
  }
  const Pace& pace = world_.scenario.pace;
  absl::Duration time = pace.step + rows * (info_.layer_end - info_.layer_begin) * pace.row;
  if (world_.loop.now() < slow_until_) time *= slow_times_;
  result_.run_us = absl::ToInt64Microseconds(time);
  Later(std::max(world_.loop.now(), pager_->pool().now()) + time, [this, step = step_] {
    if (step == step_) EndStep();
  });
}

void SimRank::EndStep() {
  const int32_t stage = Value(info_.stage);
  if (plan_->tokens() > 0 && !session_ended_) {
    if (to_next_ != nullptr) {
      if (to_next_->broken()) return FailStep("activations did not reach the next stage");
      SendToStage(ranks_[stage + 1], &to_next_, std::move(output_));
    } else if (to_first_ != nullptr) {
      SendToStage(ranks_[0], &to_first_, std::move(output_));
    }
  }
  busy_ = false;
  pager_->Close(&result_, world_.loop.now());
  if (session_ended_) {
    session_ended_ = false;
    pager_->Reset();
    if (session_started_) backoff_->Reset();
    return Later(world_.loop.now() + backoff_->Next(), [this] { OpenSession(); });
  }
  Answer(std::move(result_));
  RunOrders();
}

// The step cannot end; its result says so, and the rank waits for a new epoch.
void SimRank::FailStep(const std::string& why) {
  world_.Say("stage ", Value(info_.stage), " fails plan ", Value(plan_->id), ": ", why);
  waits_ = Waits::kNothing;
  busy_ = false;
  ++step_;
  broken_ = true;
  result_.status = absl::UnavailableError(why);
  result_.sampled.clear();
  pager_->Close(&result_, world_.loop.now());
  Answer(std::move(result_));
  Later(world_.loop.now(), [this] { RunOrders(); });
}

}  // namespace interlace::sim
