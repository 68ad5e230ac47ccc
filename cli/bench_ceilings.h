// What this machine gives at best, measured in the same round as what is compared with it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "kernels/backend.h"
#include "kernels/cpu/ceilings.h"

namespace interlace {

struct Ceilings {
  double read = 0;  // bytes a second, from memory
  double fma = 0;   // F32 operations a second
  double int8 = 0;  // 8-bit operations a second
};

// Owned by the command; thread: the one that runs steps. The trap: it measures with the backend's own threads, so
// nothing else may run on them.
class CeilingProbe {
 public:
  // Takes 512 MiB: no cache holds them.
  static absl::StatusOr<std::unique_ptr<CeilingProbe>> Create(Backend& memory);
  // About 50 ms each, on the threads of `backend`.
  Ceilings Measure(Backend& backend, const CeilingLoops& loops, Clock& clock) const;

 private:
  explicit CeilingProbe(std::unique_ptr<DeviceBuffer> data) : data_(std::move(data)) {}
  const std::unique_ptr<DeviceBuffer> data_;
};

// Time that the hypervisor gave to others since boot, of all cores together; 0 where it does not say.
absl::Duration StolenTime();

// The most memory that this process has had resident.
int64_t PeakResidentBytes();
// "AMD EPYC", or "unknown".
std::string CpuModel();

}  // namespace interlace
