// Load runs as files: JSON with the keys of vLLM's `bench serve` result, JSON lines per request, CSV per run.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "bench/serve/load_capacity.h"
#include "bench/serve/load_record.h"

namespace interlace {

// Where and by what the runs were made; for the head of the page and for who reads the file later.
struct LoadEnvironment {
  std::string commit;    // of Interlace
  std::string hardware;  // "2 x AMD EPYC 9B45, 24 GiB"
  std::string command;   // as it was typed
  friend bool operator==(const LoadEnvironment&, const LoadEnvironment&) = default;
};

struct LoadReport {
  LoadEnvironment environment;
  std::vector<LoadRun> runs;               // rates x seeds x labels
  std::optional<CapacityResult> capacity;  // where it was searched for
};

struct LoadJsonOptions {
  // The arrays of vLLM's --save-detailed (input_lens, output_lens, ttfts, itls, start_times, generated_texts, errors).
  // Our own records, from which runs are read back, are always written.
  bool detailed = true;
};

// Times are kept to the nanosecond. One run: vLLM's result with our part under "interlace". Several: {"interlace":
// environment, "runs": [of such]}.
std::string LoadReportJson(const LoadReport& report, const LoadJsonOptions& options = {});

// Reads what LoadReportJson writes, and results of `vllm bench serve --save-detailed` too: of those, records are made
// from vLLM's arrays. `name` stands in errors.
absl::StatusOr<LoadReport> ParseLoadReport(absl::string_view json, absl::string_view name);

absl::StatusOr<LoadReport> ReadLoadReport(const std::string& path);
absl::Status WriteLoadFile(const std::string& path, absl::string_view content);

// A line per request: what was planned, what came of it and its figures.
std::string RequestJsonLines(const LoadRun& run);
// A heading and a row per run.
std::string LoadCsv(const std::vector<LoadRun>& runs);

}  // namespace interlace
