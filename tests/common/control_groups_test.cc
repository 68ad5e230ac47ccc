#include "common/control_groups.h"

#include <gtest/gtest.h>

#include <map>

namespace interlace {
namespace {

using Files = std::map<std::string, std::string>;

std::optional<int64_t> LimitIn(const Files& files) {
  return MemoryLimit([&](const std::string& path) -> std::optional<std::string> {
    const auto it = files.find(path);
    return it == files.end() ? std::nullopt : std::optional<std::string>(it->second);
  });
}

const std::string kUnified = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 c rw\n";

TEST(MemoryLimitTest, TheLeastOfNestedGroupsOfVersionTwoCounts) {
  Files files = {{"/proc/self/mountinfo", kUnified}, {"/proc/self/cgroup", "0::/pods/main\n"}};
  EXPECT_EQ(LimitIn(files), std::nullopt);
  files["/sys/fs/cgroup/pods/main/memory.max"] = "max\n";
  EXPECT_EQ(LimitIn(files), std::nullopt);
  files["/sys/fs/cgroup/pods/memory.max"] = "1073741824\n";
  EXPECT_EQ(LimitIn(files), int64_t{1} << 30);
  files["/sys/fs/cgroup/pods/main/memory.max"] = "536870912\n";
  EXPECT_EQ(LimitIn(files), int64_t{1} << 29);
  files["/sys/fs/cgroup/other/memory.max"] = "1\n";  // not around this process
  EXPECT_EQ(LimitIn(files), int64_t{1} << 29);
}

TEST(MemoryLimitTest, VersionOneHasAHierarchyOfItsOwnForMemory) {
  Files files = {{"/proc/self/mountinfo",
                  "33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
                  "34 31 0:31 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"},
                 {"/proc/self/cgroup", "5:memory:/docker/abc\n2:cpu,cpuacct:/x\n"},
                 {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"}};
  EXPECT_EQ(LimitIn(files), std::nullopt) << "that is how none is written";
  files["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "2147483648\n";
  EXPECT_EQ(LimitIn(files), int64_t{1} << 31);
  files["/sys/fs/cgroup/cpu/x/memory.limit_in_bytes"] = "1\n";
  EXPECT_EQ(LimitIn(files), int64_t{1} << 31);
}

TEST(MemoryLimitTest, NothingThatCanBeReadIsNoLimit) {
  EXPECT_EQ(LimitIn({}), std::nullopt);
  EXPECT_EQ(LimitIn({{"/proc/self/mountinfo", "nonsense\n"}, {"/proc/self/cgroup", "::::\n\n"}}), std::nullopt);
}

}  // namespace
}  // namespace interlace
