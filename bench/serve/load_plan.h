// LoadPlan: the requests of one run, in the order in which they are sent.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/serve/arrivals.h"
#include "bench/serve/dataset.h"
#include "bench/serve/load_record.h"

namespace interlace {

// Values with weights, such as tenants "free:3,paid:1".
template <typename T>
using Weighted = std::vector<std::pair<T, double>>;

struct LoadPlanSpec {
  DatasetSpec dataset;
  ArrivalSpec arrivals;  // process "trace": the dataset's own times; "closed": as fast as answers come
  uint64_t seed = 0;
  int64_t requests = 0;     // most, counted in turns; 0: no bound
  absl::Duration duration;  // nothing is due after it; zero: no bound
  LoadTargets targets;      // of every request
  std::optional<absl::Duration> deadline;
  Weighted<int32_t> priorities;
  Weighted<std::string> tenants;
  double cancel_percent = 0;  // of the requests are hung up on, after a number of tokens drawn evenly
};

// Pure: the same spec gives the same requests. Owned by the runner's caller; thread: one. A conversation that shares no
// session with another has session -1.
class LoadPlan {
 public:
  static absl::StatusOr<std::unique_ptr<LoadPlan>> Make(const LoadPlanSpec& spec);
  // The turns of the next session. Of an open loop the first is due at its `due`, never earlier than that of the
  // session before; each later turn `think` after the end of the one before it. Nothing: the plan is at its end.
  std::optional<std::vector<PlannedRequest>> Next();
  // Each session begins when a former one has ended.
  bool closed_loop() const { return closed_; }
  // Of LoadPlanSpec::requests, not yet planned; 0 without such a bound.
  int64_t left() const { return spec_.requests > 0 ? spec_.requests - planned_ : 0; }
  std::string dataset_description() const { return dataset_->description(); }
  std::string arrivals_description() const { return arrivals_description_; }

 private:
  LoadPlan(const LoadPlanSpec& spec, bool closed) : spec_(spec), closed_(closed) {}
  void Decorate(PlannedRequest* request);

  const LoadPlanSpec spec_;
  const bool closed_;
  std::unique_ptr<Dataset> dataset_;
  std::unique_ptr<Arrivals> arrivals_;  // null: closed loop, or the trace's times
  std::string arrivals_description_;
  std::unique_ptr<Draws> tenant_, priority_, cancel_, think_;
  int64_t planned_ = 0, sessions_ = 0;
};

// "a:3,b:1" or "a,b". InvalidArgument names the flag.
absl::StatusOr<Weighted<std::string>> ParseWeighted(absl::string_view flag, absl::string_view text);
absl::StatusOr<Weighted<int32_t>> ParseWeightedNumbers(absl::string_view flag, absl::string_view text);

}  // namespace interlace
