#include "coordinator/plan_links.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"

namespace interlace {
namespace {

constexpr size_t kMostDials = 64;              // that wait at a stage
constexpr size_t kMostTasks = 4 * kMostDials;  // with those that hang up, which is done before the next dial

}  // namespace

PlanLinks::PlanLinks(Transport& transport, int32_t stages, Clock& clock, Metrics& metrics, Events events)
    : transport_(transport),
      clock_(clock),
      strangers_(metrics.counter("interlace_stale_messages_total", {{"kind", "link"}})),
      events_(std::move(events)) {
  transport_.Listen(kResultChannel, [this, gate = gate_](Message message) {
    if (!gate->TryEnter()) return;
    Take(message);
    gate->Leave();
  });
  transport_.OnPeerLost([this, gate = gate_](PeerId peer, absl::Status why) {
    if (!gate->TryEnter()) return;
    Lose(peer, why);
    gate->Leave();
  });
  for (int32_t stage = 0; stage < stages; ++stage) {
    tasks_.push_back(std::make_unique<BoundedQueue<Task>>(kMostTasks));
    threads_.emplace_back("links", [this, tasks = tasks_.back().get()] { Run(*tasks); });
  }
}

PlanLinks::~PlanLinks() { Stop(); }

void PlanLinks::Stop() {
  gate_->Close();
  for (const auto& tasks : tasks_) tasks->Close();
  {
    absl::MutexLock lock(&mutex_);
    links_.clear();  // nobody waits for the dials that are left
    by_peer_.clear();
  }
  for (Thread& thread : threads_) {
    if (thread.joinable()) thread.Join();
  }
}

bool PlanLinks::Open(LinkId id, int32_t stage, std::string address, std::string session) {
  BoundedQueue<Task>& tasks = *tasks_[static_cast<size_t>(stage)];
  absl::MutexLock lock(&mutex_);
  if (tasks.size() >= kMostDials) return false;
  links_[id] = {.stage = stage, .session = std::move(session), .peer = std::nullopt};
  return tasks.TryPush({.id = id, .address = std::move(address), .hang_up = std::nullopt});
}

void PlanLinks::Close(LinkId id) {
  absl::MutexLock lock(&mutex_);
  const auto link = links_.find(id);
  if (link == links_.end()) return;
  if (link->second.peer) {
    by_peer_.erase(*link->second.peer);
    HangUp(link->second.stage, *link->second.peer);
  }
  links_.erase(link);
}

bool PlanLinks::Wanted(LinkId id) {
  absl::MutexLock lock(&mutex_);
  return links_.contains(id);
}

void PlanLinks::Run(BoundedQueue<Task>& tasks) {
  while (const std::optional<Task> task = tasks.Pop()) {
    if (task->hang_up) {
      transport_.Close(*task->hang_up);
    } else if (Wanted(task->id)) {
      Connect(*task);
    }
  }
}

void PlanLinks::Connect(const Task& task) {
  const absl::StatusOr<PeerId> peer = transport_.Connect(task.address);
  bool wanted = false;
  {
    absl::MutexLock lock(&mutex_);
    const auto link = links_.find(task.id);
    wanted = link != links_.end();
    if (wanted && peer.ok()) {
      link->second.peer = *peer;
      by_peer_[*peer] = task.id;
    } else if (wanted) {
      links_.erase(link);
    }
  }
  if (!wanted) {
    if (peer.ok()) transport_.Close(*peer);
    return;
  }
  if (!gate_->TryEnter()) return;
  if (peer.ok()) {
    events_.opened(task.id, absl::OkStatus());
  } else {
    events_.opened(task.id, absl::UnavailableError(absl::StrCat(
                                "the coordinator cannot reach this rank's transport: ", peer.status().message(),
                                "; set transport.host of the rank to an address that the coordinator reaches")));
  }
  gate_->Leave();
}

void PlanLinks::Send(LinkId id, SharedBytes order) {
  PeerId peer{};
  std::string session;
  {
    absl::MutexLock lock(&mutex_);
    const auto link = links_.find(id);
    if (link == links_.end() || !link->second.peer) return;
    peer = *link->second.peer;
    session = link->second.session;
  }
  transport_.Send(peer, kPlanChannel, std::move(session), {std::move(order)},
                  [this, gate = gate_, peer](absl::Status status) {
                    if (status.ok() || !gate->TryEnter()) return;
                    Lose(peer, status);
                    gate->Leave();
                  });
}

void PlanLinks::Lose(PeerId peer, const absl::Status& why) {
  LinkId id{};
  {
    absl::MutexLock lock(&mutex_);
    const auto found = by_peer_.find(peer);
    if (found == by_peer_.end()) return;
    id = found->second;
    by_peer_.erase(found);
    HangUp(links_.at(id).stage, peer);  // a message that did not leave ends a connection that may still be there
    links_.erase(id);
  }
  events_.lost(id, why);
}

void PlanLinks::Take(const Message& message) {
  std::optional<LinkId> id;
  std::optional<int64_t> more;  // dropped in silence before
  {
    absl::MutexLock lock(&mutex_);
    const auto found = by_peer_.find(message.from);
    if (found != by_peer_.end() && links_.at(found->second).session == message.header) {
      id = found->second;
    } else {
      more = told_.Pass(clock_.Now());
    }
  }
  if (id) return events_.result(*id, message.body);
  strangers_.Add();
  if (more) {
    LOG(WARNING) << "a result of no rank's session was dropped" << Field("peer", static_cast<uint64_t>(message.from))
                 << Field("bytes", message.body.size()) << Field("dropped_before_in_silence", *more);
  }
}

}  // namespace interlace
