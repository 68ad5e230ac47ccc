// Fidelity: whether a request's answer is the model's own, and what was done where it need not be.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"

namespace interlace {

enum class FidelityMode : uint8_t {
  kExact,    // the model's own answer, by whatever means are lossless
  kBounded,  // steps pass over sublayers, and as many of them as was agreed would say the same as the whole model
  kOff,      // exact, and no guess is made by passes over some sublayers either
};
absl::string_view FidelityName(FidelityMode mode);  // "exact"
std::optional<FidelityMode> ParseFidelity(absl::string_view text);

// What a request asks for; a value, part of Request.
struct Fidelity {
  FidelityMode mode = FidelityMode::kExact;
  // Of kBounded:
  float agreement = 1;     // share of steps that are to give the whole model's token
  int32_t exit_layer = 0;  // early exit: no layer from this one on but the last is run; 0: as the server plans
  uint64_t nonce = 0;      // drawn for this request alone: what its steps leave of KV is named by it
};

// What became of it; a value, part of RequestEnd. Counts are of steps that made a token.
struct FidelityReport {
  FidelityMode mode = FidelityMode::kExact;
  float target = 1;           // of agreement
  int32_t layers = 0;         // of the model; 0: no step was made
  int32_t skipped = 0;        // steps that passed sublayers over
  int32_t whole = 0;          // steps that went through every layer, but for audits
  int32_t audited = 0;        // steps of the whole model, compared with what passing over would have given
  int32_t agreed = 0;         // of these
  int64_t saved = 0;          // sublayers passed over, of 2 x layers in each step
  bool switched_off = false;  // too few agreed: steps behind that went through every layer
  int32_t steps() const { return skipped + whole + audited; }
  double agreement() const { return audited > 0 ? static_cast<double>(agreed) / audited : 1; }
  // Of all sublayers of all steps.
  double saved_share() const {
    return steps() > 0 && layers > 0 ? static_cast<double>(saved) / (2.0 * layers * steps()) : 0;
  }
  friend bool operator==(const FidelityReport&, const FidelityReport&) = default;
};

}  // namespace interlace
