#include "coordinator/fetch_answers.h"

#include <algorithm>
#include <utility>

namespace interlace {

std::optional<FetchAnswers::Joint> FetchAnswers::Take(StageId stage, int32_t stage_rank, const FetchAnswer& answer) {
  if (stage_ranks_ == 1) return Joint{answer, {}};
  const auto it = heard_.try_emplace({answer.block, stage}, Heard(stage_ranks_)).first;
  Heard& heard = it->second;
  heard[static_cast<size_t>(stage_rank)].push_back(answer);
  if (std::any_of(heard.begin(), heard.end(), [](const auto& of_rank) { return of_rank.empty(); })) return std::nullopt;
  Joint joint{heard[0].front(), {}};
  LayerSet anywhere;
  for (std::deque<FetchAnswer>& of_rank : heard) {
    const FetchAnswer one = std::move(of_rank.front());
    of_rank.pop_front();
    joint.answer.failed |= one.failed;
    anywhere |= one.arrived;
  }
  joint.answer.arrived = anywhere - joint.answer.failed;
  joint.uneven = anywhere & joint.answer.failed;
  if (std::all_of(heard.begin(), heard.end(), [](const auto& of_rank) { return of_rank.empty(); })) heard_.erase(it);
  return joint;
}

}  // namespace interlace
