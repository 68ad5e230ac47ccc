// interlace bench: how fast a model runs here, and how near that is to what the machine gives.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/config.h"

namespace interlace {

// Sequences times tokens: of prompts, or of contexts to decode at. Written "512" or "32x256".
struct BenchShape {
  int32_t batch = 1;
  int32_t tokens = 0;
  friend bool operator==(const BenchShape&, const BenchShape&) = default;
};
// InvalidArgument names the part of the text that is no shape.
absl::StatusOr<std::vector<BenchShape>> ParseBenchShapes(absl::string_view text);

struct BenchModelOptions {
  std::vector<BenchShape> prompts;   // prefill
  std::vector<BenchShape> contexts;  // decode
  std::vector<int> threads;          // empty: engine.threads
  std::vector<std::string> ops;      // empty: engine.ops
  int32_t steps = 32;                // tokens of a sequence in one decode round
  int rounds = 5;                    // and one before them that warms up
  bool profile = false;
  std::string json;  // file to write
};
absl::Status BenchModelCommand(const Config& config, const BenchModelOptions& options);

// Read bandwidth, F32 and 8-bit rates, `rounds` times; with the instructions of op table `ops`, or if that is empty,
// with the best of this CPU.
absl::Status BenchCeilingsCommand(int threads, const std::string& ops, int rounds, const std::string& json);

}  // namespace interlace
