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
#include "coordinator/policy/pace.h"
#include "coordinator/resumed.h"
#include "coordinator/router/prefix_directory.h"
#include "coordinator/router/route_book.h"

namespace interlace {
namespace {

constexpr size_t kProgressStep = 64;  // requests

std::vector<ReplicaRole> RolesOf(const ScaleSetup& setup) {
  std::vector<ReplicaRole> roles(static_cast<size_t>(setup.replicas), ReplicaRole::kBoth);
  for (int32_t r = 0; setup.prefill > 0 && r < setup.replicas; ++r) {
    roles[static_cast<size_t>(r)] = r < setup.prefill ? ReplicaRole::kPrefill : ReplicaRole::kDecode;
  }
  return roles;
}

// What the Router decides with, without its threads and locks.
class ScaleRouter {
 public:
  explicit ScaleRouter(const ScaleSetup& setup)
      : tier_(setup.tier_bandwidth > 0),
        directory_(setup.replicas),
        book_(*setup.route, setup.replicas, RolesOf(setup)) {}

  struct Placed {
    RouteChoice choice;
    std::vector<BlockId> coming;
    ScalePrefix prefix;
  };
  Placed Choose(const Request& request, const ChainSeed& seed, absl::Span<const ReplicaFacts> facts, absl::Time now) {
    const BlockChain chain(seed);
    const auto block = static_cast<size_t>(seed.block_tokens);
    std::vector<int32_t> tokens = request.prompt;
    if (request.resumed != nullptr) {
      tokens.insert(tokens.end(), request.resumed->tokens.begin(), request.resumed->tokens.end());
    }
    std::vector<BlockId> ids;
    for (size_t end = block; end <= tokens.size(); end += block) {
      ids.push_back(
          chain.Next(ids.empty() ? BlockId{} : ids.back(), absl::MakeConstSpan(tokens).subspan(end - block, block)));
    }
    const int32_t lie = directory_.Match(ids, &held_);
    RouteAsked asked{.prompt = static_cast<int32_t>(tokens.size()), .block_tokens = seed.block_tokens};
    asked.slack = request.targets.ttft.value_or(kNominalTtft);
    asked.session = ids.empty() ? 0 : ids[0].high;
    asked.tier_shared = tier_;
    if (tier_) asked.shared = lie;
    asked.prompt_done = request.resumed != nullptr;
    asked.one_token = request.max_tokens == 1;
    Placed placed{book_.Choose(asked, facts, held_, now), {}, {}};
    const HeldPrefix& held = placed.choice.held;
    int32_t best = 0;
    for (const HeldPrefix& of : held_) best = std::max(best, of.blocks);
    const int32_t tokens_of_block = seed.block_tokens;
    placed.prefix = {std::max(lie, best) * tokens_of_block, best * tokens_of_block, held.blocks * tokens_of_block,
                     held.coming * tokens_of_block};
    placed.coming.assign(ids.begin() + (held.blocks - held.coming), ids.end());
    directory_.Expect(placed.choice.replica, placed.coming);
    return placed;
  }
  void OnFirstToken(const Placed& placed) {
    directory_.Forget(placed.choice.replica, placed.coming);
    book_.OnFirstToken(placed.choice);
  }
  void OnEnd(const Placed& placed, int32_t answer, absl::Time now) { book_.OnEnd(placed.choice, answer, now); }
  PrefixDirectory& directory() { return directory_; }

 private:
  const bool tier_;
  PrefixDirectory directory_;
  RouteBook book_;
  std::vector<HeldPrefix> held_;  // of the request being routed
};

// What is to be sent from one replica to another, by its sinks. Owned by the cluster.
struct ScaleMoves {
  std::vector<std::pair<RequestId, size_t>> prefilled;  // has its first token, at which replica
  std::vector<Request> moved;
};

// Writes down when tokens come, and tells the router.
class ScaleSink final : public TokenSink {
 public:
  ScaleSink(RequestId id, ScaleRecord& record, ScaleRouter& router, ScaleMoves& moves, Clock& clock, absl::Time begin)
      : id_(id), record_(record), router_(router), moves_(moves), clock_(clock), begin_(begin) {}
  void Begin(ScaleRouter::Placed placed) {
    placed_ = std::move(placed);
    here_ = 0;
  }
  void OnTokens(absl::Span<const int32_t> tokens) override {
    const absl::Duration now = clock_.Now() - begin_;
    if (here_ == 0) router_.OnFirstToken(placed_);
    if (here_ == 0 && placed_.choice.part == RoutePart::kPrompt) {
      moves_.prefilled.emplace_back(id_, static_cast<size_t>(placed_.choice.replica));
    }
    if (record_.tokens == 0) {
      record_.first = now;
    } else {
      record_.largest_gap = std::max(record_.largest_gap, now - record_.last);
    }
    record_.last = now;
    record_.tokens += static_cast<int32_t>(tokens.size());
    here_ += static_cast<int32_t>(tokens.size());
  }
  void OnEnd(const RequestEnd& end) override {
    Leave();
    record_.ok = end.status.ok();
    record_.cached = end.cached_tokens;
  }
  void OnHandedOver(Request request, const absl::Status&) override {
    Leave();
    record_.handed = true;
    moves_.moved.push_back(std::move(request));
  }

 private:
  void Leave() {
    if (here_ == 0) router_.OnFirstToken(placed_);
    router_.OnEnd(placed_, here_, clock_.Now());
  }

  const RequestId id_;
  ScaleRecord& record_;
  ScaleRouter& router_;
  ScaleMoves& moves_;
  Clock& clock_;
  const absl::Time begin_;
  ScaleRouter::Placed placed_;
  int32_t here_ = 0;  // tokens of the replica where it is
};

// A replica and its scheduler. Owned by the cluster; thread: the run's.
struct Member {
  Member(const Scheduler::Options& options, const Policy& policy, const MachineLaw& law, const VirtualShape& shape,
         Clock& clock, Metrics& metrics)
      : replica(law, shape, clock), scheduler(options, policy, clock, metrics, replica) {
    const RankInfo rank = replica.info();
    scheduler.OnFormed(Epoch{1}, {&rank, 1});
  }
  VirtualReplica replica;
  Scheduler scheduler;
};

class Cluster {
 public:
  Cluster(const ScaleSetup& setup, VirtualShape shape, size_t requests)
      : setup_(setup), router_(setup), metrics_("scale") {
    outcome_.records.resize(requests);
    tier_.bytes_per_second = setup.tier_bandwidth;
    if (setup.tier_bandwidth > 0) shape.tier = &tier_;
    MachineLaw law;
    law.link = setup.device.link_bytes_per_second();
    outcome_.busy_seconds.resize(static_cast<size_t>(setup.replicas));
    Scheduler::Options options = setup.options;
    options.hands_over = true;  // one of several
    for (int32_t r = 0; r < setup.replicas; ++r) {
      law.of_plan = [this, r](const StepPlan& plan) {
        const double seconds = RooflineSeconds(setup_.model, setup_.device, plan.sequences);
        outcome_.busy_seconds[static_cast<size_t>(r)] += seconds;
        return seconds;
      };
      options.kv_observer = &router_.directory().observer(r);
      members_.push_back(std::make_unique<Member>(options, *setup.policy, law, shape, clock_, metrics_));
    }
    facts_.resize(members_.size());
    next_.assign(members_.size(), absl::InfiniteFuture());
  }

  ScaleOutcome Run(const ScaleLoad& load, absl::FunctionRef<void(size_t)> progress) {
    const std::vector<TraceRow>& requests = load.requests;
    for (size_t next = 0; next < requests.size() || !results_.empty();) {
      const absl::Time arrival = next < requests.size() ? begin_ + requests[next].due : absl::InfiniteFuture();
      if (!results_.empty() && results_.top().first <= arrival) {
        TakeResult();
      } else {
        MoveTo(arrival);
        outcome_.records[next].known = load.known[next];
        Admit(requests[next], next);
        if (++next % kProgressStep == 0) progress(next);
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
    if (time != next_[at]) return;  // an earlier one came in between, and this one stands there again
    MoveTo(time);
    next_[at] = absl::InfiniteFuture();
    members_[at]->scheduler.OnResult(members_[at]->replica.Take());
    Step(at);
    SendOn();
  }

  void Admit(const TraceRow& planned, size_t index) {
    ScaleRecord& record = outcome_.records[index];
    record.due = planned.due;
    record.prompt = planned.input;
    Request request{.id = RequestId{index + 1}, .max_tokens = planned.output};
    // The ids of blocks lie below 2^30; what is a prompt's own lies above.
    request.prompt = PromptOf(planned, setup_.trace_block, (1 << 30) + static_cast<int32_t>(index));
    request.arrival = clock_.Now();
    request.deadline = absl::InfiniteFuture();
    request.targets = setup_.targets;
    request.sink = std::make_shared<ScaleSink>(request.id, record, router_, moves_, clock_, begin_);
    Place(std::move(request));
    SendOn();
  }

  void Place(Request request) {
    for (size_t m = 0; m < members_.size(); ++m) {
      const EngineLoad load = members_[m]->scheduler.Load();
      facts_[m] = {true, load.token_seconds, load.host_block_seconds, load.below_block_seconds};
    }
    ScaleRouter::Placed placed = router_.Choose(request, members_[0]->scheduler.shape()->seed, facts_, clock_.Now());
    const auto at = static_cast<size_t>(placed.choice.replica);
    ScaleRecord& record = outcome_.records[Value(request.id) - 1];
    record.replica = placed.choice.replica;
    if (request.resumed == nullptr) record.prefix = placed.prefix;
    static_cast<ScaleSink&>(*request.sink).Begin(std::move(placed));
    members_[at]->scheduler.Admit(std::move(request));
    Step(at);
  }

  // Requests whose prompt is computed leave for who decodes.
  void SendOn() {
    while (!moves_.prefilled.empty() || !moves_.moved.empty()) {
      const ScaleMoves moves = std::exchange(moves_, {});
      for (const auto& [id, at] : moves.prefilled) {
        members_[at]->scheduler.HandOver(id, absl::UnavailableError("another one decodes"));
        Step(at);
      }
      for (const Request& request : moves.moved) Place(request);
    }
  }

  void Step(size_t at) {
    members_[at]->scheduler.RunOnce();
    const absl::Time next = members_[at]->replica.next();
    if (next == next_[at]) return;  // it stands in the queue already
    next_[at] = next;
    if (next < absl::InfiniteFuture()) results_.emplace(next, at);
  }

  const ScaleSetup& setup_;
  ManualClock clock_;
  const absl::Time begin_ = clock_.Now();
  ScaleRouter router_;
  ScaleMoves moves_;
  VirtualTier tier_;
  Metrics metrics_;  // of all replicas together
  ScaleOutcome outcome_;
  std::vector<std::unique_ptr<Member>> members_;
  std::vector<ReplicaFacts> facts_;             // by member
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

absl::StatusOr<ScaleOutcome> RunAtScale(const ScaleSetup& setup, const ScaleLoad& load,
                                        absl::FunctionRef<void(size_t)> progress) {
  if (setup.prefill > 0 && (setup.prefill >= setup.replicas || setup.tier_bandwidth <= 0)) {
    return absl::InvalidArgumentError(absl::StrCat("--prefill ", setup.prefill, " of ", setup.replicas,
                                                   " replicas; some must decode, and --tier-gb must be above 0"));
  }
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
  return Cluster(setup, shape, load.requests.size()).Run(load, progress);
}

}  // namespace interlace
