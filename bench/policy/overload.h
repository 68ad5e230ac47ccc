// Overload: what is served in time when more arrives than gets through, in virtual time.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "bench/policy/virtual_replica.h"

namespace interlace {

struct OverloadLoad {
  int32_t prompt = 512;  // tokens
  int32_t answer = 128;
  double rate = 1;                               // requests/s, Poisson
  absl::Duration duration = absl::Seconds(200);  // of the arrivals
  absl::Duration ttft = absl::Seconds(2);        // targets of every request
  absl::Duration tpot = absl::Milliseconds(150);
  double device_bytes = 24e6;
  uint64_t seed = 1;
  MachineLaw law;
};

// Of the requests that arrive after the first fifth of the time, by then.
struct OverloadPoint {
  double goodput = 0;  // requests/s that met TTFT and TPOT
  double served = 0;   // requests/s that ended well
  double shed = 0;     // share of requests
  double failed = 0;   // share of requests that ended otherwise
  double early = 0;    // of those shed, the share that was told within a tenth of its TTFT
  double ttft99 = 0;   // seconds, of those served
  double tpot99 = 0;   // likewise
};

// What the machine alone would get through: with every request's KV on the device.
double ComputeLimit(const MachineLaw& law, const OverloadLoad& load);

OverloadPoint RunOverload(const Policy& policy, bool shed, const OverloadLoad& load);

}  // namespace interlace
