#include "common/cpu_quota.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace interlace {
namespace {

// A hierarchy of control groups as this process sees it: the group at the mount point and, below it, the process's own.
struct Hierarchy {
  bool unified;  // version 2
  std::string mount;
  std::string group;  // "/a/b" below the mount; empty: the group at the mount itself
};

bool Lists(absl::string_view comma_separated, absl::string_view word) {
  for (absl::string_view one : absl::StrSplit(comma_separated, ',')) {
    if (one == word) return true;
  }
  return false;
}

// The path of the process's group in the hierarchy, by a line "4:cpu,cpuacct:/path" or "0::/path" of /proc/self/cgroup.
std::optional<std::string> GroupPath(absl::string_view groups, bool unified) {
  for (absl::string_view line : absl::StrSplit(groups, '\n')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (unified ? parts[1].empty() && parts[0] == "0" : Lists(parts[1], "cpu")) return std::string(parts[2]);
  }
  return std::nullopt;
}

// `path` counts from the hierarchy's root, the mount may show a part of it alone. A path outside that part, as a
// namespace makes it ("/../x"), leaves the group at the mount.
std::string Below(absl::string_view root, absl::string_view path) {
  if (root == "/") root = "";
  if (absl::StartsWith(path, "/..") || !absl::StartsWith(path, root)) return "";
  path.remove_prefix(root.size());
  if (!path.empty() && path[0] != '/') return "";
  return path == "/" ? "" : std::string(path);
}

// By the lines "31 23 0:28 root mount options [optional ...] - type source options" of /proc/self/mountinfo.
std::vector<Hierarchy> Hierarchies(absl::string_view mounts, absl::string_view groups) {
  std::vector<Hierarchy> found;
  for (absl::string_view line : absl::StrSplit(mounts, '\n')) {
    const std::vector<absl::string_view> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    if (halves.size() != 2) continue;
    const std::vector<absl::string_view> left = absl::StrSplit(halves[0], ' ');
    const std::vector<absl::string_view> right = absl::StrSplit(halves[1], ' ');
    if (left.size() < 5 || right.size() < 3) continue;
    const bool unified = right[0] == "cgroup2";
    if (!unified && !(right[0] == "cgroup" && Lists(right[2], "cpu"))) continue;
    std::string root, mount;  // spaces in them are written \040
    const std::optional<std::string> path = GroupPath(groups, unified);
    if (!path.has_value() || !absl::CUnescape(left[3], &root) || !absl::CUnescape(left[4], &mount)) continue;
    found.push_back({unified, mount, Below(root, *path)});
  }
  return found;
}

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
  const std::optional<std::string> mounts = read("/proc/self/mountinfo"), groups = read("/proc/self/cgroup");
  if (!mounts.has_value() || !groups.has_value()) return std::nullopt;
  std::optional<double> least;
  for (const Hierarchy& hierarchy : Hierarchies(*mounts, *groups)) {
    std::string group = hierarchy.group;
    while (true) {
      const std::optional<double> quota = QuotaOfGroup(hierarchy.mount + group, hierarchy.unified, read);
      if (quota.has_value()) least = std::min(*quota, least.value_or(*quota));
      if (group.empty()) break;
      group.resize(group.rfind('/'));
    }
  }
  return least;
}

std::optional<double> CpuQuotaOfThisProcess() {
  return CpuQuota([](const std::string& path) -> std::optional<std::string> {
    std::ifstream file(path);
    if (!file) return std::nullopt;
    return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  });
}

int UsefulThreads(int cores, std::optional<double> quota) {
  if (quota.has_value() && *quota < cores) cores = static_cast<int>(std::ceil(*quota));
  return std::max(cores, 1);
}

}  // namespace interlace
