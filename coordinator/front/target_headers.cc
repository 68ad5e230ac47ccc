#include "coordinator/front/target_headers.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"

namespace interlace {
namespace {

// A header under its name and under the one that it had before; the first that is there counts.
struct Name {
  absl::string_view now, before;
};
constexpr Name kTtft = {"x-llm-d-slo-ttft-ms", "x-slo-ttft-ms"};
constexpr Name kTpot = {"x-llm-d-slo-tpot-ms", "x-slo-tpot-ms"};
constexpr Name kLargestGap = {"x-llm-d-slo-largest-gap-ms", ""};
constexpr Name kTenant = {"x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id"};
constexpr Name kObjective = {"x-llm-d-inference-objective", "x-gateway-inference-objective"};
constexpr Name kDeadline = {"x-interlace-deadline-ms", ""};
constexpr Name kPriority = {"x-interlace-priority", ""};
constexpr Name kFidelity = {"x-interlace-fidelity", ""};

struct Header {
  absl::string_view name, value;  // an empty value: there is none
};

Header Find(HeaderLookup header, const Name& name) {
  for (absl::string_view candidate : {name.now, name.before}) {
    const absl::string_view value = candidate.empty() ? "" : absl::StripAsciiWhitespace(header(candidate));
    if (!value.empty()) return {candidate, value};
  }
  return {};
}

absl::Status NotA(absl::string_view kind, const Header& header) {
  return BadField(header.name, absl::StrCat("'", absl::CHexEscape(header.value.substr(0, 40)), "' is not ", kind));
}

absl::Status ReadMilliseconds(HeaderLookup header, const Name& name,
                              absl::Status (*check)(absl::string_view field, double ms), std::optional<double>* ms) {
  const Header found = ms->has_value() ? Header() : Find(header, name);
  if (found.value.empty()) return absl::OkStatus();
  double value = 0;
  if (!absl::SimpleAtod(found.value, &value)) return NotA("a number of milliseconds", found);
  RETURN_IF_ERROR(check(found.name, value));
  *ms = value;
  return absl::OkStatus();
}

absl::Status ReadLabel(HeaderLookup header, const Name& name, std::string* label) {
  const Header found = Find(header, name);
  RETURN_IF_ERROR(CheckLabel(found.name, found.value));
  *label = std::string(found.value);
  return absl::OkStatus();
}

}  // namespace

void ReadFidelityHeader(HeaderLookup header, FidelitySpec* spec) {
  const Header found = spec->mode ? Header() : Find(header, kFidelity);
  if (!found.value.empty()) spec->mode = std::string(found.value);
}

absl::Status ReadTargetHeaders(HeaderLookup header, TargetSpec* out) {
  TargetSpec& targets = *out;
  RETURN_IF_ERROR(ReadMilliseconds(header, kTtft, &CheckTarget, &targets.ttft_ms));
  RETURN_IF_ERROR(ReadMilliseconds(header, kTpot, &CheckTarget, &targets.tpot_ms));
  RETURN_IF_ERROR(ReadMilliseconds(header, kLargestGap, &CheckTarget, &targets.largest_gap_ms));
  RETURN_IF_ERROR(ReadMilliseconds(header, kDeadline, &CheckDeadline, &targets.deadline_ms));
  const Header priority = targets.priority ? Header() : Find(header, kPriority);
  if (!priority.value.empty()) {
    int64_t value = 0;
    if (!absl::SimpleAtoi(priority.value, &value)) return NotA("an integer", priority);
    RETURN_IF_ERROR(CheckPriority(priority.name, value));
    targets.priority = value;
  }
  if (!targets.fairness_id) RETURN_IF_ERROR(ReadLabel(header, kTenant, &targets.fairness_id.emplace()));
  return ReadLabel(header, kObjective, &targets.objective);
}

}  // namespace interlace
