// interlace bench scale: the policies on large models and many replicas, in virtual time.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "bench/policy/scale_model.h"

namespace CLI {
class App;
}

namespace interlace {

// As it was typed.
struct BenchScaleOptions {
  std::string trace;  // Mooncake JSON lines
  std::string model = "llama-3.1-8b";
  std::string policies = "fcfs,swap,layerkv,slack", routes = "prefix", loads = "0.7,1,1.3", replicas = "1";
  std::string prefill = "0";  // of the replicas, those that compute prompts alone; a list
  double tier = 0;            // bytes/s of a replica to a tier that all reach; 0: there is none
  int64_t requests = 0;       // of each run; 0: the whole trace, and kLeastEach for every replica
  double capacity = 0;        // requests/s of one replica; 0: measured
  int32_t devices = 0;        // of a replica; 0: as many as the model needs
  ScaleDevice device;         // one of them
  int32_t block_tokens = 64, trace_block = 512, step_tokens = 2048, max_running = 512, max_parked = 16;
  double ttft = 10, tpot = 0.1, gap = 4;  // seconds; 0: no target
  std::string json, html;                 // files to write; empty: none
  std::string command;                    // as it was typed
};
void AddBenchScaleFlags(CLI::App* command, BenchScaleOptions* options);

// Runs every policy at every load, number of replicas and routing rule, prints a line for each and writes the files.
absl::Status BenchScaleCommand(const BenchScaleOptions& options);

}  // namespace interlace
