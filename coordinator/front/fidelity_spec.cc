#include "coordinator/front/fidelity_spec.h"

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/sampling_spec.h"
#include "coordinator/skip_index/skip_advice.h"

namespace interlace {

FidelityRule RuleOf(bool bounded, const std::string& least_agreement, int64_t ranks, int32_t layers) {
  FidelityRule rule{.why_not_bounded = "", .layers = layers};
  CHECK(absl::SimpleAtod(least_agreement, &rule.least_agreement));  // Config has looked at it
  if (!bounded) {
    rule.why_not_bounded = "this server gives exact answers alone; its setting skip.bounded=true allows others";
  } else if (ranks > 1) {
    rule.why_not_bounded =
        absl::StrCat("a rank that holds the whole model would have to audit it, and there are ", ranks,
                     " ranks of a replica: cluster.stages, cluster.tensor_ranks and cluster.sequence_ranks must be 1");
  } else if (layers < kLeastSkipLayers) {
    rule.why_not_bounded = absl::StrCat("the model has ", layers, " layers, of which none can be passed over");
  }
  return rule;
}

absl::StatusOr<Fidelity> FidelityOf(const FidelitySpec& spec, const FidelityRule& rule) {
  Fidelity fidelity;
  const std::string mode = spec.mode.value_or("exact");
  const std::optional<FidelityMode> known = ParseFidelity(mode);
  if (!known) {
    return BadField("fidelity", absl::StrCat("'", absl::CHexEscape(mode.substr(0, 40)),
                                             "' is not known; write exact, bounded or off"));
  }
  fidelity.mode = *known;
  if (fidelity.mode != FidelityMode::kBounded) {
    if (!spec.agreement && !spec.exit_layer) return fidelity;
    return BadField(spec.agreement ? "fidelity.agreement" : "fidelity.exit_layer",
                    absl::StrCat("goes with the mode bounded alone, and not with ", mode));
  }
  if (!rule.why_not_bounded.empty()) {
    return BadField("fidelity", absl::StrCat("'bounded' is not to be had: ", rule.why_not_bounded));
  }
  const double agreement = spec.agreement.value_or(rule.least_agreement);
  if (!(agreement >= rule.least_agreement && agreement <= 1)) {
    return OutOfRange("fidelity.agreement", agreement,
                      absl::StrCat(rule.least_agreement, " (skip.least_agreement) to 1"));
  }
  fidelity.agreement = static_cast<float>(agreement);
  if (!spec.exit_layer) return fidelity;
  if (*spec.exit_layer < 1 || *spec.exit_layer > rule.layers - 2) {
    return OutOfRange(
        "fidelity.exit_layer", static_cast<double>(*spec.exit_layer),
        absl::StrCat("1 to ", rule.layers - 2, ": the first and the last of the ", rule.layers, " layers always run"));
  }
  fidelity.exit_layer = static_cast<int32_t>(*spec.exit_layer);
  return fidelity;
}

}  // namespace interlace
