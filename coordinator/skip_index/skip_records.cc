#include "coordinator/skip_index/skip_records.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "coordinator/skip_index/plan_loss.h"

namespace interlace {
namespace {

static_assert(std::endian::native == std::endian::little);

uint64_t Checksum(
    absl::string_view text) {  // FNV-1a, eight bytes at a time: each step can be undone, so no bit is lost
  uint64_t hash = 0xcbf29ce484222325ULL ^ text.size();
  for (size_t i = 0; i < text.size(); i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + i, std::min<size_t>(8, text.size() - i));
    hash = (hash ^ word) * 0x100000001b3ULL;
    hash ^= hash >> 29;
  }
  return hash;
}

class Writer {
 public:
  template <typename T>
  void Number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    text.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void Text(absl::string_view bytes) {
    Number(static_cast<uint32_t>(bytes.size()));
    text.append(bytes.data(), bytes.size());
  }
  void Floats(const std::vector<float>& values) {
    text.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  }
  std::string text;
};

// After the first thing that is not there, everything is zero and ok() false.
class Reader {
 public:
  explicit Reader(absl::string_view text) : text_(text) {}
  template <typename T>
  T Number() {
    T value{};
    const absl::string_view bytes = Take(sizeof value);
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
  // A finite number, not below zero.
  double Amount() {
    const double value = Number<double>();
    ok_ = ok_ && std::isfinite(value) && value >= 0;
    return ok_ ? value : 0;
  }
  absl::string_view Text() { return Take(Number<uint32_t>()); }
  std::vector<float> Floats(int32_t count) {
    const absl::string_view bytes = Take(static_cast<size_t>(count) * sizeof(float));
    std::vector<float> values(bytes.size() / sizeof(float));
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    for (const float value : values) ok_ = ok_ && std::isfinite(value);
    return values;
  }
  void Require(bool holds) { ok_ = ok_ && holds; }
  bool ok() const { return ok_; }
  bool done() const { return ok_ && text_.empty(); }

 private:
  absl::string_view Take(size_t count) {
    ok_ = ok_ && count <= text_.size();
    if (!ok_) return {};
    const absl::string_view taken = text_.substr(0, count);
    text_.remove_prefix(count);
    return taken;
  }
  absl::string_view text_;
  bool ok_ = true;
};

void WritePlan(const SkipPlan& plan, Writer* out) {
  out->Text(plan.attention.Encode());
  out->Text(plan.feed_forward.Encode());
}

SkipPlan ReadPlan(int32_t layers, Reader* in) {
  SkipPlan plan;
  in->Require(LayerSet::Decode(in->Text(), &plan.attention));
  in->Require(LayerSet::Decode(in->Text(), &plan.feed_forward));
  in->Require(Fits(plan, layers));
  return plan;
}

void WriteAcceptance(const Acceptance& acceptance, Writer* out) {
  out->Number(acceptance.tried());
  out->Number(acceptance.right());
}

Acceptance ReadAcceptance(Reader* in) {
  const double tried = in->Amount(), right = in->Amount();
  in->Require(right <= tried && tried <= Acceptance::kMemory);
  return {tried, right};
}

void WriteEntry(const SkipEntryRecord& record, Writer* out) {
  const SkipEntry& entry = record.entry;
  out->Number(entry.id);
  out->Number(entry.scope.high);
  out->Number(entry.scope.low);
  WritePlan(entry.plan, out);
  WriteAcceptance(entry.acceptance, out);
  out->Number(static_cast<uint32_t>(entry.threshold.samples().size()));
  for (const HitSample& sample : entry.threshold.samples()) {
    out->Number(sample.likeness);
    out->Number(static_cast<uint8_t>(sample.good));
  }
  out->Number(entry.hits);
  out->Number(entry.false_hits);
  out->Number(entry.saved_seconds);
  out->Number(entry.reach);
  out->Floats(record.key);
}

SkipEntryRecord ReadEntry(const SkipOrigin& origin, Reader* in) {
  SkipEntryRecord record;
  SkipEntry& entry = record.entry;
  entry.id = in->Number<uint64_t>();
  entry.scope = {in->Number<uint64_t>(), 0};
  entry.scope.low = in->Number<uint64_t>();
  entry.plan = ReadPlan(origin.layers, in);
  entry.acceptance = ReadAcceptance(in);
  const auto samples = in->Number<uint32_t>();
  in->Require(samples <= static_cast<uint32_t>(HitThreshold::kMost));
  for (uint32_t i = 0; in->ok() && i < samples; ++i) {
    HitSample sample{in->Number<float>(), false};
    const auto good = in->Number<uint8_t>();
    in->Require(sample.likeness >= 0 && sample.likeness <= 1 && good <= 1);
    sample.good = good == 1;
    if (in->ok()) entry.threshold.Note(sample);
  }
  entry.hits = in->Number<int64_t>();
  entry.false_hits = in->Number<int64_t>();
  entry.saved_seconds = in->Number<double>();
  entry.reach = in->Number<float>();
  in->Require(entry.id != 0 && entry.id != ~uint64_t{0} && entry.hits >= 0 && entry.false_hits >= 0);
  in->Require(std::isfinite(entry.saved_seconds) && std::abs(entry.reach) <= 2);
  record.key = in->Floats(origin.width);
  double length = 0;
  for (const float x : record.key) length += double{x} * x;
  in->Require(std::abs(length - 1) < 1e-3);
  return record;
}

void WriteScope(const SkipScopeRecord& record, Writer* out) {
  out->Number(record.scope.high);
  out->Number(record.scope.low);
  out->Number(record.seen);
  out->Floats(record.sum);
  out->Number(static_cast<uint8_t>(record.best.has_value()));
  if (!record.best) return;
  WritePlan(record.best->first, out);
  WriteAcceptance(record.best->second, out);
}

SkipScopeRecord ReadScope(const SkipOrigin& origin, Reader* in) {
  SkipScopeRecord record;
  record.scope = {in->Number<uint64_t>(), 0};
  record.scope.low = in->Number<uint64_t>();
  record.seen = in->Amount();
  record.sum = in->Floats(origin.width);
  const auto best = in->Number<uint8_t>();
  in->Require(best <= 1);
  if (!in->ok() || best == 0) return record;
  const SkipPlan plan = ReadPlan(origin.layers, in);
  record.best.emplace(plan, ReadAcceptance(in));
  return record;
}

}  // namespace

std::string EncodeSkips(const SkipRecords& records, const SkipOrigin& origin) {
  Writer out;
  out.text = std::string(kSkipTitle);
  out.Text(origin.model_digest);
  out.Number(origin.layers);
  out.Number(origin.width);
  out.Number(records.until.change);
  out.Number(records.until.whole);
  out.Number(static_cast<uint8_t>((records.whole ? 1 : 0) + (records.more ? 2 : 0)));
  out.Number(static_cast<uint32_t>(records.scopes.size()));
  for (const SkipScopeRecord& record : records.scopes) WriteScope(record, &out);
  out.Number(static_cast<uint32_t>(records.entries.size()));
  for (const SkipEntryRecord& record : records.entries) WriteEntry(record, &out);
  out.Number(static_cast<uint32_t>(records.removed.size()));
  for (const uint64_t id : records.removed) out.Number(id);
  out.Number(Checksum(out.text));
  return std::move(out.text);
}

std::optional<SkipOrigin> OriginOf(absl::string_view bytes) {
  if (bytes.substr(0, kSkipTitle.size()) != kSkipTitle) return std::nullopt;
  Reader in(bytes.substr(kSkipTitle.size()));
  SkipOrigin origin;
  origin.model_digest = std::string(in.Text());
  origin.layers = in.Number<int32_t>();
  origin.width = in.Number<int32_t>();
  return in.ok() ? std::optional(origin) : std::nullopt;
}

absl::StatusOr<SkipRecords> DecodeSkips(absl::string_view bytes, const SkipOrigin& origin) {
  if (bytes.substr(0, kSkipTitle.size()) != kSkipTitle) {
    return absl::FailedPreconditionError("it does not begin with 'interlace-skips 1'");
  }
  uint64_t checksum = 0;
  if (bytes.size() < kSkipTitle.size() + sizeof checksum) return absl::DataLossError("it is cut off");
  const absl::string_view body = bytes.substr(0, bytes.size() - sizeof checksum);
  std::memcpy(&checksum, bytes.data() + body.size(), sizeof checksum);
  if (checksum != Checksum(body)) return absl::DataLossError("its checksum does not match");
  Reader in(body.substr(kSkipTitle.size()));
  const absl::string_view model = in.Text();
  const auto layers = in.Number<int32_t>(), width = in.Number<int32_t>();
  if (in.ok() && (model != origin.model_digest || layers != origin.layers || width != origin.width)) {
    return absl::FailedPreconditionError(
        absl::StrCat("it is of model ", model, " with ", layers, " layers and keys of ", width,
                     " numbers, and this is ", origin.model_digest, " with ", origin.layers, " and ", origin.width));
  }
  SkipRecords records;
  records.until.change = in.Number<uint64_t>();
  records.until.whole = in.Number<uint64_t>();
  const auto flags = in.Number<uint8_t>();
  in.Require(flags <= 3);
  records.whole = (flags & 1) != 0;
  records.more = (flags & 2) != 0;
  for (auto count = in.Number<uint32_t>(); in.ok() && count > 0; --count)
    records.scopes.push_back(ReadScope(origin, &in));
  for (auto count = in.Number<uint32_t>(); in.ok() && count > 0; --count)
    records.entries.push_back(ReadEntry(origin, &in));
  for (auto count = in.Number<uint32_t>(); in.ok() && count > 0; --count)
    records.removed.push_back(in.Number<uint64_t>());
  if (!in.done()) return absl::DataLossError("it holds what cannot be");
  return records;
}

}  // namespace interlace
