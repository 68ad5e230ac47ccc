// Every op of a device backend against the reference: on the emulated device in tests, on a GPU in gpu_check.
//
// The device holds weights in BF16 and rounds activations of a product to BF16, so the reference computes on weights
// and activations rounded the same way (by code of its own): what is left are orders of sums and the last bits of
// functions.
#pragma once

#include <string>
#include <vector>

#include "kernels/backend.h"

namespace interlace {

struct OpCheck {
  std::string op;
  std::string name;   // of the case
  double worst = 0;   // largest error, as a share of the tolerance
  std::string fault;  // empty: agrees
};

// Checks of `op`, all its cases.
std::vector<OpCheck> CheckEmbedding(Backend& device);
std::vector<OpCheck> CheckRmsNorm(Backend& device);
std::vector<OpCheck> CheckRope(Backend& device);
std::vector<OpCheck> CheckLinear(Backend& device);
std::vector<OpCheck> CheckGatedLinear(Backend& device);
std::vector<OpCheck> CheckGate(Backend& device);
std::vector<OpCheck> CheckKvAppend(Backend& device);
std::vector<OpCheck> CheckPagedAttention(Backend& device);
std::vector<OpCheck> CheckSample(Backend& device);
std::vector<OpCheck> CheckResidualAdd(Backend& device);
std::vector<OpCheck> CheckSoftCap(Backend& device);

struct OpCheckGroup {
  const char* op;
  std::vector<OpCheck> (*run)(Backend& device);
};
inline constexpr OpCheckGroup kOpChecks[] = {
    {"embedding", &CheckEmbedding},
    {"rms_norm", &CheckRmsNorm},
    {"rope", &CheckRope},
    {"linear", &CheckLinear},
    {"gated_linear", &CheckGatedLinear},
    {"gate", &CheckGate},
    {"kv_append", &CheckKvAppend},
    {"paged_attention", &CheckPagedAttention},
    {"residual_add", &CheckResidualAdd},
    {"soft_cap", &CheckSoftCap},
    {"sample", &CheckSample},
};

}  // namespace interlace
