#include "tests/sim/simulation.h"

#include <algorithm>
#include <utility>

#include "coordinator/admission.h"

namespace interlace::sim {
namespace {

constexpr absl::Duration kMostTime = absl::Seconds(200);  // faults are over long before it
constexpr int64_t kMostEvents = 3'000'000;
constexpr int32_t kMostTries = 100;

// One request and its client, who tries again while there is no replica.
class Client final : public TokenSink {
 public:
  Client(World& world, const Arrival& arrival) : world_(world), arrival_(arrival) { Expect(); }

  void OnTokens(absl::Span<const int32_t> tokens) override {
    if (end) world_.ledger.Fail("request ", arrival_.index, " gets tokens after its end");
    for (const int32_t token : tokens) {
      world_.loop.Note(arrival_.id << 32 ^ static_cast<uint64_t>(token));
      const size_t at = got.size();
      got.push_back(token);
      if (at < expected.size() && expected[at] == token) continue;
      return world_.ledger.Fail("request ", arrival_.index, " gets ", token, " as token ", at, " where ",
                                at < expected.size() ? absl::StrCat(expected[at]) : "none", " is due");
    }
  }
  void OnEnd(const RequestEnd& e) override {
    if (end) world_.ledger.Fail("request ", arrival_.index, " ends twice");
    world_.Say("request ", arrival_.index, " ends after ", got.size(), " tokens: ", e.status.ToString());
    world_.loop.Note(arrival_.id << 32 ^ static_cast<uint64_t>(e.status.code()));
    end = e;
    ended = world_.loop.now();
    if (on_end) on_end(*this);
  }
  const Arrival& arrival() const { return arrival_; }

  std::vector<int32_t> expected, got;
  FinishReason reason = FinishReason::kLength;  // of the expected stream
  std::function<void(Client&)> on_end;
  std::optional<RequestEnd> end;
  absl::Time ended, submitted = absl::InfinitePast();
  absl::Status refused;  // not OK: it never entered
  bool cancelled = false;
  int32_t tries = 0;

 private:
  void Expect() {
    ModelStream model(world_.model, arrival_.sampling_seed);
    int32_t next = -1;
    for (const int32_t token : arrival_.prompt) next = model.Append(token);
    const auto room = world_.scenario.options.context - static_cast<int32_t>(arrival_.prompt.size());
    const auto most = static_cast<size_t>(std::min(arrival_.max_tokens, room));
    while (expected.size() < most) {
      if (!arrival_.stop_tokens.empty() && next == arrival_.stop_tokens[0]) {
        reason = FinishReason::kStop;
        return;
      }
      expected.push_back(next);
      next = model.Append(next);
    }
  }

  World& world_;
  const Arrival& arrival_;
};

class Simulation {
 public:
  Simulation(const Scenario& scenario, Canary canary, bool verbose)
      : world_(scenario, canary, verbose), cluster_(world_), first_arrival_(2 * scenario.pace.load) {
    const Shape& shape = scenario.shape;
    const int64_t extent = static_cast<int64_t>(kBlockHeaderBytes) + int64_t{8} * shape.block_tokens;
    const auto tier = [&](const std::string& name, int32_t layers) {
      tiers_.push_back(std::make_unique<SimTier>(world_.loop, world_.Fork(name), extent * layers * shape.tier_blocks,
                                                 scenario.pace.tier, canary));
      return tiers_.back().get();
    };
    SimTier* const shared = shape.shared_tier ? tier("shared tier", shape.layers()) : nullptr;
    std::vector<SimRank*> all;
    for (int32_t s = 0; s < shape.stages; ++s) {
      std::vector<SimTier*> below;
      if (shape.own_tier)
        below.push_back(tier(absl::StrCat("tier ", s), (shape.layers() + shape.stages - 1) / shape.stages));
      if (shared != nullptr) below.push_back(shared);
      below_.push_back(below);
      ranks_.push_back(std::make_unique<SimRank>(world_, cluster_, s, std::move(below)));
      all.push_back(ranks_.back().get());
    }
    for (auto& rank : ranks_) rank->Connect(all);
  }

  Outcome Run() {
    world_.Say(world_.scenario.ToString());
    for (auto& rank : ranks_) rank->Boot();
    for (const Arrival& arrival : world_.scenario.arrivals) {
      clients_.push_back(std::make_shared<Client>(world_, arrival));
      const std::shared_ptr<Client> client = clients_.back();
      client->on_end = [this](Client& ended) { CheckEnd(ended); };
      ++open_;
      world_.loop.At(world_.begin + first_arrival_ + arrival.at, [this, client] { Submit(client); });
      if (arrival.cancel < absl::InfiniteDuration()) {
        world_.loop.At(world_.begin + first_arrival_ + arrival.at + arrival.cancel, [this, client] {
          if (client->submitted == absl::InfinitePast()) return;
          client->cancelled = true;
          cluster_.Cancel(RequestId{client->arrival().id});
        });
      }
    }
    for (const Fault& fault : world_.scenario.faults) {
      world_.loop.At(world_.begin + first_arrival_ + fault.at, [this, &fault] { Strike(fault); });
    }
    Loop();
    if (world_.ledger.failures.empty()) CheckQuiet();
    return Summary();
  }

 private:
  void Loop() {
    EventLoop& loop = world_.loop;
    while (world_.ledger.failures.empty() && !Quiet()) {
      if (loop.empty()) {
        return world_.ledger.Fail("stuck with ", open_, " requests and ", cluster_.scheduler().Load().blocks_held,
                                  " blocks that are held: nothing is going to happen");
      }
      if (loop.now() - world_.begin > kMostTime || loop.events() > kMostEvents) {
        return world_.ledger.Fail("no end after ", absl::FormatDuration(loop.now() - world_.begin), " and ",
                                  loop.events(), " events: ", cluster_.scheduler().Load().running, " run, ",
                                  cluster_.scheduler().Load().waiting, " wait");
      }
      loop.RunNext();
    }
  }

  bool Quiet() const {
    if (open_ > 0 || strikes_ < world_.scenario.faults.size() || !cluster_.quiet() || !cluster_.formed()) return false;
    const Scheduler& scheduler = cluster_.scheduler();
    if (!scheduler.idle() || scheduler.NextWakeUp() < absl::InfiniteFuture()) return false;
    const bool idle = std::all_of(ranks_.begin(), ranks_.end(), [&](const auto& rank) {
      return rank->idle() && Value(rank->epoch()) == cluster_.epoch();
    });
    // An answer about a fetch may be on its way.
    return idle && scheduler.Load().blocks_held == 0;
  }

  // ---- clients

  void Submit(const std::shared_ptr<Client>& client) {
    const Arrival& arrival = client->arrival();
    Request request;
    request.id = RequestId{arrival.id};
    request.name = absl::StrCat("r", arrival.index);
    request.prompt = arrival.prompt;
    request.sampling.seed = arrival.sampling_seed;
    request.max_tokens = arrival.max_tokens;
    request.stop_tokens = arrival.stop_tokens;
    request.arrival = world_.loop.now();
    request.deadline = world_.loop.now() + arrival.deadline;
    request.salt = arrival.salt;
    request.sink = client;
    absl::Status status = cluster_.Submit(std::move(request));
    if (status.ok()) {
      client->submitted = world_.loop.now();
      return;
    }
    if (absl::IsUnavailable(status) && ++client->tries < kMostTries) {
      world_.loop.After(absl::Milliseconds(200), [this, client] { Submit(client); });
      return;
    }
    const bool expected =
        absl::IsFailedPrecondition(status) || (absl::IsResourceExhausted(status) && world_.scenario.max_waiting < 12);
    if (!expected) world_.ledger.Fail("request ", arrival.index, " is refused: ", status.ToString());
    world_.Say("request ", arrival.index, " is refused: ", status.ToString());
    client->refused = std::move(status);
    --open_;
  }

  // A status other than OK needs a cause that the scenario contains.
  void CheckEnd(Client& client) {
    --open_;
    const Arrival& arrival = client.arrival();
    const absl::Status& status = client.end->status;
    const auto explanation = cluster_.scheduler().Explain(absl::StrCat("r", arrival.index));
    bool blameless = explanation.ok() && client.end->completion_tokens == static_cast<int32_t>(client.got.size());
    const int32_t most_recomputes = world_.scenario.options.max_recomputes;
    switch (status.code()) {
      case absl::StatusCode::kOk:
        blameless = blameless && client.got == client.expected && client.end->reason == client.reason;
        break;
      case absl::StatusCode::kCancelled:
        blameless = blameless && client.cancelled;
        break;
      case absl::StatusCode::kDeadlineExceeded:
        blameless = blameless && client.submitted + arrival.deadline <= world_.loop.now();
        break;
      case absl::StatusCode::kUnavailable:
        blameless = blameless && cluster_.was_away_too_long();
        break;
      case absl::StatusCode::kDataLoss:
        blameless = blameless && explanation->recomputes > most_recomputes && world_.ledger.losses > most_recomputes;
        break;
      case absl::StatusCode::kAborted:
        // Without other faults, a request that brings nobody down is not taken for one that does.
        blameless = blameless && cluster_.losses() >= world_.scenario.options.max_losses &&
                    (arrival.poison_position >= 0 || !world_.scenario.faults.empty()) &&
                    status.message().find(absl::StrCat("r", arrival.index)) != absl::string_view::npos;
        break;
      case absl::StatusCode::kInvalidArgument:
        blameless = blameless && arrival.refused;
        break;
      default:
        blameless = false;
    }
    if (!blameless) {
      world_.ledger.Fail("request ", arrival.index, " ends with ", client.got.size(), " of ", client.expected.size(),
                         " tokens and without a cause: ", status.ToString());
    }
  }

  // ---- faults

  void Strike(const Fault& fault) {
    ++strikes_;
    world_.Say("fault ", fault.index, ": ", FaultName(fault.kind), " of stage ", fault.stage);
    SimRank& rank = *ranks_[fault.stage];
    const std::unique_ptr<Entropy> own = world_.Fork(absl::StrCat("fault ", fault.index));
    const absl::Time until = world_.loop.now() + fault.time;
    SimTier* const tier =
        below_[fault.stage].empty() ? nullptr : below_[fault.stage][fault.size % below_[fault.stage].size()];
    switch (fault.kind) {
      case FaultKind::kCrash:
        return rank.Crash(fault.time);
      case FaultKind::kBreakStream:
        return rank.BreakStream();
      case FaultKind::kPartition:
        return rank.Partition(fault.time);
      case FaultKind::kBreakLink:
        return rank.BreakLink();
      case FaultKind::kClogLink:
        return rank.ClogLink(fault.time);
      case FaultKind::kStop:
        return rank.Stop(fault.time);
      case FaultKind::kSlow:
        return rank.Slow(fault.time, 1 + fault.size / 5);
      case FaultKind::kFlipFrame:
        for (int32_t i = 0; i <= fault.size / 25; ++i) flipped_ |= rank.FlipFrame(*own);
        return;
      case FaultKind::kFlipStored:
        for (int32_t i = 0; tier != nullptr && i <= fault.size / 10; ++i) tier->FlipOne(*own);
        return;
      case FaultKind::kTierAway:
        if (tier != nullptr) tier->GoAway(until);
        return;
      case FaultKind::kTierSlow:
        if (tier != nullptr) tier->AnswerLate(until, fault.size * absl::Milliseconds(50));
        return;
      case FaultKind::kTierForgets:
        if (tier != nullptr) tier->Forget(*own, fault.size);
        return;
      case FaultKind::kTornWrites:
        if (tier != nullptr) tier->TearWrites(until);
        return;
      case FaultKind::kDuplicates:
        return cluster_.Duplicate(until);
    }
  }

  // ---- the end

  // Nothing is left of anybody.
  void CheckQuiet() {
    Ledger& ledger = world_.ledger;
    const EngineLoad load = cluster_.scheduler().Load();
    if (load.running + load.waiting != 0) ledger.Fail("the scheduler counts requests that ended");
    for (const auto& client : clients_) {
      if (!client->end && client->refused.ok()) ledger.Fail("request ", client->arrival().index, " has no end");
    }
    for (const auto& rank : ranks_) {
      const SimPager& pager = *rank->pager();
      const SimPool& pool = pager.pool();
      const int32_t stage = Value(rank->info().stage);
      if (pager.sequences() > 0) ledger.Fail("stage ", stage, " knows ", pager.sequences(), " requests that ended");
      if (pool.slots().used() != pool.placed_slots() + pager.tail_slots()) {
        ledger.Fail("stage ", stage, " has ", pool.slots().used(), " slots taken, ", pool.placed_slots(),
                    " of them for blocks");
      }
      // Nothing lies where the scheduler does not count it; without faults of KV, all that it counts on is there.
      const bool whole = ledger.losses == 0 && ledger.corrupt_frames == 0 && !flipped_;
      if (const std::string where = pool.WhereNot(cluster_.belief(), whole); !where.empty()) {
        ledger.Fail("stage ", stage, ": ", where);
      }
      if (pool.frames().used() != pool.placed_frames()) {
        ledger.Fail("stage ", stage, " has ", pool.frames().used(), " frames taken, ", pool.placed_frames(),
                    " of them for blocks");
      }
    }
    const int64_t poisons = std::count_if(clients_.begin(), clients_.end(),
                                          [](const auto& c) { return c->arrival().poison_position >= 0; });
    const int64_t scripted = std::count_if(world_.scenario.faults.begin(), world_.scenario.faults.end(),
                                           [](const Fault& f) { return f.kind == FaultKind::kCrash; });
    // A request that gets on is met by losses anew: guesses, and the step that runs ahead, meet the poison before the
    // tokens that come first are accepted.
    const int64_t most = world_.scenario.options.max_losses * (2 + world_.scenario.options.draft_tokens);
    if (ledger.crashes > scripted + poisons * most) {
      ledger.Fail(ledger.crashes, " crashes by ", poisons, " poisons: they were not put away");
    }
  }

  Outcome Summary() {
    Outcome outcome;
    outcome.digest = world_.loop.digest();
    outcome.events = world_.loop.events();
    outcome.time = world_.loop.now() - world_.begin;
    outcome.codes.resize(17);
    for (const auto& client : clients_) {
      client->on_end = nullptr;
      ++outcome.requests;
      if (!client->refused.ok()) ++outcome.refused;
      if (!client->end) continue;
      ++outcome.codes[static_cast<size_t>(client->end->status.code())];
      outcome.last_end = std::max(outcome.last_end, client->ended - world_.begin - first_arrival_);
      if (!client->end->status.ok()) continue;
      ++outcome.ok;
      const bool stopped = client->reason == FinishReason::kStop;
      outcome.needed_tokens += static_cast<int64_t>(client->arrival().prompt.size() + client->got.size()) - !stopped;
    }
    outcome.parks = static_cast<int64_t>(cluster_.metrics().Total("interlace_request_parks_total"));
    outcome.stale = static_cast<int64_t>(cluster_.metrics().Total("interlace_stale_messages_total"));
    outcome.ledger = std::move(world_.ledger);
    outcome.failures = outcome.ledger.failures;
    return outcome;
  }

  World world_;
  SimCluster cluster_;
  const absl::Duration first_arrival_;
  std::vector<std::unique_ptr<SimTier>> tiers_;
  std::vector<std::vector<SimTier*>> below_;  // by stage
  std::vector<std::unique_ptr<SimRank>> ranks_;
  std::vector<std::shared_ptr<Client>> clients_;
  size_t strikes_ = 0;
  bool flipped_ = false;  // a frame is damaged
  int32_t open_ = 0;      // requests without an end
};

}  // namespace

Outcome Simulate(const Scenario& scenario, Canary canary, bool verbose) {
  return Simulation(scenario, canary, verbose).Run();
}

}  // namespace interlace::sim
