#include "cli/bench_reserve_command.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bench/serve/load_json.h"
#include "bench/study/reserve_study.h"
#include "cli/output_file.h"
#include "cli/study_machine.h"
#include "cli/terminal.h"
#include "common/status_macros.h"
#include "common/thread.h"

namespace interlace {
namespace {

constexpr int kShownEvery = 5;  // factors, in the table on the terminal
constexpr double kMostFactors = 1000;

// "FROM:TO:STEP"; empty: no such search.
absl::Status AddSearch(const char* flag, const std::string& rule, const std::string& text,
                       std::vector<ReserveSearch>* searches) {
  if (text.empty()) return absl::OkStatus();
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  ReserveSearch search{.rule = rule};
  const bool numbers = parts.size() == 3 && absl::SimpleAtod(parts[0], &search.from) &&
                       absl::SimpleAtod(parts[1], &search.to) && absl::SimpleAtod(parts[2], &search.step);
  const bool range = numbers && search.from >= 0 && search.to >= search.from && search.step > 0 &&
                     std::isfinite(search.to) && (search.to - search.from) / search.step < kMostFactors;
  if (!range) {
    return absl::InvalidArgumentError(absl::StrCat(flag, " ", text,
                                                   " is no FROM:TO:STEP of at most 1000 factors not below 0; write it "
                                                   "like 0:12:0.2, or \"\" for no such search"));
  }
  searches->push_back(std::move(search));
  return absl::OkStatus();
}

}  // namespace

BenchReserveOptions::BenchReserveOptions() {
  load.prompt = "lognormal:30:0.4";
  load.answer = "100";
  load.requests = 150;
}

void BenchReserveOptions::AddTo(CLI::App* app) {
  app->add_option("--policy", policy, "sched.policy of the runs")->capture_default_str();
  app->add_option("--share", share, "factors of share: FROM:TO:STEP; \"\": none")->capture_default_str();
  app->add_option("--cap", cap, "factors of cap, likewise")->capture_default_str();
  app->add_option("--rate", rate, "requests per second, Poisson; 0: all at once")->capture_default_str();
  app->add_option("--seeds", seeds, "runs of each factor")->capture_default_str();
  load.AddTo(app);
  files.AddTo(app);
  app->add_option("--trace", trace, "CSV file: each memory operation of one run");
  app->add_option("--trace-rule", trace_rule, "whose run with the first seed that is: none, quantile, share:1.2")
      ->capture_default_str();
}

absl::Status BenchReserveCommand(const Config& config, const BenchReserveOptions& typed) {
  RETURN_IF_ERROR(typed.files.CanWrite());
  RETURN_IF_ERROR(CanWrite("--trace", typed.trace));
  ReserveOptions options;
  const absl::StatusOr<const Policy*> policy = FindPolicy(typed.policy);
  if (!policy.ok()) return absl::InvalidArgumentError(absl::StrCat("--policy: ", policy.status().message()));
  options.policy = *policy;
  options.searches.clear();
  RETURN_IF_ERROR(AddSearch("--share", "share", typed.share, &options.searches));
  RETURN_IF_ERROR(AddSearch("--cap", "cap", typed.cap, &options.searches));
  RETURN_IF_ERROR(CheckCount("--seeds", typed.seeds));
  options.seeds = typed.seeds;
  ASSIGN_OR_RETURN(options.load, typed.load.Finish());
  options.first_seed = options.load.seed;
  if (!(typed.rate >= 0) || !std::isfinite(typed.rate)) {
    return absl::InvalidArgumentError(absl::StrCat("--rate ", typed.rate, " is below 0; 0 sends all at once"));
  }
  options.load.arrivals.process = typed.rate > 0 ? "poisson" : "burst";
  options.load.arrivals.rate = typed.rate;
  ASSIGN_OR_RETURN(options.base, VirtualMachine(config));
  RETURN_IF_ERROR(CheckDevice(options.base.shape));
  options.threads = AvailableCores();
  if (!typed.trace.empty()) options.traced = typed.trace_rule;
  ASSIGN_OR_RETURN(const ReserveResult result, RunReserve(options, PrintStudyProgress()));
  std::printf("in virtual time, policy %s\n%s", typed.policy.c_str(),
              FormatTable(ReserveTable(result, kShownEvery)).c_str());
  for (size_t s = 0; options.seeds > 1 && s < result.searches.size(); ++s) {
    std::printf("%s: %d of %d factors have another output throughput than none (95 %%; one in twenty is by chance)\n",
                options.searches[s].rule.c_str(), FactorsThatDiffer(result, result.searches[s]),
                static_cast<int>(result.searches[s].size()));
  }
  if (!typed.trace.empty()) RETURN_IF_ERROR(WriteLoadFile(typed.trace, TraceCsv(result.trace)));
  if (!typed.files.json.empty()) RETURN_IF_ERROR(WriteLoadFile(typed.files.json, ReserveJson(result, typed.command)));
  if (typed.files.html.empty()) return absl::OkStatus();
  Config shown = config;
  shown.model.path.clear();  // nothing was measured
  return WriteLoadFile(typed.files.html, ReservePage(result, StudyFacts(shown, options.load, typed.command)));
}

}  // namespace interlace
