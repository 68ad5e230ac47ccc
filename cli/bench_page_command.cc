#include "cli/bench_page_command.h"

#include <cstdio>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "bench/serve/load_json.h"
#include "bench/serve/load_page.h"
#include "common/status_macros.h"

namespace interlace {

absl::Status BenchPageCommand(const BenchPageOptions& options) {
  if (options.html.empty() && options.json.empty() && options.csv.empty()) {
    return absl::InvalidArgumentError("nothing to write: give --html, --json or --csv");
  }
  LoadReport all;
  for (const std::string& path : options.files) {
    ASSIGN_OR_RETURN(LoadReport report, ReadLoadReport(path));
    if (all.environment == LoadEnvironment{}) all.environment = report.environment;
    if (all.environment.command != report.environment.command) all.environment.command.clear();
    if (all.environment.hardware != report.environment.hardware) {
      absl::StrAppend(&all.environment.hardware, "; ", report.environment.hardware);
    }
    if (all.environment.commit != report.environment.commit) {
      absl::StrAppend(&all.environment.commit, "; ", report.environment.commit);
    }
    // A capacity belongs to one line; of several files none is the page's.
    if (options.files.size() == 1) all.capacity = report.capacity;
    for (LoadRun& run : report.runs) {
      if (run.label.empty() && options.files.size() > 1) run.label = std::filesystem::path(path).stem().string();
      all.runs.push_back(std::move(run));
    }
  }
  if (!options.html.empty()) RETURN_IF_ERROR(WriteLoadFile(options.html, LoadPage(all, options.title)));
  if (!options.json.empty()) RETURN_IF_ERROR(WriteLoadFile(options.json, LoadReportJson(all)));
  if (!options.csv.empty()) RETURN_IF_ERROR(WriteLoadFile(options.csv, LoadCsv(all.runs)));
  std::printf("%zu runs of %zu files\n", all.runs.size(), options.files.size());
  return absl::OkStatus();
}

}  // namespace interlace
