// attention_bench: paged_attention by op table and layout, interleaved. A round runs every table over blocks at
// shuffled places and the last table over blocks in order; the order rotates. Before each run the ceiling is measured:
// reading for decode, which also empties the caches as a step's weights do, FMA for prompts. Prints medians over
// rounds: time, rate, and the share of the ceiling measured just before.
//
//   attention_bench [--threads=N] [--rounds=N] [--case=PART_OF_NAME] [--ops=NAME,NAME] [--cpu]
//
// Decode cases have thirty layers with KV of their own; "read" is K and V, each counted once. --cpu counts processor
// time instead of wall time, for one thread on a busy machine.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/clock.h"
#include "kernels/backend.h"
#include "kernels/cpu/ceilings.h"
#include "kernels/paged_attention/paged_attention_cases.h"
#include "tests/kernels/paged_kv.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

struct Flags {
  int threads = 2;
  int rounds = 9;
  std::string part;
  std::vector<std::string> tables;
  bool cpu = false;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double Seconds(bool cpu, const std::function<void()>& body) {
  if (cpu) {
    const std::clock_t begin = std::clock();
    body();
    return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  }
  RealClock clock;
  const absl::Time start = clock.Now();
  body();
  return absl::ToDoubleSeconds(clock.Now() - start);
}

// Ceilings of the team, now.
class Ceilings {
 public:
  Ceilings(Backend& backend, bool avx512, bool cpu)
      : backend_(backend), loops_(CeilingLoopsOf(avx512 ? "avx512" : "avx2")), cpu_(cpu) {
    buffer_ = backend.Allocate(kBytes).value();
    std::memset(buffer_->data(), 37, kBytes);
  }
  double BytesPerSecond() {
    return kBytes / Seconds(cpu_, [&] {
             backend_.context().team().ParallelFor(kBytes, 4096, [&](int64_t begin, int64_t end) {
               sink_ = static_cast<float>(loops_.read(buffer_->data() + begin, end - begin));
             });
           });
  }
  double FlopsPerSecond() {
    const int64_t threads = backend_.threads();
    const double seconds = Seconds(cpu_, [&] {
      backend_.context().team().ParallelFor(threads, 1, [&](int64_t, int64_t) { sink_ = loops_.fma(kRounds); });
    });
    return static_cast<double>(threads * kRounds * loops_.fma_flops) / seconds;
  }

 private:
  static constexpr int64_t kBytes = int64_t{256} << 20;
  static constexpr int64_t kRounds = 2'000'000;
  Backend& backend_;
  const CeilingLoops& loops_;
  const bool cpu_;
  std::unique_ptr<DeviceBuffer> buffer_;
  volatile float sink_ = 0;
};

// The sequences of a case, layer by layer, all in one arena.
class Workload {
 public:
  Workload(Backend& backend, const PagedAttentionCase& c, bool shuffled) : case_(c) {
    Random random(2);
    const int64_t positions = c.start + c.tokens;
    const int64_t blocks = (positions + c.shape.block_tokens - 1) / c.shape.block_tokens;
    const int64_t kv_width = int64_t{c.shape.kv_heads} * c.shape.head_dim;
    std::vector<float> k = random.Floats(positions * kv_width);
    std::vector<float> v = random.Floats(positions * kv_width);
    arena_ = std::make_unique<PagedKv>(backend, c.shape, layers() * c.sequences * blocks * c.shape.block_tokens, random,
                                       shuffled);
    rows_.resize(layers());
    absl::Span<std::byte* const> left = arena_->blocks();
    for (auto& rows : rows_) {
      for (int64_t s = 0; s < c.sequences; ++s) {
        const SequenceRows all{0, positions, 0, left.first(blocks)};
        backend.ops().kv_append({.shape = c.shape,
                                 .k = {k.data(), DType::kF32, positions, kv_width},
                                 .v = {v.data(), DType::kF32, positions, kv_width},
                                 .sequences = {&all, 1}},
                                backend.context());
        rows.push_back({s * c.tokens, c.tokens, c.start, left.first(blocks)});
        left.remove_prefix(blocks);
      }
    }
    q_ = random.Floats(c.sequences * c.tokens * width());
    out_.resize(q_.size());
  }
  void Run(const OpTable& ops, OpContext on) {
    const int64_t rows = case_.sequences * case_.tokens;
    for (const auto& sequences : rows_) {
      ops.paged_attention({.out = {out_.data(), DType::kF32, rows, width()},
                           .q = {q_.data(), DType::kF32, rows, width()},
                           .shape = case_.shape,
                           .sequences = sequences,
                           .heads = case_.heads,
                           .scale = 1 / std::sqrt(static_cast<float>(case_.shape.head_dim)),
                           .window = case_.window,
                           .soft_cap = case_.soft_cap},
                          on);
    }
  }
  int64_t layers() const { return case_.tokens > 1 ? 4 : 30; }
  double bytes() const {
    const double positions = case_.window > 0 ? std::min(case_.window, case_.start + 1) : case_.start + case_.tokens;
    const double token = static_cast<double>(case_.shape.bytes()) / case_.shape.block_tokens;
    return static_cast<double>(layers() * case_.sequences) * positions * token;
  }
  double flops() const {
    const double tokens = static_cast<double>(case_.tokens);
    const double pairs = tokens * (case_.start + (tokens + 1) / 2);
    return static_cast<double>(layers() * case_.sequences) * 4 * pairs * static_cast<double>(width());
  }

 private:
  int64_t width() const { return int64_t{case_.heads} * case_.shape.head_dim; }
  const PagedAttentionCase case_;
  std::unique_ptr<PagedKv> arena_;
  std::vector<std::vector<SequenceRows>> rows_;
  std::vector<float> q_, out_;
};

struct Contender {
  std::string name;
  const OpTable* ops;
  Workload* workload;
  std::vector<double> seconds, shares;
};

void BenchCase(const Flags& flags, const PagedAttentionCase& c, Backend& backend, Ceilings& ceilings) {
  const bool decode = c.tokens == 1;
  Workload shuffled(backend, c, true), in_order(backend, c, false);
  std::vector<Contender> contenders;
  for (const std::string& name : flags.tables) {
    const auto ops = FindOpTable(name);
    if (ops.ok()) contenders.push_back({name, *ops, &shuffled, {}, {}});
  }
  if (contenders.empty()) return;
  contenders.push_back({contenders.back().name + ", in order", contenders.back().ops, &in_order, {}, {}});
  std::vector<double> limits;
  for (int round = 0; round < flags.rounds; ++round) {
    for (size_t i = 0; i < contenders.size(); ++i) {
      const double limit = decode ? ceilings.BytesPerSecond() : ceilings.FlopsPerSecond();
      limits.push_back(limit);
      Contender& contender = contenders[(i + static_cast<size_t>(round)) % contenders.size()];
      const double seconds = Seconds(flags.cpu, [&] { contender.workload->Run(*contender.ops, backend.context()); });
      contender.seconds.push_back(seconds);
      contender.shares.push_back((decode ? shuffled.bytes() : shuffled.flops()) / seconds / limit);
    }
  }
  const double scale = 1e-9 * (decode ? shuffled.bytes() : shuffled.flops());
  std::printf("%-28s ceiling %6.1f %s\n", std::string(c.name).c_str(), Median(limits) / 1e9,
              decode ? "GB/s" : "GFLOP/s");
  for (const Contender& contender : contenders) {
    const double best = *std::min_element(contender.seconds.begin(), contender.seconds.end());
    std::printf("  %-26s %8.3f ms (best %8.3f)  %6.1f %s  %3.0f%%\n", contender.name.c_str(),
                Median(contender.seconds) * 1e3, best * 1e3, scale / Median(contender.seconds),
                decode ? "GB/s" : "GFLOP/s", 100 * Median(contender.shares));
  }
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  Flags flags;
  for (absl::string_view name : OpTableNames()) {
    if (name != "reference") flags.tables.emplace_back(name);
  }
  for (int i = 1; i < argc; ++i) {
    absl::string_view flag = argv[i];
    if (absl::ConsumePrefix(&flag, "--threads=") && absl::SimpleAtoi(flag, &flags.threads)) continue;
    if (absl::ConsumePrefix(&flag, "--rounds=") && absl::SimpleAtoi(flag, &flags.rounds)) continue;
    if (flag == "--cpu") {
      flags.cpu = true;
    } else if (absl::ConsumePrefix(&flag, "--case=")) {
      flags.part = std::string(flag);
    } else if (absl::ConsumePrefix(&flag, "--ops=")) {
      flags.tables = absl::StrSplit(flag, ',');
    } else {
      std::fprintf(stderr, "unknown flag %s; known: --threads, --rounds, --case, --ops\n", argv[i]);
      return 1;
    }
  }
  auto backend = CreateBackend("cpu", {.ops = "auto", .threads = flags.threads});
  if (!backend.ok() || flags.rounds < 1) {
    std::fprintf(stderr, "%s\n", backend.status().ToString().c_str());
    return 1;
  }
  Ceilings ceilings(**backend, FindOpTable("avx512").ok(), flags.cpu);
  for (const PagedAttentionCase& c : kPagedAttentionCases) {
    const bool real = absl::StartsWith(c.name, "smollm2") || absl::StartsWith(c.name, "gemma");
    if (real && absl::StrContains(c.name, flags.part)) BenchCase(flags, c, **backend, ceilings);
  }
  return 0;
}

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) { return interlace::Main(argc, argv); }
