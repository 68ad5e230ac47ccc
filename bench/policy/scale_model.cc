#include "bench/policy/scale_model.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/cost_model.h"

namespace interlace {
namespace {

constexpr ScaleModel kModels[] = {
    {.name = "llama-3.1-8b",
     .layers = 32,
     .hidden = 4096,
     .heads = 32,
     .kv_heads = 8,
     .head_dim = 128,
     .vocab = 128256,
     .parameters = 8.03e9},
    {.name = "llama-3.1-70b",
     .layers = 80,
     .hidden = 8192,
     .heads = 64,
     .kv_heads = 8,
     .head_dim = 128,
     .vocab = 128256,
     .parameters = 70.55e9},
};

}  // namespace

absl::StatusOr<ScaleModel> FindScaleModel(absl::string_view name) {
  std::string known;
  for (const ScaleModel& model : kModels) {
    if (model.name == name) return model;
    absl::StrAppend(&known, known.empty() ? "" : ", ", model.name);
  }
  return absl::NotFoundError(absl::StrCat("--model ", name, " is not known; one of ", known));
}

double RooflineSeconds(const ScaleModel& model, const ScaleDevice& device, absl::Span<const PlanSequence> sequences) {
  const double bandwidth = device.bytes_per_second(), flops = device.flops_per_second();
  const double kv_bytes = static_cast<double>(model.kv_bytes()) * model.layers;
  const double pair_flops = 4.0 * model.heads * model.head_dim * model.layers;
  double rows = 0, samples = 0, attention = 0;
  for (const PlanSequence& s : sequences) {
    const StepWork work = StepWork().Add(s.start, static_cast<int32_t>(s.tokens.size()));
    rows += static_cast<double>(work.rows);
    samples += s.sample ? 1 + s.drafts : 0;
    attention += std::max(static_cast<double>(work.context) * kv_bytes / bandwidth,
                          static_cast<double>(work.products) * pair_flops / flops);
  }
  const double linear_flops = 2 * (model.layer_parameters() * rows + model.head_parameters() * samples);
  return device.fixed + std::max(model.read_bytes() / bandwidth, linear_flops / flops) + attention;
}

absl::StatusOr<int64_t> DeviceTokens(const ScaleModel& model, const ScaleDevice& device) {
  const double room = device.count * device.memory * device.memory_share - model.weight_bytes();
  if (room <= 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("the weights of %s take %.0f GB, and %d x %.0f GB x %.2f is less; raise --devices", model.name,
                        model.weight_bytes() / 1e9, device.count, device.memory / 1e9, device.memory_share));
  }
  return static_cast<int64_t>(room / static_cast<double>(model.kv_bytes() * model.layers));
}

int64_t HostTokens(const ScaleModel& model, const ScaleDevice& device) {
  return static_cast<int64_t>(device.count * device.host_memory / static_cast<double>(model.kv_bytes() * model.layers));
}

}  // namespace interlace
