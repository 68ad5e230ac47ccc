#include "cli/doctor_command.h"

#include <cstdio>
#include <vector>

#include "cli/cluster_look.h"
#include "cli/doctor_cluster.h"
#include "cli/doctor_machine.h"
#include "cli/findings.h"
#include "cli/machine_facts.h"
#include "cli/machine_probe.h"
#include "common/clock.h"
#include "common/cpu_quota.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

std::vector<Finding> LookAtMachine(const Config& config, bool quick) {
  MachineFacts facts = ReadMachine(config, SystemFile);
  if (!quick) {
    RealClock clock;
    facts.copy_threads = facts.cores;
    facts.memory_copy = MeasureMemoryCopy(facts.copy_threads, clock);
    if (!config.kv.rocksdb_dir.empty()) facts.disk = MeasureDisk(config.kv.rocksdb_dir, clock);
  }
  return JudgeMachine(facts, config);
}

}  // namespace

absl::StatusOr<int> DoctorCommand(const Config& config, const DoctorOptions& options) {
  std::vector<Finding> findings;
  if (options.url.empty()) {
    findings = LookAtMachine(config, options.quick);
  } else {
    ASSIGN_OR_RETURN(const HttpDoor door, HttpDoor::At(options.url, options.api_key));
    ASSIGN_OR_RETURN(const ClusterLook look, LookAtCluster(door));
    findings = JudgeCluster(look, options.version);
  }
  std::printf("%s%s", (options.json ? FindingsJson(findings) : FindingsTable(findings)).c_str(),
              options.json ? "\n" : "");
  return FindingsExitStatus(findings);
}

}  // namespace interlace
