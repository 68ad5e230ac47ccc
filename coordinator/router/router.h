// Router: one engine made of several replicas.
#pragma once

#include <array>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "coordinator/engine.h"
#include "coordinator/router/prefix_directory.h"
#include "coordinator/router/route_book.h"
#include "coordinator/router/routed_sink.h"

namespace interlace {

// A request goes to the replica that the policy chooses, and stays there, unless the replica is lost or drained, or is
// for prompts alone (router.roles) and has made the first token. Then its scheduler hands the request back with the
// tokens that the client has, and it goes on elsewhere: another replica fills prompt and answer as one prefix, as far
// as no tier has it, and samples the same tokens, since these depend on the request's seed and the token's index alone.
// While no replica is there it waits here; one that only leaves stays where it is if nobody else takes it.
// Owned by ReplicaSet; any thread. It has no thread of its own: `wake` is called when Settle has something to do, which
// one thread then calls. The trap: replicas deliver ends to it until they are gone, so it dies after them.
class Router final : public Engine {
 public:
  struct Options {
    const RoutingPolicy* policy = nullptr;
    std::vector<ReplicaRole> roles;                     // of each replica; empty: each does both
    std::string secret;                                 // of the cluster; part of the names of blocks
    absl::Duration reform_timeout = absl::Seconds(15);  // that a request waits here while no replica is there
    std::function<void()> wake;                         // any thread, no lock of ours held
  };
  Router(Options options, int32_t replicas, PrefixDirectory& directory, Clock& clock, Metrics& metrics);
  // Ends what waits here with Cancelled.
  ~Router() override;

  // Before the first request; they outlive the last.
  void Connect(std::vector<Engine*> replicas);
  // Sends what was handed back where it can go on, ends what has waited too long; when to be called again at the
  // latest.
  absl::Time Settle();
  // What waits here, and what is handed back, ends with `why`, which is Unavailable: another coordinator serves from
  // now on. OK: it is placed again.
  void Follow(const absl::Status& why);

  absl::Status Submit(Request request) override;
  void Cancel(RequestId id) override;
  void Stop(RequestId id) override;
  absl::Status DrainReplica(int32_t replica, bool drains) override;
  absl::StatusOr<Explanation> Explain(absl::string_view name) override;
  absl::StatusOr<ReplicaSnapshot> Snapshot() override;
  EngineLoad Load() override;

 private:
  friend class RoutedSink;
  enum class Wanted : uint8_t { kTokens, kStopped, kCancelled };
  // Why a request goes from one replica to another.
  enum class Move : uint8_t { kLost, kDecode, kDrain };
  static constexpr size_t kMoves = 3;
  struct Open {
    std::shared_ptr<RoutedSink> sink;
    int32_t replica = -1;      // where it is, or was last
    bool placed = false;       // that replica has taken it
    bool stays = false;        // nobody else took it when its replica was drained
    Move asked = Move::kLost;  // the replica was told to give it back for this; kLost: it was not
    Wanted wanted = Wanted::kTokens;
  };
  struct Waiting {  // it was handed back
    Request request;
    absl::Status why;
    absl::Time until;  // a replica is there again, or it ends
    Move move = Move::kLost;
    int32_t home = -1;  // the replica that gave it back, unless it is lost
  };
  struct ReplicaMetrics {
    Metrics::Counter sent, taken_back;
    Metrics::Gauge queued, draining;
  };

  // From sinks, on replicas' threads.
  void OnFirstToken(RoutedSink& sink);
  void OnEnd(RoutedSink& sink);
  void TakeBack(RoutedSink& sink, Request request, const absl::Status& why);

  // What is known of the replicas when a request is placed. It may be kLookAge old: with a thousand replicas it takes
  // longer than all else that a request needs here. What has been lost meanwhile refuses the request.
  struct Look {
    std::vector<ReplicaFacts> facts;
    std::shared_ptr<const ChainSeed> names;  // null: none is there
    std::vector<bool> there;                 // those that are, drained ones too
    bool shared = true;                      // all of them reach a tier
    bool any() const { return names != nullptr; }
  };
  std::shared_ptr<const Look> LookAround();
  std::shared_ptr<const Look> LookAnew();
  absl::Status Place(const Look& look, const Request& request, RoutedSink& sink, Move move = Move::kLost,
                     int32_t home = -1);
  absl::Status PlaceIn(const Look& look, const Request& request, RoutedSink& sink, Move move);
  void Placed(RequestId id, const RouteChoice& choice);
  void Arrive(RoutedSink& sink);

  // router_moves.cc
  void SendOn();
  void SendToDecode(absl::Span<const RequestId> prefilled, const Look& look);
  void SendAway(const Look& look);
  void Ask(RequestId id, int32_t replica, Move move);
  void CountPart(const RouteChoice& choice);
  void CountWhole(WholeCause cause);

  std::vector<BlockId> NamesOf(const Request& request, const ChainSeed& seed);
  void Leave(RoutedSink& sink);
  void Want(RequestId id, Wanted wanted);
  void Repeat(RequestId id);
  // Null: it goes on; else what it ends with instead.
  std::optional<absl::Status> EndOf(const Waiting& waiting, absl::Time now);
  void End(const Request& request, RoutedSink& sink, absl::Status status);

  const Options options_;
  PrefixDirectory& directory_;
  Clock& clock_;
  Metrics& metrics_;
  const Metrics::Counter prompt_tokens_, held_tokens_;
  const Metrics::Histogram seconds_;
  const Metrics::Histogram hand_over_seconds_;
  const std::array<Metrics::Counter, kMoves> moved_;
  std::vector<ReplicaMetrics> replica_metrics_;
  std::vector<Engine*> replicas_;
  const bool apart_;  // replicas have roles

  absl::Mutex mutex_;
  RouteBook book_;                             // protected by mutex_, as all below
  absl::flat_hash_map<RequestId, Open> open_;  // every request that has not ended
  std::list<Waiting> waiting_;
  std::vector<RequestId> prefilled_;       // whose first token has come from a replica for prompts
  std::vector<bool> draining_;             // by replica
  std::shared_ptr<const Look> look_;       // the latest; null: a new one is needed
  absl::Time looked_;                      // when it was begun
  std::array<bool, kWholeCauses> said_{};  // in the log, since it last was otherwise
  absl::Status following_;                 // OK: this coordinator leads
  absl::Mutex names_mutex_;
  std::shared_ptr<const ChainSeed> seed_;                             // protected by names_mutex_, as below
  std::map<std::pair<std::string, std::string>, BlockChain> chains_;  // by salt and adapter, under this seed
};

}  // namespace interlace
