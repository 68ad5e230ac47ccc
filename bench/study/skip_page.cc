// The profile of a model's sublayers as a page.
#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/serve/load_page_charts.h"
#include "bench/serve/page_parts.h"
#include "bench/serve/svg_chart.h"
#include "bench/study/skip_study.h"

namespace interlace {
namespace {

std::vector<std::string> TasksOf(const SkipResult& result) {
  std::vector<std::string> tasks;
  for (const SkipPrompt& prompt : result.prompts) {
    if (std::find(tasks.begin(), tasks.end(), prompt.task) == tasks.end()) tasks.push_back(prompt.task);
  }
  return tasks;
}

// The mean of a task's prompts at each layer, with the least and the most of them.
template <typename Value>
ChartLine LineOf(const SkipResult& result, const std::string& task, int colour, int32_t first, int32_t last,
                 Value value) {
  ChartLine line = {.label = task, .colour = colour};
  for (int32_t l = first; l <= last; ++l) {
    double sum = 0, least = 1e300, most = -1e300;
    int64_t count = 0;
    for (const SkipPrompt& prompt : result.prompts) {
      if (prompt.task != task) continue;
      const double v = value(prompt, l);
      sum += v;
      least = std::min(least, v);
      most = std::max(most, v);
      ++count;
    }
    ChartPoint point = {.x = static_cast<double>(l), .y = sum / static_cast<double>(count)};
    if (count > 1) {
      point.low = least;
      point.high = most;
    }
    point.title = absl::StrFormat("%s, layer %d: %.4f", task, l, point.y);
    line.points.push_back(std::move(point));
  }
  return line;
}

template <typename Value>
std::string ByLayer(const SkipResult& result, const char* title, const char* y, bool log, bool ends, Value value) {
  LineChart chart = {.title = title, .description = absl::StrCat(y, " by layer and task"), .width = 480};
  chart.x = {.title = "layer"};
  chart.y = {.title = y, .log = log};
  chart.direct_labels = true;
  const std::vector<std::string> tasks = TasksOf(result);
  for (size_t t = 0; t < tasks.size(); ++t) {
    chart.lines.push_back(
        LineOf(result, tasks[t], static_cast<int>(t), ends ? 0 : 1, result.layers - (ends ? 1 : 2), value));
  }
  return DrawLineChart(chart);
}

std::string ByPassed(const SkipResult& result, const char* title, const char* y, bool percent, double SkipGain::*field,
                     bool plain) {
  LineChart chart = {.title = title, .description = absl::StrCat(y, " by sublayers passed over"), .width = 480};
  chart.x = {.title = "sublayers passed over"};
  chart.y = {.title = y, .percent = percent};
  chart.direct_labels = true;
  size_t way = 0;
  const std::vector<SkipGain> gains = GainsOf(result);
  for (const char* method : kSkipMethods) {
    ChartLine line = {.label = method, .colour = WayColour(way++)};
    for (const SkipGain& gain : gains) {
      if (gain.method != method) continue;
      line.points.push_back({.x = static_cast<double>(gain.passed),
                             .y = gain.*field,
                             .title = absl::StrFormat("%s, %d passed over: %.3f", method, gain.passed, gain.*field)});
    }
    if (!line.points.empty()) chart.lines.push_back(std::move(line));
  }
  if (plain) chart.rules.push_back({1, "plain decoding", true});
  return DrawLineChart(chart);
}

std::string ByDepth(const SkipResult& result) {
  LineChart chart = {.title = "Acceptance by depth", .description = "of plans of the static set", .width = 480};
  chart.x = {.title = "guess of the chain"};
  chart.y = {.title = "right, of chains right so far", .percent = true, .low = 0};
  chart.direct_labels = true;
  int colour = 0;
  for (const SkipGain& gain : GainsOf(result)) {
    if (gain.method != "static") continue;
    ChartLine line = {.label = absl::StrCat(gain.passed, " passed"), .colour = colour++};
    for (size_t d = 0; d < gain.by_depth.size(); ++d) {
      line.points.push_back({.x = static_cast<double>(d + 1), .y = gain.by_depth[d]});
    }
    chart.lines.push_back(std::move(line));
  }
  return DrawLineChart(chart);
}

std::string VariationHtml(const SkipResult& result) {
  const SkipVariation v = VariationOf(result);
  return absl::StrCat(
      PageTable({{"of log10(KL) of a sublayer", "value"},
                 {"variance within tasks", absl::StrFormat("%.4f", v.within)},
                 {"variance of the tasks' means", absl::StrFormat("%.4f", v.between)},
                 {"rank correlation, prompts of one task", absl::StrFormat("%.3f", v.same_task)},
                 {"rank correlation, prompts of two tasks", absl::StrFormat("%.3f", v.other_task)}}),
      "<p class=\"note\">A plan that is chosen by what a prompt resembles can gain over one plan for all only as far "
      "as "
      "prompts of a task are alike and tasks differ: the second variance above the first, and the first correlation "
      "above the second.</p>");
}

std::string DraftsSection(const SkipResult& result) {
  return PageSection(
      "drafts", "Drafts, verified by the whole model",
      absl::StrCat(FigureHtml(PictureGrid({ByPassed(result, "First guess", "right", true, &SkipGain::acceptance, false),
                                           ByDepth(result)}) +
                                  PictureGrid({ByPassed(result, "Speed as measured", "tokens/s over plain", false,
                                                        &SkipGain::speed, true),
                                               ByPassed(result, "Speed at the best depth, expected",
                                                        "tokens/s over plain", false, &SkipGain::best_speed, true)}),
                              absl::StrCat("Greedy; ", result.depth, " guesses a step; all KV on the device.")),
                   PageTable(SkipTable(result))));
}

}  // namespace

std::string SkipPage(const SkipResult& result, const std::vector<std::pair<std::string, std::string>>& facts) {
  const char* const title = "Sublayers passed over";
  std::string body = absl::StrCat(PageHeader(title, facts), "<main>\n");
  const auto kl = [](int32_t part) {
    return [part](const SkipPrompt& p, int32_t l) { return std::max(1e-9, p.kl[2 * l + part]); };
  };
  const auto agreement = [](int32_t part) {
    return [part](const SkipPrompt& p, int32_t l) { return p.agreement[2 * l + part]; };
  };
  absl::StrAppend(
      &body,
      PageSection(
          "layers", "What each sublayer is worth",
          FigureHtml(
              PictureGrid({ByLayer(result, "Influence of a layer", "1 - cosine of its ends", true, true,
                                   [](const SkipPrompt& p, int32_t l) { return std::max(1e-9, p.influence[l]); })}) +
                  PictureGrid({ByLayer(result, "Without its attention", "KL, nats", true, false, kl(0)),
                               ByLayer(result, "Without its feed-forward part", "KL, nats", true, false, kl(1))}) +
                  PictureGrid(
                      {ByLayer(result, "Without its attention", "same first choice", false, false, agreement(0)),
                       ByLayer(result, "Without its feed-forward part", "same first choice", false, false,
                               agreement(1))}),
              "Marks: mean of the task's prompts; bars: the least and the most of them.")));
  absl::StrAppend(&body, PageSection("variation", "Do plans depend on the prompt?", VariationHtml(result)));
  if (!result.drafts.empty()) body += DraftsSection(result);
  body += QualitySections(result.quality, result.layers);
  return PageShell(title, body + "</main>\n");
}

}  // namespace interlace
