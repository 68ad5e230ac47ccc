#include "cli/study_flags.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "cli/bench_ceilings.h"
#include "cli/output_file.h"
#include "cli/terminal.h"
#include "common/clock.h"
#include "common/status_macros.h"
#include "common/thread.h"

namespace interlace {

void StudyLoadFlags::AddTo(CLI::App* command) {
  command->add_option("--prompt", prompt, "tokens of a prompt: 512, uniform:64:512 or lognormal:200:0.8")
      ->capture_default_str();
  command->add_option("--answer", answer, "tokens of an answer, likewise")->capture_default_str();
  command->add_option("--requests", requests, "requests of a run")->capture_default_str();
  command->add_option("--seed", seed, "of the first run of several")->capture_default_str();
}

absl::StatusOr<LoadPlanSpec> StudyLoadFlags::Finish() const {
  LoadPlanSpec spec;
  spec.dataset.kind = "synthetic";
  ASSIGN_OR_RETURN(spec.dataset.input, ParseLength("--prompt", prompt));
  ASSIGN_OR_RETURN(spec.dataset.output, ParseLength("--answer", answer));
  spec.dataset.ignore_eos = true;
  RETURN_IF_ERROR(CheckCount("--requests", requests));
  spec.requests = requests;
  spec.seed = seed;
  return spec;
}

void StudyTargetFlags::AddTo(CLI::App* command) {
  command->add_option("--ttft-slo", ttft, "target of every request for its first token, or none")
      ->capture_default_str();
  command->add_option("--tpot-slo", tpot, "for the mean gap between its tokens")->capture_default_str();
  command->add_option("--gap-slo", gap, "for the largest gap")->capture_default_str();
}

absl::StatusOr<LoadTargets> StudyTargetFlags::Finish() const {
  const auto read = [](const char* flag, const std::string& text,
                       std::optional<absl::Duration>* target) -> absl::Status {
    if (text == "none") return absl::OkStatus();
    absl::Duration value;
    if (!absl::ParseDuration(text, &value) || value <= absl::ZeroDuration() || value == absl::InfiniteDuration()) {
      return absl::InvalidArgumentError(
          absl::StrCat(flag, " ", text, " is no time above 0; give it with its unit, 150ms or 4s, or none"));
    }
    *target = value;
    return absl::OkStatus();
  };
  LoadTargets targets;
  RETURN_IF_ERROR(read("--ttft-slo", ttft, &targets.ttft));
  RETURN_IF_ERROR(read("--tpot-slo", tpot, &targets.tpot));
  RETURN_IF_ERROR(read("--gap-slo", gap, &targets.largest_gap));
  return targets;
}

void StudyFileFlags::AddTo(CLI::App* command) {
  command->add_option("--json", json, "file for all figures");
  command->add_option("--html", html, "file for a page with pictures, which needs nothing from elsewhere");
}

absl::Status StudyFileFlags::CanWrite() const {
  RETURN_IF_ERROR(interlace::CanWrite("--json", json));
  return interlace::CanWrite("--html", html);
}

absl::StatusOr<std::vector<double>> ParsePositiveNumbers(const std::string& flag, const std::string& text) {
  std::vector<double> numbers;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    double number = 0;
    if (!absl::SimpleAtod(part, &number) || !(number > 0) || !std::isfinite(number)) {
      return absl::InvalidArgumentError(
          absl::StrCat(flag, " ", text, ": ", part, " is no number above 0; write it like 0.4,0.7,1"));
    }
    numbers.push_back(number);
  }
  if (numbers.empty()) return absl::InvalidArgumentError(absl::StrCat(flag, " is empty; write it like 0.4,0.7,1"));
  return numbers;
}

absl::Status CheckCount(const std::string& flag, int64_t value) {
  if (value >= 1 && value <= 1000000) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", value, " does not lie between 1 and 1000000"));
}

StudyProgress PrintStudyProgress() {
  auto clock = std::make_shared<RealClock>();
  return [clock, began = clock->Now()](const std::string& what, int32_t done, int32_t all) {
    const absl::Duration spent = clock->Now() - began;
    std::string left;
    if (done > 0 && done < all) {
      const absl::Duration each = spent / done;
      left =
          absl::StrCat(", about ", absl::FormatDuration(absl::Trunc(each * (all - done), absl::Seconds(1))), " left");
    }
    static const bool terminal = isatty(STDERR_FILENO) == 1;
    const bool last = done >= all;
    std::fprintf(stderr, "%s%d of %d: %s%s%s", terminal ? "\r\x1b[K" : "", last ? all : done + 1, all, what.c_str(),
                 left.c_str(), terminal ? "" : "\n");
    if (terminal && last) std::fprintf(stderr, "\r\x1b[K");
    std::fflush(stderr);
  };
}

std::vector<std::pair<std::string, std::string>> StudyFacts(const Config& config, const LoadPlanSpec& load,
                                                            const std::string& command) {
  const bool real = !config.model.path.empty();
  const int64_t link = config.kv.link_bytes.value;
  return {
      {"version", INTERLACE_VERSION},
      {"model", real ? std::filesystem::path(config.model.path).filename().string() : "SmolLM2-135M's shape"},
      {"hardware", real ? absl::StrCat(AvailableCores(), " x ", CpuModel()) : "none: virtual time"},
      {"KV on the device", HumanBytes(config.kv.device_bytes.value)},
      {"link",
       link > 0 ? absl::StrFormat("%.3g GB/s, emulated", static_cast<double>(link) / 1e9) : "the machine's own"},
      {"workload", absl::StrCat("prompts ", DescribeLength(load.dataset.input), ", answers ",
                                DescribeLength(load.dataset.output), " tokens")},
      {"command", command},
  };
}

}  // namespace interlace
