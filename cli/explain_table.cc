#include "cli/explain_table.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/terminal.h"

namespace interlace {

std::string ExplainTable(const RequestReport& report) {
  std::string out = absl::StrCat(Paint(Colour::kBold, absl::StrCat("request ", report.request_id)), "  ",
                                 report.state == "failed" ? Paint(Colour::kRed, report.state) : report.state);
  if (!report.status.empty()) absl::StrAppend(&out, "  ", report.status);
  absl::StrAppend(&out, "\n", report.prompt_tokens, " prompt + ", report.completion_tokens, " generated tokens in ",
                  report.steps, " steps; queued ", HumanSeconds(absl::ToDoubleSeconds(report.queue)), ", first token ",
                  HumanSeconds(absl::ToDoubleSeconds(report.first_token)), ", total ",
                  HumanSeconds(absl::ToDoubleSeconds(report.total)), "\n", report.keep_layers, " of ", report.layers,
                  " layers kept; ", report.recomputes, " rollbacks, ", report.recomputed_tokens,
                  " tokens computed again, ", report.preemptions, " preemptions\n");
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
