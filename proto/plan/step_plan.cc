#include "proto/plan/step_plan.h"

#include "absl/strings/str_cat.h"

namespace interlace {

int32_t StepPlan::tokens() const {
  size_t total = 0;
  for (const PlanSequence& s : sequences) total += s.tokens.size();
  return static_cast<int32_t>(total);
}

std::string StepPlan::ToString() const {
  std::string text = absl::StrCat("plan ", Value(id), " epoch ", Value(epoch), ":");
  for (const PlanSequence& s : sequences) {
    absl::StrAppend(&text, " [request ", Value(s.request), ".", s.attempt, " positions ", s.start, "..",
                    s.start + static_cast<int32_t>(s.tokens.size()) - 1, s.sample ? " sample" : "", " ",
                    s.residency.ToString(), "]");
  }
  for (const ResidencyChange& c : residency) {
    absl::StrAppend(&text, " residency ", Value(c.request), " ", c.residency.ToString());
  }
  for (RequestId id : releases) absl::StrAppend(&text, " release ", Value(id));
  return text;
}

std::string StepResult::ToString() const {
  std::string text = absl::StrCat("result of plan ", Value(plan), " stage ", Value(stage), " ", status.ToString());
  for (const SampledToken& s : sampled) absl::StrAppend(&text, " request ", Value(s.request), " token ", s.token);
  for (const LostBlock& l : lost) {
    absl::StrAppend(&text, " request ", Value(l.request), " lost layer ", Value(l.layer), " block ", l.block, " (",
                    LossCauseName(l.cause), ")");
  }
  return text;
}

absl::string_view LossCauseName(LossCause cause) {
  switch (cause) {
    case LossCause::kMissing:
      return "missing";
    case LossCause::kCorrupt:
      return "corrupt";
    case LossCause::kLate:
      return "late";
    case LossCause::kNoSlot:
      return "no slot";
  }
  return "?";
}

}  // namespace interlace
