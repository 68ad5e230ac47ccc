// `interlace bench transfers`: what moving KV between device and host costs a rank that computes meanwhile.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cli/bench_transfers.h"
#include "common/config.h"

namespace interlace {

struct BenchTransfersOptions {
  int32_t prompt = 1024;
  int32_t streams = 8;
  int32_t context = 512;
  std::vector<int32_t> host;  // layers; empty: chosen
  int rounds = 5;
  std::string json;
};

// Where steps begin to wait: by the formula and as measured.
struct ZeroStall {
  double formula = 0;   // host layers that a resident step hides
  double measured = 0;  // host layers at which a step begins to be longer than a resident one
  double layer = 0;     // seconds by which one more host layer makes a step longer that waits
};

// Of steps with different numbers of host layers, the resident one among them: a line through those that wait, their
// length being what the link needs, meets the resident step at `measured`. NaN: fewer than two of them wait.
ZeroStall FindZeroStall(const std::vector<HostStep>& steps, double hidden_layers);

// Prints two tables. InvalidArgument: kv.link_bytes is zero, or a number makes no sense.
absl::Status BenchTransfersCommand(const Config& config, const BenchTransfersOptions& options);

}  // namespace interlace
