#include "coordinator/trace_context.h"

#include "absl/strings/str_format.h"

namespace interlace {
namespace {

// Lower-case hexadecimal digits alone, as the standard has it.
std::optional<uint64_t> ReadHex(absl::string_view digits) {
  uint64_t value = 0;
  for (const char c : digits) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return std::nullopt;
    value = value << 4 | static_cast<uint64_t>(digit);
  }
  return value;
}

}  // namespace

std::optional<TraceContext> ParseTraceparent(absl::string_view header) {
  constexpr size_t kLength = 55;
  if (header.size() < kLength || header[2] != '-' || header[35] != '-' || header[52] != '-') return std::nullopt;
  const std::optional<uint64_t> version = ReadHex(header.substr(0, 2)), high = ReadHex(header.substr(3, 16)),
                                low = ReadHex(header.substr(19, 16)), parent = ReadHex(header.substr(36, 16)),
                                flags = ReadHex(header.substr(53, 2));
  if (!version || !high || !low || !parent || !flags || *version == 0xff || *parent == 0) return std::nullopt;
  if (header.size() > kLength && (*version == 0 || header[kLength] != '-')) return std::nullopt;
  const TraceContext trace{*high, *low, *parent, (*flags & 1) != 0};
  return trace.any() ? std::optional(trace) : std::nullopt;
}

std::string TraceIdText(const TraceContext& trace) {
  return absl::StrFormat("%016x%016x", trace.trace_high, trace.trace_low);
}

}  // namespace interlace
