// Traces of production: Mooncake, BurstGPT and Azure files into rows, and rows into conversations.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bench/serve/dataset.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

using Json = nlohmann::json;

absl::Status Damaged(absl::string_view name, size_t line, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, ":", line, ": ", what, "; correct the line or take it out of the file"));
}

// Calls `parse(line, number)` for each line that is not blank; its fault ends the reading, or is noted.
template <typename Parse>
absl::Status ForEachLine(absl::string_view text, int64_t* damaged, Parse parse) {
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (!line.empty()) RETURN_IF_ERROR(Note(parse(line, number), damaged));
  }
  return absl::OkStatus();
}

absl::Status InOrder(std::vector<TraceRow>* rows, absl::string_view name) {
  if (rows->empty()) return absl::InvalidArgumentError(absl::StrCat(name, ": no requests in the file"));
  std::stable_sort(rows->begin(), rows->end(), [](const TraceRow& a, const TraceRow& b) { return a.due < b.due; });
  const absl::Duration first = rows->front().due;
  for (TraceRow& row : *rows) row.due -= first;
  return absl::OkStatus();
}

// The columns of a CSV file, found by their headings.
class Columns {
 public:
  explicit Columns(absl::string_view heading) {
    for (absl::string_view cell : absl::StrSplit(heading, ',')) {
      names_.push_back(absl::AsciiStrToLower(absl::StripAsciiWhitespace(cell)));
    }
  }
  // npos: there is none.
  size_t Find(absl::string_view name) const {
    const auto at = std::find(names_.begin(), names_.end(), name);
    return at == names_.end() ? std::string::npos : static_cast<size_t>(at - names_.begin());
  }

 private:
  std::vector<std::string> names_;
};

struct CsvShape {
  const char* time;
  const char* input;
  const char* output;
  bool (*read_time)(absl::string_view cell, absl::Duration* time);
};

bool ReadSeconds(absl::string_view cell, absl::Duration* time) {
  double seconds = 0;
  if (!absl::SimpleAtod(cell, &seconds) || !std::isfinite(seconds)) return false;
  *time = absl::Seconds(seconds);
  return true;
}

// "2023-11-16 18:15:46.6805900", with or without an offset from UTC.
bool ReadDate(absl::string_view cell, absl::Duration* time) {
  absl::Time when;
  std::string error;
  for (const char* format : {"%Y-%m-%d %H:%M:%E*S", "%Y-%m-%d %H:%M:%E*S%Ez"}) {
    if (absl::ParseTime(format, std::string(cell), &when, &error)) {
      *time = when - absl::UnixEpoch();
      return true;
    }
  }
  return false;
}

absl::StatusOr<std::vector<TraceRow>> ParseCsv(absl::string_view text, absl::string_view name, const CsvShape& shape,
                                               int64_t* damaged) {
  std::vector<TraceRow> rows;
  std::optional<Columns> columns;
  size_t time = 0, input = 0, output = 0;
  RETURN_IF_ERROR(ForEachLine(text, damaged, [&](absl::string_view line, size_t number) -> absl::Status {
    if (!columns) {
      columns.emplace(line);
      time = columns->Find(shape.time);
      input = columns->Find(shape.input);
      output = columns->Find(shape.output);
      if (std::max({time, input, output}) != std::string::npos) return absl::OkStatus();
      return Damaged(
          name, number,
          absl::StrCat("the heading lacks one of the columns ", shape.time, ", ", shape.input, ", ", shape.output));
    }
    const std::vector<absl::string_view> cells = absl::StrSplit(line, ',');
    TraceRow row;
    if (cells.size() <= std::max({time, input, output})) return Damaged(name, number, "the row is cut off");
    const auto cell = [&](size_t column) { return absl::StripAsciiWhitespace(cells[column]); };
    if (!shape.read_time(cell(time), &row.due)) return Damaged(name, number, absl::StrCat(cell(time), " is no time"));
    if (!absl::SimpleAtoi(cell(input), &row.input) || row.input < 0 || !absl::SimpleAtoi(cell(output), &row.output) ||
        row.output < 0) {
      return Damaged(name, number, absl::StrCat(cell(input), " and ", cell(output), " are no numbers of tokens"));
    }
    // A request that failed in production says nothing of its answer.
    if (row.input > 0 && row.output > 0) rows.push_back(std::move(row));
    return absl::OkStatus();
  }));
  RETURN_IF_ERROR(InOrder(&rows, name));
  return rows;
}

class Trace final : public Dataset {
 public:
  Trace(const DatasetSpec& spec, std::vector<TraceRow> rows, std::unique_ptr<Entropy> entropy)
      : spec_(spec),
        block_tokens_(std::max(1, static_cast<int32_t>(std::lround(spec.block_tokens * spec.length_scale)))),
        rows_(std::move(rows)),
        block_seed_(entropy->Fork(absl::StrCat("blocks", spec.salt))->Next()),
        words_(entropy->Fork(absl::StrCat("tokens", spec.salt))) {}

  std::optional<Conversation> Next() override {
    if (at_ == rows_.size()) return std::nullopt;
    const TraceRow& row = rows_[at_++];
    Conversation conversation;
    conversation.due = row.due * spec_.time_scale;
    PlannedRequest& request = conversation.turns.emplace_back();
    const size_t input = static_cast<size_t>(Scaled(row.input));
    std::vector<int32_t> ids;
    ids.reserve(input + static_cast<size_t>(block_tokens_));
    size_t shared = 0;
    bool all_seen = true;
    for (int64_t block : row.blocks) {
      if (ids.size() >= input) break;
      AppendBlock(block, &ids);
      all_seen = !seen_.insert(block).second && all_seen;
      if (all_seen) shared = ids.size();
    }
    while (ids.size() < input) ids.push_back(IdFrom(words_));
    ids.resize(input);
    request.shared_prefix_tokens = static_cast<int32_t>(std::min(shared, input));
    SetPrompt(spec_, std::move(ids), &request);
    request.max_tokens = Scaled(row.output);
    request.ignore_eos = spec_.ignore_eos.value_or(true);
    return conversation;
  }
  std::string description() const override {
    return absl::StrCat(spec_.kind, " trace",
                        spec_.length_scale == 1 ? "" : absl::StrCat(", lengths x", spec_.length_scale),
                        DescribeDamage(spec_));
  }
  bool is_trace() const override { return true; }

 private:
  int32_t Scaled(int32_t tokens) const {
    return std::max(1, static_cast<int32_t>(std::min(1e9, std::round(tokens * spec_.length_scale))));
  }
  // The same tokens for the same id, in a prompt of any request.
  void AppendBlock(int64_t id, std::vector<int32_t>* ids) {
    Draws draws(MakeSeededEntropy(block_seed_)->Fork(absl::StrCat(id)));
    for (int32_t t = 0; t < block_tokens_; ++t) ids->push_back(IdFrom(draws));
  }
  int32_t IdFrom(Draws& draws) const {
    return spec_.token_low + static_cast<int32_t>(draws.Below(spec_.token_high - spec_.token_low));
  }

  const DatasetSpec spec_;
  const int32_t block_tokens_;  // scaled as lengths are
  const std::vector<TraceRow> rows_;
  const uint64_t block_seed_;
  Draws words_;
  size_t at_ = 0;
  std::set<int64_t> seen_;  // blocks
};

}  // namespace

absl::StatusOr<std::vector<TraceRow>> ParseMooncake(absl::string_view text, absl::string_view name, int64_t* damaged) {
  std::vector<TraceRow> rows;
  RETURN_IF_ERROR(ForEachLine(text, damaged, [&](absl::string_view line, size_t number) -> absl::Status {
    const Json json = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return Damaged(name, number, "the line is no JSON object");
    TraceRow row;
    const auto number_of = [&](const char* field, double* out) {
      const auto it = json.find(field);
      if (it == json.end() || !it->is_number() || it->get<double>() < 0 || it->get<double>() > 1e15) return false;
      *out = it->get<double>();
      return true;
    };
    double timestamp = 0, input = 0, output = 0;
    for (const auto& [field, out] :
         {std::pair("timestamp", &timestamp), {"input_length", &input}, {"output_length", &output}}) {
      if (!number_of(field, out)) return Damaged(name, number, absl::StrCat(field, " is missing or no number"));
    }
    row.due = absl::Milliseconds(timestamp);
    row.input = static_cast<int32_t>(std::min(input, 1e9));
    row.output = static_cast<int32_t>(std::min(output, 1e9));
    if (const auto ids = json.find("hash_ids"); ids != json.end()) {
      if (!ids->is_array()) return Damaged(name, number, "hash_ids is no list");
      for (const Json& id : *ids) {
        if (!id.is_number_integer()) return Damaged(name, number, "hash_ids holds something that is no integer");
        row.blocks.push_back(id.get<int64_t>());
      }
    }
    rows.push_back(std::move(row));
    return absl::OkStatus();
  }));
  RETURN_IF_ERROR(InOrder(&rows, name));
  return rows;
}

absl::StatusOr<std::vector<TraceRow>> ParseBurstGpt(absl::string_view text, absl::string_view name, int64_t* damaged) {
  return ParseCsv(text, name, {"timestamp", "request tokens", "response tokens", &ReadSeconds}, damaged);
}

absl::StatusOr<std::vector<TraceRow>> ParseAzure(absl::string_view text, absl::string_view name, int64_t* damaged) {
  return ParseCsv(text, name, {"timestamp", "contexttokens", "generatedtokens", &ReadDate}, damaged);
}

absl::StatusOr<std::unique_ptr<Dataset>> MakeTrace(const DatasetSpec& spec, std::vector<TraceRow> rows,
                                                   std::unique_ptr<Entropy> entropy) {
  for (const auto& [flag, value] :
       {std::pair("--time-scale", spec.time_scale), {"--length-scale", spec.length_scale}}) {
    if (!(value > 0 && value <= 1e6)) {
      return absl::InvalidArgumentError(absl::StrCat(flag, " ", value, " is not above 0; 1 leaves the trace as it is"));
    }
  }
  if (spec.block_tokens < 1) {
    return absl::InvalidArgumentError(absl::StrCat("--block-tokens ", spec.block_tokens, " is not above 0"));
  }
  return std::make_unique<Trace>(spec, std::move(rows), std::move(entropy));
}

}  // namespace interlace
