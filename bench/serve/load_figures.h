// The figures of a load run, by the field's definitions. Pure: records in, numbers out.
//
// Where tools disagree, this is what the names mean here:
//   TTFT        first delivery with text - sent. MLPerf counts from the scheduled time; here the difference of the two
//   is
//               the send lag, reported beside it, and a run whose lag matters is marked as not valid.
//   TPOT        (last delivery - first delivery) / (tokens - 1), one value per request. AIPerf calls it inter token
//               latency, GuideLLM calls it ITL. It exists for answers with at least two tokens in at least two
//               deliveries; vLLM counts a shorter answer as 0 for goodput, here it has no TPOT and is judged by its
//               other targets.
//   ITL         gaps between deliveries, pooled over all requests. A delivery of several tokens (speculation, chunked
//               SSE) ends one gap, as in vLLM; AIPerf calls this inter chunk latency.
//   normalised  E2EL / tokens; GuideLLM calls it TPOT, inference-perf NTPOT.
//   E2EL        last delivery - sent; of an answer without text: end - sent.
//   goodput     requests/s that end well and meet ALL of their own targets. The largest gap is one of the targets; in
//               vLLM's goodput no gap can be.
// Latencies are those of answers that ended well and, apart from normalised latency and E2EL, of those that the client
// cancelled as planned. Failed, shed and truncated requests have none: they are counted beside them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "bench/serve/load_record.h"

namespace interlace {

inline constexpr int kLoadOutcomes = 9;  // kOk .. kCancelled

// In the unit of the values. With count 0 the other fields mean nothing.
struct Distribution {
  int64_t count = 0;
  double mean = 0, std = 0;  // of the population, as numpy's default
  double p50 = 0, p90 = 0, p95 = 0, p99 = 0, max = 0;
  friend bool operator==(const Distribution&, const Distribution&) = default;
};
Distribution DistributionOf(std::vector<double> values);

// The q-quantile of sorted values, linear between the two nearest, as numpy's default. Requires: not empty.
double SortedQuantile(absl::Span<const double> sorted, double q);

// What one request showed, in seconds. A field is empty where the request has no such figure.
struct RequestFigures {
  std::optional<double> ttft, second_token, tpot, largest_gap, normalised, e2el;
  double send_lag = 0;
  int64_t output_tokens = 0;
  // Targets met; empty where the request has no such target, or no such figure to judge (TPOT of a one-token answer).
  std::optional<bool> met_ttft, met_tpot, met_largest_gap, met_e2el;
  bool judged = false;  // counts in attainment: it was not cancelled by the client
  bool good = false;    // it ended well and met all of its targets
};
RequestFigures FiguresOfRequest(const RequestRecord& record);

// Seconds between the deliveries of one request.
std::vector<double> GapsOf(const RequestRecord& record);

struct Attainment {
  int64_t asked = 0;  // requests with this target that were judged; those that failed or were shed did not meet it
  int64_t met = 0;
  double share() const { return asked == 0 ? 0 : static_cast<double>(met) / static_cast<double>(asked); }
};

struct LoadFigures {
  int64_t requests = 0;
  std::array<int64_t, kLoadOutcomes> outcomes = {};  // by LoadOutcome
  int64_t completed() const { return outcomes[static_cast<size_t>(LoadOutcome::kOk)]; }
  int64_t shed() const { return outcomes[static_cast<size_t>(LoadOutcome::kShed)]; }
  int64_t cancelled() const { return outcomes[static_cast<size_t>(LoadOutcome::kCancelled)]; }
  int64_t errors() const { return requests - completed() - shed() - cancelled(); }
  double shed_rate = 0;   // of all requests
  double error_rate = 0;  // of all requests: neither ok, nor shed, nor cancelled as planned

  Distribution ttft, second_token, tpot, itl, largest_gap, normalised, e2el, send_lag;  // seconds

  double seconds = 0;                                  // what rates are divided by: until the last end, as in vLLM
  int64_t input_tokens = 0, output_tokens = 0;         // of answers that ended well or were cancelled as planned
  int64_t wasted_tokens = 0;                           // delivered to requests that then failed
  double request_throughput = 0;                       // answers that ended well, per second
  double input_throughput = 0, output_throughput = 0;  // tokens/s
  double peak_output_throughput = 0;                   // tokens in the best whole second
  int64_t peak_concurrency = 0;                        // most requests open at one instant; vLLM counts by the second

  bool has_targets = false;  // any request has one
  double goodput = 0;        // requests/s
  double token_goodput = 0;  // output tokens/s of good requests
  double good_share = 0;     // of the requests that were judged; failed and shed ones are not good
  int64_t judged = 0, good = 0;
  Attainment met_ttft, met_tpot, met_largest_gap, met_e2el;

  double hit_rate = 0;          // cached / prompt tokens
  double hit_rate_ceiling = 0;  // tokens of prefixes seen before in the run / prompt tokens

  bool queue_grows = false;  // more requests stood open at the end of sending than a steady load explains
  bool over_saturated = false;
  bool saturated() const { return queue_grows || over_saturated; }
  bool valid = false;           // the client's own lateness does not colour the latencies
  std::string invalid_because;  // for people; empty when valid
};
LoadFigures FiguresOf(const LoadRun& run);

// The latencies of LoadFigures by name, in the order in which people read them.
struct LatencyMetric {
  absl::string_view key;   // "ttft"; as in vLLM's result where it has the figure
  absl::string_view name;  // "TTFT"
  absl::string_view meaning;
  Distribution LoadFigures::*field;
};
absl::Span<const LatencyMetric> LatencyMetrics();

}  // namespace interlace
