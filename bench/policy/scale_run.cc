#include "bench/policy/scale_run.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <queue>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/policy/virtual_replica.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// Writes down when tokens come, and tells the router.
class ScaleSink final : public TokenSink {
 public:
  ScaleSink(ScaleRecord& record, int32_t fresh, ScaleRouter& router, Clock& clock, absl::Time begin)
      : record_(record), fresh_(fresh), router_(router), clock_(clock), begin_(begin) {}
  void OnTokens(absl::Span<const int32_t> tokens) override {
    const absl::Duration now = clock_.Now() - begin_;
    if (record_.tokens == 0) {
      record_.first = now;
      router_.OnFirstToken(record_.replica, fresh_);
    } else {
      record_.largest_gap = std::max(record_.largest_gap, now - record_.last);
    }
    record_.last = now;
    record_.tokens += static_cast<int32_t>(tokens.size());
  }
  void OnEnd(const RequestEnd& end) override {
    if (record_.tokens == 0) router_.OnFirstToken(record_.replica, fresh_);
    router_.OnEnd(record_.replica);
    record_.ok = end.status.ok();
    record_.cached = end.cached_tokens;
  }

 private:
  ScaleRecord& record_;
  const int32_t fresh_;  // tokens of the prompt that the router counts as queued
  ScaleRouter& router_;
  Clock& clock_;
  const absl::Time begin_;
};

// A replica and its scheduler. Owned by the cluster; thread: the run's.
struct Member {
  Member(const ScaleSetup& setup, const MachineLaw& law, const VirtualShape& shape, Clock& clock, Metrics& metrics)
      : replica(law, shape, clock), scheduler(setup.options, *setup.policy, clock, metrics, replica) {
    const RankInfo rank = replica.info();
    scheduler.OnFormed(Epoch{1}, {&rank, 1});
  }
  VirtualReplica replica;
  Scheduler scheduler;
};

class Cluster {
 public:
  Cluster(const ScaleSetup& setup, const VirtualShape& shape, size_t requests)
      : setup_(setup), router_(setup.route, setup.replicas, setup.trace_block), metrics_("scale") {
    outcome_.records.resize(requests);
    MachineLaw law;
    law.link = setup.device.link_bytes_per_second();
    law.of_plan = [this](const StepPlan& plan) {
      const double seconds = RooflineSeconds(setup_.model, setup_.device, plan.sequences);
      outcome_.busy_seconds += seconds;
      return seconds;
    };
    for (int32_t r = 0; r < setup.replicas; ++r) {
      members_.push_back(std::make_unique<Member>(setup, law, shape, clock_, metrics_));
    }
    next_.assign(members_.size(), absl::InfiniteFuture());
  }

  ScaleOutcome Run(const std::vector<TraceRow>& requests) {
    for (size_t next = 0; next < requests.size() || !results_.empty();) {
      const absl::Time arrival = next < requests.size() ? begin_ + requests[next].due : absl::InfiniteFuture();
      if (!results_.empty() && results_.top().first <= arrival) {
        TakeResult();
      } else {
        MoveTo(arrival);
        Admit(requests[next], next);
        ++next;
      }
    }
    for (const std::unique_ptr<Member>& member : members_) {
      CHECK_MSG(member->scheduler.idle(), "requests wait, and nothing will ever happen");
    }
    outcome_.elapsed = clock_.Now() - begin_;
    outcome_.parks = metrics_.Total("interlace_request_parks_total");
    outcome_.preemptions = metrics_.Total("vllm:num_preemptions_total");
    outcome_.stall_seconds = metrics_.Total("interlace_layer_stall_seconds_total");
    outcome_.steps = metrics_.Total("interlace_steps_total");
    return std::move(outcome_);
  }

 private:
  void MoveTo(absl::Time time) { clock_.Advance(std::max(absl::ZeroDuration(), time - clock_.Now())); }

  void TakeResult() {
    const auto [time, at] = results_.top();
    results_.pop();
    MoveTo(time);
    next_[at] = absl::InfiniteFuture();
    members_[at]->scheduler.OnResult(members_[at]->replica.Take());
    Step(at);
  }

  void Admit(const TraceRow& planned, size_t index) {
    ScaleRecord& record = outcome_.records[index];
    int32_t fresh = 0;
    record.replica = router_.Choose(planned.blocks, planned.input, &fresh);
    record.due = planned.due;
    record.prompt = planned.input;
    Request request{.id = RequestId{index + 1}, .max_tokens = planned.output};
    // The ids of blocks lie below 2^30; what is a prompt's own lies above.
    request.prompt = PromptOf(planned, setup_.trace_block, (1 << 30) + static_cast<int32_t>(index));
    request.arrival = clock_.Now();
    request.deadline = absl::InfiniteFuture();
    request.targets = setup_.targets;
    request.sink = std::make_shared<ScaleSink>(record, fresh, router_, clock_, begin_);
    const auto at = static_cast<size_t>(record.replica);
    members_[at]->scheduler.Admit(std::move(request));
    Step(at);
  }

  void Step(size_t at) {
    members_[at]->scheduler.RunOnce();
    const absl::Time next = members_[at]->replica.next();
    if (next == next_[at]) return;  // it stands in the queue already: results come one after another
    next_[at] = next;
    if (next < absl::InfiniteFuture()) results_.emplace(next, at);
  }

  const ScaleSetup& setup_;
  ManualClock clock_;
  const absl::Time begin_ = clock_.Now();
  ScaleRouter router_;
  Metrics metrics_;  // of all replicas together
  ScaleOutcome outcome_;
  std::vector<std::unique_ptr<Member>> members_;
  using Event = std::pair<absl::Time, size_t>;  // when the earliest result of which member is there
  std::priority_queue<Event, std::vector<Event>, std::greater<>> results_;
  std::vector<absl::Time> next_;  // by member: its event in the queue
};

// Room for one block of each layer, `tokens` tokens long in all.
absl::StatusOr<int32_t> ExtentsFor(const ScaleSetup& setup, int64_t tokens) {
  const int64_t extents = tokens / setup.block_tokens * setup.model.layers;
  if (extents > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--block-tokens ", setup.block_tokens, " makes ", extents, " extents of KV; take larger blocks"));
  }
  return static_cast<int32_t>(extents);
}

}  // namespace

absl::StatusOr<ScaleOutcome> RunAtScale(const ScaleSetup& setup, const ScaleLoad& load) {
  ASSIGN_OR_RETURN(const int64_t device_tokens, DeviceTokens(setup.model, setup.device));
  VirtualShape shape;
  shape.layers = setup.model.layers;
  shape.block_tokens = setup.block_tokens;
  shape.slot_bytes = setup.block_tokens * setup.model.kv_bytes();
  ASSIGN_OR_RETURN(shape.device_slots, ExtentsFor(setup, device_tokens));
  ASSIGN_OR_RETURN(shape.host_frames, ExtentsFor(setup, HostTokens(setup.model, setup.device)));
  for (const TraceRow& request : load.requests) {
    if (request.input + int64_t{request.output} + 2 * setup.options.chunk_tokens <= device_tokens) continue;
    return absl::FailedPreconditionError(absl::StrCat("a request of ", request.input, " + ", request.output,
                                                      " tokens does not fit a replica of ", device_tokens,
                                                      "; raise --devices"));
  }
  return Cluster(setup, shape, load.requests.size()).Run(load.requests);
}

}  // namespace interlace
