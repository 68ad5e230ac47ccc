#include "cli/bench_scale_command.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <sstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "bench/policy/scale_report.h"
#include "bench/serve/load_json.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr int64_t kLeastEach = 100;        // requests of each replica, where their number is not given
constexpr size_t kMostForCapacity = 2000;  // requests that measure what one replica carries

// "1,10,100" of the flag into numbers above 0, or 0 too.
absl::StatusOr<std::vector<double>> ParseNumbers(absl::string_view flag, absl::string_view text, bool zero = false) {
  std::vector<double> numbers;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    double number = 0;
    if (!absl::SimpleAtod(part, &number) || !(number > 0 || (zero && number == 0)) || number > 1e6) {
      return absl::InvalidArgumentError(
          absl::StrCat(flag, " ", text, ": ", part, " is no number above 0; write it like 1 or 1,10"));
    }
    numbers.push_back(number);
  }
  if (numbers.empty()) return absl::InvalidArgumentError(absl::StrCat(flag, " is empty; write it like 1 or 1,10"));
  return numbers;
}

absl::StatusOr<std::vector<TraceRow>> ReadTrace(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) return absl::NotFoundError(absl::StrCat("--trace ", path, " cannot be read; check the path"));
  ASSIGN_OR_RETURN(std::vector<TraceRow> rows, ParseMooncake(text.str(), path));
  for (TraceRow& row : rows) {
    row.input = std::max(row.input, 1);
    row.output = std::max(row.output, 1);
  }
  return rows;
}

absl::Status Check(const BenchScaleOptions& o) {
  const auto at_least = [](const char* flag, double value, double least) {
    return value >= least ? absl::OkStatus()
                          : absl::InvalidArgumentError(absl::StrCat(flag, " ", value, " is below ", least));
  };
  for (const auto& [flag, value, least] : {std::tuple("--block-tokens", o.block_tokens, 1),
                                           {"--trace-block", o.trace_block, 1},
                                           {"--step-tokens", o.step_tokens, 1},
                                           {"--max-running", o.max_running, 1},
                                           {"--max-parked", o.max_parked, 0},
                                           {"--devices", o.devices, 0}}) {
    RETURN_IF_ERROR(at_least(flag, value, least));
  }
  for (const auto& [flag, value] : {std::pair("--link-gb", o.device.link),
                                    {"--bandwidth-tb", o.device.bandwidth},
                                    {"--tflops", o.device.flops},
                                    {"--bandwidth-share", o.device.bandwidth_share},
                                    {"--flops-share", o.device.flops_share},
                                    {"--link-share", o.device.link_share}}) {
    if (!(value > 0)) return absl::InvalidArgumentError(absl::StrCat(flag, " ", value, " is not above 0"));
  }
  return absl::OkStatus();
}

ScaleSetup SetupOf(const BenchScaleOptions& o, const ScaleModel& model) {
  ScaleSetup setup;
  setup.model = model;
  setup.device = o.device;
  setup.device.count = o.devices;
  // Tensor parallelism over four, as one serves 70 billion parameters of two bytes, where one device is too small.
  if (o.devices == 0) setup.device.count = model.weight_bytes() > o.device.memory / 2 ? 4 : 1;
  setup.tier_bandwidth = o.tier;
  setup.block_tokens = o.block_tokens;
  setup.trace_block = o.trace_block;
  setup.options.chunk_tokens = setup.options.step_tokens = o.step_tokens;
  setup.options.max_running = o.max_running;
  setup.options.policy.max_parked = o.max_parked;
  setup.options.context = std::numeric_limits<int32_t>::max();
  setup.options.rank_timeout = absl::InfiniteDuration();  // a step takes as long as it takes
  const auto target = [](double seconds) {
    return seconds > 0 ? std::optional(absl::Seconds(seconds)) : std::optional<absl::Duration>();
  };
  setup.targets.ttft = target(o.ttft);
  setup.targets.tpot = target(o.tpot);
  setup.targets.largest_gap = target(o.gap);
  return setup;
}

// What one replica carries: fcfs, all requests there from the beginning.
absl::StatusOr<double> MeasureCapacity(ScaleSetup setup, const std::vector<TraceRow>& rows) {
  ASSIGN_OR_RETURN(setup.policy, FindPolicy("fcfs"));
  setup.route = &RoutingPolicies()[0];  // there is one replica
  setup.tier_bandwidth = 0;
  const ScaleLoad load =
      LoadOf(rows, std::min(rows.size(), kMostForCapacity), std::numeric_limits<double>::infinity(), setup.trace_block);
  ASSIGN_OR_RETURN(const ScaleOutcome outcome, RunAtScale(setup, load));
  return static_cast<double>(load.requests.size()) / absl::ToDoubleSeconds(outcome.elapsed);
}

// A line on a terminal that says how far the run is; gone when the run has ended.
class ProgressLine {
 public:
  ProgressLine(const ScaleRow& row, size_t requests) : row_(row), requests_(requests) {}
  ~ProgressLine() {
    if (shown_) std::fprintf(stderr, "\r\x1b[K");
  }
  void Show(size_t sent) {
    static const bool terminal = isatty(STDERR_FILENO) == 1;
    const absl::Time now = clock_.Now();
    if (!terminal || now < next_) return;
    next_ = now + absl::Milliseconds(200);
    shown_ = true;
    const size_t full = 40 * sent / requests_;
    std::fprintf(stderr, "\r\x1b[K%s %s, %d replicas [%s%s] %zu of %zu requests", row_.policy.c_str(),
                 row_.route.c_str(), row_.replicas, std::string(full, '=').c_str(), std::string(40 - full, ' ').c_str(),
                 sent, requests_);
    std::fflush(stderr);
  }

 private:
  const ScaleRow& row_;
  const size_t requests_;
  RealClock clock_;
  absl::Time next_ = absl::InfinitePast();
  bool shown_ = false;
};

absl::StatusOr<ScaleRow> RunOne(const ScaleSetup& setup, const std::vector<TraceRow>& rows, size_t requests,
                                double load, double capacity) {
  RealClock wall;
  const absl::Time begin = wall.Now();
  ScaleRow row;
  row.policy = std::string(setup.policy->name);
  row.route = std::string(setup.route->name);
  row.replicas = setup.replicas;
  row.prefill = setup.prefill;
  row.load = load;
  row.rate = load * capacity * setup.replicas;
  const ScaleLoad offered = LoadOf(rows, requests, row.rate, setup.trace_block);
  row.hit_ceiling = offered.hit_ceiling;
  ProgressLine line(row, requests);
  ASSIGN_OR_RETURN(const ScaleOutcome outcome, RunAtScale(setup, offered, [&](size_t sent) { line.Show(sent); }));
  row.figures = FiguresOf(outcome, setup);
  row.simulated = absl::ToDoubleSeconds(outcome.elapsed);
  row.wall = absl::ToDoubleSeconds(wall.Now() - begin);
  return row;
}

void Print(const ScaleRow& r) {
  const ScaleFigures& f = r.figures;
  std::printf(
      "%-8s %-12s %5d %5.2f %7lld %8.2fs %8.2fs %6.0fms %6.0fms %7.2fs %8.2f %9.0f %5.1f%% %5.1f%% %5.1f%% %5.1f%% "
      "%6.2f %5.2f %5.2f %7.0fx\n",
      r.policy.c_str(),
      (r.prefill > 0 ? absl::StrCat(r.route, " ", r.prefill, "+", r.replicas - r.prefill) : r.route).c_str(),
      r.replicas, r.load, static_cast<long long>(f.requests), f.ttft.mean, f.ttft.p99, 1e3 * f.tpot.mean,
      1e3 * f.tpot.p99, f.largest_gap.p99, f.request_throughput, f.output_throughput, 100 * f.attained,
      100 * f.hit_rate, 100 * f.busy, 100 * f.stalled, f.parks, f.busiest, f.unevenness,
      r.simulated * r.replicas / r.wall);
  const ScaleMisses& m = f.misses;
  std::printf(
      "  hits %.2f%% of %.2f%%: gone %.2f, scattered %.2f, elsewhere %.2f, coming %.2f, lost %.2f, cut %.2f, gained "
      "%.2f\n",
      100 * f.hit_rate, 100 * r.hit_ceiling, 100 * m.gone, 100 * m.scattered, 100 * m.elsewhere, 100 * m.coming,
      100 * m.lost, 100 * m.cut, 100 * m.gained);
  if (f.failed > 0) std::printf("  %lld requests failed\n", static_cast<long long>(f.failed));
  if (r.prefill > 0) std::printf("  %.1f%% went from a replica for prompts to one that decodes\n", 100 * f.handed);
  std::fflush(stdout);
}

void AddFacts(const BenchScaleOptions& o, const ScaleSetup& setup, int64_t device_tokens, ScaleReport* report) {
  const auto fact = [&](const char* name, std::string value) { report->facts.emplace_back(name, std::move(value)); };
  const ScaleDevice& d = setup.device;
  fact("model", absl::StrFormat("%s, bf16, %d layers, %d bytes of KV a token and layer", setup.model.name,
                                setup.model.layers, setup.model.kv_bytes()));
  fact("device", absl::StrFormat("%d x (%.3g TB/s x %.2f, %.4g TFLOP/s x %.2f, %.4g GB x %.2f), counted as one",
                                 d.count, d.bandwidth / 1e12, d.bandwidth_share, d.flops / 1e12, d.flops_share,
                                 d.memory / 1e9, d.memory_share));
  fact("link to the host", absl::StrFormat("%d x %.4g GB/s x %.2f each way", d.count, d.link / 1e9, d.link_share));
  fact("KV that fits",
       absl::StrFormat("%d tokens on the device, %d on the host", device_tokens, HostTokens(setup.model, d)));
  fact("step", absl::StrFormat("at most %d rows and %d requests; blocks of %d tokens", o.step_tokens, o.max_running,
                               o.block_tokens));
  if (o.tier > 0) fact("tier that all reach", absl::StrFormat("%.4g GB/s a replica, each way", o.tier / 1e9));
  fact("targets", absl::StrFormat("TTFT %g s, TPOT %g s, largest gap %g s (0: none)", o.ttft, o.tpot, o.gap));
  fact("trace", o.trace);
  fact("load 1", absl::StrFormat("%.4g requests/s a replica%s", report->capacity,
                                 o.capacity > 0 ? "" : ": what fcfs gets through when all are there at once"));
  fact("command", o.command);
}

}  // namespace

void AddBenchScaleFlags(CLI::App* command, BenchScaleOptions* o) {
  command->add_option("--trace", o->trace, "JSON lines of timestamp, input_length, output_length, hash_ids (Mooncake)")
      ->required();
  command->add_option("--model", o->model, "llama-3.1-8b or llama-3.1-70b")->capture_default_str();
  command->add_option("--policies", o->policies, "a list (sched.policy)")->capture_default_str();
  command->add_option("--replicas", o->replicas, "a list")->capture_default_str();
  command
      ->add_option("--prefill", o->prefill,
                   "a list: so many of the replicas compute prompts, and the others decode; 0: all do both")
      ->capture_default_str();
  command->add_option("--routes", o->routes, "a list of routing policies (router.policy)")->capture_default_str();
  command->add_option("--loads", o->loads, "a list: offered rate over what the replicas carry")->capture_default_str();
  command->add_option("--requests", o->requests, "of each run")->default_str("the trace's, and 100 for each replica");
  command->add_option("--capacity", o->capacity, "requests/s of one replica, which loads are multiples of")
      ->default_str("measured: fcfs, 2000 requests at once");
  command->add_option("--devices", o->devices, "of a replica, counted as one")->default_str("as the model needs");
  const auto scaled = [&](const char* flag, double* value, double unit, const char* meaning) {
    command
        ->add_option_function<double>(
            flag, [value, unit](const double& given) { *value = given * unit; }, meaning)
        ->default_str(absl::StrCat(*value / unit));
  };
  scaled("--bandwidth-tb", &o->device.bandwidth, 1e12, "device memory, TB/s");
  scaled("--tflops", &o->device.flops, 1e12, "dense bf16");
  scaled("--memory-gb", &o->device.memory, 1e9, "of a device");
  scaled("--host-gb", &o->device.host_memory, 1e9, "host memory for KV, for each device");
  scaled("--link-gb", &o->device.link, 1e9, "to the host, GB/s each way: 64 is PCIe 5 x16, 450 NVLink-C2C");
  scaled("--tier-gb", &o->tier, 1e9, "to a tier that all replicas reach, GB/s of each, each way; 0: there is none");
  scaled("--bandwidth-share", &o->device.bandwidth_share, 1, "of it that kernels reach");
  scaled("--flops-share", &o->device.flops_share, 1, "likewise");
  scaled("--link-share", &o->device.link_share, 1, "likewise");
  scaled("--memory-share", &o->device.memory_share, 1, "of a device, for weights and KV");
  command->add_option("--block-tokens", o->block_tokens, "of a block of KV")->capture_default_str();
  command->add_option("--trace-block", o->trace_block, "tokens that one hash id stands for")->capture_default_str();
  command->add_option("--step-tokens", o->step_tokens, "most rows of a step")->capture_default_str();
  command->add_option("--max-running", o->max_running, "requests that hold KV at once")->capture_default_str();
  command->add_option("--max-parked", o->max_parked, "sched.max_parked")->capture_default_str();
  command->add_option("--ttft-slo", o->ttft, "seconds; 0: none")->capture_default_str();
  command->add_option("--tpot-slo", o->tpot, "seconds; 0: none")->capture_default_str();
  command->add_option("--gap-slo", o->gap, "seconds; 0: none")->capture_default_str();
  command->add_option("--json", o->json, "file for all figures");
  command->add_option("--html", o->html, "file for a page");
  command->footer(
      "Example: four policies on one replica and on a hundred, at what they carry and above it:\n"
      "  interlace bench scale --trace mooncake_conversation.jsonl --replicas 1,100 --loads 1,1.2 --html scale.html");
}

absl::Status BenchScaleCommand(const BenchScaleOptions& o) {
  RETURN_IF_ERROR(Check(o));
  ASSIGN_OR_RETURN(const ScaleModel model, FindScaleModel(o.model));
  ASSIGN_OR_RETURN(const std::vector<double> loads, ParseNumbers("--loads", o.loads));
  ASSIGN_OR_RETURN(const std::vector<double> replicas, ParseNumbers("--replicas", o.replicas));
  ASSIGN_OR_RETURN(const std::vector<double> prefills, ParseNumbers("--prefill", o.prefill, /*zero=*/true));
  std::vector<const Policy*> policies;
  for (absl::string_view name : absl::StrSplit(o.policies, ',', absl::SkipEmpty())) {
    ASSIGN_OR_RETURN(policies.emplace_back(), FindPolicy(name));
  }
  std::vector<const RoutingPolicy*> routes;
  for (absl::string_view name : absl::StrSplit(o.routes, ',', absl::SkipEmpty())) {
    ASSIGN_OR_RETURN(routes.emplace_back(), FindRoutingPolicy(name));
  }
  ASSIGN_OR_RETURN(const std::vector<TraceRow> rows, ReadTrace(o.trace));
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  ScaleSetup setup = SetupOf(o, model);
  ASSIGN_OR_RETURN(const int64_t device_tokens, DeviceTokens(model, setup.device));
  ScaleReport report;
  report.capacity = o.capacity;
  if (o.capacity <= 0) {
    ASSIGN_OR_RETURN(report.capacity, MeasureCapacity(setup, rows));
  }
  AddFacts(o, setup, device_tokens, &report);
  for (const auto& [name, value] : report.facts) std::printf("%-16s %s\n", name.c_str(), value.c_str());
  std::printf("%-8s %-12s %5s %5s %7s %9s %9s %8s %8s %8s %8s %9s %6s %6s %6s %6s %6s %5s %5s %8s\n", "policy", "route",
              "repl", "load", "reqs", "TTFT", "p99", "TPOT", "p99", "gap99", "req/s", "tok/s", "SLO", "hits", "busy",
              "stall", "parks", "most", "given", "speed");
  for (double count : replicas) {
    setup.replicas = static_cast<int32_t>(count);
    const auto least = std::max<int64_t>(static_cast<int64_t>(rows.size()), kLeastEach * setup.replicas);
    const auto requests = static_cast<size_t>(o.requests > 0 ? o.requests : least);
    for (const RoutingPolicy* route : routes) {
      setup.route = route;
      for (double load : loads) {
        for (const Policy* policy : policies) {
          setup.policy = policy;
          for (double prefill : prefills) {
            setup.prefill = static_cast<int32_t>(prefill);
            ASSIGN_OR_RETURN(report.rows.emplace_back(), RunOne(setup, rows, requests, load, report.capacity));
            Print(report.rows.back());
          }
        }
      }
    }
  }
  std::printf("most: time in which the busiest replica computed over the mean; given: prompt tokens, likewise\n");
  std::printf("speed: seconds of all replicas together that were simulated in one second\n");
  if (!o.json.empty()) RETURN_IF_ERROR(WriteLoadFile(o.json, ScaleJson(report)));
  if (!o.html.empty()) RETURN_IF_ERROR(WriteLoadFile(o.html, ScalePage(report)));
  return absl::OkStatus();
}

}  // namespace interlace
