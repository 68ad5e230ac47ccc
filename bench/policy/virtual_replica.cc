#include "bench/policy/virtual_replica.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/metrics.h"
#include "coordinator/cost_model.h"

namespace interlace {
namespace {

// Writes down when tokens come.
class Recorder final : public TokenSink {
 public:
  Recorder(RequestRecord& record, Clock& clock, absl::Time begin) : record_(record), clock_(clock), begin_(begin) {}
  void OnTokens(absl::Span<const int32_t> tokens) override {
    record_.chunks.push_back(clock_.Now() - begin_);
    record_.chunk_tokens.push_back(static_cast<int32_t>(tokens.size()));
  }
  void OnEnd(const RequestEnd& end) override {
    record_.ended = clock_.Now() - begin_;
    record_.outcome = end.status.ok()                         ? LoadOutcome::kOk
                      : absl::IsResourceExhausted(end.status) ? LoadOutcome::kShed
                                                              : LoadOutcome::kFailed;
    record_.error = std::string(end.status.message());
    record_.prompt_tokens = end.prompt_tokens;
    record_.completion_tokens = end.completion_tokens;
    record_.cached_tokens = end.cached_tokens;
  }

 private:
  RequestRecord& record_;
  Clock& clock_;
  const absl::Time begin_;
};

}  // namespace

RankInfo VirtualReplica::info() const {
  RankInfo rank{.stages = 1, .model_digest = "virtual", .numerics = "virtual", .dtype = "BF16"};
  rank.layers = rank.layer_end = shape_.layers;
  rank.windows.assign(shape_.layers, 0);
  rank.vocab = 1 << 30;
  rank.kv_heads = rank.head_dim = 1;
  rank.heads = {0, 1};
  rank.block_tokens = shape_.block_tokens;
  rank.device_slots = shape_.device_slots;
  rank.host_frames = shape_.host_frames;
  rank.slot_bytes = shape_.slot_bytes;
  rank.step_tokens = 1 << 20;
  return rank;
}

void VirtualReplica::Send(const StepPlan& plan) {
  StepResult result{.epoch = plan.epoch, .plan = plan.id};
  for (const Release& release : plan.releases) known_.erase(release.request);
  for (const SequenceChange& change : plan.changes) {
    if (change.kept) known_[change.request].kept = *change.kept;
  }
  int64_t in = 0, out = 0;  // blocks of one layer
  for (const BlockMove& move : plan.moves) {
    if (move.kind == MoveKind::kCopyIn) in += move.layers.size();
    if (move.kind == MoveKind::kCopyOut) out += move.layers.size();
  }
  StepWork work;
  for (const PlanSequence& s : plan.sequences) {
    Known& known = known_[s.request];
    if (s.opening) known.sealed = static_cast<int32_t>(s.opening->adopted.size());
    if (s.kept) known.kept = *s.kept;
    const int32_t streamed = shape_.layers - known.kept.size();
    in += int64_t{known.sealed} * streamed;
    if (s.names) {
      out += static_cast<int64_t>(s.names->ids.size()) * streamed;
      known.sealed = s.names->first + static_cast<int32_t>(s.names->ids.size());
    }
    work.Add(s.start, static_cast<int32_t>(s.tokens.size()));
    if (s.sample) result.sampled.push_back({s.request, s.attempt, s.sample_index, 7, {}});
  }
  const double terms = law_.fixed + law_.row * static_cast<double>(work.rows) +
                       law_.context * static_cast<double>(work.context) +
                       law_.product * static_cast<double>(work.products);
  const double compute = work.rows == 0 ? 0 : law_.of_plan ? law_.of_plan(plan) : terms;
  const double link_in = static_cast<double>(in * shape_.slot_bytes) / law_.link;
  const double link_out = static_cast<double>(out * shape_.slot_bytes) / law_.link;
  const double took = std::max(compute, link_in);
  result.run_us = static_cast<int64_t>(1e6 * took);
  result.stall_us = static_cast<int64_t>(1e6 * (took - compute));
  result.bytes_in = in * shape_.slot_bytes;
  result.bytes_out = out * shape_.slot_bytes;
  result.transfer_in_us = static_cast<int64_t>(1e6 * link_in);
  result.transfer_out_us = static_cast<int64_t>(1e6 * link_out);
  free_ = std::max(free_, clock_.Now()) + absl::Seconds(took);
  results_.emplace_back(free_, std::move(result));
}

void VirtualReplica::Reset(const absl::Status& why) { CHECK_MSG(false, "a virtual replica is never lost"); }

StepResult VirtualReplica::Take() {
  StepResult result = std::move(results_.front().second);
  results_.pop_front();
  return result;
}

VirtualOutcome RunVirtually(const VirtualRun& setup, absl::Span<const PlannedRequest> requests) {
  VirtualOutcome outcome;
  LoadRun& run = outcome.run;
  run.label = std::string(setup.policy->name);
  run.records.resize(requests.size());
  ManualClock clock;
  const absl::Time begin = clock.Now();
  Metrics metrics("virtual");
  VirtualReplica replica(setup.law, setup.shape, clock);
  Scheduler scheduler(setup.options, *setup.policy, clock, metrics, replica);
  const RankInfo rank = replica.info();
  scheduler.OnFormed(Epoch{1}, {&rank, 1});
  int32_t fresh = 1;
  for (size_t next = 0; next < requests.size() || !scheduler.idle();) {
    const absl::Time arrival = next < requests.size() ? begin + requests[next].due : absl::InfiniteFuture();
    const absl::Time soonest = std::min({arrival, replica.next(), scheduler.NextWakeUp()});
    CHECK_MSG(soonest < absl::InfiniteFuture(), "requests wait, and nothing will ever happen");
    clock.Advance(std::max(absl::ZeroDuration(), soonest - clock.Now()));
    if (replica.next() <= soonest) scheduler.OnResult(replica.Take());
    for (; next < requests.size() && begin + requests[next].due <= clock.Now(); ++next) {
      const PlannedRequest& planned = requests[next];
      RequestRecord& record = run.records[next];
      record.index = static_cast<int64_t>(next);
      record.due = record.sent = planned.due;
      record.targets = planned.targets;
      Request request{.id = RequestId{next + 1}, .name = absl::StrCat("v", next)};
      request.prompt.assign(planned.expected_prompt_tokens, fresh++);
      request.max_tokens = planned.max_tokens;
      request.arrival = begin + planned.due;
      request.deadline = planned.deadline ? request.arrival + *planned.deadline : absl::InfiniteFuture();
      request.targets.ttft = planned.targets.ttft;
      request.targets.tpot = planned.targets.tpot;
      request.targets.largest_gap = planned.targets.largest_gap;
      request.sink = std::make_shared<Recorder>(record, clock, begin);
      scheduler.Admit(std::move(request));
    }
    scheduler.RunOnce();
  }
  run.duration = requests.empty() ? absl::ZeroDuration() : requests.back().due;
  run.elapsed = clock.Now() - begin;
  outcome.parks = metrics.Total("interlace_request_parks_total");
  return outcome;
}

}  // namespace interlace
