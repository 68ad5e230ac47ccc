// LeaderGate: an Engine that takes requests while this coordinator leads, and says who does while it does not.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "coordinator/election/lead_window.h"
#include "coordinator/engine.h"

namespace interlace {

// Between the doors and what stands behind them. Owned by main; any thread. A refused request is told the leader's
// doors, and when to ask again; so is who would drain a replica, since the leader's record is what keeps that.
class LeaderGate final : public Engine {
 public:
  LeaderGate(Engine& engine, LeadWindow& window) : engine_(engine), window_(window) {}

  absl::Status Submit(Request request) override;
  void Cancel(RequestId id) override { engine_.Cancel(id); }
  void Stop(RequestId id) override { engine_.Stop(id); }
  absl::Status DrainReplica(int32_t replica, bool drains) override;
  absl::StatusOr<Explanation> Explain(absl::string_view name) override { return engine_.Explain(name); }
  absl::StatusOr<ReplicaSnapshot> Snapshot() override { return engine_.Snapshot(); }
  // Of one that stands by, no rank is ready.
  EngineLoad Load() override;

 private:
  Engine& engine_;
  LeadWindow& window_;
};

// What a client is told whose request is not served, or not to its end, since `leader` leads; none: nobody is known to.
absl::Status NotLeader(const std::optional<LeadRecord>& leader);

// HOST:PORT of the doors of the coordinator that leads.
struct LeaderDoors {
  std::string http, grpc;
};
// As NotLeader has put them into the status; nothing: it names none.
std::optional<LeaderDoors> LeaderOf(const absl::Status& status);

}  // namespace interlace
