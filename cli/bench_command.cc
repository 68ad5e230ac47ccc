#include "cli/bench_command.h"

#include <xxhash.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "cli/bench_ceilings.h"
#include "cli/bench_engine.h"
#include "cli/bench_report.h"
#include "cli/terminal.h"
#include "common/status_macros.h"
#include "common/thread.h"

namespace interlace {
namespace {

constexpr int32_t kMostTokens = 1 << 24;

// A running hash of all bits of all logits.
class LogitsHash {
 public:
  void Add(const Tensor& logits) {
    value_ = XXH3_64bits_withSeed(logits.data, sizeof(float) * static_cast<size_t>(logits.rows * logits.cols), value_);
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0;
};

class ModelBench {
 public:
  ModelBench(const Config& config, const BenchModelOptions& options) : config_(config), options_(options) {}

  absl::StatusOr<BenchReport> Run() {
    RETURN_IF_ERROR(Load());
    std::optional<ProgressBar> bar;
    if (StdoutIsTerminal()) bar.emplace("rounds");
    const int all = (options_.rounds + 1 + (options_.profile ? 1 : 0)) * static_cast<int>(report_.rows.size());
    int done = 0;
    // Round 0 warms up: pages, clocks and contexts; its logits are hashed. Cases and engines alternate within a round.
    for (int round = 0; round <= options_.rounds + (options_.profile ? 1 : 0); ++round) {
      size_t at = 0;
      for (const std::unique_ptr<BenchEngine>& engine : engines_) {
        const Start start{StolenTime(), clock_.Now()};
        const Ceilings ceilings =
            probe_->Measure(engine->backend(), CeilingLoopsOf(engine->backend().ops().name), clock_);
        for (size_t i = 0; i < Cases(); ++i, ++at) {
          RETURN_IF_ERROR(RunCase(round, *engine, ceilings, start, &report_.rows[at]));
          if (bar) bar->Show(++done * 100 / all);
        }
      }
    }
    DropDisturbedRounds(&report_);
    return std::move(report_);
  }

 private:
  struct Start {  // of an engine's turn
    absl::Duration stolen;
    absl::Time time;
  };
  size_t Cases() const { return options_.prompts.size() + options_.contexts.size(); }

  absl::Status Load() {
    BenchEngine::Options engine_options{.config = config_};
    int64_t longest_prompt = 0;
    for (const BenchShape& shape : options_.prompts) {
      longest_prompt = std::max(longest_prompt, int64_t{shape.batch} * shape.tokens);
      engine_options.sequences = std::max(engine_options.sequences, shape.batch);
    }
    engine_options.kv_tokens = longest_prompt;
    for (const BenchShape& shape : options_.contexts) {
      engine_options.kv_tokens += int64_t{shape.batch} * (shape.tokens + options_.steps);
      engine_options.sequences += shape.batch;
    }
    const std::vector<int> threads =
        !options_.threads.empty()
            ? options_.threads
            : std::vector<int>{config_.engine.threads > 0 ? static_cast<int>(config_.engine.threads)
                                                          : AvailableCores()};
    const std::vector<std::string> ops = !options_.ops.empty() ? options_.ops : std::vector{config_.engine.ops};
    for (const std::string& name : ops) {
      for (const int count : threads) {
        engine_options.config.engine.ops = name;
        engine_options.config.engine.threads = count;
        RETURN_IF_ERROR(AddEngine(engine_options));
      }
    }
    ASSIGN_OR_RETURN(probe_, CeilingProbe::Create(engines_.front()->backend()));
    report_.model = config_.model.path;
    report_.digest = engines_.front()->spec().digest;
    report_.architecture = engines_.front()->spec().architecture;
    report_.chunk_tokens = config_.sched.chunk_tokens;
    report_.step_tokens = config_.sched.step_tokens;
    return absl::OkStatus();
  }

  absl::Status AddEngine(const BenchEngine::Options& options) {
    std::optional<ProgressBar> bar;
    if (StdoutIsTerminal()) bar.emplace("weights");
    const int64_t resident = PeakResidentBytes();
    const absl::Time begin = clock_.Now();
    ASSIGN_OR_RETURN(std::unique_ptr<BenchEngine> engine,
                     BenchEngine::Create(options, clock_, faults_, [&](int64_t done, int64_t all) {
                       if (bar && all > 0) bar->Show(static_cast<int>(done * 100 / all));
                     }));
    if (engines_.empty()) {
      report_.load = {absl::ToDoubleSeconds(clock_.Now() - begin), engine->work().file_bytes,
                      PeakResidentBytes() - resident};
    }
    const auto add = [&](bool prefill, const BenchShape& shape) {
      BenchRow row;
      row.prefill = prefill;
      row.shape = shape;
      row.ops = std::string(engine->backend().ops().name);
      row.threads = engine->backend().threads();
      report_.rows.push_back(std::move(row));
    };
    for (const BenchShape& shape : options_.prompts) add(true, shape);
    for (const BenchShape& shape : options_.contexts) add(false, shape);
    engines_.push_back(std::move(engine));
    return absl::OkStatus();
  }

  absl::StatusOr<absl::Duration> Once(BenchEngine& engine, const BenchRow& row) const {
    if (row.prefill) return engine.Prefill(row.shape.batch, row.shape.tokens);
    return engine.Decode(row.shape.batch, row.shape.tokens, options_.steps);
  }

  absl::Status RunCase(int round, BenchEngine& engine, const Ceilings& ceilings, const Start& start, BenchRow* row) {
    if (round == 0) {
      LogitsHash hash;
      engine.backend().WatchLogits([&](const Tensor& logits) { hash.Add(logits); });
      const absl::Status status = Once(engine, *row).status();
      engine.backend().Off();
      row->logits_hash = hash.value();
      row->work = row->prefill ? engine.PrefillWork(row->shape.batch, row->shape.tokens)
                               : engine.DecodeWork(row->shape.batch, row->shape.tokens, options_.steps);
      return status;
    }
    if (round > options_.rounds) {
      std::vector<OpCall> calls;
      engine.backend().Time(clock_, &calls);
      const absl::Status status = Once(engine, *row).status();
      engine.backend().Off();
      row->profile = SummariseCalls(calls, engine.step_times(), engine.spec().layers);
      return status;
    }
    ASSIGN_OR_RETURN(const absl::Duration time, Once(engine, *row));
    const double stolen =
        absl::FDivDuration(StolenTime() - start.stolen, (clock_.Now() - start.time) * AvailableCores());
    row->rounds.push_back({absl::ToDoubleSeconds(time), ceilings, stolen});
    return absl::OkStatus();
  }

  const Config& config_;
  const BenchModelOptions& options_;
  RealClock clock_;
  FaultPoints faults_;
  std::vector<std::unique_ptr<BenchEngine>> engines_;
  std::unique_ptr<CeilingProbe> probe_;
  BenchReport report_;
};

}  // namespace

absl::StatusOr<std::vector<BenchShape>> ParseBenchShapes(absl::string_view text) {
  std::vector<BenchShape> shapes;
  for (const absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    BenchShape shape;
    const std::vector<absl::string_view> numbers = absl::StrSplit(part, 'x');
    const bool parsed = numbers.size() <= 2 && (numbers.size() < 2 || absl::SimpleAtoi(numbers[0], &shape.batch)) &&
                        absl::SimpleAtoi(numbers.back(), &shape.tokens);
    if (!parsed || shape.batch < 1 || shape.tokens < 1 || int64_t{shape.batch} * shape.tokens > kMostTokens) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", part, "\" is no shape; write TOKENS or SEQUENCESxTOKENS, such as 512 or 32x256"));
    }
    shapes.push_back(shape);
  }
  return shapes;
}

absl::Status BenchModelCommand(const Config& config, const BenchModelOptions& options) {
  if (options.rounds < 1 || options.steps < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rounds ", options.rounds, " --steps ", options.steps, ": both are at least 1"));
  }
  if (options.prompts.empty() && options.contexts.empty()) {
    return absl::InvalidArgumentError("nothing to measure: give --prompt or --context");
  }
  ASSIGN_OR_RETURN(const BenchReport report, ModelBench(config, options).Run());
  std::printf("%s", BenchTable(report).c_str());
  if (options.json.empty()) return absl::OkStatus();
  return WriteBenchJson(report, options.json);
}

absl::Status BenchCeilingsCommand(int threads, const std::string& ops, int rounds, const std::string& json_path) {
  RealClock clock;
  ASSIGN_OR_RETURN(
      const std::unique_ptr<Backend> backend,
      CreateBackend("cpu", {.ops = ops.empty() ? "auto" : ops, .threads = threads > 0 ? threads : AvailableCores()}));
  const CeilingLoops& loops = ops.empty() ? *CeilingLoopsHere().back() : CeilingLoopsOf(backend->ops().name);
  ASSIGN_OR_RETURN(const std::unique_ptr<CeilingProbe> probe, CeilingProbe::Create(*backend));
  std::vector<std::vector<std::string>> rows = {{"round", "read GB/s", "F32 GFLOP/s", "int8 GOP/s"}};
  nlohmann::json out = {{"cpu", CpuModel()},
                        {"threads", backend->threads()},
                        {"instructions", std::string(loops.name)},
                        {"rounds", nlohmann::json::array()}};
  for (int round = 1; round <= rounds; ++round) {
    const Ceilings c = probe->Measure(*backend, loops, clock);
    rows.push_back({absl::StrCat(round), absl::StrFormat("%.1f", c.read / 1e9), absl::StrFormat("%.0f", c.fma / 1e9),
                    absl::StrFormat("%.0f", c.int8 / 1e9)});
    out["rounds"].push_back({{"read_bytes_per_s", c.read}, {"fma_per_s", c.fma}, {"int8_per_s", c.int8}});
  }
  std::printf("%s", FormatTable(rows).c_str());
  if (json_path.empty()) return absl::OkStatus();
  std::ofstream file(json_path);
  file << out.dump(1) << "\n";
  file.close();
  if (!file) return absl::PermissionDeniedError(absl::StrCat("--json: ", json_path, " could not be written"));
  return absl::OkStatus();
}

}  // namespace interlace
