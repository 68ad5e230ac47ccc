#include "common/control_groups.h"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace interlace {
namespace {

constexpr int64_t kNoLimit = int64_t{1} << 60;  // version 1 writes none as the largest number of whole pages

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
std::optional<std::string> GroupPath(absl::string_view groups, absl::string_view controller, bool unified) {
  for (absl::string_view line : absl::StrSplit(groups, '\n')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (unified ? parts[1].empty() && parts[0] == "0" : Lists(parts[1], controller)) return std::string(parts[2]);
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
std::vector<Hierarchy> Hierarchies(absl::string_view mounts, absl::string_view groups, absl::string_view controller) {
  std::vector<Hierarchy> found;
  for (absl::string_view line : absl::StrSplit(mounts, '\n')) {
    const std::vector<absl::string_view> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    if (halves.size() != 2) continue;
    const std::vector<absl::string_view> left = absl::StrSplit(halves[0], ' ');
    const std::vector<absl::string_view> right = absl::StrSplit(halves[1], ' ');
    if (left.size() < 5 || right.size() < 3) continue;
    const bool unified = right[0] == "cgroup2";
    if (!unified && !(right[0] == "cgroup" && Lists(right[2], controller))) continue;
    std::string root, mount;  // spaces in them are written \040
    const std::optional<std::string> path = GroupPath(groups, controller, unified);
    if (!path.has_value() || !absl::CUnescape(left[3], &root) || !absl::CUnescape(left[4], &mount)) continue;
    found.push_back({unified, mount, Below(root, *path)});
  }
  return found;
}

}  // namespace

std::optional<std::string> SystemFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

std::vector<ControlGroup> ControlGroupsOf(absl::string_view controller, ReadSystemFile read) {
  const std::optional<std::string> mounts = read("/proc/self/mountinfo"), groups = read("/proc/self/cgroup");
  std::vector<ControlGroup> found;
  if (!mounts.has_value() || !groups.has_value()) return found;
  for (const Hierarchy& hierarchy : Hierarchies(*mounts, *groups, controller)) {
    std::string group = hierarchy.group;
    while (true) {
      found.push_back({hierarchy.unified, hierarchy.mount + group});
      if (group.empty()) break;
      group.resize(group.rfind('/'));
    }
  }
  return found;
}

std::optional<int64_t> MemoryLimit(ReadSystemFile read) {
  std::optional<int64_t> least;
  for (const ControlGroup& group : ControlGroupsOf("memory", read)) {
    const std::optional<std::string> text =
        read(group.folder + (group.unified ? "/memory.max" : "/memory.limit_in_bytes"));
    int64_t bytes = 0;
    if (!text.has_value() || !absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &bytes)) continue;  // such as "max"
    if (bytes < kNoLimit) least = std::min(bytes, least.value_or(bytes));
  }
  return least;
}

}  // namespace interlace
