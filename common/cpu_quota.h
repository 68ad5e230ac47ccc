// The share of the machine's CPUs that its control groups leave to this process: what `docker run --cpus=2` sets.
#pragma once

#include <optional>

#include "common/control_groups.h"

namespace interlace {

// Cores' worth of time that this process may use, 2.5 say: the least that its control group and the groups around it
// set, by cpu.max (version 2) or cpu.cfs_quota_us over cpu.cfs_period_us (version 1). nullopt: no group sets a limit.
std::optional<double> CpuQuota(ReadSystemFile read);

// The same of the system's own files.
std::optional<double> CpuQuotaOfThisProcess();

// Threads that are of use where `cores` may be run on and a quota of `quota` cores is set: a part of a core counts as
// one, since a thread fewer would leave it unused. At least 1.
int UsefulThreads(int cores, std::optional<double> quota);

}  // namespace interlace
