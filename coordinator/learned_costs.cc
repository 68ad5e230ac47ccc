#include "coordinator/learned_costs.h"

#include <algorithm>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace interlace {
namespace {

uint64_t Checksum(absl::string_view text) {  // FNV-1a
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return hash;
}

// "KEY number number .. checksum", or nothing if that is not what the line is.
std::optional<std::pair<std::string, CostModel>> ParseLine(absl::string_view line) {
  const size_t last = line.rfind(' ');
  if (last == absl::string_view::npos) return std::nullopt;
  if (line.substr(last + 1) != absl::StrFormat("%016x", Checksum(line.substr(0, last)))) return std::nullopt;
  std::vector<absl::string_view> words = absl::StrSplit(line.substr(0, last), ' ');
  std::vector<double> numbers(words.size() - 1);
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (!absl::SimpleAtod(words[i + 1], &numbers[i])) return std::nullopt;
  }
  const std::optional<CostModel> model = CostModel::Load(numbers);
  if (!model) return std::nullopt;
  return std::make_pair(std::string(words[0]), *model);
}

}  // namespace

std::string CostKey(absl::Span<const RankInfo> ranks) {
  std::string key = absl::StrCat(ranks[0].model_digest, ",", ranks[0].dtype, ",", ranks[0].block_tokens);
  for (const RankInfo& rank : ranks) {
    absl::StrAppend(&key, ",", rank.numerics, "x", rank.threads, ":", rank.layer_begin, "-", rank.layer_end);
  }
  for (char& c : key) {
    if (c <= ' ' || c > '~') c = '_';  // a word of a line
  }
  return key;
}

absl::StatusOr<LearnedCosts> LearnedCosts::Parse(absl::string_view text) {
  LearnedCosts costs;
  if (!absl::ConsumePrefix(&text, kTitle) || !absl::ConsumePrefix(&text, "\n")) {
    return absl::FailedPreconditionError(absl::StrCat("it does not begin with '", kTitle, "'"));
  }
  int number = 1;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    ++number;
    const auto model = ParseLine(line);
    if (!model) return absl::DataLossError(absl::StrCat("line ", number, " is damaged"));
    costs.Put(model->first, model->second);
  }
  return costs;
}

std::string LearnedCosts::Print() const {
  std::string text = absl::StrCat(kTitle, "\n");
  for (const auto& [key, model] : models_) {
    std::string line = key;
    for (const double number : model.Save()) absl::StrAppend(&line, " ", absl::StrFormat("%.17g", number));
    absl::StrAppend(&text, line, " ", absl::StrFormat("%016x", Checksum(line)), "\n");
  }
  return text;
}

const CostModel* LearnedCosts::Find(absl::string_view key) const {
  const auto it = std::find_if(models_.begin(), models_.end(), [&](const auto& model) { return model.first == key; });
  return it == models_.end() ? nullptr : &it->second;
}

void LearnedCosts::Put(absl::string_view key, const CostModel& model) {
  std::erase_if(models_, [&](const auto& known) { return known.first == key; });
  models_.emplace_back(std::string(key), model);
  if (models_.size() > kMost) models_.erase(models_.begin());
}

}  // namespace interlace
