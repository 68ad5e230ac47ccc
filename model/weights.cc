#include "model/weights.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "checkpoint/gguf_values.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/dequantise.h"

namespace interlace {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kChunkBytes = int64_t{8} << 20;  // of a matrix between two droppings of pages

// Outside the layers; rope_freqs and rope_factors are part of ModelSpec.
constexpr absl::string_view kOtherTensors[] = {
    "token_embd.weight", "output_norm.weight",       "output.weight",
    "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"};

int64_t Align(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

bool IsAligned(const CheckpointTensor& tensor) {
  const size_t alignment = *tensor.dtype == DType::kF32 ? alignof(float) : alignof(uint16_t);
  return reinterpret_cast<uintptr_t>(tensor.data.data()) % alignment == 0;
}

// Reads one byte of each page, so that the first step does not wait for the disk. The sum is returned so that no
// compiler drops the reads.
uint64_t Touch(absl::Span<const std::byte> bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes.size(); i += 4096) sum += static_cast<uint64_t>(bytes[i]);
  return sum;
}

// The layer of "blk.7.attn_q.weight"; -1 of any other name.
int32_t LayerOf(absl::string_view name) {
  int32_t layer = -1;
  if (!absl::ConsumePrefix(&name, "blk.") || !absl::StrContains(name, '.')) return -1;
  return absl::SimpleAtoi(name.substr(0, name.find('.')), &layer) && layer >= 0 ? layer : -1;
}

// The expert of "blk.7.ffn_gate.3.weight"; -1: the tensor is none of one expert.
int32_t ExpertOf(absl::string_view name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '.');
  int32_t expert = -1;
  return parts.size() == 5 && absl::SimpleAtoi(parts[3], &expert) ? expert : -1;
}

}  // namespace

StepCost CostOfStep(const Checkpoint& checkpoint, int64_t kv_bytes) {
  constexpr int32_t kStreams = 4, kPositions = 256;
  const ModelSpec& spec = checkpoint.spec();
  StepCost cost;
  for (const LayerSpec& layer : spec.layer) {
    const int32_t window = layer.attention.window;
    cost.layers.push_back(kStreams * kv_bytes * (window > 0 ? std::min(window, kPositions) : kPositions));
  }
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    const int64_t bytes = tensor.bytes();
    const int32_t layer = LayerOf(name);
    const bool runs = ExpertOf(name) < spec.experts.top_k;  // experts are alike: as if the first of them ran
    if (layer >= 0 && layer < spec.layers && runs) cost.layers[layer] += bytes;
    if (name == (spec.tied_head ? "token_embd.weight" : "output.weight")) cost.head += bytes;
  }
  return cost;
}

void WeightLoader::Matrix(const std::string& name, int64_t all_rows, int64_t all_k, ShardRange rows, ShardRange k,
                          LinearWeight* out) {
  wanted_.push_back({name, all_rows, all_k, rows, k, out, nullptr, nullptr});
}

void WeightLoader::Norm(const std::string& name, int64_t cols, Tensor* out, float scale) {
  wanted_.push_back({name, 1, cols, {0, 1}, {0, cols}, nullptr, out, nullptr, scale});
}

void WeightLoader::Bias(const std::string& name, int64_t all, ShardRange part, const float** out) {
  wanted_.push_back({name, 1, all, {0, 1}, part, nullptr, nullptr, out});
}

absl::Status WeightLoader::Check(Want* want) const {
  const auto invalid = [&](auto&&... what) {
    return absl::InvalidArgumentError(absl::StrCat(checkpoint_.name(), ": tensor ", want->name, " ", what...));
  };
  const auto found = checkpoint_.tensors().find(want->name);
  if (found == checkpoint_.tensors().end()) return invalid("is missing");
  const CheckpointTensor& tensor = found->second;
  want->tensor = &tensor;
  if (tensor.rows != want->all_rows || tensor.cols != want->all_k) {
    return invalid("is [", tensor.rows, ", ", tensor.cols, "], expected [", want->all_rows, ", ", want->all_k, "]");
  }
  if (!tensor.dtype.has_value()) {
    return absl::UnimplementedError(absl::StrCat(
        checkpoint_.name(), ": tensor ", want->name, " has type ", tensor.type,
        "; built in: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, "
        "MXFP4"));
  }
  const int32_t block = TraitsOf(*tensor.dtype).block_elements;
  if (want->k.begin % block != 0 || want->k.end % block != 0) {
    return invalid("has blocks of ", block, " columns; columns ", want->k.begin, " to ", want->k.end,
                   ", this tensor-parallel rank's, cut through one");
  }
  if (tensor.source != nullptr && want->matrix == nullptr)
    return invalid("is quantised, which norms and biases cannot be");
  if (tensor.bytes() != tensor.rows * RowBytes(*tensor.dtype, tensor.cols)) {
    return invalid("has ", tensor.data.size(), " bytes of data");
  }
  return absl::OkStatus();
}

absl::Status WeightLoader::RefuseStrangers() const {
  absl::flat_hash_set<absl::string_view> asked;
  for (const Want& want : wanted_) asked.insert(want.name);
  for (const auto& [name, tensor] : checkpoint_.tensors()) {
    const int32_t layer = LayerOf(name);
    const bool elsewhere = layer >= 0 && layer < checkpoint_.spec().layers &&
                           (layer < shard_.layer_begin || layer >= shard_.layer_end || shard_.tensor_ranks > 1);
    if (elsewhere || asked.contains(name) || absl::c_linear_search(kOtherTensors, name)) continue;
    return absl::UnimplementedError(absl::StrCat(checkpoint_.name(), ": tensor ", Quoted(name),
                                                 " has no part in the architecture '", checkpoint_.spec().architecture,
                                                 "' that is built in"));
  }
  return absl::OkStatus();
}

int64_t WeightLoader::BytesInArena(const Want& want) const {
  const int64_t rows = want.rows.size(), k = want.k.size();
  if (want.matrix == nullptr) return Align(k * int64_t{sizeof(float)});
  const int64_t packed = backend_.ops().weight_bytes(*want.tensor->dtype, rows, k);
  if (packed > 0) return packed;
  const bool in_place = k == want.all_k && want.tensor->source == nullptr && IsAligned(*want.tensor);
  return in_place ? 0 : Align(rows * RowBytes(*want.tensor->dtype, k));
}

int64_t WeightLoader::SourceBytes(const Want& want) {
  return want.rows.size() * RowBytes(*want.tensor->dtype, want.k.size());
}

absl::StatusOr<std::unique_ptr<DeviceBuffer>> WeightLoader::Load(absl::FunctionRef<void(int64_t, int64_t)> progress) {
  for (Want& want : wanted_) RETURN_IF_ERROR(Check(&want));
  RETURN_IF_ERROR(RefuseStrangers());
  int64_t arena_bytes = 0;
  for (Want& want : wanted_) {
    const int64_t bytes = BytesInArena(want);
    if (bytes > 0) want.offset = arena_bytes;
    arena_bytes += bytes;
    all_bytes_ += SourceBytes(want);
  }
  ASSIGN_OR_RETURN(std::unique_ptr<DeviceBuffer> arena, backend_.Allocate(arena_bytes));
  progress_ = &progress;
  for (const Want& want : wanted_) Pack(want, arena->data());
  progress_ = nullptr;
  RETURN_IF_ERROR(backend_.Synchronize());
  return arena;
}

void WeightLoader::Advance(int64_t bytes) {
  if (bytes == 0) return;
  done_bytes_ += bytes;
  (*progress_)(done_bytes_, all_bytes_);
}

void WeightLoader::Pack(const Want& want, std::byte* arena) {
  std::byte* out = want.offset < 0 ? nullptr : arena + want.offset;
  if (want.matrix != nullptr) {
    PackMatrix(want, out);
    return;
  }
  float* values = reinterpret_cast<float*>(out);
  Unpack(want, values);
  if (want.norm != nullptr) *want.norm = {values, DType::kF32, 1, want.k.size()};
  if (want.bias != nullptr) *want.bias = values;
  Advance(SourceBytes(want));
}

void WeightLoader::Unpack(const Want& want, float* out) const {
  const DType dtype = *want.tensor->dtype;
  // Copied first: the file need not be aligned.
  std::vector<float> aligned(RowBytes(dtype, want.all_k) / int64_t{sizeof(float)} + 1);
  std::memcpy(aligned.data(), want.tensor->data.data(), want.tensor->data.size());
  std::vector<float> values(want.all_k);
  DequantiseRow(dtype, aligned.data(), want.all_k, values.data());
  const float offset = want.norm != nullptr ? checkpoint_.spec().norm_offset : 0;
  for (int64_t i = want.k.begin; i < want.k.end; ++i) out[i - want.k.begin] = (values[i] + offset) * want.scale;
}

void WeightLoader::PackMatrix(const Want& want, std::byte* out) {
  const DType dtype = *want.tensor->dtype;
  const int64_t row_bytes = RowBytes(dtype, want.all_k), k_bytes = RowBytes(dtype, want.k.size());
  const RowSource* source = want.tensor->source.get();
  const absl::Span<const std::byte> rows =
      source != nullptr ? absl::Span<const std::byte>()
                        : want.tensor->data.subspan(want.rows.begin * row_bytes, want.rows.size() * row_bytes);
  *want.matrix = {dtype, want.rows.size(), want.k.size(), out != nullptr ? out : rows.data()};
  if (out == nullptr) {
    volatile uint64_t sink = Touch(rows);
    (void)sink;
    Advance(static_cast<int64_t>(rows.size()));
    return;
  }
  const OpTable& ops = backend_.ops();
  const bool packed = ops.weight_bytes(dtype, want.rows.size(), want.k.size()) > 0;
  const bool gather = k_bytes != row_bytes || (source == nullptr && !IsAligned(*want.tensor));
  const int64_t step = std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(1, row_bytes) / kPackRows) * kPackRows;
  std::vector<std::byte> gathered, written;
  for (int64_t r = 0; r < want.rows.size(); r += step) {
    const int64_t count = std::min(step, want.rows.size() - r);
    absl::Span<const std::byte> chunk = source != nullptr ? rows : rows.subspan(r * row_bytes, count * row_bytes);
    if (source != nullptr) {
      written.resize(count * row_bytes);
      source->Write(want.tensor->source_row + want.rows.begin + r, count, written.data());
      chunk = written;
    }
    const std::byte* from = chunk.data();
    if (gather) {
      gathered.resize(count * k_bytes);
      for (int64_t i = 0; i < count; ++i) {
        std::memcpy(gathered.data() + i * k_bytes, chunk.data() + i * row_bytes + RowBytes(dtype, want.k.begin),
                    k_bytes);
      }
      from = gathered.data();
    }
    const int64_t at = r == 0 ? 0 : packed ? ops.weight_bytes(dtype, r, want.k.size()) : r * k_bytes;
    // Weights are read only: the const is cast away because Tensor serves outputs too.
    ops.pack_weight({const_cast<std::byte*>(from), dtype, count, want.k.size()}, out + at, backend_.context());
    (void)backend_.Synchronize();  // `gathered` and `written` are reused, and the file's pages go
    if (source == nullptr) checkpoint_.Drop(chunk);
    Advance(count * k_bytes);
  }
  if (source != nullptr) checkpoint_.Drop(want.tensor->data);
}

}  // namespace interlace
