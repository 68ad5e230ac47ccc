// Router: requests that are to leave a replica which is there: it is drained, or has computed their prompt.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "coordinator/router/router.h"

namespace interlace {

absl::Status Router::DrainReplica(int32_t replica, bool drains) {
  if (replica < 0 || replica >= static_cast<int32_t>(draining_.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("replica: ", replica, " is none of them; they are 0 to ", draining_.size() - 1));
  }
  {
    absl::MutexLock lock(&mutex_);
    draining_[static_cast<size_t>(replica)] = drains;
    look_.reset();
  }
  replica_metrics_[static_cast<size_t>(replica)].draining.Set(drains ? 1 : 0);
  LOG(INFO) << (drains ? "a replica is drained" : "a replica takes requests again") << Field("replica", replica);
  options_.wake();
  return absl::OkStatus();
}

void Router::SendOn() {
  std::vector<RequestId> prefilled;
  bool drains = false;
  {
    absl::MutexLock lock(&mutex_);
    prefilled.swap(prefilled_);
    drains = std::find(draining_.begin(), draining_.end(), true) != draining_.end();
  }
  if (prefilled.empty() && !drains) return;
  const std::shared_ptr<const Look> look = drains ? LookAnew() : LookAround();
  SendToDecode(prefilled, *look);
  if (drains) SendAway(*look);
}

// Where nobody decodes, or nothing gets there, they go on where they are.
void Router::SendToDecode(absl::Span<const RequestId> prefilled, const Look& look) {
  std::vector<std::pair<RequestId, int32_t>> leaving;
  bool decodes = false;
  {
    absl::MutexLock lock(&mutex_);
    for (size_t r = 0; r < look.facts.size(); ++r) {
      decodes |= look.facts[r].ready && book_.replicas()[r].role != ReplicaRole::kPrefill;
    }
    for (const RequestId id : prefilled) {
      const auto open = open_.find(id);
      if (open == open_.end() || open->second.sink->choice_.part != RoutePart::kPrompt) continue;
      leaving.emplace_back(id, open->second.replica);
    }
  }
  for (const auto& [id, replica] : leaving) {
    if (decodes && look.shared) {
      Ask(id, replica, Move::kDecode);
    } else {
      CountWhole(decodes ? WholeCause::kNotShared : WholeCause::kNoDecode);
    }
  }
}

// Where nobody else is there, what runs on a drained replica ends there.
void Router::SendAway(const Look& look) {
  const bool others =
      std::any_of(look.facts.begin(), look.facts.end(), [](const ReplicaFacts& facts) { return facts.ready; });
  if (!others) return;
  std::vector<std::pair<RequestId, int32_t>> leaving;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [id, open] : open_) {
      if (!open.placed || open.stays || open.asked != Move::kLost) continue;
      if (draining_[static_cast<size_t>(open.replica)]) leaving.emplace_back(id, open.replica);
    }
  }
  std::sort(leaving.begin(), leaving.end());  // in the order in which they came
  for (const auto& [id, replica] : leaving) Ask(id, replica, Move::kDrain);
}

void Router::Ask(RequestId id, int32_t replica, Move move) {
  {
    absl::MutexLock lock(&mutex_);
    const auto open = open_.find(id);
    if (open == open_.end() || open->second.replica != replica || open->second.asked != Move::kLost) return;
    open->second.asked = move;
  }
  const absl::string_view why = move == Move::kDecode ? " has computed its prompt, and another one decodes"
                                                      : " is drained, and another one goes on";
  replicas_[static_cast<size_t>(replica)]->HandOver(id, absl::UnavailableError(absl::StrCat("replica ", replica, why)));
}

void Router::CountPart(const RouteChoice& choice) {
  if (!apart_) return;
  constexpr absl::string_view kParts[] = {"whole", "prompt", "answer"};
  metrics_.Add("interlace_router_parts_total", 1, {{"part", kParts[static_cast<size_t>(choice.part)]}});
  if (choice.cause != WholeCause::kNone) CountWhole(choice.cause);
  if (choice.part == RoutePart::kWhole) return;
  absl::MutexLock lock(&mutex_);
  said_ = {};
}

// A side that is missing is said once, until it is there again.
void Router::CountWhole(WholeCause cause) {
  metrics_.Add("interlace_router_whole_total", 1, {{"reason", NameOf(cause)}});
  if (cause != WholeCause::kNotShared && cause != WholeCause::kNoPrefill && cause != WholeCause::kNoDecode) return;
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(said_[static_cast<size_t>(cause)], true)) return;
  }
  LOG(WARNING) << "one replica does all of each request" << Field("reason", MeaningOf(cause));
}

}  // namespace interlace
