// Span: one part of a request's time, as OpenTelemetry sees it. A value.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/trace_context.h"

namespace interlace {

using SpanValue = std::variant<std::string, int64_t, double, bool>;
using SpanAttributes = std::vector<std::pair<std::string, SpanValue>>;

struct SpanEvent {
  std::string name;
  absl::Time at;
  SpanAttributes attributes;
};

struct Span {
  TraceContext trace;  // its parent is the span's
  uint64_t id = 0;
  std::string name;
  bool server = false;    // it answers a call of another process
  absl::Time start, end;  // of the process's clock
  SpanAttributes attributes;
  std::vector<SpanEvent> events;
  absl::Status status;
};

}  // namespace interlace
