#include "cli/explain_table.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/terminal.h"

namespace interlace {
namespace {

// The targets that it has, and what it got: " ttft 500 ms (got 310 ms, met)".
std::string TargetsLine(const RequestReport& report) {
  const std::pair<const char*, const TargetReport*> targets[] = {{"ttft", &report.ttft},
                                                                 {"tpot", &report.tpot},
                                                                 {"largest gap", &report.largest_gap},
                                                                 {"deadline", &report.deadline}};
  const auto human = [](absl::Duration time) { return HumanSeconds(absl::ToDoubleSeconds(time)); };
  std::string line = "targets:";
  for (const auto& [name, target] : targets) {
    if (!target->asked) continue;
    absl::StrAppend(&line, line.back() == ':' ? " " : ", ", name, " ", human(*target->asked), " (got ",
                    target->reached ? human(*target->reached) : "nothing yet");
    if (target->met) {
      absl::StrAppend(&line, ", ", *target->met ? Paint(Colour::kGreen, "met") : Paint(Colour::kRed, "missed"));
    }
    absl::StrAppend(&line, ")");
  }
  absl::StrAppend(&line, line.back() == ':' ? " none" : "", "; priority ", report.priority);
  if (!report.tenant.empty()) absl::StrAppend(&line, "; tenant ", report.tenant);
  if (!report.objective.empty()) {
    absl::StrAppend(&line, "; objective ", report.objective, " (of a router; no effect here)");
  }
  return line;
}

// "time: queued 1.2 s, prefill 310 ms, decode 4 s", without what took none.
std::string TimeLine(const TimeReport& spent) {
  const std::pair<const char*, absl::Duration> parts[] = {{"queued", spent.queued},   {"fetching", spent.fetching},
                                                          {"prefill", spent.prefill}, {"decode", spent.decode},
                                                          {"parked", spent.parked},   {"sat out", spent.sat_out}};
  std::string line = "time:";
  for (const auto& [name, time] : parts) {
    if (time == absl::ZeroDuration()) continue;
    absl::StrAppend(&line, line.back() == ':' ? " " : ", ", name, " ", HumanSeconds(absl::ToDoubleSeconds(time)));
  }
  return absl::StrCat(line, line.back() == ':' ? " none yet" : "");
}

// "+1.2 s  waits for room: 33 blocks wanted, 12 free  (418 times, until +2.3 s)".
std::string DecisionLine(const DecisionReport& decision) {
  const auto at = [](absl::Duration time) { return absl::StrCat("+", HumanSeconds(absl::ToDoubleSeconds(time))); };
  std::string line = absl::StrFormat("  %-9s %s", at(decision.at), decision.text);
  if (decision.times > 1) absl::StrAppend(&line, "  (", decision.times, " times, until ", at(decision.until), ")");
  return line;
}

}  // namespace

std::string ExplainTable(const RequestReport& report) {
  std::string out = absl::StrCat(Paint(Colour::kBold, absl::StrCat("request ", report.request_id)), "  ",
                                 report.state == "failed" ? Paint(Colour::kRed, report.state) : report.state);
  if (!report.status.empty()) absl::StrAppend(&out, "  ", report.status);
  absl::StrAppend(&out, "\n", report.prompt_tokens, " prompt + ", report.completion_tokens, " generated tokens in ",
                  report.steps, " steps; queued ", HumanSeconds(absl::ToDoubleSeconds(report.queue)), ", first token ",
                  HumanSeconds(absl::ToDoubleSeconds(report.first_token)), ", total ",
                  HumanSeconds(absl::ToDoubleSeconds(report.total)), "\n", report.keep_layers, " of ", report.layers,
                  " layers kept; ", report.recomputes, " rollbacks, ", report.recomputed_tokens,
                  " tokens computed again, ", report.preemptions, " preemptions\n", TimeLine(report.spent), "\n",
                  TargetsLine(report), "\n");
  if (report.step_budget >= 0) {
    absl::StrAppend(&out, "a step reads ", HumanBytes(report.step_reads), " from the host for it, and may read ",
                    HumanBytes(report.step_budget), " for all streams\n");
  }
  std::vector<std::vector<std::string>> rows = {{"layer", "stage", "mode", "device", "host"}};
  for (const char* column : {"bytes in", "bytes out", "stall", "found d/h/t", "computed"}) rows[0].push_back(column);
  int64_t in = 0, stored = 0, stall = 0;
  for (const LayerReport& layer : report.by_layer) {
    std::vector<std::string> row = {absl::StrCat(layer.layer), absl::StrCat(layer.stage),
                                    Paint(layer.mode == "keep" ? Colour::kGreen : Colour::kYellow, layer.mode),
                                    absl::StrCat(layer.blocks_device), absl::StrCat(layer.blocks_host)};
    row.push_back(HumanBytes(layer.bytes_in));
    row.push_back(HumanBytes(layer.bytes_out));
    row.push_back(absl::StrFormat("%.2f ms", static_cast<double>(layer.stall_us) * 1e-3));
    row.push_back(absl::StrCat(layer.found_device, "/", layer.found_host, "/", layer.found_below));
    row.push_back(absl::StrCat(layer.computed));
    rows.push_back(std::move(row));
    in += layer.bytes_in;
    stored += layer.bytes_out;
    stall += layer.stall_us;
  }
  absl::StrAppend(&out, FormatTable(rows), "sum of all layers: ", HumanBytes(in), " in, ", HumanBytes(stored), " out, ",
                  absl::StrFormat("%.2f ms", static_cast<double>(stall) * 1e-3),
                  " stall; found: blocks that lay on device, host and in tiers\n");
  for (size_t i = 0; i < report.decisions.size(); ++i) {
    if (i == Explanation::kFirstDecisions && report.decisions_left_out > 0) {
      absl::StrAppend(&out, "  .. ", report.decisions_left_out, " left out\n");
    }
    absl::StrAppend(&out, DecisionLine(report.decisions[i]), "\n");
  }
  return out;
}

namespace {

void FillTargets(const Explanation& e, RequestReport* report) {
  const RequestTiming& timing = e.end.timing;
  const auto after = [&](int32_t tokens, absl::Duration reached) {
    return e.end.completion_tokens >= tokens ? std::optional(reached) : std::nullopt;
  };
  report->ttft = {e.targets.ttft, after(1, timing.first_token), e.end.met.ttft};
  report->tpot = {e.targets.tpot, after(2, timing.tpot), e.end.met.tpot};
  report->largest_gap = {e.targets.largest_gap, after(2, timing.largest_gap), e.end.met.largest_gap};
  report->deadline.met = e.end.met.deadline;
  if (e.deadline < absl::InfiniteDuration()) report->deadline.asked = e.deadline;
  if (timing.total > absl::ZeroDuration()) report->deadline.reached = timing.total;
  report->priority = e.targets.priority;
  report->tenant = e.targets.tenant;
  report->objective = e.targets.objective;
}

}  // namespace

RequestReport ToReport(const Explanation& e) {
  RequestReport report{.request_id = e.name, .state = e.state};
  report.status = e.end.status.ok() ? "" : e.end.status.ToString();
  report.prompt_tokens = e.end.prompt_tokens;
  report.completion_tokens = e.end.completion_tokens;
  report.keep_layers = e.keep_layers;
  report.layers = static_cast<int32_t>(e.layers.size());
  report.steps = e.steps;
  report.recomputes = e.recomputes;
  report.recomputed_tokens = e.recomputed_tokens;
  report.preemptions = e.preemptions;
  report.queue = e.end.timing.queue;
  report.first_token = e.end.timing.first_token;
  report.total = e.end.timing.total;
  FillTargets(e, &report);
  for (const Decision& d : e.decisions) {
    report.decisions.push_back({std::string(DecisionName(d.kind)), DecisionText(d), d.at, d.until, d.times});
  }
  report.decisions_left_out = e.decisions_left_out;
  report.spent = {e.spent[Spending::kQueued], e.spent[Spending::kFetching], e.spent[Spending::kPrefill],
                  e.spent[Spending::kDecode], e.spent[Spending::kParked],   e.spent[Spending::kSatOut]};
  report.step_reads = e.step_reads;
  report.step_budget = e.step_budget;
  for (size_t l = 0; l < e.layers.size(); ++l) {
    const LayerExplanation& layer = e.layers[l];
    report.by_layer.push_back({static_cast<int32_t>(l), layer.stage, layer.kept ? "keep" : "stream",
                               layer.blocks_device, layer.blocks_host, layer.bytes_in, layer.bytes_out, layer.stall_us,
                               layer.found_device, layer.found_host, layer.found_below, layer.computed});
  }
  return report;
}

}  // namespace interlace
