#include "bench/policy/virtual_replica.h"

#include <algorithm>
#include <cmath>
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

double MachineLaw::Compute(const StepWork& work, double bytes) const {
  if (work.rows == 0) return 0;
  return fixed + row * static_cast<double>(work.rows) +
         row_beyond * static_cast<double>(std::max<int64_t>(0, work.rows - kKnee)) +
         context * static_cast<double>(work.context) + product * static_cast<double>(work.products) + moved * bytes;
}

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
  if (shape_.tier != nullptr) rank.tiers = {"remote"};
  return rank;
}

void VirtualReplica::Trace(absl::string_view kind, RequestId request, int32_t first, int32_t blocks, int32_t layers) {
  if (trace_ == nullptr || blocks == 0) return;
  if (!trace_->empty() && layers > 0) {  // the next block of the same operation
    MemoryOperation& last = trace_->back();
    if (last.kind == kind && last.at == clock_.Now() - began_ && last.layers == layers &&
        last.request == static_cast<int64_t>(Value(request)) - 1 && last.first + last.blocks == first) {
      last.blocks += blocks;
      return;
    }
  }
  trace_->push_back(
      {clock_.Now() - began_, std::string(kind), static_cast<int64_t>(Value(request)) - 1, first, blocks, layers});
}

void VirtualReplica::Move(const BlockMove& move) {
  if (move.kind == MoveKind::kCopyIn) traffic_.in += move.layers.size();
  if (move.kind == MoveKind::kCopyOut) traffic_.out += move.layers.size();
  if (move.kind == MoveKind::kFetchHost || move.kind == MoveKind::kFetchDevice) {
    fetched_.push_back({move.block, move.layers, {}});
  }
  if (trace_ == nullptr) return;
  const auto sealed = sealed_by_.find(move.block);
  if (sealed == sealed_by_.end()) return;
  Trace(MoveKindName(move.kind), sealed->second.first, sealed->second.second, 1, move.layers.size());
}

// Blocks leave the device at once in the layers that are not kept.
void VirtualReplica::Seal(RequestId request, const SealedNames& names) {
  Known& known = known_[request];
  const auto count = static_cast<int32_t>(names.ids.size());
  const int32_t streamed = shape_.layers - known.kept.size();
  traffic_.out += int64_t{count} * streamed;
  known.sealed = names.first + count;
  if (shape_.tier != nullptr) leaving_.insert(leaving_.end(), names.ids.begin(), names.ids.end());
  if (trace_ == nullptr) return;
  if (streamed > 0) Trace("leave", request, names.first, count, streamed);
  for (int32_t i = 0; i < count; ++i) sealed_by_[names.ids[i]] = {request, names.first + i};
}

// What the next step takes over what it should.
double VirtualReplica::Noise() {
  if (law_.noise <= 0) return 1;
  const auto uniform = [&] { return (static_cast<double>(entropy_->Next() >> 11) + 1) / 9007199254740993.0; };
  const double radius = std::sqrt(-2 * std::log(uniform()));
  return std::exp(law_.noise * radius * std::cos(6.283185307179586 * uniform()));
}

void VirtualReplica::Answer(absl::Time at, StepResult result) {
  const auto after = std::upper_bound(results_.begin(), results_.end(), at,
                                      [](absl::Time time, const auto& known) { return time < known.first; });
  results_.emplace(after, at, std::move(result));
}

// What the tier is asked, and what is fetched of it.
void VirtualReplica::Probe(const StepPlan& plan) {
  if (shape_.tier == nullptr) return;
  const VirtualTier& tier = *shape_.tier;
  if (!plan.probes.empty()) {
    const absl::Time at = clock_.Now() + tier.answer;
    StepResult answers{.epoch = plan.epoch};
    for (const interlace::Probe& probe : plan.probes) {
      int32_t held = 0;
      for (const BlockId& block : probe.blocks) {
        const auto found = tier.there.find(block);
        if (found == tier.there.end() || found->second > at) break;
        ++held;
      }
      answers.probed.push_back({probe.request, held});
    }
    Answer(at, std::move(answers));
  }
  if (fetched_.empty()) return;
  int64_t extents = 0;
  for (const FetchAnswer& block : fetched_) extents += block.arrived.size();
  const double seconds = static_cast<double>(extents * shape_.slot_bytes) / tier.bytes_per_second;
  tier_in_ = std::max(tier_in_, clock_.Now()) + absl::Seconds(seconds);
  StepResult arrived{.epoch = plan.epoch};
  arrived.fetched = std::exchange(fetched_, {});
  Answer(tier_in_ + tier.answer, std::move(arrived));
}

// The last layer's part leaves when the step has ended.
void VirtualReplica::Offer(absl::Time began, absl::Time ended) {
  if (leaving_.empty()) return;
  VirtualTier& tier = *shape_.tier;
  const double bytes = static_cast<double>(leaving_.size()) * shape_.layers * static_cast<double>(shape_.slot_bytes);
  const absl::Duration all = absl::Seconds(bytes / tier.bytes_per_second);
  tier_out_ = std::max(std::max(tier_out_, began) + all, ended + all / shape_.layers);
  for (const BlockId& block : leaving_) tier.there.try_emplace(block, tier_out_);
  leaving_.clear();
}

void VirtualReplica::Send(const StepPlan& plan) {
  StepResult result{.epoch = plan.epoch, .plan = plan.id};
  const KvTraffic before = traffic_;
  for (const Release& release : plan.releases) {
    if (release.names) Seal(release.request, *release.names);
    Trace("release", release.request, 0, known_[release.request].sealed, shape_.layers);
    known_.erase(release.request);
  }
  for (const SequenceChange& change : plan.changes) {
    if (change.kept) known_[change.request].kept = *change.kept;
    if (change.names) Seal(change.request, *change.names);
  }
  for (const BlockMove& move : plan.moves) Move(move);
  StepWork work;
  for (const PlanSequence& s : plan.sequences) {
    Known& known = known_[s.request];
    if (s.opening) {
      known.sealed = static_cast<int32_t>(s.opening->adopted.size());
      if (!opened_.insert(s.request).second && known.sealed > 0) ++traffic_.resumed;
    }
    if (s.kept) known.kept = *s.kept;
    const int32_t streamed = shape_.layers - known.kept.size();
    traffic_.in += int64_t{known.sealed} * streamed;
    traffic_.streamed += int64_t{known.sealed} * streamed;
    if (streamed > 0) Trace("stream", s.request, 0, known.sealed, streamed);
    if (s.names) Seal(s.request, *s.names);
    work.Add(s.start, static_cast<int32_t>(s.tokens.size()));
    if (s.sample) result.sampled.push_back({s.request, s.attempt, s.sample_index, 7, {}});
  }
  result.bytes_in = (traffic_.in - before.in) * shape_.slot_bytes;
  result.bytes_out = (traffic_.out - before.out) * shape_.slot_bytes;
  const auto moved = static_cast<double>(result.bytes_in + result.bytes_out);
  const double compute = work.rows > 0 && law_.of_plan ? law_.of_plan(plan) : law_.Compute(work, moved);
  const double link_in = static_cast<double>(result.bytes_in) / law_.link;
  const double noise = Noise();
  const double took = noise * std::max(compute, link_in);
  result.run_us = static_cast<int64_t>(1e6 * took);
  result.stall_us = static_cast<int64_t>(1e6 * (took - noise * compute));
  result.transfer_in_us = static_cast<int64_t>(1e6 * link_in);
  result.transfer_out_us = static_cast<int64_t>(1e6 * static_cast<double>(result.bytes_out) / law_.link);
  const absl::Time began = std::max(free_, clock_.Now());
  free_ = began + absl::Seconds(took * (1 + law_.unreported));
  Answer(free_, std::move(result));
  Probe(plan);
  Offer(began, free_);
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
  VirtualReplica replica(setup.law, setup.shape, clock, setup.trace);
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
  outcome.stall = metrics.Total("interlace_layer_stall_seconds_total");
  outcome.traffic = replica.traffic();
  return outcome;
}

}  // namespace interlace
