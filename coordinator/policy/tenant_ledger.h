// TenantLedger: what each tenant has been served, so that tenants can advance side by side.
#pragma once

#include <algorithm>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace interlace {

// Start-time fair queueing: a request's tag is the service that its tenant had, or had ahead of it, when it came, and
// no less than that of whoever starts now, so that nobody saves up service by staying away. Served by tag, tenants that
// always have something waiting get equal shares, whatever they ask for.
// Owned by the Scheduler; thread: the replica's.
class TenantLedger {
 public:
  // The tag of a request that will take about `tokens`.
  double Tag(const std::string& tenant, double tokens) {
    if (next_.size() > kMostTenants) {
      absl::erase_if(next_, [&](const auto& entry) { return entry.second <= now_; });
    }
    double& next = next_[tenant];
    const double tag = std::max(next, now_);
    next = tag + tokens;
    return tag;
  }
  void Started(double tag) { now_ = std::max(now_, tag); }
  // It took so many tokens more than was thought, or fewer.
  void Ended(const std::string& tenant, double more) {
    auto it = next_.find(tenant);
    if (it != next_.end()) it->second += more;
  }

 private:
  static constexpr size_t kMostTenants = 4096;  // names come from clients: the ledger is bounded
  absl::flat_hash_map<std::string, double> next_;
  double now_ = 0;
};

}  // namespace interlace
