// The machine of studies in virtual time, as a configuration describes it.
#pragma once

#include "absl/status/statusor.h"
#include "bench/policy/virtual_replica.h"
#include "common/config.h"

namespace interlace {

// SmolLM2-135M on two cores: the default law and shape of VirtualRun, with block size, device, host, link and
// scheduler as configured. Its policy is set by the caller.
absl::StatusOr<VirtualRun> VirtualMachine(const Config& config);
// InvalidArgument if the device holds not one block of all layers: then nobody could ever run.
absl::Status CheckDevice(const VirtualShape& shape);

}  // namespace interlace
