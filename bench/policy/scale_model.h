// What a step of a large model costs on a device that is not there: roofline arithmetic. Pure.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/plan/step_plan.h"

namespace interlace {

// A decoder with grouped-query attention in all layers.
struct ScaleModel {
  absl::string_view name;
  int32_t layers = 0;
  int32_t hidden = 0;
  int32_t heads = 0;     // of queries
  int32_t kv_heads = 0;  // of keys and values
  int32_t head_dim = 0;
  int32_t vocab = 0;
  double parameters = 0;    // all of them, both embeddings too
  int32_t value_bytes = 2;  // of a weight and of a value of KV: bf16

  // Of one token in one layer, keys and values.
  int64_t kv_bytes() const { return int64_t{2} * kv_heads * head_dim * value_bytes; }
  double head_parameters() const { return static_cast<double>(vocab) * hidden; }
  double layer_parameters() const { return parameters - 2 * head_parameters(); }  // all layers
  double weight_bytes() const { return parameters * value_bytes; }
  // The embedding of the input is looked up, not read.
  double read_bytes() const { return (parameters - head_parameters()) * value_bytes; }
};
// "llama-3.1-8b" or "llama-3.1-70b". NotFound lists the known names.
absl::StatusOr<ScaleModel> FindScaleModel(absl::string_view name);

// One accelerator, by its data sheet, and the shares of these figures that kernels reach. Several under tensor
// parallelism count as one that is as many times faster and larger: what their all-reduces cost is left out.
struct ScaleDevice {
  int32_t count = 1;
  double bandwidth = 4.8e12;   // bytes/s of device memory
  double flops = 990e12;       // dense bf16
  double link = 64e9;          // bytes/s to the host, each way: PCIe 5 x16; NVLink-C2C has 450e9
  double memory = 141e9;       // bytes
  double host_memory = 256e9;  // bytes for KV on the host
  double bandwidth_share = 0.81;
  double flops_share = 0.61;
  double link_share = 0.78;
  double memory_share = 0.9;  // for weights and KV; the rest is for activations
  double fixed = 0.3e-3;      // seconds of a step: launches and sampling

  double bytes_per_second() const { return count * bandwidth * bandwidth_share; }
  double flops_per_second() const { return count * flops * flops_share; }
  double link_bytes_per_second() const { return count * link * link_share; }
};

// Seconds that a step of these sequences takes, transfers not counted:
//   fixed + max(weights / bandwidth, 2 parameters rows / flops)
//         + sum over sequences of max(KV read / bandwidth, 4 heads head_dim layers products / flops)
// where products counts pairs of a query and a key that it sees, and the head's parameters count for rows that are
// sampled. Requires: there is a sequence.
double RooflineSeconds(const ScaleModel& model, const ScaleDevice& device, absl::Span<const PlanSequence> sequences);

// Tokens whose KV fits on the device beside the weights, and on the host. FailedPrecondition if the weights alone do
// not fit.
absl::StatusOr<int64_t> DeviceTokens(const ScaleModel& model, const ScaleDevice& device);
int64_t HostTokens(const ScaleModel& model, const ScaleDevice& device);

}  // namespace interlace
