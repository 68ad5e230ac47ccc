// What `interlace doctor` knows of the machine that it runs on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/config.h"
#include "common/control_groups.h"
#include "transport/ucx_devices.h"

namespace interlace {

struct DiskFacts {
  std::string folder;
  absl::Status usable;  // not OK: no file can be written there
  int64_t free = 0;     // bytes
  double write = 0;     // bytes a second, from memory to the medium
  double read = 0;      // and back, past the page cache where the file system allows it
  bool direct = false;  // it does
};

struct MachineFacts {
  std::string cpu;                      // "AMD EPYC 9R14"
  int cores = 1;                        // that this process may run on
  std::optional<double> cpu_quota;      // cores' worth of time; none: no group sets a limit
  std::string ops;                      // the op table that engine.ops stands for
  absl::Status ops_usable;              // not OK: this CPU lacks its instructions
  int64_t memory = 0;                   // bytes of the machine
  int64_t memory_available = 0;         // of these, what can be had without swapping
  std::optional<int64_t> memory_limit;  // of the control groups
  int64_t descriptors = 0;              // that a process may raise its limit to
  std::string transparent_huge_pages;   // always, madvise or never; empty: the system does not say
  int64_t huge_pages = 0;               // set aside
  absl::Status ucx_usable;
  std::vector<UcxDevice> ucx;
  std::vector<std::pair<std::string, absl::Status>> ports;  // "server.http_port=8000", and whether it can be had
  double memory_copy = 0;                                   // bytes a second, of all threads together; 0: not measured
  int copy_threads = 0;
  std::optional<DiskFacts> disk;  // none: no folder is configured
};

// Asks the system; measures nothing.
MachineFacts ReadMachine(const Config& config, ReadSystemFile read);

// The value in bytes of a line "MemAvailable:  123 kB" of /proc/meminfo; 0 if there is none.
int64_t MeminfoBytes(absl::string_view meminfo, absl::string_view name);
// "always" of "[always] madvise never"; empty if nothing is chosen.
std::string ChosenOf(absl::string_view choices);

}  // namespace interlace
