// TraceContext: of which trace a request is a part, as W3C's header traceparent says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace interlace {

struct TraceContext {
  uint64_t trace_high = 0, trace_low = 0;  // both 0: of none
  uint64_t parent = 0;                     // the caller's span; 0: the request begins the trace
  bool sampled = true;                     // false: the caller records nothing of it, and neither do we
  bool any() const { return trace_high != 0 || trace_low != 0; }
  friend bool operator==(const TraceContext&, const TraceContext&) = default;
};

// "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"; of later versions what begins so. Nothing if it is
// malformed: the request then begins a trace of its own, as the standard asks.
std::optional<TraceContext> ParseTraceparent(absl::string_view header);

// 32 hexadecimal digits.
std::string TraceIdText(const TraceContext& trace);

}  // namespace interlace
