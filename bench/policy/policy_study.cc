// policy_study [prompt answer device_MB link_GBs requests seeds max_parked rates policies gap_s]: every policy at rates
// around the one at which KV memory is the limit, in virtual time.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bench/policy/virtual_replica.h"
#include "common/entropy.h"
#include "common/log.h"

namespace interlace {
namespace {

struct Sums {
  double ttft = 0, ttft99 = 0, second = 0, tpot99 = 0, gap99 = 0, e2e = 0, rate = 0, parks = 0, attained = 0;
};

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}
double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (double v : values) sum += v;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

Sums Summarise(const VirtualOutcome& outcome, absl::Duration tpot_slo) {
  std::vector<double> ttft, second, tpot, gap, e2e;
  int64_t good = 0;
  for (const RequestRecord& r : outcome.run.records) {
    if (r.outcome != LoadOutcome::kOk || r.chunks.empty()) continue;
    ttft.push_back(absl::ToDoubleSeconds(r.chunks[0] - r.sent));
    e2e.push_back(absl::ToDoubleSeconds(r.ended - r.sent));
    if (r.chunks.size() < 2) continue;
    second.push_back(absl::ToDoubleSeconds(r.chunks[1] - r.sent));
    const double per = absl::ToDoubleSeconds(r.chunks.back() - r.chunks[0]) / static_cast<double>(r.chunks.size() - 1);
    tpot.push_back(per);
    good += per <= absl::ToDoubleSeconds(tpot_slo) ? 1 : 0;
    double largest = 0;
    for (size_t i = 1; i < r.chunks.size(); ++i) {
      largest = std::max(largest, absl::ToDoubleSeconds(r.chunks[i] - r.chunks[i - 1]));
    }
    gap.push_back(largest);
  }
  Sums s;
  s.ttft = Mean(ttft);
  s.ttft99 = Quantile(ttft, 0.99);
  s.second = Mean(second);
  s.tpot99 = Quantile(tpot, 0.99);
  s.gap99 = Quantile(gap, 0.99);
  s.e2e = Mean(e2e);
  s.rate = static_cast<double>(ttft.size()) / absl::ToDoubleSeconds(outcome.run.elapsed);
  s.parks = outcome.parks;
  s.attained = static_cast<double>(good) / static_cast<double>(outcome.run.records.size());
  return s;
}

int Main(int argc, char** argv) {
  const auto arg = [&](int i, const char* otherwise) { return std::string(argc > i ? argv[i] : otherwise); };
  const auto number = [&](int i, const char* otherwise) { return std::atof(arg(i, otherwise).c_str()); };
  const int32_t prompt = static_cast<int32_t>(number(1, "512")), answer = static_cast<int32_t>(number(2, "128"));
  VirtualRun setup;
  setup.shape.device_slots = static_cast<int32_t>(number(3, "24") * 1e6 / static_cast<double>(setup.shape.slot_bytes));
  setup.law.link = number(4, "2") * 1e9;
  const int requests = static_cast<int>(number(5, "200")), seeds = static_cast<int>(number(6, "3"));
  setup.options.policy.max_parked = static_cast<int32_t>(number(7, "16"));
  const absl::Duration slo = absl::Milliseconds(150);
  const double gap = number(10, "0");
  setup.options.context = 1 << 20;
  setup.options.max_running = 256;
  // The limits of the machine: requests that fit at once, and how long each stays.
  const double blocks = std::ceil((prompt + answer / 2.0) / setup.shape.block_tokens) * setup.shape.layers;
  const double fit = setup.shape.device_slots / blocks;
  const MachineLaw& law = setup.law;
  const double step = law.fixed + fit * (law.row + law.context * (prompt + answer / 2.0));
  const double prefill = law.row * prompt + law.product * prompt * prompt / 2.0 + law.fixed * std::ceil(prompt / 256.0);
  const double kv_rate = fit / (answer * step), compute_rate = 1 / (prefill + answer * step / fit);
  std::printf("fits %.1f requests; KV-limited %.2f/s, compute-limited %.2f/s, prefill %.0f ms\n", fit, kv_rate,
              compute_rate, 1e3 * prefill);
  std::printf("%-10s %5s %9s %9s %9s %9s %9s %9s %8s %6s %6s\n", "policy", "rate", "TTFT", "p99", "second", "TPOT99",
              "gap99", "E2E", "req/s", "parks", "SLO");
  const double limit = std::min(kv_rate, compute_rate);
  for (absl::string_view rate_text : absl::StrSplit(arg(8, "0.4,0.7,0.85,1.0,1.3"), ',')) {
    double rate = 1;
    if (!absl::SimpleAtod(rate_text, &rate)) return 1;
    for (absl::string_view name : absl::StrSplit(arg(9, "fcfs,swap,stream,layerkv,slack"), ',')) {
      setup.policy = *FindPolicy(name);
      Sums all;
      for (int seed = 1; seed <= seeds; ++seed) {
        const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
        std::vector<PlannedRequest> planned(requests);
        double at = 0;
        for (PlannedRequest& p : planned) {
          at += -std::log(1 - static_cast<double>(entropy->Next() >> 11) / 9007199254740992.0) / (rate * limit);
          p.due = absl::Seconds(at);
          p.expected_prompt_tokens = prompt;
          p.max_tokens = answer;
          p.targets.tpot = slo;
          if (gap > 0) p.targets.largest_gap = absl::Seconds(gap);
        }
        const Sums s = Summarise(RunVirtually(setup, planned), slo);
        all.ttft += s.ttft / seeds;
        all.ttft99 += s.ttft99 / seeds;
        all.second += s.second / seeds;
        all.tpot99 += s.tpot99 / seeds;
        all.gap99 += s.gap99 / seeds;
        all.e2e += s.e2e / seeds;
        all.rate += s.rate / seeds;
        all.parks += s.parks / seeds;
        all.attained += s.attained / seeds;
      }
      std::printf("%-10s %5.2f %8.3fs %8.3fs %8.3fs %7.0fms %8.2fs %8.2fs %8.3f %6.0f %5.0f%%\n",
                  std::string(name).c_str(), rate, all.ttft, all.ttft99, all.second, 1e3 * all.tpot99, all.gap99,
                  all.e2e, all.rate, all.parks, 100 * all.attained);
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
