// Arrivals: when requests are due.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "bench/serve/random_draws.h"

namespace interlace {

struct ArrivalSpec {
  std::string process = "poisson";  // a name of the table in arrivals.cc
  double rate = 1;                  // requests/s; of a ramp: at its begin
  double burstiness = 1;            // gamma: shape of the gaps. 1 is Poisson, less is burstier, more is more even
  double rate_end = 0;              // ramp: requests/s from its end on
  absl::Duration ramp;              // ramp: how long the rate takes to change
};

// A stream of due times, never decreasing. Owned by the plan; thread: one.
class Arrivals {
 public:
  virtual ~Arrivals() = default;
  virtual absl::Duration Next() = 0;
};

// InvalidArgument names the flag that does not fit. The times are drawn as they come: they are not stretched so that
// the last one falls on requests/rate, as vLLM's benchmark does, because that would take the variance out of the load.
absl::StatusOr<std::unique_ptr<Arrivals>> MakeArrivals(const ArrivalSpec& spec, std::unique_ptr<Entropy> entropy);
// "poisson", "gamma 0.5", "ramp 1/s to 8/s in 60s": without the rate, which a run tells beside it.
std::string DescribeArrivals(const ArrivalSpec& spec);

}  // namespace interlace
