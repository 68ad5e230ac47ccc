// The table of datasets, and how their flags are read.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "bench/serve/dataset.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

using Made = absl::StatusOr<std::unique_ptr<Dataset>>;
using RowsParser = absl::StatusOr<std::vector<TraceRow>> (*)(absl::string_view, absl::string_view, int64_t*);
using DialogueParser = absl::StatusOr<std::vector<Dialogue>> (*)(absl::string_view, absl::string_view, int64_t*);

struct Row {
  const char* name;
  Made (*made)(const DatasetSpec& spec, std::unique_ptr<Entropy> entropy);  // of nothing but the seed
  RowsParser trace;                                                         // a file of times and lengths
  DialogueParser dialogues;                                                 // a file of texts
};
constexpr Row kKinds[] = {
    {"synthetic", &MakeSynthetic, nullptr, nullptr},
    {"prefix", &MakePrefixShared, nullptr, nullptr},
    {"sharegpt", nullptr, nullptr, &ParseShareGpt},
    {"mt-bench", nullptr, nullptr, &ParseMtBench},
    {"gsm8k", nullptr, nullptr, &ParseGsm8k},
    {"longbench", nullptr, nullptr, &ParseLongContext},
    {"infinitebench", nullptr, nullptr, &ParseLongContext},
    {"mooncake", nullptr, &ParseMooncake, nullptr},
    {"burstgpt", nullptr, &ParseBurstGpt, nullptr},
    {"azure", nullptr, &ParseAzure, nullptr},
};

const Row* Find(absl::string_view kind) {
  for (const Row& row : kKinds) {
    if (kind == row.name) return &row;
  }
  return nullptr;
}

absl::StatusOr<std::string> ReadWhole(const std::string& path) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);  // fails for a folder
  std::string text(error ? 0 : bytes, '\0');
  std::ifstream file(path, std::ios::binary);
  if (text.empty() || !file.read(text.data(), static_cast<std::streamsize>(text.size()))) {
    return absl::NotFoundError(absl::StrCat("--dataset: ", path, " cannot be read or is empty; check the path"));
  }
  return text;
}

}  // namespace

absl::Status ParseDatasetName(absl::string_view text, DatasetSpec* spec) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  spec->kind = parts.first;
  spec->path = parts.second;
  const Row* row = Find(spec->kind);
  if (row == nullptr) {
    std::vector<std::string> names;
    for (const Row& known : kKinds) names.push_back(absl::StrCat(known.name, known.made == nullptr ? ":FILE" : ""));
    return absl::InvalidArgumentError(
        absl::StrCat("--dataset ", text, " is not known; one of ", absl::StrJoin(names, ", ")));
  }
  if (row->made == nullptr && spec->path.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--dataset ", text, " needs a file; write --dataset ", spec->kind, ":FILE"));
  }
  if (row->made != nullptr && !spec->path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--dataset ", text, " takes no file; write --dataset ", spec->kind));
  }
  return absl::OkStatus();
}

absl::Status Note(absl::Status fault, int64_t* damaged) {
  if (fault.ok() || damaged == nullptr) return fault;
  ++*damaged;
  return absl::OkStatus();
}

std::string DescribeDamage(const DatasetSpec& spec) {
  if (spec.damaged == 0) return "";
  return absl::StrCat(", ", spec.damaged, " damaged entr", spec.damaged == 1 ? "y" : "ies", " left out");
}

bool HasTexts(const DatasetSpec& spec) {
  const Row* row = Find(spec.kind);
  return row != nullptr && row->dialogues != nullptr;
}

absl::StatusOr<std::unique_ptr<Dataset>> MakeDataset(const DatasetSpec& spec, std::unique_ptr<Entropy> entropy) {
  const Row* row = Find(spec.kind);
  if (row == nullptr) return absl::InvalidArgumentError(absl::StrCat("--dataset ", spec.kind, " is not known"));
  if (spec.token_low < 0 || spec.token_high <= spec.token_low) {
    return absl::InvalidArgumentError(absl::StrCat("--token-ids ", spec.token_low, ":", spec.token_high,
                                                   " is no range; give LOW:HIGH within the vocabulary"));
  }
  if (row->made != nullptr) return row->made(spec, std::move(entropy));
  ASSIGN_OR_RETURN(const std::string text, ReadWhole(spec.path));
  DatasetSpec read = spec;
  int64_t* const damaged = spec.skip_damaged ? &read.damaged : nullptr;
  if (row->trace != nullptr) {
    ASSIGN_OR_RETURN(std::vector<TraceRow> rows, row->trace(text, spec.path, damaged));
    return MakeTrace(read, std::move(rows), std::move(entropy));
  }
  ASSIGN_OR_RETURN(std::vector<Dialogue> dialogues, row->dialogues(text, spec.path, damaged));
  return MakeDialogues(read, std::move(dialogues), std::move(entropy));
}

absl::StatusOr<LengthSpec> ParseLength(absl::string_view flag, absl::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  LengthSpec spec{.given = true};
  bool fits = false;
  if (parts.size() == 1) {
    int32_t tokens = 0;
    fits = absl::SimpleAtoi(parts[0], &tokens) && tokens >= 1;
    spec.a = tokens;
  } else if (parts.size() == 3 && absl::SimpleAtod(parts[1], &spec.a) && absl::SimpleAtod(parts[2], &spec.b)) {
    if (parts[0] == "uniform") {
      spec.shape = LengthSpec::Shape::kUniform;
      fits = spec.a >= 1 && spec.b >= spec.a && spec.b <= 1e9;
    } else if (parts[0] == "lognormal") {
      spec.shape = LengthSpec::Shape::kLogNormal;
      fits = spec.a >= 1 && spec.a <= 1e9 && spec.b >= 0 && spec.b <= 10;
    }
  }
  if (fits) return spec;
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " ", text, " is no length; give tokens (256), uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA"));
}

std::string DescribeLength(const LengthSpec& spec) {
  switch (spec.shape) {
    case LengthSpec::Shape::kFixed:
      return absl::StrCat(spec.a);
    case LengthSpec::Shape::kUniform:
      return absl::StrCat("uniform(", spec.a, "-", spec.b, ")");
    case LengthSpec::Shape::kLogNormal:
      return absl::StrCat("lognormal(", spec.a, ",", spec.b, ")");
  }
  return "";
}

int32_t LengthSpec::Draw(Draws& draws) const {
  double tokens = a;
  if (shape == Shape::kUniform) tokens = a + static_cast<double>(draws.Below(static_cast<int64_t>(b - a) + 1));
  if (shape == Shape::kLogNormal) tokens = std::round(draws.LogNormal(a, b));
  return static_cast<int32_t>(std::clamp(tokens, 1.0, 1e9));
}

}  // namespace interlace
