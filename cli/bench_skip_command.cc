#include "cli/bench_skip_command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "bench/serve/load_json.h"
#include "bench/study/skip_study.h"
#include "cli/bench_ceilings.h"
#include "cli/skip_profile.h"
#include "cli/skip_prompts.h"
#include "cli/terminal.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "text/model_text.h"

namespace interlace {
namespace {

constexpr size_t kBytesPerToken = 6;  // more than texts have

// The first `texts` of each task that are long enough, cut to `tokens`.
absl::StatusOr<std::vector<SkipText>> ReadTasks(const Config& config, const BenchSkipOptions& typed) {
  ASSIGN_OR_RETURN(const ModelText model_text, LoadModelText(config.model.path));
  std::vector<SkipText> texts;
  for (const std::string& task : typed.tasks) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(task, absl::MaxSplits('=', 1));
    if (parts.first.empty() || parts.second.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--task ", task, " is no NAME=FILE"));
    }
    ASSIGN_OR_RETURN(const std::vector<std::string> all,
                     ReadTexts(parts.second, static_cast<size_t>(typed.tokens) * kBytesPerToken));
    int32_t found = 0;
    for (const std::string& text : all) {
      std::vector<int32_t> tokens = model_text.tokenizer->EncodePrompt(text);
      if (tokens.size() < static_cast<size_t>(std::min(typed.tokens, 32))) continue;
      tokens.resize(std::min(tokens.size(), static_cast<size_t>(typed.tokens)));
      texts.push_back({parts.first, std::move(tokens)});
      if (++found == typed.texts) break;
    }
    if (found == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--task ", task, ": no text of it has ", std::min(typed.tokens, 32), " tokens"));
    }
  }
  return texts;
}

std::vector<std::pair<std::string, std::string>> Facts(const Config& config, const BenchSkipOptions& typed,
                                                       const SkipResult& result) {
  return {{"model", std::filesystem::path(config.model.path).filename().string()},
          {"layers", absl::StrCat(result.layers)},
          {"hardware", absl::StrCat(AvailableCores(), " x ", CpuModel())},
          {"texts", absl::StrFormat("%d of at most %d tokens", result.prompts.size(), typed.tokens)},
          {"command", typed.command}};
}

}  // namespace

void BenchSkipOptions::AddTo(CLI::App* app) {
  app->add_option("--task", tasks, "NAME=FILE, once for each task: texts of one kind; *.jsonl, or paragraphs")
      ->required();
  app->add_option("--texts", texts, "of each task")->capture_default_str();
  app->add_option("--tokens", tokens, "of each text, at most")->capture_default_str();
  app->add_option("--rows", rows, "positions of a text at which distributions are compared")->capture_default_str();
  app->add_option("--shares", shares, "of the sublayers between first and last layer that drafts pass over")
      ->capture_default_str();
  app->add_option("--depth", depth, "guesses of a step")->capture_default_str();
  app->add_option("--outputs", outputs, "tokens decoded behind each text")->capture_default_str();
  app->add_option("--seed", seed, "of the random plans")->capture_default_str();
  files.AddTo(app);
}

absl::Status BenchSkipCommand(const Config& config, const BenchSkipOptions& typed) {
  RETURN_IF_ERROR(typed.files.CanWrite());
  SkipProfileOptions options;
  for (const auto& [flag, value] :
       {std::pair{"--texts", typed.texts}, std::pair{"--tokens", typed.tokens}, std::pair{"--rows", typed.rows},
        std::pair{"--depth", typed.depth}, std::pair{"--outputs", typed.outputs}}) {
    RETURN_IF_ERROR(CheckCount(flag, value));
  }
  if (typed.tokens > SkipModel::kMostRows || typed.depth >= SkipModel::kMostRows) {
    return absl::InvalidArgumentError(absl::StrCat("--tokens ", typed.tokens, ", --depth ", typed.depth, ": at most ",
                                                   SkipModel::kMostRows, " positions run at once"));
  }
  ASSIGN_OR_RETURN(options.shares, ParsePositiveNumbers("--shares", typed.shares));
  if (*std::max_element(options.shares.begin(), options.shares.end()) > 1) {
    return absl::InvalidArgumentError(absl::StrCat("--shares ", typed.shares, ": a share is at most 1"));
  }
  options.rows = typed.rows;
  options.depth = typed.depth;
  options.outputs = typed.outputs;
  options.seed = typed.seed;
  ASSIGN_OR_RETURN(const std::vector<SkipText> texts, ReadTasks(config, typed));
  ASSIGN_OR_RETURN(const std::unique_ptr<SkipModel> model,
                   SkipModel::Open(config, typed.tokens + typed.outputs + typed.depth + 1));
  RealClock clock;
  ASSIGN_OR_RETURN(const SkipResult result, MeasureSkips(*model, texts, options, clock, PrintStudyProgress()));
  const SkipVariation variation = VariationOf(result);
  std::printf(
      "log10(KL) of a sublayer: variance %.4f within tasks, %.4f between; rank correlation %.3f in a task, %.3f "
      "between\n"
      "%s",
      variation.within, variation.between, variation.same_task, variation.other_task,
      FormatTable(SkipTable(result)).c_str());
  if (!typed.files.json.empty()) RETURN_IF_ERROR(WriteLoadFile(typed.files.json, SkipJson(result, typed.command)));
  if (typed.files.html.empty()) return absl::OkStatus();
  return WriteLoadFile(typed.files.html, SkipPage(result, Facts(config, typed, result)));
}

}  // namespace interlace
