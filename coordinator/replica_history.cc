#include "coordinator/replica_history.h"

#include <algorithm>
#include <utility>

#include "kvstore/layer_set.h"

namespace interlace {
namespace {

void Count(const std::optional<bool>& met, TargetTally* tally) {
  if (met) ++(*met ? tally->met : tally->missed);
}

// The value below which `share` of them lie. Requires: there is one.
absl::Duration Quantile(std::vector<float>& values, double share) {
  const auto at = values.begin() + static_cast<ptrdiff_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return absl::Seconds(*at);
}

}  // namespace

void ReplicaHistory::OnTraffic(const LayerTraffic& traffic) {
  const int32_t layer = Value(traffic.layer);
  if (layer < 0 || layer >= LayerSet::kMaxLayers) return;
  if (layer >= static_cast<int32_t>(traffic_.size())) traffic_.resize(layer + 1);
  traffic_[layer].bytes_in += traffic.bytes_in;
  traffic_[layer].bytes_out += traffic.bytes_out;
  traffic_[layer].stall_us += traffic.stall_us;
}

ReplicaHistory::Second& ReplicaHistory::At(absl::Time now) {
  const int64_t number = std::max<int64_t>(0, absl::ToInt64Seconds(now - began_));
  Second& second = seconds_[number % seconds_.size()];
  if (second.number != number) second = {number, {}};
  return second;
}

void ReplicaHistory::OnStep(absl::Time now, absl::Duration took, int64_t positions) {
  step_seconds_[steps_++ % step_seconds_.size()] = static_cast<float>(absl::ToDoubleSeconds(took));
  positions_ += positions;
  At(now).counts.positions += positions;
}

void ReplicaHistory::OnTokens(absl::Time now, int64_t count) {
  if (count == 0) return;
  tokens_ += count;
  At(now).counts.tokens += count;
}

void ReplicaHistory::OnEnd(absl::Time now, RequestSnapshot ended) {
  Count(ended.met.ttft, &slo_.ttft);
  Count(ended.met.tpot, &slo_.tpot);
  Count(ended.met.largest_gap, &slo_.largest_gap);
  Count(ended.met.deadline, &slo_.deadline);
  if (ended.state == RequestState::kFinished) {
    ++slo_.finished;
    const TargetsMet& met = ended.met;
    const bool all = met.ttft.value_or(true) && met.tpot.value_or(true) && met.largest_gap.value_or(true) &&
                     met.deadline.value_or(true);
    slo_.goodput += all ? 1 : 0;
  } else {
    ++slo_.failed;
  }
  ended_.push_back({now, std::move(ended)});
  if (ended_.size() > ReplicaSnapshot::kMostEnded) ended_.pop_front();
}

void ReplicaHistory::Fill(absl::Time now, ReplicaSnapshot* snapshot) const {
  snapshot->uptime = now - began_;
  snapshot->steps = steps_;
  snapshot->tokens = tokens_;
  snapshot->positions = positions_;
  snapshot->slo = slo_;
  for (size_t l = 0; l < std::min(traffic_.size(), snapshot->by_layer.size()); ++l) {
    LayerSnapshot& layer = snapshot->by_layer[l];
    layer.bytes_in = traffic_[l].bytes_in;
    layer.bytes_out = traffic_[l].bytes_out;
    layer.stall = absl::Microseconds(traffic_[l].stall_us);
  }
  const auto known = std::min<int64_t>(steps_, static_cast<int64_t>(step_seconds_.size()));
  if (known > 0) {
    std::vector<float> steps(step_seconds_.begin(), step_seconds_.begin() + known);
    snapshot->step_p50 = Quantile(steps, 0.5);
    snapshot->step_p95 = Quantile(steps, 0.95);
  }
  const int64_t present = absl::ToInt64Seconds(now - began_);  // it is not over
  for (int64_t number = std::max<int64_t>(0, present - ReplicaSnapshot::kSeconds); number < present; ++number) {
    const Second& second = seconds_[number % seconds_.size()];
    snapshot->seconds.push_back(second.number == number ? second.counts : SecondSnapshot{});
  }
  for (auto it = ended_.rbegin(); it != ended_.rend(); ++it) {
    snapshot->ended.push_back(it->request);
    snapshot->ended.back().ended = now - it->at;
  }
}

}  // namespace interlace
