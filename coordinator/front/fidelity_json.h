// What an answer says of its fidelity, as JSON. Private to *_answer.cc and *_reply.cc.
#pragma once

#include <cmath>
#include <string>

#include "coordinator/fidelity.h"

namespace interlace {

// Puts it into the answer's member `interlace`, unless the answer is exact. Json: of nlohmann's library.
template <typename Json>
void AddFidelity(const FidelityReport& report, Json* json) {
  if (report.mode == FidelityMode::kExact) return;
  Json& out = (*json)["interlace"]["fidelity"];
  out["mode"] = std::string(FidelityName(report.mode));
  if (report.mode != FidelityMode::kBounded) return;
  const auto rounded = [](double share) { return std::round(share * 10000) / 10000; };
  out["target"] = rounded(report.target);
  out["steps_skipped"] = report.skipped;
  out["steps_whole"] = report.whole;
  out["steps_audited"] = report.audited;
  out["audits_agreed"] = report.agreed;
  out["agreement"] = report.audited > 0 ? Json(rounded(report.agreement())) : Json(nullptr);
  out["sublayers_saved"] = report.saved;
  out["sublayers_saved_share"] = rounded(report.saved_share());
  out["switched_off"] = report.switched_off;
}

}  // namespace interlace
