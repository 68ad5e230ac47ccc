// Tests with right answers, out of files and out of nothing: what `interlace bench skip --accuracy` asks a model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// A prompt that the model goes on with: with one of the choices, the likeliest, or with tokens of its own.
struct SkipTestItem {
  std::string prompt;
  std::vector<std::string> choices;  // empty: it decodes
  int32_t answer = 0;                // of the choices
  std::string expected;              // of what it decodes: the number
};

enum class SkipTestKind { kSums, kChoices, kNeedles };

struct SkipTestSet {
  SkipTestKind kind = SkipTestKind::kChoices;
  std::string name, what;
  double chance = 0;
  int32_t outputs = 0;                   // tokens that are decoded at most
  std::vector<std::string> calibration;  // texts of the same kind that are no items: plans are made from them
  std::vector<SkipTestItem> items;
};

struct SkipTestOptions {
  int32_t items = 20;          // of a test that does not say its own number
  int32_t shots = 3;           // worked examples before each of GSM8K's questions
  int32_t needle_words = 250;  // of the text around the fact
  uint64_t seed = 1;
};

// As typed: KIND[:ITEMS][=FILE]. "gsm8k=FILE": lines with question and answer; the last number counts. "choice=FILE":
// "*.jsonl", lines with question, choices and answer, the index of the right choice; any other file is text out of
// whose second half clozes are made. "needle": numbers that are told in a long text and asked for at its end.
// InvalidArgument names what was typed, or file and line; NotFound the file.
absl::StatusOr<SkipTestSet> ReadTest(const std::string& typed, const SkipTestOptions& options);

// Of a file's content; `name` is its path.
absl::StatusOr<SkipTestSet> SumsOf(absl::string_view name, absl::string_view content, int32_t items, int32_t shots);
absl::StatusOr<SkipTestSet> ChoicesOf(absl::string_view name, absl::string_view content, int32_t items);
// The last word of a sentence, among three last words of others; the text before it is the prompt.
absl::StatusOr<SkipTestSet> ClozesOf(absl::string_view name, absl::string_view content, int32_t items, uint64_t seed);
SkipTestSet MakeNeedles(int32_t items, int32_t words, uint64_t seed);

// "1,234.50" is 1234.5. The number behind "####", else the last in the text; none: nullopt.
std::optional<std::string> FinalNumber(absl::string_view text);
// Whether more tokens cannot change what a test makes of the text that was decoded so far.
bool IsAnswered(SkipTestKind kind, absl::string_view said);
bool IsRight(SkipTestKind kind, const SkipTestItem& item, absl::string_view said);

}  // namespace interlace
