// Candidacy: this coordinator among those of its cluster.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/entropy.h"
#include "common/metrics.h"
#include "coordinator/election/election.h"
#include "coordinator/election/lead_store.h"
#include "coordinator/election/lead_window.h"

namespace interlace {

// It leads alone (election.backend=none), or as an election says. Owned by main, which calls it from one thread.
class Candidacy {
 public:
  static absl::StatusOr<std::unique_ptr<Candidacy>> Make(const Config& config, Clock& clock, Entropy& entropy,
                                                         Metrics& metrics);
  // No election: it leads as long as it lives.
  bool alone() const { return store_ == nullptr; }
  LeadWindow& window() { return window_; }
  // From now on it may be chosen; others send clients to these doors. Nothing happens if it is alone.
  void Stand(const std::string& http, const std::string& grpc, Election::Events events);
  // It leads no more, and another one may at once. Nothing happens if it is alone or does not stand.
  void Resign();

 private:
  Candidacy(const Config& config, Clock& clock, Metrics& metrics)
      : lease_(config.election.lease), clock_(clock), metrics_(metrics), window_(clock) {}

  const absl::Duration lease_;
  Clock& clock_;
  Metrics& metrics_;
  LeadWindow window_;
  std::string holder_;
  std::unique_ptr<LeadStore> store_;
  std::unique_ptr<Election> election_;
};

// "host:port" as clients reach it: `door` with the host `advertised` in place of its own; empty: its own.
std::string AdvertisedDoor(const std::string& advertised, const std::string& door);

}  // namespace interlace
