// What happens to a SimRank from outside.
#include <algorithm>

#include "tests/sim/sim_cluster.h"
#include "tests/sim/sim_rank.h"

namespace interlace::sim {
namespace {

constexpr absl::Duration kSilence = absl::Seconds(2);

}  // namespace

// ---- links between stages

void SimRank::SendToStage(SimRank* rank, std::shared_ptr<Pipe>* pipe, StageMessage message) {
  (*pipe)->Send([this, rank, life = rank->life_, message = std::move(message)]() mutable {
    if (rank->life_ != life || !rank->up()) return;
    rank->Later(world_.loop.now(),
                [rank, message = std::move(message)]() mutable { rank->OnStageMessage(std::move(message)); });
  });
}

void SimRank::OnLinkLost(Epoch epoch) {
  if (!up() || epoch != epoch_) return;
  link_lost_ = true;
  if (to_next_ != nullptr) to_next_->Break();
  if (to_first_ != nullptr) to_first_->Break();
  if (waits_ != Waits::kNothing) FailStep("another stage is gone");
}

void SimRank::BreakLink() {
  if (!up() || to_next_ == nullptr) return;
  to_next_->Break();
  SimRank* const next = ranks_[Value(info_.stage) + 1];
  next->Later(world_.loop.now() + absl::Milliseconds(1), [next, epoch = epoch_] { next->OnLinkLost(epoch); });
}

void SimRank::ClogLink(absl::Duration time) {
  if (to_next_ != nullptr) to_next_->ClogUntil(world_.loop.now() + time);
}

// ---- other faults

void SimRank::Crash(absl::Duration until_boot) {
  if (!up()) return;
  world_.Say("stage ", Value(info_.stage), " dies");
  ++world_.ledger.crashes;
  ++life_;
  const Epoch epoch = epoch_;
  pager_.reset();
  tiers_.reset();
  for (SimTier* disk : disks_) disk->LoseLastWrites(static_cast<int32_t>(Draw(*entropy_, 0, 8)));
  if (const std::shared_ptr<Session> session = std::exchange(session_, nullptr)) {
    session->over_for_rank = true;
    session->to_rank->Break();
    // What was said before the death still arrives; then the end of the connection does.
    session->to_coordinator->Send([this, session] { cluster_.OnGone(session, "its stream ended"); });
  }
  orders_.clear();
  arrived_.clear();
  busy_ = report_asked_ = link_lost_ = session_ended_ = false;
  waits_ = Waits::kNothing;
  broken_ = true;
  epoch_ = Epoch{};
  plan_ = nullptr;
  if (to_next_ != nullptr) to_next_->Break();
  if (to_first_ != nullptr) to_first_->Break();
  to_next_ = to_first_ = nullptr;
  for (SimRank* other : ranks_) {
    if (other == this || !other->up()) continue;
    other->Later(world_.loop.now() + DrawTime(*entropy_, absl::Microseconds(10), absl::Milliseconds(2)),
                 [other, epoch] { other->OnLinkLost(epoch); });
  }
  stopped_until_ = absl::InfinitePast();
  world_.loop.After(until_boot, [this] { Boot(); });
}

void SimRank::BreakStream() {
  const std::shared_ptr<Session> session = session_;
  if (session == nullptr) return;
  session->to_coordinator->Break();
  session->to_rank->Break();
  world_.loop.After(DrawTime(*entropy_, absl::Microseconds(10), absl::Milliseconds(5)),
                    [this, session] { cluster_.OnGone(session, "its stream ended"); });
  Later(world_.loop.now() + DrawTime(*entropy_, absl::Microseconds(10), absl::Milliseconds(5)),
        [this, session] { OnClosed(session, "the stream broke"); });
}

void SimRank::Partition(absl::Duration time) {
  const absl::Time until = world_.loop.now() + time;
  partitioned_until_ = std::max(partitioned_until_, until);
  const std::shared_ptr<Session> session = session_;
  if (session == nullptr) return;
  session->to_rank->ClogUntil(until);
  session->to_coordinator->ClogUntil(until);
  if (time < kSilence) return;
  const absl::Duration noticed = kSilence + DrawTime(*entropy_, absl::ZeroDuration(), absl::Milliseconds(500));
  world_.loop.After(noticed, [this, session] {
    session->to_coordinator->Break();
    cluster_.OnGone(session, "the rank was silent for 2s");
  });
  Later(world_.loop.now() + kSilence, [this, session] { OnClosed(session, "the coordinator was silent for 2s"); });
}

void SimRank::Stop(absl::Duration time) {
  if (!up() || world_.loop.now() < stopped_until_) return;
  stopped_until_ = world_.loop.now() + time;
  if (tiers_ != nullptr) tiers_->StopUntil(stopped_until_);
  const std::shared_ptr<Session> session = session_;
  if (session == nullptr) return;
  session->to_rank->ClogUntil(stopped_until_);
  if (time < kSilence) return;
  world_.loop.After(kSilence + DrawTime(*entropy_, absl::ZeroDuration(), absl::Milliseconds(500)),
                    [this, session] { cluster_.OnGone(session, "the rank was silent for 2s"); });
}

void SimRank::Slow(absl::Duration time, int32_t times) {
  slow_until_ = world_.loop.now() + time;
  slow_times_ = times;
}

}  // namespace interlace::sim
