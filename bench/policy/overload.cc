#include "bench/policy/overload.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "common/entropy.h"

namespace interlace {
namespace {

std::vector<PlannedRequest> Arrivals(const OverloadLoad& load) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(load.seed);
  std::vector<PlannedRequest> planned;
  for (double at = 0;;) {
    at += -std::log(1 - static_cast<double>(entropy->Next() >> 11) / 9007199254740992.0) / load.rate;
    if (absl::Seconds(at) > load.duration) return planned;
    PlannedRequest& request = planned.emplace_back();
    request.due = absl::Seconds(at);
    request.expected_prompt_tokens = load.prompt;
    request.max_tokens = load.answer;
    request.targets.ttft = load.ttft;
    request.targets.tpot = load.tpot;
  }
}

// Of an answer that came.
absl::Duration TimePerToken(const RequestRecord& r) {
  const auto gaps = static_cast<int64_t>(r.chunks.size()) - 1;
  return gaps == 0 ? absl::ZeroDuration() : (r.chunks.back() - r.chunks[0]) / gaps;
}

bool InTime(const RequestRecord& r, const OverloadLoad& load) {
  return r.outcome == LoadOutcome::kOk && !r.chunks.empty() && r.chunks[0] - r.sent <= load.ttft &&
         TimePerToken(r) <= load.tpot;
}

double Quantile99(std::vector<double> of) {
  if (of.empty()) return 0;
  std::sort(of.begin(), of.end());
  return of[static_cast<size_t>(0.99 * static_cast<double>(of.size() - 1))];
}

}  // namespace

double ComputeLimit(const MachineLaw& law, const OverloadLoad& load) {
  const double prompt = load.prompt, answer = load.answer;
  const double prefill = law.row * prompt + law.product * prompt * prompt / 2 + law.fixed * std::ceil(prompt / 256);
  const double token = law.row + law.context * (prompt + answer / 2);  // of one stream, weights not counted
  return 1 / (prefill + answer * token);
}

OverloadPoint RunOverload(const Policy& policy, bool shed, const OverloadLoad& load) {
  VirtualRun setup;
  setup.policy = &policy;
  setup.law = load.law;
  setup.options.context = 1 << 20;
  setup.options.max_running = 256;
  setup.options.shed = shed;
  setup.shape.device_slots = static_cast<int32_t>(load.device_bytes / static_cast<double>(setup.shape.slot_bytes));
  const VirtualOutcome outcome = RunVirtually(setup, Arrivals(load));
  const absl::Duration begin = load.duration / 5;
  const double seconds = absl::ToDoubleSeconds(load.duration - begin);
  OverloadPoint point;
  std::vector<double> ttft, tpot;
  double all = 0, early = 0;
  for (const RequestRecord& r : outcome.run.records) {
    if (r.sent < begin) continue;
    ++all;
    point.goodput += InTime(r, load) ? 1 / seconds : 0;
    point.served += r.outcome == LoadOutcome::kOk ? 1 / seconds : 0;
    point.shed += r.outcome == LoadOutcome::kShed ? 1 : 0;
    point.failed += r.outcome != LoadOutcome::kOk && r.outcome != LoadOutcome::kShed ? 1 : 0;
    early += r.outcome == LoadOutcome::kShed && r.ended - r.sent <= load.ttft / 10 ? 1 : 0;
    if (r.outcome != LoadOutcome::kOk || r.chunks.empty()) continue;
    ttft.push_back(absl::ToDoubleSeconds(r.chunks[0] - r.sent));
    tpot.push_back(absl::ToDoubleSeconds(TimePerToken(r)));
  }
  point.early = point.shed > 0 ? early / point.shed : 0;
  point.shed /= std::max(1.0, all);
  point.failed /= std::max(1.0, all);
  point.ttft99 = Quantile99(std::move(ttft));
  point.tpot99 = Quantile99(std::move(tpot));
  return point;
}

}  // namespace interlace
