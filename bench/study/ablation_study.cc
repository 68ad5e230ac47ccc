#include "bench/study/ablation_study.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/serve/load_figures.h"
#include "bench/serve/load_page_charts.h"
#include "bench/serve/page_parts.h"
#include "bench/serve/svg_chart.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

using nlohmann::ordered_json;

// The rounds of one mode.
struct ModeRounds {
  std::vector<double> seconds, ttft, gap_p99;
};

void AddRound(const StudyRun& made, absl::flat_hash_map<int64_t, uint64_t>* answers, AblationRow* row,
              ModeRounds* rounds) {
  const LoadFigures figures = FiguresOf(made.run);
  rounds->seconds.push_back(figures.seconds);
  rounds->ttft.push_back(figures.ttft.mean);
  rounds->gap_p99.push_back(figures.largest_gap.p99);
  // Of one round; all are alike.
  row->requests = figures.requests;
  row->answered = figures.completed();
  row->prompt_tokens = figures.input_tokens;
  row->output_tokens = figures.output_tokens;
  row->computed = made.steps.rows();
  for (const RequestRecord& record : made.run.records) {
    const uint64_t hash = AnswerHash(record);
    if (hash == 0) continue;
    ++row->compared;
    if (answers->try_emplace(record.index, hash).first->second == hash) ++row->same;
  }
}

double RatePerSecond(int64_t count, double seconds) { return seconds > 0 ? static_cast<double>(count) / seconds : 0; }

std::string Times(double factor) { return absl::StrFormat(factor < 10 ? "%.2fx" : "%.1fx", factor); }

std::string Picture(const AblationResult& result) {
  LineChart chart = {.title = "Requests/s", .description = "a mark for each row"};
  chart.width = 480;
  chart.x = {.title = "row of the table", .low = 1, .high = static_cast<double>(result.rows.size())};
  chart.y = {.log = true};
  ChartLine line = {.label = "requests/s"};
  for (size_t i = 0; i < result.rows.size(); ++i) {
    const AblationRow& row = result.rows[i];
    const double rate = RatePerSecond(row.answered, row.seconds);
    line.points.push_back({.x = static_cast<double>(i + 1), .y = rate});
    line.points.back().title = absl::StrCat(row.mode.name, ": ", ShortNumber(rate));
  }
  chart.lines.push_back(std::move(line));
  return DrawLineChart(chart);
}

std::string ProfilePicture(const AblationProfile& profile) {
  StackedBars bars = {.title = absl::StrFormat("A step of %d streams at position %d", profile.batch, profile.context),
                      .description = "parts of a step's time"};
  bars.width = 480;
  double most = profile.head;
  for (const double layer : profile.layers) most = std::max(most, layer);
  for (const double part : {profile.embedding, profile.sampler, profile.outside}) most = std::max(most, part);
  const auto add = [&](const std::string& name, double us) {
    StackedBars::Row row = {.label = name, .note = absl::StrFormat("%.0f us", us)};
    row.parts.push_back({"o-ok", absl::StrFormat("%s: %.1f us", name, us), most > 0 ? us / most : 0});
    bars.rows.push_back(std::move(row));
  };
  add("embedding", profile.embedding);
  for (size_t l = 0; l < profile.layers.size(); ++l) add(absl::StrCat("layer ", l), profile.layers[l]);
  add("last norm and head", profile.head);
  add("sampler", profile.sampler);
  add("outside kernels", profile.outside);
  // Three columns, where there is room for them.
  std::vector<std::string> pictures;
  const size_t each = (bars.rows.size() + 2) / 3;
  for (size_t begin = 0; begin < bars.rows.size(); begin += each) {
    StackedBars part = {.title = begin == 0 ? bars.title : " ", .description = bars.description, .width = 360};
    for (size_t i = begin; i < std::min(begin + each, bars.rows.size()); ++i) part.rows.push_back(bars.rows[i]);
    pictures.push_back(DrawStackedBars(part));
  }
  return FigureHtml(PictureGrid(pictures), "Bars are shares of the longest one.");
}

}  // namespace

std::vector<AblationMode> AblationModes(int32_t batch) {
  const EngineClientOptions alone = {.private_prefixes = true};
  return {
      {"without KV cache",
       "one request at a time; each token computes all tokens before it again",
       "fcfs",
       {.without_cache = true, .private_prefixes = true},
       1},
      {"KV cache", "one request at a time", "fcfs", alone, 1},
      {"static batching",
       absl::StrCat("batches of ", batch, "; the next begins when the whole batch has ended"),
       "fcfs",
       {.private_prefixes = true, .static_batches = true},
       batch},
      {"continuous batching", absl::StrCat(batch, " open; the next begins when one has ended"), "fcfs", alone, batch},
      {"+ prefix cache", "the same; requests share the blocks of equal beginnings", "fcfs", {}, batch},
      {"+ KV by layer", "the same; policy slack", "slack", {}, batch},
  };
}

absl::StatusOr<AblationResult> RunAblation(const AblationOptions& options, const MakeAblationRun& make,
                                           const StudyProgress& progress) {
  AblationResult result{.options = options};
  const std::vector<AblationMode> modes = AblationModes(options.batch);
  for (const AblationMode& mode : modes) result.rows.push_back({.mode = mode});
  std::vector<ModeRounds> rounds(modes.size());
  absl::flat_hash_map<int64_t, uint64_t> answers;  // by request
  const auto all = options.rounds * static_cast<int32_t>(modes.size());
  for (int32_t round = 0; round < options.rounds && !result.interrupted; ++round) {
    std::vector<StudyRun> made;
    for (size_t m = 0; m < modes.size() && !result.interrupted; ++m) {
      if (progress) {
        progress(absl::StrCat("round ", round + 1, ", ", modes[m].name),
                 round * static_cast<int32_t>(modes.size()) + static_cast<int32_t>(m), all);
      }
      absl::StatusOr<StudyRun> run = make(modes[m], options.load);
      result.interrupted = absl::IsCancelled(run.status());
      if (result.interrupted) break;
      RETURN_IF_ERROR(run.status());
      made.push_back(*std::move(run));
    }
    for (size_t m = 0; m < made.size() && !result.interrupted; ++m) {
      AddRound(made[m], &answers, &result.rows[m], &rounds[m]);
    }
  }
  if (rounds[0].seconds.empty()) return absl::CancelledError("interrupted before the first round was whole");
  for (size_t m = 0; m < modes.size(); ++m) {
    result.rows[m].seconds = MedianOfValues(rounds[m].seconds);
    result.rows[m].ttft = MedianOfValues(rounds[m].ttft);
    result.rows[m].gap_p99 = MedianOfValues(rounds[m].gap_p99);
  }
  return result;
}

std::vector<std::vector<std::string>> AblationTable(const AblationResult& result) {
  std::vector<std::vector<std::string>> cells = {{"row", "requests/s", "tokens/s", "prompt tokens", "total tokens",
                                                  "computed", "time", "speed-up", "over the row above", "TTFT mean",
                                                  "largest gap p99", "same texts"}};
  for (size_t i = 0; i < result.rows.size(); ++i) {
    const AblationRow& row = result.rows[i];
    const double before = i == 0 ? row.seconds : result.rows[i - 1].seconds;
    cells.push_back(
        {absl::StrCat(i + 1, " ", row.mode.name), absl::StrFormat("%.3f", RatePerSecond(row.answered, row.seconds)),
         absl::StrFormat("%.1f", RatePerSecond(row.output_tokens, row.seconds)), absl::StrCat(row.prompt_tokens),
         absl::StrCat(row.prompt_tokens + row.output_tokens), absl::StrCat(row.computed), ShortSeconds(row.seconds),
         Times(result.rows[0].seconds / row.seconds), i == 0 ? "-" : Times(before / row.seconds),
         ShortSeconds(row.ttft), ShortSeconds(row.gap_p99), absl::StrCat(row.same, " of ", row.compared)});
  }
  return cells;
}

std::vector<std::vector<std::string>> AblationProfileTable(const AblationProfile& profile) {
  std::vector<std::vector<std::string>> cells = {{"part", "us/step", "share"}};
  const auto add = [&](const std::string& name, double us) {
    cells.push_back({name, absl::StrFormat("%.1f", us), absl::StrFormat("%.1f %%", 100 * us / profile.total)});
  };
  add("embedding", profile.embedding);
  for (size_t l = 0; l < profile.layers.size(); ++l) add(absl::StrCat("layer ", l), profile.layers[l]);
  add("last norm and head", profile.head);
  add("sampler", profile.sampler);
  add("outside kernels", profile.outside);
  return cells;
}

std::string AblationJson(const AblationResult& result, const std::string& command) {
  ordered_json out = {{"study", "ablation"},
                      {"command", command},
                      {"batch", result.options.batch},
                      {"rounds", result.options.rounds},
                      {"interrupted", result.interrupted},
                      {"rows", ordered_json::array()}};
  for (const AblationRow& row : result.rows) {
    out["rows"].push_back({{"row", row.mode.name},
                           {"meaning", row.mode.meaning},
                           {"requests", row.requests},
                           {"answered", row.answered},
                           {"requests_per_s", RatePerSecond(row.answered, row.seconds)},
                           {"tokens_per_s", RatePerSecond(row.output_tokens, row.seconds)},
                           {"prompt_tokens", row.prompt_tokens},
                           {"total_tokens", row.prompt_tokens + row.output_tokens},
                           {"computed_positions", row.computed},
                           {"seconds", row.seconds},
                           {"speed_up", result.rows[0].seconds / row.seconds},
                           {"mean_ttft_s", row.ttft},
                           {"p99_largest_gap_s", row.gap_p99},
                           {"same_texts", row.same},
                           {"compared_texts", row.compared}});
  }
  const AblationProfile& p = result.profile;
  if (!p.layers.empty()) {
    out["profile"] = {
        {"batch", p.batch},      {"context", p.context}, {"us_per_step", p.total},  {"embedding_us", p.embedding},
        {"layers_us", p.layers}, {"head_us", p.head},    {"sampler_us", p.sampler}, {"outside_kernels_us", p.outside}};
  }
  return out.dump(1) + "\n";
}

std::string AblationPage(const AblationResult& result, const std::vector<std::pair<std::string, std::string>>& facts) {
  const char* const title = "What each part of serving buys";
  std::string meanings = "<dl class=\"terms\">";
  for (const AblationRow& row : result.rows) {
    absl::StrAppend(&meanings, "<div><dt>", EscapeXml(row.mode.name), "</dt><dd>", EscapeXml(row.mode.meaning),
                    "</dd></div>");
  }
  meanings += "</dl>";
  std::string body = absl::StrCat(
      PageHeader(title, facts), "<main>\n",
      PageSection("rows", "One thing more in each row",
                  absl::StrCat(meanings, PageTable(AblationTable(result)),
                               "<p class=\"note\">The same requests in every row, answers as long as they were asked "
                               "for; medians of the rounds. Computed: positions that the model computed. Same texts: "
                               "answers that equal, token by token, the first that the request got in any row.</p>",
                               FigureHtml(PictureGrid({Picture(result)}), "Requests/s of each row, logarithmic."))));
  if (!result.profile.layers.empty()) {
    absl::StrAppend(&body, PageSection("layers", "Where a step's time goes",
                                       ProfilePicture(result.profile) + "<details><summary>All parts</summary>" +
                                           PageTable(AblationProfileTable(result.profile)) + "</details>"));
  }
  return PageShell(title, body + "</main>\n");
}

}  // namespace interlace
