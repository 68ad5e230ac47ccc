#include "bench/policy/scale_load.h"

#include <algorithm>
#include <cmath>

#include "absl/container/flat_hash_set.h"

namespace interlace {
namespace {

// From the first due time to where the next copy begins: one mean gap after the last.
absl::Duration SpanOf(absl::Span<const TraceRow> rows) {
  const absl::Duration sent = rows.back().due - rows.front().due;
  return rows.size() < 2 ? absl::ZeroDuration() : sent + sent / static_cast<int64_t>(rows.size() - 1);
}

void FindKnown(int32_t block_tokens, ScaleLoad* load) {
  absl::flat_hash_set<int64_t> seen;
  double shared = 0, all = 0;
  for (const TraceRow& request : load->requests) {
    int32_t known = 0;
    bool begins = true;
    for (int64_t block : request.blocks) {
      begins = !seen.insert(block).second && begins;
      if (begins) known += block_tokens;
    }
    load->known.push_back(std::min(known, request.input));
    shared += load->known.back();
    all += request.input;
  }
  load->hit_ceiling = all > 0 ? shared / all : 0;
}

}  // namespace

ScaleLoad LoadOf(absl::Span<const TraceRow> rows, size_t count, double rate, int32_t block_tokens) {
  ScaleLoad load;
  int64_t ids = 0;  // above all of the trace
  for (const TraceRow& row : rows) {
    for (int64_t block : row.blocks) ids = std::max(ids, block + 1);
  }
  const absl::Duration span = SpanOf(rows);
  load.requests.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const auto copy = static_cast<int64_t>(i / rows.size());
    TraceRow& request = load.requests.emplace_back(rows[i % rows.size()]);
    request.due += copy * span - rows.front().due;
    for (int64_t& block : request.blocks) block += copy * ids;
  }
  const double seconds = count == 0 ? 0 : absl::ToDoubleSeconds(load.requests.back().due);
  const bool at_once = std::isinf(rate) || seconds <= 0;
  const double scale = at_once ? 0 : static_cast<double>(count - 1) / (seconds * rate);
  for (TraceRow& request : load.requests) request.due *= scale;
  load.rate = rate;
  FindKnown(block_tokens, &load);
  return load;
}

std::vector<int32_t> PromptOf(const TraceRow& request, int32_t block_tokens, int32_t own) {
  std::vector<int32_t> prompt;
  const auto input = static_cast<size_t>(request.input);
  prompt.reserve(input);
  for (int64_t block : request.blocks) {
    const size_t end = std::min(input, prompt.size() + static_cast<size_t>(block_tokens));
    prompt.resize(end, static_cast<int32_t>(block & 0x3fffffff));
  }
  prompt.resize(input, own);
  return prompt;
}

}  // namespace interlace
