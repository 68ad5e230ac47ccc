// skip_index_bench [entries [width [groups]]]: what a look-up and an insertion cost the thread of a scheduler, how
// often the graph finds the nearest key, and what an entry takes. Keys lie in groups, as prompts of tasks do: two of a
// group have a cosine of about 0.7, others of none.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/entropy.h"
#include "coordinator/skip_index/skip_index.h"

namespace interlace {
namespace {

constexpr int32_t kLayers = 30, kAsked = 2000, kCompared = 100;

double Gauss(Entropy& entropy) {
  const auto uniform = [&] { return static_cast<double>(entropy.Next() >> 11) * 0x1p-53; };
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));
  return radius * std::cos(6.283185307179586 * uniform());
}

std::vector<float> Around(Entropy& entropy, const std::vector<float>& centre, double noise) {
  std::vector<float> key = centre;
  for (float& x : key) x += static_cast<float>(noise / std::sqrt(static_cast<double>(key.size())) * Gauss(entropy));
  Normalise(&key);
  return key;
}

double Micros(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return 1e6 * static_cast<double>(now.tv_sec) + 1e-3 * static_cast<double>(now.tv_nsec);
}

// Wall time holds what other processes took of the core meanwhile; the thread's own CPU time does not.
struct Times {
  std::vector<double> wall, cpu;
  template <typename Body>
  void Take(Body body) {
    const double wall_began = Micros(CLOCK_MONOTONIC), cpu_began = Micros(CLOCK_THREAD_CPUTIME_ID);
    body();
    cpu.push_back(Micros(CLOCK_THREAD_CPUTIME_ID) - cpu_began);
    wall.push_back(Micros(CLOCK_MONOTONIC) - wall_began);
  }
  void Print(const char* what) {
    std::printf("%-24s", what);
    for (auto* micros : {&wall, &cpu}) {
      std::sort(micros->begin(), micros->end());
      const auto at = [&](double share) {
        return (*micros)[static_cast<size_t>(share * static_cast<double>(micros->size() - 1))];
      };
      std::printf("   %s p50 %7.1f  p99 %7.1f  max %8.1f us", micros == &wall ? "wall" : "cpu", at(0.5), at(0.99),
                  at(1));
    }
    std::printf("\n");
  }
};

int64_t Resident() {  // bytes
  long pages = 0, resident = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "r"); file != nullptr) {
    if (std::fscanf(file, "%ld %ld", &pages, &resident) != 2) resident = 0;
    std::fclose(file);
  }
  return int64_t{resident} * 4096;
}

void Run(int32_t entries, int32_t width, int32_t groups) {
  const auto entropy = MakeSeededEntropy(1);
  std::vector<std::vector<float>> centres, keys;
  for (int32_t g = 0; g < groups; ++g) {
    centres.push_back(Around(*entropy, std::vector<float>(static_cast<size_t>(width)), 1));
  }
  const auto draw = [&] { return Around(*entropy, centres[entropy->Next() % centres.size()], 0.65); };
  SkipIndex index({"bench", kLayers, width, int64_t{1} << 40});
  const SkipScope scope{1, 2};
  const SkipPlan plan = SkipPlan::Evenly(22, kLayers);
  const int64_t before = Resident();
  Times insertions, last;
  for (int32_t i = 0; i < entries; ++i) {
    const std::vector<float> key = draw();
    (i + kAsked < entries ? insertions : last).Take([&] { index.Insert(scope, key, plan, Acceptance(200, 180)); });
    if (i % (entries / kCompared + 1) == 0) keys.push_back(key);
  }
  const int64_t counted = index.counts().bytes, taken = Resident() - before;
  std::printf("%d entries of width %d: %lld bytes each by the index's account, %lld by the system's\n", entries, width,
              static_cast<long long>(counted / entries), static_cast<long long>(taken / entries));
  if (!insertions.wall.empty()) insertions.Print("insert, all");
  last.Print("insert, the last 2,000");
  Times lookups;
  PassCosts costs;
  costs.layers = kLayers;
  int32_t found = 0;
  for (int32_t i = 0; i < kAsked; ++i) {
    const std::vector<float> key = draw();
    lookups.Take([&] { found += index.Lookup(scope, key, costs, 1, 0.5).entry != 0 ? 1 : 0; });
  }
  lookups.Print("look-up");
  int32_t itself = 0;  // a key that is there is the nearest to itself
  for (const std::vector<float>& key : keys) {
    itself += index.Lookup(scope, key, costs, 1, 0.5).similarity > 0.9999F ? 1 : 0;
  }
  std::printf("entries offered for %d of %d prompts; %d of %zu keys found themselves\n", found, kAsked, itself,
              keys.size());
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  const auto number = [&](int i, int otherwise) { return argc > i ? std::atoi(argv[i]) : otherwise; };
  interlace::Run(std::max(1, number(1, 100000)), std::max(4, number(2, 576)), std::max(1, number(3, 1000)));
  return 0;
}
