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
#include "cli/skip_accuracy.h"
#include "cli/skip_profile.h"
#include "cli/skip_prompts.h"
#include "cli/skip_quality.h"
#include "cli/skip_tasks.h"
#include "cli/terminal.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "text/model_text.h"

namespace interlace {
namespace {

constexpr size_t kBytesPerToken = 6;  // more than texts have

// The first `texts` of each task that are long enough, cut to `tokens`.
absl::StatusOr<std::vector<SkipText>> ReadTasks(const Tokenizer& tokenizer, const BenchSkipOptions& typed) {
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
      std::vector<int32_t> tokens = tokenizer.EncodePrompt(text);
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

// "none", or numbers above 0; of shares, at most 1.
absl::StatusOr<std::vector<double>> ParseList(const char* flag, const std::string& typed, bool shares) {
  if (typed == "none") return std::vector<double>();
  ASSIGN_OR_RETURN(std::vector<double> numbers, ParsePositiveNumbers(flag, typed));
  if (shares && *std::max_element(numbers.begin(), numbers.end()) > 1) {
    return absl::InvalidArgumentError(absl::StrCat(flag, " ", typed, ": a share is at most 1"));
  }
  return numbers;
}

absl::Status CheckTyped(const BenchSkipOptions& typed) {
  RETURN_IF_ERROR(typed.files.CanWrite());
  for (const auto& [flag, value] :
       {std::pair{"--texts", typed.texts}, std::pair{"--tokens", typed.tokens}, std::pair{"--rows", typed.rows},
        std::pair{"--depth", typed.depth}, std::pair{"--outputs", typed.outputs}, std::pair{"--items", typed.items},
        std::pair{"--shots", typed.shots}, std::pair{"--needle-words", typed.needle_words}}) {
    RETURN_IF_ERROR(CheckCount(flag, value));
  }
  if (typed.tokens > SkipModel::kMostRows || typed.depth >= SkipModel::kMostRows) {
    return absl::InvalidArgumentError(absl::StrCat("--tokens ", typed.tokens, ", --depth ", typed.depth, ": at most ",
                                                   SkipModel::kMostRows, " positions run at once"));
  }
  return absl::OkStatus();
}

absl::StatusOr<SkipWayOptions> WaysOf(const BenchSkipOptions& typed) {
  SkipWayOptions ways;
  ASSIGN_OR_RETURN(ways.shares, ParseList("--shares", typed.shares, true));
  ASSIGN_OR_RETURN(ways.truncations, ParseList("--truncate", typed.truncate, true));
  ASSIGN_OR_RETURN(ways.looks, ParseList("--looks", typed.looks, true));
  ASSIGN_OR_RETURN(ways.leads, ParseList("--leads", typed.leads, false));
  return ways;
}

// Read before the model is loaded, so that what is wrong with them is told at once.
absl::StatusOr<std::vector<SkipTestSet>> ReadTests(const BenchSkipOptions& typed) {
  std::vector<SkipTestSet> sets;
  for (const std::string& test : typed.accuracy) {
    ASSIGN_OR_RETURN(SkipTestSet set, ReadTest(test, {typed.items, typed.shots, typed.needle_words, typed.seed}));
    for (const SkipTestSet& other : sets) {
      if (other.name != set.name) continue;
      return absl::InvalidArgumentError(absl::StrCat("--accuracy ", test, ": ", set.name, " is there twice"));
    }
    sets.push_back(std::move(set));
  }
  return sets;
}

absl::StatusOr<SkipResult> Measure(SkipModel& model, const Tokenizer& tokenizer, const std::vector<SkipText>& texts,
                                   const std::vector<TokenTest>& tests, const SkipWayOptions& ways,
                                   const BenchSkipOptions& typed) {
  const SkipProfileOptions profile = {typed.rows, ways.shares, typed.depth, typed.outputs, typed.seed};
  RealClock clock;
  ASSIGN_OR_RETURN(SkipResult result, ProfileTexts(model, texts, profile, PrintStudyProgress()));
  if (!typed.no_drafts) {
    RETURN_IF_ERROR(MeasureDrafts(model, texts, profile, clock, PrintStudyProgress(), &result));
  }
  if (!typed.no_quality) {
    RETURN_IF_ERROR(MeasureQuality(model, texts, {ways, typed.outputs, typed.seed}, PrintStudyProgress(), &result));
  }
  for (const TokenTest& test : tests) {
    const SkipAccuracyOptions options = {
        .ways = ways, .own = typed.own_accuracy, .rows = typed.rows, .seed = typed.seed};
    RETURN_IF_ERROR(MeasureAccuracy(model, tokenizer, texts, test, options, PrintStudyProgress(), &result));
  }
  return result;
}

void Print(const SkipResult& result) {
  const SkipVariation variation = VariationOf(result);
  std::printf(
      "log10(KL) of a sublayer: variance %.4f within tasks, %.4f between; rank correlation %.3f in a task, %.3f "
      "between\n",
      variation.within, variation.between, variation.same_task, variation.other_task);
  const SkipQuality& quality = result.quality;
  if (!result.drafts.empty()) std::printf("%s", FormatTable(SkipTable(result)).c_str());
  if (!quality.samples.empty()) std::printf("\n%s", FormatTable(QualityTable(quality, result.layers)).c_str());
  if (!quality.tests.empty()) std::printf("\n%s", FormatTable(AccuracyTable(quality, result.layers)).c_str());
}

}  // namespace

void BenchSkipOptions::AddTo(CLI::App* app) {
  app->add_option("--task", tasks, "NAME=FILE, once for each task: texts of one kind; *.jsonl, or paragraphs")
      ->required();
  app->add_option("--texts", texts, "of each task")->capture_default_str();
  app->add_option("--tokens", tokens, "of each text, at most")->capture_default_str();
  app->add_option("--rows", rows, "positions of a text at which distributions are compared")->capture_default_str();
  app->add_option("--shares", shares, "of the sublayers between first and last layer that plans pass over")
      ->capture_default_str();
  app->add_option("--depth", depth, "guesses of a step")->capture_default_str();
  app->add_option("--outputs", outputs, "tokens decoded behind each text")->capture_default_str();
  app->add_flag("--no-drafts", no_drafts, "leave drafts out");
  app->add_flag("--no-quality", no_quality, "leave out what answers by the plans themselves are worth");
  app->add_option("--truncate", truncate, "shares of the layers that run before the last, or none")
      ->capture_default_str();
  app->add_option("--looks", looks, "shares of the layers behind which rows may leave, or none")->capture_default_str();
  app->add_option("--leads", leads,
                  "of the first choice's probability over the second's, with which a row leaves there")
      ->capture_default_str();
  app->add_option(
      "--accuracy", accuracy,
      "KIND[:ITEMS][=FILE], once for each test: gsm8k=FILE, choice=FILE (*.jsonl: questions; else clozes out "
      "of its text) or needle");
  app->add_option("--items", items, "of each test that does not say its own number")->capture_default_str();
  app->add_option("--shots", shots, "worked examples before each question of gsm8k")->capture_default_str();
  app->add_option("--needle-words", needle_words, "of the text that a number is told in")->capture_default_str();
  app->add_flag("--own-accuracy", own_accuracy, "tests by plans of each item's own prompt too: a profile each");
  app->add_option("--seed", seed, "of the random plans and of tests that are made")->capture_default_str();
  files.AddTo(app);
}

absl::Status BenchSkipCommand(const Config& config, const BenchSkipOptions& typed) {
  RETURN_IF_ERROR(CheckTyped(typed));
  ASSIGN_OR_RETURN(const SkipWayOptions ways, WaysOf(typed));
  ASSIGN_OR_RETURN(std::vector<SkipTestSet> sets, ReadTests(typed));
  ASSIGN_OR_RETURN(const ModelText text, LoadModelText(config.model.path));
  ASSIGN_OR_RETURN(const std::vector<SkipText> texts, ReadTasks(*text.tokenizer, typed));
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(config.model.path));
  int32_t context = typed.tokens + typed.outputs + typed.depth + 1;
  std::vector<TokenTest> tests;
  for (SkipTestSet& set : sets) {
    ASSIGN_OR_RETURN(tests.emplace_back(),
                     TokenTestOf(std::move(set), *text.tokenizer, typed.tokens, checkpoint->spec().context));
    context = std::max(context, tests.back().most_tokens);
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<SkipModel> model, SkipModel::Open(config, context));
  ASSIGN_OR_RETURN(const SkipResult result, Measure(*model, *text.tokenizer, texts, tests, ways, typed));
  Print(result);
  if (!typed.files.json.empty()) RETURN_IF_ERROR(WriteLoadFile(typed.files.json, SkipJson(result, typed.command)));
  if (typed.files.html.empty()) return absl::OkStatus();
  return WriteLoadFile(typed.files.html, SkipPage(result, Facts(config, typed, result)));
}

}  // namespace interlace
