#include "cli/doctor_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "cli/machine_probe.h"
#include "common/clock.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

MachineFacts GoodMachine() {
  MachineFacts facts;
  facts.cpu = "some CPU";
  facts.cores = 8;
  facts.ops = "avx512";
  facts.memory = int64_t{32} << 30;
  facts.memory_available = int64_t{16} << 30;
  facts.descriptors = 1 << 20;
  facts.transparent_huge_pages = "madvise";
  facts.ucx = {{"tcp", "eth0", true, false}, {"posix", "memory", false, false}};
  facts.memory_copy = 9e9;
  facts.copy_threads = 8;
  facts.ports = {{"server.http_port=8000", absl::OkStatus()}};
  return facts;
}

Finding Find(const MachineFacts& facts, const Config& config, const std::string& check) {
  for (const Finding& finding : JudgeMachine(facts, config)) {
    if (finding.check == check) return finding;
  }
  ADD_FAILURE() << "no finding of " << check;
  return {};
}

TEST(DoctorMachineTest, AGoodMachineHasNothingToCure) {
  for (const Finding& finding : JudgeMachine(GoodMachine(), Config())) {
    EXPECT_EQ(finding.verdict, Verdict::kOk) << finding.check << ": " << finding.found;
    EXPECT_EQ(finding.cure, "") << finding.check;
    EXPECT_NE(finding.found, "") << finding.check;
  }
}

// Each change makes its own check worse, as far as it says, and no other; what is not ok has a cure.
TEST(DoctorMachineTest, EachFaultIsFoundByItsCheckAlone) {
  struct Case {
    const char* check;
    Verdict verdict;
    void (*spoil)(MachineFacts&, Config&);
  };
  const Case cases[] = {
      {"cpu", Verdict::kWarn, [](MachineFacts&, Config& c) { c.engine.threads = 9; }},
      {"cpu", Verdict::kWarn, [](MachineFacts&, Config& c) { c.cluster.stages = 2; }},
      {"cpu", Verdict::kWarn, [](MachineFacts&, Config& c) { c.cluster.replicas = 2; }},
      {"instructions", Verdict::kFail,
       [](MachineFacts& f, Config&) { f.ops_usable = absl::FailedPreconditionError("no AVX-512 here"); }},
      {"instructions", Verdict::kWarn, [](MachineFacts& f, Config&) { f.ops = "reference"; }},
      {"memory", Verdict::kFail, [](MachineFacts&, Config& c) { c.kv.host_bytes.value = int64_t{40} << 30; }},
      {"memory", Verdict::kFail, [](MachineFacts& f, Config&) { f.memory_limit = int64_t{1} << 30; }},
      {"memory", Verdict::kWarn, [](MachineFacts&, Config& c) { c.kv.host_bytes.value = int64_t{20} << 30; }},
      {"huge pages", Verdict::kWarn, [](MachineFacts& f, Config&) { f.transparent_huge_pages = "never"; }},
      {"descriptors", Verdict::kWarn, [](MachineFacts& f, Config&) { f.descriptors = 1024; }},
      {"ucx transports", Verdict::kWarn,
       [](MachineFacts& f, Config&) { f.ucx_usable = absl::UnavailableError("no UCX"); }},
      {"ucx transports", Verdict::kFail, [](MachineFacts&, Config& c) { c.transport.tls = "rc,ud"; }},
      {"port", Verdict::kFail, [](MachineFacts& f, Config&) { f.ports[0].second = absl::UnavailableError("taken"); }},
      {"memory bandwidth", Verdict::kWarn, [](MachineFacts& f, Config&) { f.memory_copy = 1e9; }},
      {"disk", Verdict::kFail,
       [](MachineFacts& f, Config&) {
         f.disk.emplace();
         f.disk->usable = absl::PermissionDeniedError("/kv cannot be written");
       }},
      {"disk space", Verdict::kWarn,
       [](MachineFacts& f, Config&) {
         f.disk.emplace(DiskFacts{.folder = "/kv", .usable = {}, .free = 1 << 30, .write = 1e9, .read = 1e9});
       }},
      {"disk bandwidth", Verdict::kWarn,
       [](MachineFacts& f, Config&) {
         f.disk.emplace(DiskFacts{.folder = "/kv", .usable = {}, .free = int64_t{1} << 40, .write = 1e9, .read = 9e6});
       }},
  };
  for (const Case& one : cases) {
    MachineFacts facts = GoodMachine();
    Config config;
    one.spoil(facts, config);
    for (const Finding& finding : JudgeMachine(facts, config)) {
      EXPECT_EQ(finding.verdict, finding.check == one.check ? one.verdict : Verdict::kOk)
          << one.check << " / " << finding.check << ": " << finding.found;
      EXPECT_EQ(finding.cure.empty(), finding.verdict == Verdict::kOk) << finding.check;
    }
    EXPECT_EQ(Find(facts, config, one.check).verdict, one.verdict);
  }
}

TEST(DoctorMachineTest, RdmaIsUsedWhereItIsAndNamedTransportsAreLookedFor) {
  MachineFacts facts = GoodMachine();
  Config config;
  EXPECT_THAT(Find(facts, config, "ucx transports").found, HasSubstr("TCP is used"));
  facts.ucx.push_back({"rc_mlx5", "mlx5_0:1", true, true});
  EXPECT_THAT(Find(facts, config, "ucx transports").found, HasSubstr("RDMA is used"));
  for (const char* tls : {"rc", "rc_mlx5", "ib", "rc,shm"}) {
    config.transport.tls = tls;
    EXPECT_EQ(Find(facts, config, "ucx transports").verdict, Verdict::kOk) << tls;
  }
  config.transport.tls = "rc,dc";
  const Finding missing = Find(facts, config, "ucx transports");
  EXPECT_EQ(missing.verdict, Verdict::kFail);
  EXPECT_THAT(missing.cure, HasSubstr("names dc,"));
}

TEST(MachineFactsTest, ReadsTheSystemsFiles) {
  EXPECT_EQ(MeminfoBytes("MemTotal:  2048 kB\nMemAvailable:\t1 kB\nHugePages_Total:  7\n", "MemTotal"), 2048 * 1024);
  EXPECT_EQ(MeminfoBytes("MemTotal:  2048 kB\nHugePages_Total:  7\n", "HugePages_Total"), 7);
  EXPECT_EQ(MeminfoBytes("nonsense", "MemTotal"), 0);
  EXPECT_EQ(ChosenOf("always [madvise] never\n"), "madvise");
  EXPECT_EQ(ChosenOf("]["), "");
  EXPECT_EQ(ChosenOf(""), "");
}

// This machine, whatever it is, in numbers that no machine lacks.
TEST(MachineFactsTest, KnowsThisMachine) {
  Config config;
  config.server.http_port = config.server.grpc_port = 0;
  const MachineFacts facts = ReadMachine(config, SystemFile);
  EXPECT_GE(facts.cores, 1);
  EXPECT_GT(facts.memory, 0);
  EXPECT_LE(facts.memory_available, facts.memory);
  EXPECT_GT(facts.descriptors, 0);
  EXPECT_TRUE(facts.ops_usable.ok());
  ASSERT_TRUE(facts.ucx_usable.ok()) << facts.ucx_usable;
  bool self = false;
  for (const UcxDevice& device : facts.ucx) self |= device.transport == "self";
  EXPECT_TRUE(self) << "UCX always has itself";
  EXPECT_TRUE(facts.ports.empty());
}

TEST(MachineProbeTest, ADiskIsMeasuredAndLeftAsItWas) {
  RealClock clock;
  const std::string folder = testing::TempDir() + "/interlace-doctor-test/not/there";
  const DiskFacts disk = MeasureDisk(folder, clock);
  EXPECT_TRUE(disk.usable.ok()) << disk.usable;
  EXPECT_GT(disk.write, 0);
  EXPECT_GT(disk.read, 0);
  EXPECT_GT(disk.free, 0);
  EXPECT_EQ(folder.rfind(disk.folder, 0), 0u) << "the nearest folder that is there: " << disk.folder;
  EXPECT_FALSE(MeasureDisk("/proc/nobody/writes/here", clock).usable.ok());
}

}  // namespace
}  // namespace interlace
