// interlace bench serve: load on a server, and what came of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bench/serve/load_capacity.h"
#include "bench/serve/load_client.h"
#include "bench/serve/load_plan.h"

namespace interlace {

struct BenchServeOptions {
  std::string protocol;  // a name of LoadProtocols
  LoadClientOptions client;
  LoadPlanSpec plan;          // of each run; its rate, seed and salt are set run by run
  std::vector<double> rates;  // one run for each, and for each seed; empty: the plan asks for no rate
  int32_t seeds = 1;          // plan.seed and those after it
  int32_t concurrency = 0;    // LoadRunnerOptions
  int32_t warmup = 0;         // requests before the first run, which count for nothing
  bool stop_when_saturated = true;
  bool find_capacity = false;
  CapacityOptions capacity;            // its seeds and start_rate are those of the above
  std::string label;                   // of the runs, for comparisons
  std::string json, jsonl, csv, html;  // files to write; empty: none
  std::string command;                 // as it was typed
};

// Makes the runs one after another, shows how they get on and what came of them, and writes the files, also when it is
// interrupted. An error if the server cannot be reached, or if not one request was answered.
absl::Status BenchServeCommand(BenchServeOptions options);

}  // namespace interlace
