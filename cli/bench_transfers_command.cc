#include "cli/bench_transfers_command.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/terminal.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// A step that waits for so large a part of itself is bound by the link.
constexpr double kBound = 0.1;

double Milliseconds(absl::Duration time) { return absl::ToDoubleMilliseconds(time); }

template <typename T>
T Median(std::vector<T> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

template <typename Row, typename Get>
auto MedianOf(const std::vector<Row>& rows, Get get) {
  std::vector<decltype(get(rows[0]))> values;
  for (const Row& row : rows) values.push_back(get(row));
  return Median(std::move(values));
}

HostStep MedianStep(const std::vector<HostStep>& rounds) {
  HostStep out = rounds[0];
  out.step = MedianOf(rounds, [](const HostStep& r) { return r.step; });
  out.stall = MedianOf(rounds, [](const HostStep& r) { return r.stall; });
  out.resident = MedianOf(rounds, [](const HostStep& r) { return r.resident; });
  out.pager = MedianOf(rounds, [](const HostStep& r) { return r.pager; });
  return out;
}

// Rounds with the prompt in chunks of so many tokens.
struct Prompts {
  int32_t chunk = 0;
  std::vector<WriteBack> rounds;
};

std::string PromptTable(const std::vector<Prompts>& prompts, double link) {
  std::vector<std::vector<std::string>> rows = {{"chunk", "layers stay", "layers leave", "of it, stall", "out",
                                                 "read back", "on the link", "left behind", "hidden"}};
  for (const Prompts& p : prompts) {
    const auto ms = [&](auto get) { return absl::StrFormat("%.1f ms", Milliseconds(MedianOf(p.rounds, get))); };
    const int64_t out = p.rounds[0].bytes, in = MedianOf(p.rounds, [](const WriteBack&r) { return r.read_back; });
    rows.push_back({absl::StrCat(p.chunk), ms([](const WriteBack& r) { return r.stays; }),
                    ms([](const WriteBack& r) { return r.leaves; }), ms([](const WriteBack& r) { return r.stall; }),
                    HumanBytes(out), HumanBytes(in),
                    absl::StrFormat("%.1f ms", 1e3 * static_cast<double>(out + in) / link),
                    ms([](const WriteBack& r) { return r.left; }),
                    absl::StrFormat("%.1f %%", 100 * MedianOf(p.rounds, [&](auto& r) { return r.Hidden(link); }))});
  }
  return FormatTable(rows);
}

std::string StepTable(const std::vector<HostStep>& steps, double link) {
  std::vector<std::vector<std::string>> rows = {{"host layers", "bytes a step", "on the link", "step", "resident",
                                                 "stall", "pager", "ops slower", "sum without it", "of step"}};
  for (const HostStep& s : steps) {
    const auto ms = [](absl::Duration t) { return absl::StrFormat("%.2f ms", Milliseconds(t)); };
    rows.push_back({absl::StrCat(s.host), HumanBytes(s.bytes_in),
                    absl::StrFormat("%.2f ms", 1e3 * static_cast<double>(s.bytes_in) / link), ms(s.step),
                    ms(s.resident), ms(s.stall), ms(s.pager), ms(s.Slower()), ms(s.step - s.Slower()),
                    absl::StrFormat("%.1f %%", 100 * absl::FDivDuration(s.step - s.Slower(), s.step))});
  }
  return FormatTable(rows);
}

absl::Status WriteJson(const std::string& path, const std::vector<Prompts>& prompts,
                       const std::vector<std::vector<HostStep>>& decode, const ZeroStall& zero, double link) {
  if (path.empty()) return absl::OkStatus();
  nlohmann::ordered_json json = {{"link_bytes_per_second", link},
                                 {"zero_stall_layers", {{"formula", zero.formula}, {"measured", zero.measured}}}};
  for (const Prompts& p : prompts) {
    for (const WriteBack& r : p.rounds) {
      json["prefill"].push_back({{"chunk", p.chunk},
                                 {"stays_ms", Milliseconds(r.stays)},
                                 {"leaves_ms", Milliseconds(r.leaves)},
                                 {"left_ms", Milliseconds(r.left)},
                                 {"stall_ms", Milliseconds(r.stall)},
                                 {"bytes", r.bytes},
                                 {"read_back", r.read_back},
                                 {"hidden", r.Hidden(link)}});
    }
  }
  for (const std::vector<HostStep>& rounds : decode) {
    for (const HostStep& s : rounds) {
      json["decode"].push_back({{"host_layers", s.host},
                                {"step_ms", Milliseconds(s.step)},
                                {"resident_ms", Milliseconds(s.resident)},
                                {"stall_ms", Milliseconds(s.stall)},
                                {"pager_ms", Milliseconds(s.pager)},
                                {"ops_slower_ms", Milliseconds(s.Slower())},
                                {"bytes_in", s.bytes_in}});
    }
  }
  std::ofstream file(path);
  file << json.dump(1) << "\n";
  return file ? absl::OkStatus() : absl::PermissionDeniedError(absl::StrCat("--json=", path, " cannot be written"));
}

absl::Status Check(const Config& config, const BenchTransfersOptions& options) {
  if (config.kv.link_bytes.value == 0) {
    return absl::InvalidArgumentError("kv.link_bytes is 0: memory has no slow link; --link 2G emulates one");
  }
  for (const auto& [name, value] : {std::pair<const char*, int64_t>{"--prompt", options.prompt},
                                    {"--streams", options.streams},
                                    {"--context", options.context},
                                    {"--rounds", options.rounds}}) {
    if (value < 1) return absl::InvalidArgumentError(absl::StrCat(name, "=", value, " is less than 1"));
  }
  return absl::OkStatus();
}

// None first: a round's resident step is what its others are held against.
absl::StatusOr<std::vector<int32_t>> HostLayers(const std::vector<int32_t>& asked, int32_t layers) {
  std::vector<int32_t> host = {0};
  for (const int32_t h : asked) {
    if (h < 0 || h > layers) {
      return absl::InvalidArgumentError(absl::StrCat("--host=", h, ": the model has ", layers, " layers"));
    }
    host.push_back(h);
  }
  for (int32_t i = 1; asked.empty() && i <= 10; ++i) host.push_back(i * layers / 10);
  std::sort(host.begin(), host.end());
  host.erase(std::unique(host.begin(), host.end()), host.end());
  return host;
}

}  // namespace

ZeroStall FindZeroStall(const std::vector<HostStep>& steps, double hidden_layers) {
  // Least squares of step = a + b host over the steps that the link bounds.
  double n = 0, x = 0, y = 0, xx = 0, xy = 0, resident = 0;
  for (const HostStep& s : steps) {
    resident = std::max(resident, absl::ToDoubleSeconds(s.resident));
    if (s.stall < kBound * s.step) continue;
    const double host = s.host, step = absl::ToDoubleSeconds(s.step);
    n += 1, x += host, y += step, xx += host * host, xy += host * step;
  }
  const double b = (n * xy - x * y) / (n * xx - x * x);
  const double a = (y - b * x) / n;
  if (n < 2) return {hidden_layers, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::quiet_NaN()};
  return {hidden_layers, (resident - a) / b, b};
}

absl::Status BenchTransfersCommand(const Config& config, const BenchTransfersOptions& options) {
  RETURN_IF_ERROR(Check(config, options));
  RealClock clock;
  FaultPoints faults;
  ASSIGN_OR_RETURN(const std::unique_ptr<TransferBench> bench,
                   TransferBench::Create({config, options.prompt, options.streams, options.context}, clock, faults,
                                         [](int64_t, int64_t) {}));
  ASSIGN_OR_RETURN(const std::vector<int32_t> host, HostLayers(options.host, bench->layers()));
  const auto link = static_cast<double>(config.kv.link_bytes.value);
  std::vector<Prompts> prompts = {{options.prompt, {}}};
  const auto chunk = static_cast<int32_t>(config.sched.chunk_tokens);
  if (chunk < options.prompt) prompts.push_back({chunk, {}});
  std::vector<std::vector<HostStep>> decode(host.size());
  std::optional<ProgressBar> bar;
  if (StdoutIsTerminal()) bar.emplace("rounds");
  for (int round = 0; round <= options.rounds; ++round) {  // the first one warms up
    for (Prompts& p : prompts) {
      ASSIGN_OR_RETURN(const WriteBack write_back, bench->Prefill(p.chunk));
      if (round > 0) p.rounds.push_back(write_back);
    }
    absl::Duration resident, pager;
    for (size_t i = 0; i < host.size(); ++i) {
      ASSIGN_OR_RETURN(HostStep step, bench->Decode(host[i]));
      if (i == 0) resident = step.step, pager = step.pager;
      step.resident = resident;
      step.pager -= pager;
      if (round > 0) decode[i].push_back(step);
    }
    if (bar) bar->Show(100 * (round + 1) / (options.rounds + 1));
  }
  bar.reset();
  std::vector<HostStep> steps;
  for (const std::vector<HostStep>& rounds : decode) steps.push_back(MedianStep(rounds));
  const ZeroStall zero = FindZeroStall(steps, bench->HiddenLayers(steps[0].step));
  std::printf("%s\n%s", Paint(Colour::kBold, absl::StrCat("A prompt of ", options.prompt, " tokens")).c_str(),
              PromptTable(prompts, link).c_str());
  std::printf(
      "\n%s\n%s",
      Paint(Colour::kBold, absl::StrCat(options.streams, " streams of ", options.context, " positions decode")).c_str(),
      StepTable(steps, link).c_str());
  const double layer_bytes = zero.formula > 0 ? absl::ToDoubleSeconds(steps[0].step) * link / zero.formula : 0;
  std::printf(
      "no step waits up to %.1f host layers by step x link / bytes of a layer, %.1f as measured; behind that a layer "
      "more\n"
      "takes %.2f ms, so that the link carried %s a second\n",
      zero.formula, zero.measured, 1e3 * zero.layer,
      std::isnan(zero.layer) ? "?" : HumanBytes(static_cast<int64_t>(layer_bytes / zero.layer)).c_str());
  return WriteJson(options.json, prompts, decode, zero, link);
}

}  // namespace interlace
