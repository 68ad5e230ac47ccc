#include "kvstore/transfer_queue.h"

#include "common/check.h"

namespace interlace {

void TransferQueue::Push(int lane, Urgency urgency, absl::Time deadline, MoveRef move) {
  const Rank rank{urgency, deadline, move};
  CHECK_MSG(places_.emplace(move, Place{lane, rank}).second, "a move was queued twice");
  lanes_[lane].insert(rank);
}

bool TransferQueue::BringForward(MoveRef move, absl::Time deadline) {
  auto it = places_.find(move);
  if (it == places_.end()) return false;
  Place& place = it->second;
  const Rank sooner{Urgency::kRead, deadline, move};
  if (!(sooner < place.rank)) return true;
  lanes_[place.lane].erase(place.rank);
  place.rank = sooner;
  lanes_[place.lane].insert(sooner);
  return true;
}

std::optional<TransferQueue::Chunk> TransferQueue::Take(absl::FunctionRef<bool(int lane)> open, int32_t most) {
  int first = -1;
  for (int lane = 0; lane < static_cast<int>(lanes_.size()); ++lane) {
    if (!open(static_cast<int>(lane)) || lanes_[lane].empty()) continue;
    if (first < 0 || *lanes_[lane].begin() < *lanes_[first].begin()) first = lane;
  }
  if (first < 0) return std::nullopt;
  std::set<Rank>& lane = lanes_[first];
  const Rank head = *lane.begin();
  Chunk chunk{first, {}};
  while (!lane.empty() && static_cast<int32_t>(chunk.moves.size()) < most) {
    const Rank& next = *lane.begin();
    const bool same =
        next.move.group == head.move.group && next.urgency == head.urgency && next.deadline == head.deadline;
    if (!same) break;
    chunk.moves.push_back(next.move);
    places_.erase(next.move);
    lane.erase(lane.begin());
  }
  return chunk;
}

bool TransferQueue::HasWork(absl::FunctionRef<bool(int lane)> open) const {
  for (size_t lane = 0; lane < lanes_.size(); ++lane) {
    if (open(static_cast<int>(lane)) && !lanes_[lane].empty()) return true;
  }
  return false;
}

}  // namespace interlace
