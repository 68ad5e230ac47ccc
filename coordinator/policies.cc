#include <string>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduling_policy.h"

namespace interlace {
namespace {

struct Row {
  absl::string_view name;
  SchedulingPolicy before;
};

// The table of scheduling policies.
constexpr Row kPolicies[] = {
    {"fcfs", &FcfsBefore},
};

}  // namespace

absl::StatusOr<SchedulingPolicy> FindPolicy(absl::string_view name) {
  std::string known;
  for (const Row& row : kPolicies) {
    if (row.name == name) return row.before;
    absl::StrAppend(&known, known.empty() ? "" : ", ", row.name);
  }
  return absl::NotFoundError(absl::StrCat("sched.policy='", name, "' is not built in; known: ", known));
}

}  // namespace interlace
