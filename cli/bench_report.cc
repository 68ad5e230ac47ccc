#include "cli/bench_report.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/terminal.h"

namespace interlace {
namespace {

using nlohmann::json;

// Median of `value` over the rounds that count.
double MedianOf(const BenchRow& row, const std::function<double(const BenchRound&)>& value, double q = 0.5) {
  std::vector<double> values;
  for (const BenchRound& round : row.rounds) {
    if (round.kept) values.push_back(value(round));
  }
  return values.empty() ? std::nan("") : Quantile(std::move(values), q);
}

// The least time that the work could take under the ceilings: the memory's or the arithmetic's, whichever is longer.
double LimitSeconds(const Work& work, const Ceilings& c) {
  return std::max(work.bytes / c.read, work.int8_ops / c.int8 + work.float_ops / c.fma);
}

std::vector<std::string> Cells(const BenchRow& row, bool show_ops, bool show_threads) {
  const Work& w = row.work;
  const auto speed = [&](const BenchRound& r) { return w.tokens / r.seconds; };
  const auto percent = [](double share) { return absl::StrFormat("%.0f %%", 100 * share); };
  std::vector<std::string> cells = {row.Name()};
  if (show_ops) cells.push_back(row.ops);
  if (show_threads) cells.push_back(absl::StrCat(row.threads));
  cells.push_back(absl::StrFormat("%.1f", MedianOf(row, speed)));
  cells.push_back(absl::StrFormat("%.1f-%.1f", MedianOf(row, speed, 0.25), MedianOf(row, speed, 0.75)));
  cells.push_back(
      absl::StrFormat("%.2f", MedianOf(row, [&](const BenchRound& r) { return r.seconds * 1e3 / w.steps; })));
  cells.push_back(absl::StrFormat("%.1f", w.bytes / w.steps / 1e6));
  cells.push_back(
      absl::StrFormat("%.1f", MedianOf(row, [&](const BenchRound& r) { return w.bytes / r.seconds / 1e9; })));
  cells.push_back(percent(MedianOf(row, [&](const BenchRound& r) { return w.bytes / r.seconds / r.ceilings.read; })));
  cells.push_back(absl::StrFormat(
      "%.0f", MedianOf(row, [&](const BenchRound& r) { return (w.int8_ops + w.float_ops) / r.seconds / 1e9; })));
  cells.push_back(
      percent(MedianOf(row, [&](const BenchRound& r) { return w.int8_ops / r.seconds / r.ceilings.int8; })));
  cells.push_back(percent(MedianOf(row, [&](const BenchRound& r) { return LimitSeconds(w, r.ceilings) / r.seconds; })));
  const auto kept = std::count_if(row.rounds.begin(), row.rounds.end(), [](const BenchRound& r) { return r.kept; });
  cells.push_back(absl::StrCat(kept, "/", row.rounds.size()));
  cells.push_back(absl::StrFormat("%016x", row.logits_hash));
  return cells;
}

json ToJson(const StepProfile& p) {
  const auto us = [&](absl::Duration time) { return absl::ToDoubleMicroseconds(time) / p.steps; };
  json out = {{"steps", p.steps},
              {"us_per_step", us(p.total)},
              {"kernels_us", us(p.kernels)},
              {"embedding_us", us(p.embedding)},
              {"head_us", us(p.head)},
              {"sampler_us", us(p.sampler)},
              {"ops", json::array()},
              {"layers_us", json::array()}};
  for (const StepProfile::Op& op : p.ops) {
    out["ops"].push_back({{"op", std::string(OpKindName(op.kind))}, {"calls", op.calls}, {"us", us(op.time)}});
  }
  for (const absl::Duration layer : p.layers) out["layers_us"].push_back(us(layer));
  return out;
}

json ToJson(const BenchRow& row) {
  json out = {{"name", row.Name()},
              {"kind", row.prefill ? "prefill" : "decode"},
              {"batch", row.shape.batch},
              {"tokens", row.shape.tokens},
              {"ops", row.ops},
              {"threads", row.threads},
              {"work",
               {{"tokens", row.work.tokens},
                {"steps", row.work.steps},
                {"bytes", row.work.bytes},
                {"int8_ops", row.work.int8_ops},
                {"float_ops", row.work.float_ops}}},
              {"logits_hash", absl::StrFormat("%016x", row.logits_hash)},
              {"tokens_per_s", MedianOf(row, [&](const BenchRound& r) { return row.work.tokens / r.seconds; })},
              {"rounds", json::array()}};
  for (const BenchRound& r : row.rounds) {
    out["rounds"].push_back({{"seconds", r.seconds},
                             {"tokens_per_s", row.work.tokens / r.seconds},
                             {"of_read", row.work.bytes / r.seconds / r.ceilings.read},
                             {"of_int8", row.work.int8_ops / r.seconds / r.ceilings.int8},
                             {"of_limit", LimitSeconds(row.work, r.ceilings) / r.seconds},
                             {"read_bytes_per_s", r.ceilings.read},
                             {"fma_per_s", r.ceilings.fma},
                             {"int8_per_s", r.ceilings.int8},
                             {"stolen_share", r.stolen},
                             {"kept", r.kept}});
  }
  if (row.profile) out["profile"] = ToJson(*row.profile);
  return out;
}

}  // namespace

std::string BenchRow::Name() const {
  if (prefill)
    return shape.batch == 1 ? absl::StrCat("prefill ", shape.tokens)
                            : absl::StrCat("prefill ", shape.batch, "x", shape.tokens);
  return absl::StrCat("decode ", shape.batch, " at ", shape.tokens);
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double at = q * static_cast<double>(values.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (at - static_cast<double>(low)) * (values[high] - values[low]);
}

void DropDisturbedRounds(BenchReport* report) {
  for (BenchRow& row : report->rows) {
    std::vector<double> reads;
    for (const BenchRound& round : row.rounds) reads.push_back(round.ceilings.read);
    if (reads.empty()) continue;
    const double median = Quantile(reads, 0.5);
    for (BenchRound& round : row.rounds) round.kept = round.ceilings.read >= 0.9 * median && round.stolen <= 0.02;
    // Where every round was disturbed, all are shown, and the count says so.
    if (std::none_of(row.rounds.begin(), row.rounds.end(), [](const BenchRound& r) { return r.kept; })) {
      for (BenchRound& round : row.rounds) round.kept = true;
    }
  }
}

std::string BenchTable(const BenchReport& report) {
  const auto varies = [&](auto field) {
    return std::any_of(report.rows.begin(), report.rows.end(),
                       [&](const BenchRow& row) { return row.*field != report.rows.front().*field; });
  };
  const bool show_ops = varies(&BenchRow::ops), show_threads = varies(&BenchRow::threads);
  std::vector<std::string> heading = {"case"};
  if (show_ops) heading.push_back("ops");
  if (show_threads) heading.push_back("threads");
  for (const char* column : {"tok/s", "quartiles", "ms/step", "MB/step", "GB/s", "of read", "GOP/s", "of int8",
                             "of limit", "rounds", "logits"}) {
    heading.push_back(column);
  }
  std::vector<std::vector<std::string>> rows = {heading};
  for (const BenchRow& row : report.rows) rows.push_back(Cells(row, show_ops, show_threads));
  std::string out = FormatTable(rows);
  for (size_t i = 0; i < report.rows.size(); ++i) {
    const BenchRow& row = report.rows[i];
    if (i > 0 && row.ops == report.rows[i - 1].ops && row.threads == report.rows[i - 1].threads) continue;
    const auto ceiling = [&](double Ceilings::*field) {
      return MedianOf(row, [&](const BenchRound& r) { return r.ceilings.*field; }) / 1e9;
    };
    absl::StrAppendFormat(&out,
                          "%s, %d threads, ops %s; ceilings in the same rounds: read %.1f GB/s, F32 %.0f GFLOP/s, int8 "
                          "%.0f GOP/s\n",
                          CpuModel(), row.threads, row.ops, ceiling(&Ceilings::read), ceiling(&Ceilings::fma),
                          ceiling(&Ceilings::int8));
  }
  absl::StrAppendFormat(&out, "loaded in %.0f ms; resident memory grew by %.1f MB at most for %.1f MB of tensors\n",
                        report.load.seconds * 1e3, static_cast<double>(report.load.peak_bytes) / 1e6,
                        static_cast<double>(report.load.file_bytes) / 1e6);
  for (const BenchRow& row : report.rows) {
    if (!row.profile) continue;
    absl::StrAppend(&out, "\n", Paint(Colour::kBold, row.Name()), show_ops ? ", ops " + row.ops : std::string(),
                    show_threads ? absl::StrCat(", ", row.threads, " threads") : std::string(), "\n",
                    ProfileTables(*row.profile));
  }
  return out;
}

absl::Status WriteBenchJson(const BenchReport& report, const std::string& path) {
  json out = {{"cpu", CpuModel()},
              {"model", report.model},
              {"digest", report.digest},
              {"architecture", report.architecture},
              {"chunk_tokens", report.chunk_tokens},
              {"step_tokens", report.step_tokens},
              {"load",
               {{"seconds", report.load.seconds},
                {"file_bytes", report.load.file_bytes},
                {"peak_resident_bytes", report.load.peak_bytes}}},
              {"rows", json::array()}};
  for (const BenchRow& row : report.rows) out["rows"].push_back(ToJson(row));
  std::ofstream file(path);
  file << out.dump(1) << "\n";
  file.close();
  if (!file) return absl::PermissionDeniedError(absl::StrCat("--json: ", path, " could not be written"));
  return absl::OkStatus();
}

}  // namespace interlace
