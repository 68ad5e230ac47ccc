#include "worker/activation_channel.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// Before the rows: their number and size, then `lost` words of 8 bytes. All words are little-endian.
struct RowsHeader {
  uint64_t rows = 0;
  uint64_t cols = 0;
  uint64_t row_bytes = 0;  // of all rows
  uint64_t lost = 0;
};
static_assert(sizeof(RowsHeader) == 4 * sizeof(uint64_t));

struct SampleRecord {
  uint64_t request = 0;
  uint32_t attempt = 0;
  int32_t token = -1;
};
static_assert(sizeof(SampleRecord) == 2 * sizeof(uint64_t));

template <typename T>
void AppendBytes(const T* values, size_t count, std::string* out) {
  out->append(reinterpret_cast<const char*>(values), count * sizeof(T));
}

}  // namespace

ActivationChannel::ActivationChannel(Transport& transport, StageId stage, int32_t stages)
    : forth_(transport, {.channel = kActivationChannel,
                         .self = stage,
                         .sender = StageId{Value(stage) - 1},
                         .what = "activations",
                         .from = "previous",
                         .to = "next"}),
      back_(transport, {.channel = kSampleChannel,
                        .self = stage,
                        .sender = StageId{stages - 1},
                        .what = "sampled tokens",
                        .from = "last",
                        .to = "first"}) {}

absl::Status ActivationChannel::Connect(absl::string_view next_stage_address, absl::string_view first_stage_address,
                                        Epoch epoch) {
  RETURN_IF_ERROR(forth_.Connect(next_stage_address, epoch));
  return back_.Connect(first_stage_address, epoch);
}

absl::Status ActivationChannel::Send(const ActivationNote& note, const Tensor& x) {
  const RowsHeader header{static_cast<uint64_t>(x.rows), static_cast<uint64_t>(x.cols),
                          static_cast<uint64_t>(x.bytes()), note.lost.size()};
  const std::vector<uint64_t> lost(note.lost.begin(), note.lost.end());
  std::string body;
  body.reserve(sizeof header + lost.size() * sizeof(uint64_t) + header.row_bytes);
  AppendBytes(&header, 1, &body);
  AppendBytes(lost.data(), lost.size(), &body);
  AppendBytes(static_cast<const char*>(x.data), header.row_bytes, &body);
  return forth_.Send(note.epoch, note.plan, std::move(body));
}

absl::StatusOr<ActivationNote> ActivationChannel::Receive(Epoch epoch, PlanId plan, const Tensor& x,
                                                          absl::Duration timeout) {
  ASSIGN_OR_RETURN(const std::string body, forth_.Receive(epoch, plan, timeout));
  RowsHeader header;
  if (body.size() < sizeof header) {
    return absl::InvalidArgumentError(absl::StrCat("activations of plan ", Value(plan), ": ", body.size(), " bytes"));
  }
  std::memcpy(&header, body.data(), sizeof header);
  if (header.rows != static_cast<uint64_t>(x.rows) || header.cols != static_cast<uint64_t>(x.cols) ||
      header.row_bytes != static_cast<uint64_t>(x.bytes())) {
    return absl::InvalidArgumentError(absl::StrCat("activations of plan ", Value(plan), " are [", header.rows, ", ",
                                                   header.cols, "], expected [", x.rows, ", ", x.cols, "]"));
  }
  const size_t of_lost = body.size() - sizeof header - std::min(header.row_bytes, body.size() - sizeof header);
  if (of_lost % sizeof(uint64_t) != 0 || header.lost != of_lost / sizeof(uint64_t)) {
    return absl::InvalidArgumentError(absl::StrCat("activations of plan ", Value(plan), ": ", body.size(),
                                                   " bytes with ", header.lost, " lost sequences"));
  }
  std::vector<uint64_t> lost(header.lost);
  std::memcpy(lost.data(), body.data() + sizeof header, of_lost);
  std::memcpy(x.data, body.data() + sizeof header + of_lost, header.row_bytes);
  return ActivationNote{epoch, plan, {lost.begin(), lost.end()}};
}

absl::Status ActivationChannel::SendSamples(Epoch epoch, PlanId plan, absl::Span<const SampledToken> sampled) {
  std::string body;
  body.reserve(sampled.size() * sizeof(SampleRecord));
  for (const SampledToken& s : sampled) {
    const SampleRecord record{Value(s.request), s.attempt, s.token};
    AppendBytes(&record, 1, &body);
  }
  return back_.Send(epoch, plan, std::move(body));
}

absl::StatusOr<std::vector<ReturnedSample>> ActivationChannel::ReceiveSamples(Epoch epoch, PlanId plan,
                                                                              absl::Duration timeout) {
  ASSIGN_OR_RETURN(const std::string body, back_.Receive(epoch, plan, timeout));
  if (body.size() % sizeof(SampleRecord) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("sampled tokens of plan ", Value(plan), ": ", body.size(), " bytes"));
  }
  std::vector<ReturnedSample> samples;
  samples.reserve(body.size() / sizeof(SampleRecord));
  for (size_t at = 0; at < body.size(); at += sizeof(SampleRecord)) {
    SampleRecord record;
    std::memcpy(&record, body.data() + at, sizeof record);
    samples.push_back({RequestId{record.request}, record.attempt, record.token});
  }
  return samples;
}

void ActivationChannel::Interrupt(Epoch epoch) {
  forth_.Interrupt(epoch);
  back_.Interrupt(epoch);
}

void ActivationChannel::Interrupt() {
  forth_.Interrupt();
  back_.Interrupt();
}

void ActivationChannel::Resume() {
  forth_.Resume();
  back_.Resume();
}

}  // namespace interlace
