// How long ops of a device take, and how much of its memory bandwidth they use.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_driver.h"

namespace interlace {

struct OpTiming {
  std::string op;
  std::string shape;
  double microseconds = 0;  // of one call, queued with many others
  double bytes = 0;         // that the op must move: weights, KV and activations, each once
  double flops = 0;
};

// Bytes read and written per second by copies of `bytes` within the device.
absl::StatusOr<double> MeasureBandwidth(CudaDriver& driver, int64_t bytes = int64_t{1} << 30);

// The shapes of a step of SmolLM2-135M and of an 8B Llama; rows, columns and calls divided by `divisor`, for a device
// that is none.
absl::StatusOr<std::vector<OpTiming>> TimeOps(Backend& device, int64_t divisor = 1);

}  // namespace interlace
