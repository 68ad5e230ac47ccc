// What became of a request, as spans; pure.
#pragma once

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "coordinator/request_observer.h"
#include "coordinator/telemetry/span.h"

namespace interlace {

// First the request's own, llm_request, with the names of vLLM and of OpenTelemetry's conventions for generative
// models. Its children follow one another: queue, kv.restore, prefill, decode, parked; beside them is kv.transfer, one
// for each group of eight layers of a stage of which KV was moved for it. Decisions of the scheduler are events of the
// first. `draw` gives ids.
std::vector<Span> SpansOf(const EndedRequest& ended, const std::string& model, absl::FunctionRef<uint64_t()> draw);

}  // namespace interlace
