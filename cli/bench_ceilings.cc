#include "cli/bench_ceilings.h"

#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// No power of two: streams a power of two apart would share cache sets and memory banks.
constexpr int64_t kReadBytes = kReadGrain * 130'051;
constexpr absl::Duration kEach = absl::Milliseconds(50);

// Amounts a second of `run`, which does `amount`, repeated until kEach has passed.
template <typename Run>
double Rate(Clock& clock, double amount, Run run) {
  const absl::Time begin = clock.Now();
  double done = 0;
  absl::Duration took;
  do {
    run();
    done += amount;
    took = clock.Now() - begin;
  } while (took < kEach);
  return done / absl::ToDoubleSeconds(took);
}

}  // namespace

absl::StatusOr<std::unique_ptr<CeilingProbe>> CeilingProbe::Create(Backend& memory) {
  ASSIGN_OR_RETURN(std::unique_ptr<DeviceBuffer> data, memory.Allocate(kReadBytes));
  for (int64_t i = 0; i < kReadBytes; i += int64_t{sizeof(i)}) std::memcpy(data->data() + i, &i, sizeof i);
  return std::unique_ptr<CeilingProbe>(new CeilingProbe(std::move(data)));
}

Ceilings CeilingProbe::Measure(Backend& backend, const CeilingLoops& loops, Clock& clock) const {
  constexpr int64_t kRounds = 100'000;
  ThreadTeam& team = backend.context().team();
  std::atomic<int64_t> sink{0};  // keeps the loops from being dropped
  const auto everyone = [&](auto body) {
    team.ParallelFor(team.threads(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sink += static_cast<int64_t>(body());
    });
  };
  Ceilings ceilings;
  ceilings.read = Rate(clock, static_cast<double>(kReadBytes), [&] {
    team.ParallelFor(kReadBytes, kReadGrain, [&](int64_t begin, int64_t end) {
      sink += static_cast<int64_t>(loops.read(data_->data() + begin, end - begin));
    });
  });
  ceilings.fma = Rate(clock, static_cast<double>(team.threads() * kRounds * loops.fma_flops),
                      [&] { everyone([&] { return loops.fma(kRounds); }); });
  ceilings.int8 = Rate(clock, static_cast<double>(team.threads() * kRounds * loops.dot_ops),
                       [&] { everyone([&] { return loops.dot(kRounds); }); });
  return ceilings;
}

int64_t PeakResidentBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

absl::Duration StolenTime() {
  std::ifstream file("/proc/stat");
  std::string line;
  std::getline(file, line);  // cpu user nice system idle iowait irq softirq steal ...
  const std::vector<std::string> fields = absl::StrSplit(line, ' ', absl::SkipEmpty());
  int64_t ticks = 0;
  if (fields.size() < 9 || fields[0] != "cpu" || !absl::SimpleAtoi(fields[8], &ticks)) return absl::ZeroDuration();
  return absl::Seconds(1) * ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (absl::StartsWith(line, "model name")) {
      return std::string(absl::StripAsciiWhitespace(line.substr(line.find(':') + 1)));
    }
  }
  return "unknown";
}

}  // namespace interlace
