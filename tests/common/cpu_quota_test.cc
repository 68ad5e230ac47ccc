#include "common/cpu_quota.h"

#include <gtest/gtest.h>

#include <map>

#include "common/thread.h"

namespace interlace {
namespace {

using Files = std::map<std::string, std::string>;

std::optional<double> QuotaIn(const Files& files) {
  return CpuQuota([&](const std::string& path) -> std::optional<std::string> {
    const auto it = files.find(path);
    if (it == files.end()) return std::nullopt;
    return it->second;
  });
}

const std::string kUnified = "22 27 0:21 / /proc rw - proc proc rw\n30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 c rw\n";

// In a container of its own namespace: the group is at the mount.
TEST(CpuQuotaTest, AContainerOfVersionTwo) {
  Files files = {{"/proc/self/mountinfo", kUnified}, {"/proc/self/cgroup", "0::/\n"}};
  EXPECT_EQ(QuotaIn(files), std::nullopt);
  files["/sys/fs/cgroup/cpu.max"] = "max 100000\n";
  EXPECT_EQ(QuotaIn(files), std::nullopt);
  files["/sys/fs/cgroup/cpu.max"] = "200000 100000\n";
  EXPECT_EQ(QuotaIn(files), 2);
  files["/sys/fs/cgroup/cpu.max"] = "150000 100000\n";
  EXPECT_EQ(QuotaIn(files), 1.5);
  files["/proc/self/cgroup"] = "0::/../other\n";  // moved out of the namespace
  EXPECT_EQ(QuotaIn(files), 1.5);
}

TEST(CpuQuotaTest, TheLeastOfNestedGroupsCounts) {
  const Files groups = {{"/proc/self/mountinfo", kUnified}, {"/proc/self/cgroup", "0::/pods/pod7/main\n"}};
  const std::string folders[] = {"", "/pods", "/pods/pod7", "/pods/pod7/main"};
  for (const std::string& least : folders) {
    Files files = groups;
    for (const std::string& folder : folders) files["/sys/fs/cgroup" + folder + "/cpu.max"] = "800000 100000\n";
    files["/sys/fs/cgroup" + least + "/cpu.max"] = "300000 100000\n";
    EXPECT_EQ(QuotaIn(files), 3) << least;
  }
  Files files = groups;
  files["/sys/fs/cgroup/pods/pod8/cpu.max"] = "100000 100000\n";  // not around this process
  EXPECT_EQ(QuotaIn(files), std::nullopt);
}

TEST(CpuQuotaTest, VersionOneAndBothVersionsTogether) {
  const std::string mounts =
      "32 31 0:29 / /sys/fs/cgroup/cpu\\040all rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
      "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
      "38 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n";
  Files files = {{"/proc/self/mountinfo", mounts},
                 {"/proc/self/cgroup", "3:cpuset:/b\n2:cpu,cpuacct:/a/x\n0::/u\n"},
                 {"/sys/fs/cgroup/cpu all/a/x/cpu.cfs_quota_us", "-1\n"},
                 {"/sys/fs/cgroup/cpu all/a/x/cpu.cfs_period_us", "100000\n"},
                 {"/sys/fs/cgroup/cpuset/cpu.cfs_quota_us", "1000\n"},
                 {"/sys/fs/cgroup/cpuset/cpu.cfs_period_us", "100000\n"}};
  EXPECT_EQ(QuotaIn(files), std::nullopt);
  files["/sys/fs/cgroup/cpu all/a/cpu.cfs_quota_us"] = "50000\n";
  files["/sys/fs/cgroup/cpu all/a/cpu.cfs_period_us"] = "20000\n";
  EXPECT_EQ(QuotaIn(files), 2.5);
  files["/sys/fs/cgroup/unified/u/cpu.max"] = "100000 100000\n";
  EXPECT_EQ(QuotaIn(files), 1);
}

// A container without a namespace: the process's path is the host's, the mount shows the container's part alone.
TEST(CpuQuotaTest, AMountOfAPartOfTheHierarchy) {
  const Files files = {{"/proc/self/mountinfo", "9 8 0:1 /docker/4f /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n"},
                       {"/proc/self/cgroup", "2:cpu:/docker/4f/inner\n"},
                       {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000\n"},
                       {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"},
                       {"/sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "700000\n"},
                       {"/sys/fs/cgroup/cpu/inner/cpu.cfs_period_us", "100000\n"}};
  EXPECT_EQ(QuotaIn(files), 4);
}

TEST(CpuQuotaTest, FilesThatMakeNoSenseSetNoLimit) {
  for (const char* text : {"", "\n", "100000", "0 100000", "100000 0", "-5 100000", "nan 100000", "a b", "1 2 3"}) {
    EXPECT_EQ(QuotaIn({{"/proc/self/mountinfo", kUnified},
                       {"/proc/self/cgroup", "0::/\n"},
                       {"/sys/fs/cgroup/cpu.max", text}}),
              std::nullopt)
        << text;
  }
  EXPECT_EQ(QuotaIn({}), std::nullopt);
  EXPECT_EQ(QuotaIn({{"/proc/self/mountinfo", "x\n - \n1 2 3 - cgroup2\n"}, {"/proc/self/cgroup", ":\n0:\n"}}),
            std::nullopt);
}

TEST(CpuQuotaTest, APartOfACoreIsAThread) {
  EXPECT_EQ(UsefulThreads(64, std::nullopt), 64);
  EXPECT_EQ(UsefulThreads(64, 2), 2);
  EXPECT_EQ(UsefulThreads(64, 2.5), 3);
  EXPECT_EQ(UsefulThreads(64, 0.1), 1);
  EXPECT_EQ(UsefulThreads(2, 8), 2);
  EXPECT_EQ(UsefulThreads(0, std::nullopt), 1);
}

TEST(CpuQuotaTest, AvailableCoresKeepToTheQuota) {
  EXPECT_LE(AvailableCores(), UsefulThreads(1 << 20, CpuQuotaOfThisProcess()));
  EXPECT_GE(AvailableCores(), 1);
}

}  // namespace
}  // namespace interlace
