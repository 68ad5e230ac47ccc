#include "cli/bench_serve_table.h"

#include <cmath>
#include <cstdio>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/serve/load_figures.h"
#include "cli/terminal.h"

namespace interlace {
namespace {

std::string Seconds(double value, const Distribution& of) { return of.count == 0 ? "-" : HumanSeconds(value); }

// "62 ok, 2 shed, 1 truncated"
std::string Outcomes(const LoadFigures& figures) {
  std::string text = absl::StrCat(figures.completed(), " ok");
  for (int i = 1; i < kLoadOutcomes; ++i) {
    const int64_t count = figures.outcomes[static_cast<size_t>(i)];
    if (count > 0) absl::StrAppend(&text, ", ", count, " ", LoadOutcomeName(static_cast<LoadOutcome>(i)));
  }
  return text;
}

std::string Doubts(const LoadRun& run, const LoadFigures& figures) {
  std::string text;
  if (!figures.valid && figures.requests > 0) {
    absl::StrAppend(&text, Paint(Colour::kRed, "not valid: "), figures.invalid_because, "\n");
  }
  if (!run.stopped_because.empty()) {
    absl::StrAppend(&text, Paint(Colour::kYellow, "stopped early: "), run.stopped_because, "\n");
  } else if (figures.queue_grows) {
    absl::StrAppend(&text, Paint(Colour::kYellow, "the queue grows: "),
                    "more requests were open at the end of sending than a steady load explains\n");
  }
  if (run.unsent > 0) absl::StrAppend(&text, run.unsent, " planned requests were not sent\n");
  // One example of each way to fail.
  std::map<LoadOutcome, const RequestRecord*> examples;
  for (const RequestRecord& record : run.records) {
    if (!record.error.empty()) examples.try_emplace(record.outcome, &record);
  }
  for (const auto& [outcome, record] : examples) {
    if (outcome == LoadOutcome::kOk) continue;
    absl::StrAppend(&text, LoadOutcomeName(outcome), ", such as request ", record->index, ": ", record->error, "\n");
  }
  return text;
}

std::string Head(const LoadRun& run) {
  return absl::StrCat(run.label.empty() ? "" : absl::StrCat(run.label, ": "), run.dataset, ", ", run.arrivals,
                      run.offered_rate > 0 ? absl::StrCat(" ", run.offered_rate, "/s") : "",
                      run.concurrency > 0 ? absl::StrCat(", at most ", run.concurrency, " open") : "", ", seed ",
                      run.seed);
}

std::string OneRun(const LoadRun& run) {
  const LoadFigures figures = FiguresOf(run);
  std::string text =
      absl::StrCat(Paint(Colour::kBold, absl::StrCat(run.server, "  ", run.model)), "\n", Head(run), "\n\n");
  std::vector<std::vector<std::string>> rows = {{"", "mean", "p50", "p90", "p99", "max", "count"}};
  for (const LatencyMetric& metric : LatencyMetrics()) {
    const Distribution& d = figures.*metric.field;
    rows.push_back({std::string(metric.name), Seconds(d.mean, d), Seconds(d.p50, d), Seconds(d.p90, d),
                    Seconds(d.p99, d), Seconds(d.max, d), absl::StrCat(d.count)});
  }
  absl::StrAppend(&text, FormatTable(rows), "\n");
  absl::StrAppendFormat(&text, "requests    %s in %s\n", Outcomes(figures), HumanSeconds(figures.seconds));
  absl::StrAppendFormat(&text, "throughput  %.2f requests/s, %.0f tokens/s in, %.0f tokens/s out\n",
                        figures.request_throughput, figures.input_throughput, figures.output_throughput);
  if (figures.has_targets) {
    absl::StrAppendFormat(&text, "goodput     %.2f requests/s; %.1f %% of the requests met all of their targets\n",
                          figures.goodput, 100 * figures.good_share);
  }
  if (figures.hit_rate > 0 || figures.hit_rate_ceiling > 0) {
    absl::StrAppendFormat(&text, "cache       %.1f %% of prompt tokens were hits; %.1f %% could have been\n",
                          100 * figures.hit_rate, 100 * figures.hit_rate_ceiling);
  }
  absl::StrAppendFormat(&text, "generator   %s CPU, send lag p99 %s\n",
                        HumanSeconds(absl::ToDoubleSeconds(run.client_cpu)),
                        Seconds(figures.send_lag.p99, figures.send_lag));
  return absl::StrCat(text, Doubts(run, figures));
}

}  // namespace

std::string LoadRunsText(const std::vector<LoadRun>& runs) {
  if (runs.empty()) return "";
  if (runs.size() == 1) return OneRun(runs.front());
  std::string text = absl::StrCat(Paint(Colour::kBold, absl::StrCat(runs[0].server, "  ", runs[0].model)), "\n",
                                  runs[0].dataset, "\n\n");
  std::vector<std::vector<std::string>> rows = {{"load", "seed", "ok", "shed", "other", "req/s", "tok/s", "TTFT mean",
                                                 "p50", "p99", "TPOT mean", "p99", "gap p99", "E2EL mean", "goodput",
                                                 "met"}};
  std::string doubts;
  for (const LoadRun& run : runs) {
    const LoadFigures f = FiguresOf(run);
    const std::string load = run.offered_rate > 0 ? absl::StrFormat("%.3g/s", run.offered_rate) : run.arrivals;
    rows.push_back({load, absl::StrCat(run.seed), absl::StrCat(f.completed()), absl::StrCat(f.shed()),
                    absl::StrCat(f.requests - f.completed() - f.shed()), absl::StrFormat("%.2f", f.request_throughput),
                    absl::StrFormat("%.0f", f.output_throughput), Seconds(f.ttft.mean, f.ttft),
                    Seconds(f.ttft.p50, f.ttft), Seconds(f.ttft.p99, f.ttft), Seconds(f.tpot.mean, f.tpot),
                    Seconds(f.tpot.p99, f.tpot), Seconds(f.largest_gap.p99, f.largest_gap),
                    Seconds(f.e2el.mean, f.e2el), f.has_targets ? absl::StrFormat("%.2f", f.goodput) : "-",
                    f.has_targets ? absl::StrFormat("%.1f%%", 100 * f.good_share) : "-"});
    if (const std::string doubt = Doubts(run, f); !doubt.empty()) {
      absl::StrAppend(&doubts, Paint(Colour::kDim, absl::StrCat(load, " seed ", run.seed)), "\n", doubt);
    }
  }
  return absl::StrCat(text, FormatTable(rows), doubts.empty() ? "" : "\n", doubts);
}

void PrintCapacityStep(const CapacityStep& step) {
  std::printf("seed %d  %8.3f/s  %5.1f %%  %s  %s\n", static_cast<int>(step.seed), step.rate, 100 * step.share,
              step.holds ? "holds" : "fails", step.why.c_str());
  std::fflush(stdout);
}

std::string CapacityText(const CapacityResult& capacity) {
  std::string text =
      absl::StrFormat("\ncapacity    %s%.3f requests/s", capacity.at_least ? "at least " : "", capacity.rate);
  if (std::isfinite(capacity.high) && !capacity.at_least) {
    absl::StrAppendFormat(&text, " (%.3f to %.3f)", capacity.low, capacity.high);
  }
  absl::StrAppend(&text, "\n");
  if (!capacity.stopped_because.empty()) absl::StrAppend(&text, capacity.stopped_because, "\n");
  return text;
}

}  // namespace interlace
