#include "absl/strings/str_cat.h"
#include "coordinator/scheduling_policy.h"

namespace interlace {
namespace {

struct Row {
  absl::string_view name;
  std::unique_ptr<SchedulingPolicy> (*make)();
};

// The table of scheduling policies.
constexpr Row kPolicies[] = {
    {"fcfs", &MakeFcfs},
};

}  // namespace

absl::StatusOr<std::unique_ptr<SchedulingPolicy>> MakePolicy(absl::string_view name) {
  std::string known;
  for (const Row& row : kPolicies) {
    if (row.name == name) return row.make();
    absl::StrAppend(&known, known.empty() ? "" : ", ", row.name);
  }
  return absl::NotFoundError(absl::StrCat("sched.policy='", name, "' is not built in; known: ", known));
}

}  // namespace interlace
