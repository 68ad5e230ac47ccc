// Tenants: who may ask at the doors, by API key, and what each has used of its limits.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "coordinator/explanation.h"
#include "coordinator/front/rate_bucket.h"
#include "coordinator/front/tenant_file.h"

namespace interlace {

class TenantPass;

// One tenant. Shared by the table and by the requests under way, so that one that is taken out of the file still counts
// what it has; any thread.
class Tenant : public std::enable_shared_from_this<Tenant> {
 public:
  using Headers = std::vector<std::pair<std::string, std::string>>;

  Tenant(TenantRow row, Clock& clock, Metrics& metrics);
  // Its limits from now on; what it has used stays used.
  void Update(const TenantRow& row);

  const std::string& name() const { return name_; }
  bool is_operator() const;
  bool MayAskFor(absl::string_view model) const;
  // The priority that it gets if it asks for `wanted`.
  int64_t PriorityFor(int64_t wanted) const;
  // A request that generates nothing. ResourceExhausted says which limit it is, and when to ask again.
  absl::Status CountRequest();
  // A generation, which counts as one of those under way while the pass lives.
  absl::StatusOr<std::shared_ptr<TenantPass>> Enter();
  // What is left of each limit, as OpenAI's servers say it: x-ratelimit-limit-requests and so on.
  Headers LimitHeaders() const;

 private:
  friend class TenantPass;
  // What stands in the way.
  struct Obstacle {
    absl::string_view limit;
    std::string why;
    absl::Duration wait;  // until it is gone, by what is known now
  };
  std::optional<Obstacle> TakeRequest(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<Obstacle> TakePlace(absl::Time now);
  std::optional<Obstacle> TakeTokens(double tokens, absl::Time now);
  absl::Status Refusal(const Obstacle& obstacle) const;
  void Leave(double charged, double used, absl::Duration took);

  const std::string name_;
  Clock& clock_;
  Metrics& metrics_;
  mutable absl::Mutex mutex_;
  bool is_operator_ = false;      // protected by mutex_
  TenantLimits limits_;           // protected by mutex_
  RateBucket requests_, tokens_;  // protected by mutex_
  int64_t under_way_ = 0;         // protected by mutex_
  absl::Duration mean_took_;      // protected by mutex_; by one generation; the last ones weigh most
};

// The place of one generation among those of its tenant, from its admission to its end. Owned by what is read of the
// request, then by its run; one thread at a time.
class TenantPass {
 public:
  TenantPass(std::shared_ptr<Tenant> tenant, absl::Time begin) : tenant_(std::move(tenant)), begin_(begin) {}
  ~TenantPass();
  TenantPass(const TenantPass&) = delete;
  TenantPass& operator=(const TenantPass&) = delete;

  const Tenant& tenant() const { return *tenant_; }
  // Sets tokens aside: those of the prompts, and as many as the request asks for at most, if it says how many. Once.
  // ResourceExhausted: the minute's are used up.
  absl::Status Charge(int64_t tokens);
  // That many were used. What was set aside and not used is given back at the end; what was used beyond is a debt.
  void Use(int64_t tokens) { used_ += static_cast<double>(tokens); }

 private:
  const std::shared_ptr<Tenant> tenant_;
  const absl::Time begin_;
  double charged_ = 0, used_ = 0;
};

// The table. Owned by main, which outlives the doors; any thread.
class Tenants {
 public:
  struct Options {
    std::string file;  // of keys; empty: none
    std::string key;   // one more, of an operator without limits; empty: none
  };
  Tenants(Options options, Clock& clock, Metrics& metrics);
  // Main's thread. Reads the file. If it cannot be used, what was read before stays, and the status, a line in the log
  // and interlace_api_keys_stale say so.
  absl::Status Read();
  // Whether requests need a key at all.
  bool on() const { return !options_.file.empty() || !options_.key.empty(); }
  // Whose key it is. Unauthenticated: nobody's, or it is empty.
  absl::StatusOr<std::shared_ptr<Tenant>> Find(absl::string_view key) const;

 private:
  struct Key {
    KeyDigest digest;
    std::shared_ptr<Tenant> tenant;
  };
  absl::StatusOr<std::vector<TenantRow>> ReadRows() const;
  std::shared_ptr<const std::vector<Key>> Keys() const;

  const Options options_;
  Clock& clock_;
  Metrics& metrics_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const std::vector<Key>> keys_;  // protected by mutex_
};

// Whether the caller may see what became of the request. A null caller, where no keys are needed, may see all.
bool MaySee(const Tenant* caller, const Explanation& request);

// The key in the value of an Authorization header: behind "Bearer", whatever its case; empty if there is none.
absl::string_view BearerKey(absl::string_view authorization);
// The password behind "Basic", whoever the user is, which is what a browser can be asked for.
std::string BasicKey(absl::string_view authorization);

}  // namespace interlace
