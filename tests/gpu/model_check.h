// A whole model on a device backend against the same model on the CPU.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/gguf.h"
#include "kernels/backend.h"

namespace interlace {

struct ModelCheckOptions {
  std::vector<std::vector<int32_t>> prompts;  // for greedy tokens and logits
  int32_t greedy_steps = 0;                   // after each prompt
  std::vector<std::vector<int32_t>> windows;  // for perplexity
  // Mean negative log-likelihood of each window by someone else; empty: the CPU computes it.
  std::vector<double> window_nll;
};

// The CPU computes with the reference ops: those of "auto" round activations to 8 bits, which is coarser than BF16.
// Both run on the CPU's greedy tokens, so that one near tie does not hide what follows.
struct ModelCheck {
  double worst_logit = 0;  // largest difference of any logit
  double mean_logit = 0;   // mean difference of all
  int compared = 0;        // greedy choices
  int agreed = 0;
  double worst_margin = 0;                  // of the CPU's first logit over its second, where the choices differ
  double nll_expected = 0, nll_device = 0;  // mean over the windows' tokens
  double device_prefill_tokens_per_second = 0;
  double device_decode_tokens_per_second = 0;  // all prompts together
};

// The device holds weights in BF16 and multiplies BF16 activations: what that may cost (docs/gpu-results.md).
inline constexpr double kLogitTolerance = 1.0;
inline constexpr double kMarginTolerance = 0.35;
inline constexpr double kPerplexityTolerance = 0.01;  // relative

absl::StatusOr<ModelCheck> CheckModel(const GgufFile& file, std::unique_ptr<Backend> device,
                                      const ModelCheckOptions& options);

// What is beyond the tolerances, or empty.
std::string FaultOf(const ModelCheck& check);

}  // namespace interlace
