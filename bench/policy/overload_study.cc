// overload_study [seeds [policies [ttft_s [rates [unreported [noise [prompt [answer [tpot_s [device_bytes]]]]]]]]]]:
// goodput against rate, with shedding and without, in virtual time. Rates are shares of what the machine would get
// through if memory were no limit; `unreported` and `noise` are MachineLaw's, for a machine that the cost model does
// not know as it is; the last ones are OverloadLoad's.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "bench/policy/overload.h"
#include "common/log.h"

namespace interlace {
namespace {

int Main(int argc, char** argv) {
  const auto arg = [&](int i, const char* otherwise) { return std::string(argc > i ? argv[i] : otherwise); };
  const int seeds = std::atoi(arg(1, "3").c_str());
  OverloadLoad load;
  load.ttft = absl::Seconds(std::atof(arg(3, "2").c_str()));
  load.law.unreported = std::atof(arg(5, "0").c_str());
  load.law.noise = std::atof(arg(6, "0").c_str());
  load.prompt = std::atoi(arg(7, "512").c_str());
  load.answer = std::atoi(arg(8, "128").c_str());
  load.tpot = absl::Seconds(std::atof(arg(9, "0.15").c_str()));
  load.device_bytes = std::atof(arg(10, "24e6").c_str());
  const double limit = ComputeLimit(MachineLaw(), load);
  std::printf("%.2f requests/s are the machine's limit\n%-10s %-5s %5s %9s %9s %7s %7s %7s %8s %8s\n", limit, "policy",
              "shed", "rate", "goodput", "served", "shed", "failed", "early", "TTFT99", "TPOT99");
  for (absl::string_view name : absl::StrSplit(arg(2, "slack,layerkv,fcfs,fair"), ',')) {
    const absl::StatusOr<const Policy*> policy = FindPolicy(name);
    if (!policy.ok()) return 1;
    for (const bool shed : {false, true}) {
      for (absl::string_view text : absl::StrSplit(arg(4, "0.5,0.7,0.8,0.9,1.0,1.2,1.5,2,3"), ',')) {
        double rate = 1;
        if (!absl::SimpleAtod(text, &rate)) return 1;
        load.rate = rate * limit;
        OverloadPoint mean;
        for (int seed = 1; seed <= seeds; ++seed) {
          load.seed = static_cast<uint64_t>(seed);
          const OverloadPoint one = RunOverload(**policy, shed, load);
          mean.goodput += one.goodput / seeds;
          mean.served += one.served / seeds;
          mean.shed += one.shed / seeds;
          mean.failed += one.failed / seeds;
          mean.early += one.early / seeds;
          mean.ttft99 += one.ttft99 / seeds;
          mean.tpot99 += one.tpot99 / seeds;
        }
        std::printf("%-10s %-5s %5.2f %7.3f/s %7.3f/s %6.1f%% %6.1f%% %6.1f%% %7.2fs %5.1f ms\n",
                    std::string(name).c_str(), shed ? "yes" : "no", rate, mean.goodput, mean.served, 100 * mean.shed,
                    100 * mean.failed, 100 * mean.early, mean.ttft99, 1e3 * mean.tpot99);
        std::fflush(stdout);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  interlace::SetLogSink([](const interlace::LogEvent&) {}, interlace::LogLevel::kError);
  return interlace::Main(argc, argv);
}
