#include "cli/machine_facts.h"

#include <sys/resource.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "cli/bench_ceilings.h"
#include "common/cpu_quota.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "kernels/op_table.h"
#include "transport/tcp_socket.h"

namespace interlace {
namespace {

int64_t MostDescriptors() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<int64_t>(std::min<rlim_t>(limit.rlim_max, rlim_t{1} << 30));
}

absl::Status CanListen(const std::string& host, int64_t port) {
  ASSIGN_OR_RETURN(const std::string address, NumericHost(host));
  return ListenOn(address, static_cast<uint16_t>(port)).status();
}

}  // namespace

int64_t MeminfoBytes(absl::string_view meminfo, absl::string_view name) {
  for (absl::string_view line : absl::StrSplit(meminfo, '\n')) {
    if (!absl::ConsumePrefix(&line, name) || !absl::ConsumePrefix(&line, ":")) continue;
    const bool kilobytes = absl::ConsumeSuffix(&line, "kB");
    int64_t count = 0;
    if (absl::SimpleAtoi(absl::StripAsciiWhitespace(line), &count)) return kilobytes ? count * 1024 : count;
  }
  return 0;
}

std::string ChosenOf(absl::string_view choices) {
  const size_t begin = choices.find('['), end = choices.find(']');
  if (begin == absl::string_view::npos || end == absl::string_view::npos || end < begin) return "";
  return std::string(choices.substr(begin + 1, end - begin - 1));
}

MachineFacts ReadMachine(const Config& config, ReadSystemFile read) {
  MachineFacts facts;
  facts.cpu = CpuModel();
  facts.cores = AvailableCores();
  facts.cpu_quota = CpuQuota(read);
  const absl::StatusOr<const OpTable*> ops = FindOpTable(config.engine.ops);
  facts.ops_usable = ops.status();
  facts.ops = ops.ok() ? std::string((*ops)->name) : config.engine.ops;
  const std::string meminfo = read("/proc/meminfo").value_or("");
  facts.memory = MeminfoBytes(meminfo, "MemTotal");
  facts.memory_available = MeminfoBytes(meminfo, "MemAvailable");
  facts.huge_pages = MeminfoBytes(meminfo, "HugePages_Total");
  facts.memory_limit = MemoryLimit(read);
  facts.descriptors = MostDescriptors();
  facts.transparent_huge_pages = ChosenOf(read("/sys/kernel/mm/transparent_hugepage/enabled").value_or(""));
  absl::StatusOr<std::vector<UcxDevice>> devices = ListUcxDevices();
  facts.ucx_usable = devices.status();
  if (devices.ok()) facts.ucx = *std::move(devices);
  for (const auto& [name, port] : {std::pair<absl::string_view, int64_t>{"server.http_port", config.server.http_port},
                                   {"server.grpc_port", config.server.grpc_port}}) {
    if (port != 0) facts.ports.emplace_back(absl::StrCat(name, "=", port), CanListen(config.server.host, port));
  }
  return facts;
}

}  // namespace interlace
