// Bandwidths of this machine, measured.
#pragma once

#include <string>

#include "cli/machine_facts.h"
#include "common/clock.h"

namespace interlace {

// Bytes a second that `threads` threads copy together from memory to memory; takes half a second and 512 MiB at most.
double MeasureMemoryCopy(int threads, Clock& clock);

// Writes 256 MiB (or as much as a second gives) into a file of `folder`, or of the nearest folder above it that is
// there, to the medium; reads it back; leaves nothing behind, however it ends.
DiskFacts MeasureDisk(const std::string& folder, Clock& clock);

}  // namespace interlace
