#include "cli/doctor_machine.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cli/terminal.h"

namespace interlace {
namespace {

// Below these a machine serves, but KV below the device is rarely worth fetching: computing it again is as quick.
constexpr double kSlowMemory = 2e9;  // bytes a second
constexpr double kSlowDisk = 100e6;

std::string Rate(double bytes_per_second) {
  return bytes_per_second >= 1e9 ? absl::StrFormat("%.1f GB/s", bytes_per_second / 1e9)
                                 : absl::StrFormat("%.0f MB/s", bytes_per_second / 1e6);
}

// Stages whose streams do not take turns compute one after another.
int64_t RanksAtOnce(const Config& config) {
  return RanksOfCluster(config) / (config.sched.turns == 1 ? config.cluster.stages : 1);
}

Finding Cpu(const MachineFacts& facts, const Config& config) {
  Finding finding{"cpu", Verdict::kOk, absl::StrCat(facts.cpu, ", ", facts.cores, " cores"), ""};
  if (facts.cpu_quota) absl::StrAppend(&finding.found, ", control group: ", absl::StrFormat("%g", *facts.cpu_quota));
  const int64_t ranks = RanksAtOnce(config);
  const int64_t threads = config.engine.threads == 0 ? facts.cores : config.engine.threads;
  if (config.engine.threads > facts.cores) {
    finding.verdict = Verdict::kWarn;
    absl::StrAppend(&finding.found, ", engine.threads=", threads);
    finding.cure = absl::StrCat("--set engine.threads=", facts.cores, ": more threads than cores wait for each other");
  } else if (ranks > 1 && ranks * threads > facts.cores) {
    finding.verdict = Verdict::kWarn;
    absl::StrAppend(&finding.found, ", ", ranks, " ranks of ", threads, " threads");
    finding.cure = absl::StrCat("--set engine.threads=", std::max<int64_t>(1, facts.cores / ranks),
                                ", if all ranks run on this machine");
  }
  return finding;
}

Finding Instructions(const MachineFacts& facts) {
  if (!facts.ops_usable.ok()) {
    return {"instructions", Verdict::kFail, std::string(facts.ops_usable.message()), "--set engine.ops=auto"};
  }
  if (facts.ops == "reference") {
    return {"instructions", Verdict::kWarn, "reference: the plain kernels",
            "a CPU with AVX2 or AVX-512, or --set engine.ops=auto where it has them"};
  }
  return {"instructions", Verdict::kOk, facts.ops, ""};
}

Finding Memory(const MachineFacts& facts, const Config& config) {
  const int64_t ranks = RanksOfCluster(config);
  const int64_t each = config.kv.device_bytes.value + config.kv.host_bytes.value;
  const bool remote = absl::StrContains(config.kv.tiers, "remote");
  const int64_t wanted = ranks * each + (remote ? config.kvstore.host_bytes.value : 0);
  Finding finding{"memory", Verdict::kOk, "", ""};
  finding.found = absl::StrCat(HumanBytes(facts.memory_available), " of ", HumanBytes(facts.memory), " available");
  if (facts.memory_limit) absl::StrAppend(&finding.found, ", control group: ", HumanBytes(*facts.memory_limit));
  absl::StrAppend(&finding.found, "; KV of ", ranks, ranks == 1 ? " rank: " : " ranks: ", HumanBytes(wanted));
  const std::string less = "less --device-kv or --host-kv; weights come on top";
  const int64_t most = std::min(facts.memory, facts.memory_limit.value_or(facts.memory));
  if (wanted > most) {
    finding.verdict = Verdict::kFail;
    finding.cure = less;
  } else if (wanted > std::min(facts.memory_available, most)) {
    finding.verdict = Verdict::kWarn;
    finding.cure = less;
  }
  return finding;
}

Finding HugePages(const MachineFacts& facts) {
  Finding finding{
      "huge pages", Verdict::kOk,
      absl::StrCat("transparent: ", facts.transparent_huge_pages.empty() ? "unknown" : facts.transparent_huge_pages,
                   ", set aside: ", facts.huge_pages),
      ""};
  if (facts.transparent_huge_pages == "never") {
    finding.verdict = Verdict::kWarn;
    finding.cure =
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: large arenas are read with fewer misses";
  }
  return finding;
}

Finding Descriptors(const MachineFacts& facts, const Config& config) {
  // As interlace-coordinator divides them.
  const int64_t connections = std::max<int64_t>(1, facts.descriptors - std::max<int64_t>(128, facts.descriptors / 8));
  Finding finding{"descriptors", Verdict::kOk,
                  absl::StrCat("hard limit ", facts.descriptors, ": ",
                               std::min(connections, config.http.max_connections), " HTTP connections"),
                  ""};
  if (connections < config.http.max_connections) {
    finding.verdict = Verdict::kWarn;
    finding.cure =
        absl::StrCat("ulimit -Hn ", (config.http.max_connections * 8 + 6) / 7,
                     " (LimitNOFILE= of systemd) for all of http.max_connections=", config.http.max_connections);
  }
  return finding;
}

Finding Ucx(const MachineFacts& facts, const Config& config) {
  if (!facts.ucx_usable.ok()) {
    return {"ucx transports", Verdict::kWarn, std::string(facts.ucx_usable.message()),
            "processes talk over TCP; `ucx_info -d` tells more"};
  }
  std::map<std::string, std::set<std::string>> by_transport;
  std::set<std::string> rdma;
  for (const UcxDevice& device : facts.ucx) {
    by_transport[device.transport].insert(device.device);
    if (device.rdma) rdma.insert(device.device);
  }
  std::vector<std::string> shown;
  for (const auto& [transport, devices] : by_transport) {
    shown.push_back(transport == "tcp" || rdma.count(*devices.begin()) > 0
                        ? absl::StrCat(transport, " (", absl::StrJoin(devices, " "), ")")
                        : transport);
  }
  Finding finding{"ucx transports", Verdict::kOk, shown.empty() ? "none" : absl::StrJoin(shown, ", "), ""};
  const std::string& wanted = config.transport.tls;
  if (wanted == "auto" || wanted == "none") {
    absl::StrAppend(&finding.found, rdma.empty() || wanted == "none" ? "; TCP is used" : "; RDMA is used");
    return finding;
  }
  std::vector<std::string> missing;
  for (absl::string_view name : absl::StrSplit(wanted, ',', absl::SkipWhitespace())) {
    // "rc" stands for rc_verbs and rc_mlx5, "ib" for all that are RDMA; "shm", "sm" and "self" are always there.
    const auto stands_for = [name](const auto& one) {
      return one.first == name || absl::StartsWith(one.first, absl::StrCat(name, "_"));
    };
    const bool there = std::any_of(by_transport.begin(), by_transport.end(), stands_for) ||
                       (name == "ib" && !rdma.empty()) || name == "shm" || name == "sm" || name == "self";
    if (!there) missing.emplace_back(name);
  }
  if (missing.empty()) return finding;
  finding.verdict = Verdict::kFail;
  finding.cure = absl::StrCat("transport.tls=", wanted, " names ", absl::StrJoin(missing, ", "),
                              ", which this machine has not; --set transport.tls=auto");
  return finding;
}

Finding Port(const std::pair<std::string, absl::Status>& port) {
  if (port.second.ok()) return {"port", Verdict::kOk, absl::StrCat(port.first, " is free"), ""};
  return {"port", Verdict::kFail, absl::StrCat(port.first, ": ", port.second.message()),
          absl::StrCat("another: ", absl::StrContains(port.first, "grpc") ? "--grpc-port" : "--port",
                       "; or a server runs here already: interlace status")};
}

Finding MemoryCopy(const MachineFacts& facts) {
  Finding finding{"memory bandwidth", Verdict::kOk,
                  absl::StrCat(Rate(facts.memory_copy), " copied by ", facts.copy_threads, " threads"), ""};
  if (facts.memory_copy < kSlowMemory) {
    finding.verdict = Verdict::kWarn;
    finding.cure = "something else uses the memory, or the machine is emulated: KV of the host tier comes slowly";
  }
  return finding;
}

std::vector<Finding> Disk(const MachineFacts& facts, const Config& config) {
  if (!facts.disk && !config.kv.rocksdb_dir.empty()) return {};  // it was not measured
  if (!facts.disk) {
    return {{"disk", Verdict::kOk, "no RocksDB folder is configured; --rocksdb FOLDER looks at one", ""}};
  }
  const DiskFacts& disk = *facts.disk;
  if (!disk.usable.ok()) {
    return {
        {"disk", Verdict::kFail, std::string(disk.usable.message()), "another --rocksdb FOLDER, or its permissions"}};
  }
  Finding room{"disk space", Verdict::kOk,
               absl::StrCat(HumanBytes(disk.free), " free in ", disk.folder,
                            "; kv.rocksdb_bytes=", PrintBytes(config.kv.rocksdb_bytes)),
               ""};
  if (disk.free < config.kv.rocksdb_bytes.value) {
    room.verdict = Verdict::kWarn;
    room.cure = absl::StrCat("--set kv.rocksdb_bytes=", disk.free / (int64_t{2} << 20), "MiB, or more room");
  }
  Finding speed{"disk bandwidth", Verdict::kOk,
                absl::StrCat("writes ", Rate(disk.write), ", reads ", Rate(disk.read),
                             disk.direct ? "" : " (perhaps from the page cache)"),
                ""};
  if (std::min(disk.write, disk.read) < kSlowDisk) {
    speed.verdict = Verdict::kWarn;
    speed.cure = "a local NVMe disk: at this speed KV is rarely worth fetching from here";
  }
  return {room, speed};
}

}  // namespace

std::vector<Finding> JudgeMachine(const MachineFacts& facts, const Config& config) {
  std::vector<Finding> findings = {Cpu(facts, config), Instructions(facts),        Memory(facts, config),
                                   HugePages(facts),   Descriptors(facts, config), Ucx(facts, config)};
  for (const auto& port : facts.ports) findings.push_back(Port(port));
  if (facts.memory_copy > 0) findings.push_back(MemoryCopy(facts));
  for (Finding& finding : Disk(facts, config)) findings.push_back(std::move(finding));
  return findings;
}

}  // namespace interlace
