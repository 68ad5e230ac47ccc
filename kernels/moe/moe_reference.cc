#include <cmath>
#include <vector>

#include "common/check.h"
#include "kernels/cpu/variants.h"

namespace interlace::reference {
namespace {

void RouteRow(const MoeRouteArgs& args, int64_t token) {
  const float* logits = args.logits.f32_row(token);
  const int64_t slots = args.weights.cols;
  int32_t* experts = args.experts.data() + token * slots;
  float* weights = args.weights.f32_row(token);
  std::vector<bool> taken(args.logits.cols, false);
  for (int32_t s = 0; s < args.top_k; ++s) {
    int32_t best = -1;
    for (int32_t e = 0; e < args.logits.cols; ++e) {
      if (!taken[e] && (best < 0 || logits[e] > logits[best])) best = e;
    }
    taken[best] = true;
    experts[s] = best;
  }
  const float largest = logits[experts[0]];
  float all = 0, chosen = 0;
  for (int64_t e = 0; e < args.logits.cols; ++e) all += std::exp(logits[e] - largest);
  for (int32_t s = 0; s < args.top_k; ++s) {
    weights[s] = std::exp(logits[experts[s]] - largest) / all;
    chosen += weights[s];
  }
  for (int32_t s = 0; args.normalise && s < args.top_k; ++s) weights[s] /= chosen;
  if (args.shared.data != nullptr) {
    experts[args.top_k] = static_cast<int32_t>(args.logits.cols);
    weights[args.top_k] = 1 / (1 + std::exp(-args.shared.f32_row(token)[0]));
  }
  for (int64_t s = 0; s < slots; ++s) weights[s] *= args.scale;
}

}  // namespace

void MoeRoute(const MoeRouteArgs& args, OpContext /*on*/) {
  CHECK(args.top_k >= 1 && args.top_k <= args.logits.cols);
  CHECK(args.weights.cols == args.top_k + (args.shared.data != nullptr ? 1 : 0));
  for (int64_t t = 0; t < args.logits.rows; ++t) RouteRow(args, t);
}

void MoeFfn(const MoeFfnArgs& args, OpContext on) {
  const int64_t slots = args.weights.cols;
  for (int64_t t = 0; t < args.x.rows; ++t) {
    std::vector<float> sum(args.x.cols, 0.0f);
    for (int64_t s = 0; s < slots; ++s) {
      const ExpertWeight& expert = args.table[args.experts[t * slots + s]];
      if (expert.gate.data == nullptr) continue;
      const Tensor gated{args.gated.data, DType::kF32, 1, expert.gate.rows}, product = args.products.Rows(0, 1);
      GatedLinear({gated, args.x.Rows(t, 1), expert.gate, expert.up, args.kind}, on);
      Linear({gated, {{product, expert.down}}}, on);
      for (int64_t i = 0; i < args.x.cols; ++i) sum[i] += args.weights.f32_row(t)[s] * product.f32()[i];
    }
    for (int64_t i = 0; i < args.x.cols; ++i) args.out.f32_row(t)[i] += sum[i];
  }
}

}  // namespace interlace::reference
