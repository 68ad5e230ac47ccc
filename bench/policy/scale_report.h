// What runs at scale showed: figures, JSON and a page. Pure.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "bench/policy/scale_run.h"
#include "bench/serve/load_figures.h"

namespace interlace {

// Why prompt tokens that an earlier prompt had as well were computed again, as shares of all prompt tokens. Their sum,
// less `gained`, is the ceiling less the hit rate.
struct ScaleMisses {
  double cut = 0;        // they end within a block of KV, or are the last token of a prompt
  double gone = 0;       // no replica held them any more when the request was routed
  double scattered = 0;  // the replica that held most of the prefix did not hold these, and another one did
  double elsewhere = 0;  // the request was sent to another replica than to the one that held most
  double coming = 0;     // they were on their way where it was sent, and it did not wait for them or they were lost
  double lost = 0;       // they lay where it was sent, and were evicted before it began
  double gained = 0;     // more was found when it began than was held when it was routed
};

// By the definitions of bench/serve/load_figures.h; of requests that ended well.
struct ScaleFigures {
  int64_t requests = 0, failed = 0;
  Distribution ttft, tpot, largest_gap, e2el;  // seconds
  double request_throughput = 0;               // answers per second, until the last end
  double output_throughput = 0;                // tokens per second
  double attained = 0;                         // share of all requests that met every target they had
  double hit_rate = 0;                         // cached / prompt tokens
  ScaleMisses misses;
  double busy = 0;                    // share of the replicas' time in which a step was computed
  double stalled = 0;                 // likewise, in which it waited for KV from the host
  double unevenness = 0;              // prompt tokens of the replica that got most, over the mean
  double busiest = 0;                 // time in which the busiest replica computed steps, over the mean
  double parks = 0, preemptions = 0;  // per request
  double handed = 0;                  // share of the requests that went from one replica to another
};
ScaleFigures FiguresOf(const ScaleOutcome& outcome, const ScaleSetup& setup);

// One run.
struct ScaleRow {
  std::string policy, route;
  int32_t replicas = 1;
  int32_t prefill = 0;     // of these, those that compute prompts alone
  double load = 1;         // offered rate over replicas x capacity of one
  double rate = 0;         // offered, requests/s of all replicas
  double hit_ceiling = 0;  // of the load
  ScaleFigures figures;
  double simulated = 0, wall = 0;  // seconds
};

struct ScaleReport {
  std::vector<std::pair<std::string, std::string>> facts;  // name, value: what was run, and how
  double capacity = 0;                                     // requests/s of one replica: what loads are multiples of
  std::vector<ScaleRow> rows;
};
std::string ScaleJson(const ScaleReport& report);
// Figures over load where there are several, over replicas where there are several, and all of them as a table.
std::string ScalePage(const ScaleReport& report);

}  // namespace interlace
