#include "common/cpu_quota.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace interlace {
namespace {

// "200000 100000" → 2; "max 100000" → none.
std::optional<double> QuotaOf(absl::string_view quota, absl::string_view period) {
  double q = 0, p = 0;
  if (!absl::SimpleAtod(quota, &q) || !absl::SimpleAtod(period, &p) || !(q > 0) || !(p > 0)) return std::nullopt;
  return q / p;
}

std::optional<double> QuotaOfGroup(const std::string& folder, bool unified, ReadSystemFile read) {
  if (unified) {
    const std::optional<std::string> text = read(folder + "/cpu.max");
    if (!text.has_value()) return std::nullopt;
    const std::vector<absl::string_view> parts = absl::StrSplit(*text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
    return parts.size() == 2 ? QuotaOf(parts[0], parts[1]) : std::nullopt;
  }
  const std::optional<std::string> quota = read(folder + "/cpu.cfs_quota_us");
  const std::optional<std::string> period = read(folder + "/cpu.cfs_period_us");
  return quota.has_value() && period.has_value() ? QuotaOf(*quota, *period) : std::nullopt;
}

}  // namespace

std::optional<double> CpuQuota(ReadSystemFile read) {
  std::optional<double> least;
  for (const ControlGroup& group : ControlGroupsOf("cpu", read)) {
    const std::optional<double> quota = QuotaOfGroup(group.folder, group.unified, read);
    if (quota.has_value()) least = std::min(*quota, least.value_or(*quota));
  }
  return least;
}

std::optional<double> CpuQuotaOfThisProcess() { return CpuQuota(SystemFile); }

int UsefulThreads(int cores, std::optional<double> quota) {
  if (quota.has_value() && *quota < cores) cores = static_cast<int>(std::ceil(*quota));
  return std::max(cores, 1);
}

}  // namespace interlace
