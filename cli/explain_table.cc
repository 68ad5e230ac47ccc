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
                  " tokens computed again, ", report.preemptions, " preemptions\n", TargetsLine(report), "\n");
  std::vector<std::vector<std::string>> rows = {{"layer", "stage", "mode", "device", "host"}};
  for (const char* column : {"bytes in", "bytes out", "stall"}) rows[0].push_back(column);
  int64_t in = 0, stored = 0, stall = 0;
  for (const LayerReport& layer : report.by_layer) {
    std::vector<std::string> row = {absl::StrCat(layer.layer), absl::StrCat(layer.stage),
                                    Paint(layer.mode == "keep" ? Colour::kGreen : Colour::kYellow, layer.mode),
                                    absl::StrCat(layer.blocks_device), absl::StrCat(layer.blocks_host)};
    row.push_back(HumanBytes(layer.bytes_in));
    row.push_back(HumanBytes(layer.bytes_out));
    row.push_back(absl::StrFormat("%.2f ms", static_cast<double>(layer.stall_us) * 1e-3));
    rows.push_back(std::move(row));
    in += layer.bytes_in;
    stored += layer.bytes_out;
    stall += layer.stall_us;
  }
  absl::StrAppend(&out, FormatTable(rows), "sum of all layers: ", HumanBytes(in), " in, ", HumanBytes(stored), " out, ",
                  absl::StrFormat("%.2f ms", static_cast<double>(stall) * 1e-3), " stall\n");
  for (const std::string& note : report.notes) absl::StrAppend(&out, "  note: ", note, "\n");
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
  report.notes = e.notes;
  for (size_t l = 0; l < e.layers.size(); ++l) {
    const LayerExplanation& layer = e.layers[l];
    report.by_layer.push_back({static_cast<int32_t>(l), layer.stage, layer.kept ? "keep" : "stream",
                               layer.blocks_device, layer.blocks_host, layer.bytes_in, layer.bytes_out,
                               layer.stall_us});
  }
  return report;
}

}  // namespace interlace
