// A study's run on the real thing: scheduler, rank and transfers in this process, under the load generator.
#pragma once

#include "absl/status/statusor.h"
#include "bench/study/engine_client.h"
#include "bench/study/study_run.h"
#include "common/config.h"

namespace interlace {

// On a fresh replica of `config`. `concurrency`: of a closed loop, 0 otherwise. Prints how it gets on to a terminal.
// Cancelled if it was interrupted.
absl::StatusOr<StudyRun> RunInProcess(const Config& config, const EngineClientOptions& client,
                                      const StudyRequest& request, int32_t concurrency);

}  // namespace interlace
