// router_bench [replicas [prompt [block_tokens [blocks [decisions [policies]]]]]]: what the router costs, by replicas
// (numbers with commas between). Each replica holds `blocks` blocks. Requests of `prompt` tokens come at 100,000 a
// second of a clock that the bench turns, so that what the router does by time is done as often as at that rate. Of
// each stream of requests, "shared" (three quarters of a prompt are one of 1,000 prefixes, each held by one replica)
// and "own" (nothing is held), the CPU time of the thread that takes requests. Then what the directory takes, what it
// costs to follow the replicas' blocks, and what it costs when replicas leave and come.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "common/log.h"
#include "common/metrics.h"
#include "coordinator/router/router.h"

namespace interlace {
namespace {

constexpr int32_t kPrefixes = 1000;
constexpr double kRate = 1e5;  // requests/s

struct Setup {
  int32_t replicas = 4, prompt = 1024, block_tokens = 16, blocks = 10000, decisions = 20000;
};

double CpuMicros() {
  timespec cpu{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
  return 1e6 * static_cast<double>(cpu.tv_sec) + 1e-3 * static_cast<double>(cpu.tv_nsec);
}

class Times {
 public:
  void Add(double micros) { micros_.push_back(micros); }
  double Sum() const {
    double sum = 0;
    for (double one : micros_) sum += one;
    return sum;
  }
  double Mean() const { return micros_.empty() ? 0 : Sum() / static_cast<double>(micros_.size()); }
  double At(double share) {
    if (micros_.empty()) return 0;
    const auto at = static_cast<ptrdiff_t>(share * static_cast<double>(micros_.size() - 1));
    std::nth_element(micros_.begin(), micros_.begin() + at, micros_.end());
    return micros_[static_cast<size_t>(at)];
  }

 private:
  std::vector<double> micros_;
};

ChainSeed SeedOf(const Setup& setup) {
  return {.model_digest = "bench",
          .numerics = "bench",
          .dtype = "BF16",
          .block_tokens = setup.block_tokens,
          .kv_heads = 8,
          .head_dim = 128};
}

class Sink final : public TokenSink {
 public:
  void OnTokens(absl::Span<const int32_t>) override {}
  void OnEnd(const RequestEnd&) override {}
};

// Takes every request and tells its load as a ReplicaLoop does: under its lock, with the seed of names.
class TakingReplica final : public Engine {
 public:
  explicit TakingReplica(const ChainSeed& seed) {
    load_.ranks = load_.ranks_ready = 1;
    load_.token_seconds = 2e-5;
    load_.host_block_seconds = 4e-5;
    names_ = std::make_shared<const ChainSeed>(seed);
  }
  absl::Status Submit(Request request) override {
    taken = std::move(request);
    return absl::OkStatus();
  }
  void Cancel(RequestId) override {}
  void Stop(RequestId) override {}
  absl::StatusOr<Explanation> Explain(absl::string_view) override { return absl::NotFoundError("none is kept"); }
  absl::StatusOr<ReplicaSnapshot> Snapshot() override { return ReplicaSnapshot{}; }
  EngineLoad Load() override {
    absl::MutexLock lock(&mutex_);
    EngineLoad load = load_;
    load.names = names_;
    return load;
  }

  Request taken;              // the latest
  std::vector<BlockId> kept;  // of prefixes
  std::deque<BlockId> holds;  // besides: oldest first

 private:
  absl::Mutex mutex_;
  EngineLoad load_;                         // protected by mutex_
  std::shared_ptr<const ChainSeed> names_;  // likewise
};

class World {
 public:
  World(const Setup& setup, const RoutingPolicy& policy)
      : setup_(setup), chain_(SeedOf(setup)), directory_(setup.replicas) {
    router_ = std::make_unique<Router>(Router::Options{.policy = &policy, .wake = [] {}}, setup.replicas, directory_,
                                       clock_, metrics_);
    std::vector<Engine*> engines;
    for (int32_t r = 0; r < setup.replicas; ++r) {
      replicas_.push_back(std::make_unique<TakingReplica>(SeedOf(setup)));
      engines.push_back(replicas_.back().get());
    }
    router_->Connect(std::move(engines));
    Fill();
  }

  // Of `decisions` requests; as many as 4 for each replica are open at once.
  void Requests(absl::string_view policy, bool shared) {
    Times submit, first, end, stored, removed;
    for (int32_t i = 0; i < setup_.decisions + setup_.decisions / 10; ++i) {
      const bool counts = i >= setup_.decisions / 10;  // the first warm what is cached
      clock_.Advance(absl::Seconds(1 / kRate));
      Request request = Make(shared);
      Request sent = request;
      const double begin = CpuMicros();
      const absl::Status status = router_->Submit(std::move(sent));
      if (counts) submit.Add(CpuMicros() - begin);
      if (!status.ok()) std::printf("refused: %s\n", std::string(status.message()).c_str());
      TakingReplica* at = nullptr;
      for (const auto& replica : replicas_) {
        if (replica->taken.id == request.id) at = replica.get();
      }
      open_.push_back({at, at->taken.sink, NamesOf(request)});
      if (open_.size() > static_cast<size_t>(4 * setup_.replicas)) {
        Finish(counts, &first, &end, &stored, &removed);
      }
    }
    Times none;
    while (!open_.empty()) Finish(false, &none, &none, &none, &none);
    const double all = submit.Mean() + first.Mean() + end.Mean();
    std::printf(
        "%5d %-12s %-7s submit p50 %7.1f p99 %7.1f mean %7.1f us, first token %6.1f, end %5.1f: %7.0f requests/s a "
        "core; a block stored %.3f us, removed %.3f\n",
        setup_.replicas, std::string(policy).c_str(), shared ? "shared" : "own", submit.At(0.5), submit.At(0.99),
        submit.Mean(), first.Mean(), end.Mean(), 1e6 / all, stored.Mean(), removed.Mean());
    std::fflush(stdout);
  }

  // The parts of a decision, each alone. What is left of Submit is locks, copies and counters.
  void Parts(const RoutingPolicy& policy) {
    RouteBook book(policy, setup_.replicas);
    const std::vector<ReplicaFacts> facts(static_cast<size_t>(setup_.replicas), {.ready = true, .token_seconds = 2e-5});
    std::vector<HeldPrefix> held;
    Times names, match, expect, choose;
    for (int32_t i = 0; i < setup_.decisions / 4; ++i) {
      clock_.Advance(absl::Seconds(1 / kRate));
      const Request request = Make(true);
      const double begin = CpuMicros();
      const std::vector<BlockId> ids = NamesOf(request);
      const double named = CpuMicros();
      directory_.Match(ids, &held);
      const double matched = CpuMicros();
      const RouteChoice choice =
          book.Choose({.prompt = setup_.prompt, .block_tokens = setup_.block_tokens}, facts, held, clock_.Now());
      const double chosen = CpuMicros();
      const auto coming = absl::MakeConstSpan(ids).subspan(static_cast<size_t>(choice.held.blocks));
      directory_.Expect(choice.replica, coming);
      directory_.Forget(choice.replica, coming);
      expect.Add(CpuMicros() - chosen);
      names.Add(named - begin);
      match.Add(matched - named);
      choose.Add(chosen - matched);
      book.OnFirstToken(choice);
      book.OnEnd(choice, 100, clock_.Now());
    }
    Times look;
    for (int32_t i = 0; i < 200; ++i) {
      const double begin = CpuMicros();
      for (const auto& replica : replicas_) look_ += replica->Load().token_seconds;
      look.Add(CpuMicros() - begin);
    }
    std::printf(
        "%5d parts p50 / p99, us: names %.1f / %.1f, match %.1f / %.1f, choose %.2f / %.2f, expect and forget %.1f / "
        "%.1f; loads of all replicas %.1f / %.1f\n",
        setup_.replicas, names.At(0.5), names.At(0.99), match.At(0.5), match.At(0.99), choose.At(0.5), choose.At(0.99),
        expect.At(0.5), expect.At(0.99), look.At(0.5), look.At(0.99));
    std::fflush(stdout);
  }

  void Directory() {
    const double blocks = static_cast<double>(directory_.blocks());
    std::printf("%5d directory: %.0f blocks, %.1f MB, %.1f bytes a block; filled in %.3f us a block\n", setup_.replicas,
                blocks, static_cast<double>(directory_.bytes()) / 1e6, static_cast<double>(directory_.bytes()) / blocks,
                fill_us_);
    Times leave, join;
    const int64_t swept = directory_.swept();
    for (int32_t r = 0; r < setup_.replicas; ++r) {  // one after another, as in a rolling upgrade
      KvObserver& observer = directory_.observer(r);
      double begin = CpuMicros();
      observer.OnCleared();
      leave.Add(CpuMicros() - begin);
      begin = CpuMicros();
      StoreAll(r);
      join.Add(CpuMicros() - begin);
    }
    std::printf(
        "%5d all leave and come in turn: leaving p50 %.1f max %.0f mean %.0f us, %.1f blocks swept for each that left; "
        "coming with all its blocks mean %.0f us\n",
        setup_.replicas, leave.At(0.5), leave.At(1), leave.Mean(),
        static_cast<double>(directory_.swept() - swept) / (static_cast<double>(setup_.replicas) * setup_.blocks),
        join.Mean());
    std::fflush(stdout);
  }

 private:
  struct Open {
    TakingReplica* at;
    std::shared_ptr<TokenSink> sink;
    std::vector<BlockId> ids;
  };

  BlockId DrawId() { return {entropy_->Next(), entropy_->Next()}; }

  void StoreAll(int32_t r) {
    const TakingReplica& replica = *replicas_[static_cast<size_t>(r)];
    for (const BlockId& id : replica.kept) directory_.observer(r).OnStored(id, KvMedium::kDevice);
    for (const BlockId& id : replica.holds) directory_.observer(r).OnStored(id, KvMedium::kDevice);
  }

  // Prefixes, each at one replica, and blocks that nobody asks for.
  void Fill() {
    for (int32_t p = 0; p < kPrefixes; ++p) {
      Request request;
      request.prompt = Prefix(p);
      const std::vector<BlockId> ids = NamesOf(request);
      std::vector<BlockId>& kept = replicas_[static_cast<size_t>(p % setup_.replicas)]->kept;
      kept.insert(kept.end(), ids.begin(), ids.end());
    }
    double micros = 0;
    for (int32_t r = 0; r < setup_.replicas; ++r) {
      for (int32_t b = 0; b < setup_.blocks; ++b) replicas_[static_cast<size_t>(r)]->holds.push_back(DrawId());
      const double begin = CpuMicros();
      StoreAll(r);
      micros += CpuMicros() - begin;
    }
    fill_us_ = micros / static_cast<double>(directory_.blocks());
  }

  std::vector<int32_t> Prefix(int32_t number) const {
    std::vector<int32_t> prompt(static_cast<size_t>(setup_.prompt / 4 * 3), number);
    return prompt;
  }
  Request Make(bool shared) {
    Request request{.id = RequestId{++next_}, .max_tokens = 100};
    if (shared) request.prompt = Prefix(static_cast<int32_t>(entropy_->Next() % kPrefixes));
    const auto own = static_cast<int32_t>(kPrefixes + next_ % (1u << 30));
    request.prompt.resize(static_cast<size_t>(setup_.prompt), own);
    request.arrival = clock_.Now();
    request.deadline = absl::InfiniteFuture();
    request.sink = std::make_shared<Sink>();
    return request;
  }
  std::vector<BlockId> NamesOf(const Request& request) const {
    const auto block = static_cast<size_t>(setup_.block_tokens);
    std::vector<BlockId> ids;
    for (size_t end = block; end <= request.prompt.size(); end += block) {
      const auto tokens = absl::MakeConstSpan(request.prompt).subspan(end - block, block);
      ids.push_back(chain_.Next(ids.empty() ? BlockId{} : ids.back(), tokens));
    }
    return ids;
  }

  // The oldest open request: its blocks are sealed, which makes others leave, and it ends.
  void Finish(bool counts, Times* first, Times* end, Times* stored, Times* removed) {
    const Open open = std::move(open_.front());
    open_.pop_front();
    const auto at =
        std::find_if(replicas_.begin(), replicas_.end(), [&](const auto& replica) { return replica.get() == open.at; });
    KvObserver& observer = directory_.observer(static_cast<int32_t>(at - replicas_.begin()));
    const size_t fresh = open.ids.size() / 4;  // what is shared is held
    const absl::Span<const BlockId> ids = absl::MakeConstSpan(open.ids).last(fresh);
    std::deque<BlockId>& holds = open.at->holds;
    double begin = CpuMicros();
    for (const BlockId& id : ids) observer.OnStored(id, KvMedium::kDevice);
    if (counts) stored->Add((CpuMicros() - begin) / static_cast<double>(fresh));
    begin = CpuMicros();
    for (size_t b = 0; b < fresh; ++b) observer.OnRemoved(holds[b], KvMedium::kDevice);
    if (counts) removed->Add((CpuMicros() - begin) / static_cast<double>(fresh));
    holds.erase(holds.begin(), holds.begin() + static_cast<ptrdiff_t>(fresh));
    holds.insert(holds.end(), ids.begin(), ids.end());
    const int32_t token = 7;
    begin = CpuMicros();
    open.sink->OnTokens({&token, 1});
    const double began = CpuMicros();
    open.sink->OnEnd({});
    if (!counts) return;
    first->Add(began - begin);
    end->Add(CpuMicros() - began);
  }

  const Setup setup_;
  const BlockChain chain_;
  const std::unique_ptr<Entropy> entropy_ = MakeSeededEntropy(1);
  ManualClock clock_;
  Metrics metrics_{"bench"};
  PrefixDirectory directory_;
  std::unique_ptr<Router> router_;
  std::vector<std::unique_ptr<TakingReplica>> replicas_;
  std::deque<Open> open_;
  uint64_t next_ = 0;
  double fill_us_ = 0, look_ = 0;
};

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  using namespace interlace;
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  Setup setup;
  if (argc > 2) setup.prompt = std::atoi(argv[2]);
  if (argc > 3) setup.block_tokens = std::atoi(argv[3]);
  if (argc > 4) setup.blocks = std::atoi(argv[4]);
  if (argc > 5) setup.decisions = std::atoi(argv[5]);
  const std::string names = argc > 6 ? argv[6] : "prefix";
  for (absl::string_view number : absl::StrSplit(argc > 1 ? argv[1] : "4,32,100,1000", ',')) {
    if (!absl::SimpleAtoi(number, &setup.replicas)) return 1;
    const std::vector<absl::string_view> policies = absl::StrSplit(names, ',', absl::SkipEmpty());
    for (absl::string_view name : policies) {
      const absl::StatusOr<const RoutingPolicy*> policy = FindRoutingPolicy(name);
      if (!policy.ok()) {
        std::printf("%s\n", std::string(policy.status().message()).c_str());
        return 1;
      }
      World world(setup, **policy);
      world.Requests(name, true);
      world.Requests(name, false);
      world.Parts(**policy);
      if (name == policies.front()) world.Directory();
    }
  }
  return 0;
}
