#include "model/lora.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/gguf_values.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "kernels/dequantise.h"

namespace interlace {
namespace {

constexpr int64_t kAlignment = 64;

// A product of the model: rows outputs of k inputs.
struct Product {
  LoraPart part;
  int64_t rows, k;
};

// The products that a module of an adapter adds to, its rows one after another.
using Products = absl::InlinedVector<Product, 3>;
Products ProductsOf(const ModelSpec& spec, AdaptedModule module) {
  const int64_t width = spec.width, q = int64_t{spec.heads} * spec.head_dim,
                kv = int64_t{spec.kv_heads} * spec.head_dim;
  const int64_t ffn = spec.feed_forward;
  switch (module) {
    case AdaptedModule::kQ:
      return {{LoraPart::kQ, q, width}};
    case AdaptedModule::kK:
      return {{LoraPart::kK, kv, width}};
    case AdaptedModule::kV:
      return {{LoraPart::kV, kv, width}};
    case AdaptedModule::kQkv:
      return {{LoraPart::kQ, q, width}, {LoraPart::kK, kv, width}, {LoraPart::kV, kv, width}};
    case AdaptedModule::kOutput:
      return {{LoraPart::kOutput, width, q}};
    case AdaptedModule::kGate:
      return {{LoraPart::kGate, ffn, width}};
    case AdaptedModule::kUp:
      return {{LoraPart::kUp, ffn, width}};
    case AdaptedModule::kGateUp:
      return {{LoraPart::kGate, ffn, width}, {LoraPart::kUp, ffn, width}};
    case AdaptedModule::kDown:
      break;
  }
  return {{LoraPart::kDown, width, ffn}};
}

bool IsFeedForward(AdaptedModule module) {
  return module == AdaptedModule::kGate || module == AdaptedModule::kUp || module == AdaptedModule::kGateUp ||
         module == AdaptedModule::kDown;
}

// What of a product a rank has: rows of B and columns of A.
struct Share {
  ShardRange rows, k;
};
Share ShareOf(const Product& product, const TensorSplit& split, int64_t head_dim) {
  const auto heads = [head_dim](ShardRange range) { return ShardRange{range.begin * head_dim, range.end * head_dim}; };
  const ShardRange all_rows{0, product.rows}, all_k{0, product.k};
  switch (product.part) {
    case LoraPart::kQ:
      return {heads(split.heads), all_k};
    case LoraPart::kK:
    case LoraPart::kV:
      return {heads(split.kv_heads), all_k};
    case LoraPart::kOutput:
      return {all_rows, heads(split.heads)};
    case LoraPart::kGate:
    case LoraPart::kUp:
      return {split.feed_forward, all_k};
    case LoraPart::kDown:
      break;
  }
  return {all_rows, split.feed_forward};
}

// F32, [rows, cols].
struct Matrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;
  const float* Row(int64_t row) const { return values.data() + row * cols; }
};

Matrix ReadMatrix(const SafetensorsTensor& tensor) {
  const DType dtype = tensor.dtype == "F32" ? DType::kF32 : tensor.dtype == "F16" ? DType::kF16 : DType::kBF16;
  Matrix m{tensor.shape[0], tensor.shape[1], std::vector<float>(tensor.shape[0] * tensor.shape[1])};
  std::vector<std::byte> aligned(tensor.data.begin(), tensor.data.end());  // the file need not be
  DequantiseRow(dtype, aligned.data(), m.rows * m.cols, m.values.data());
  return m;
}

// Columns `k` of A.
Matrix Columns(const Matrix& a, ShardRange k) {
  Matrix part{a.rows, k.size(), {}};
  for (int64_t r = 0; r < a.rows; ++r) part.values.insert(part.values.end(), a.Row(r) + k.begin, a.Row(r) + k.end);
  return part;
}

// Rows [first + rows.begin, first + rows.end) of B, times the scale. `pairs`: how the model's file orders the rows of a
// head of q and k; adapters have them as halves.
Matrix Rows(const Matrix& b, int64_t first, ShardRange rows, double scale, RopePairs pairs, int64_t head_dim) {
  Matrix part{rows.size(), b.cols, {}};
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t in_head = r % head_dim;
    const int64_t from = pairs == RopePairs::kAdjacent ? r - in_head + in_head % 2 * (head_dim / 2) + in_head / 2 : r;
    const float* row = b.Row(first + from);
    for (int64_t i = 0; i < b.cols; ++i) part.values.push_back(static_cast<float>(scale * row[i]));
  }
  return part;
}

int64_t BytesOf(const OpTable& ops, int64_t rows, int64_t k) {
  const int64_t packed = ops.weight_bytes(DType::kF32, rows, k);
  const int64_t bytes = packed > 0 ? packed : rows * RowBytes(DType::kF32, k);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Lays `m` out at *next, and moves that on.
LinearWeight Pack(Matrix m, Backend& backend, std::byte** next) {
  backend.ops().pack_weight({m.values.data(), DType::kF32, m.rows, m.cols}, *next, backend.context());
  const LinearWeight packed{DType::kF32, m.rows, m.cols, *next};
  *next += BytesOf(backend.ops(), m.rows, m.cols);
  return packed;
}

}  // namespace

absl::Status CheckAdapterFits(const PeftAdapter& file, const ModelSpec& spec) {
  for (const AdaptedMatrix& m : file.matrices()) {
    const auto refuse = [&](auto&&... what) {
      return absl::InvalidArgumentError(absl::StrCat(
          file.folder(), ": ", Quoted(m.name), " ", what..., "; serve the adapter with the model it was trained on",
          file.base_model().empty() ? "" : ", which it calls ", file.base_model()));
    };
    if (m.layer >= spec.layers) return refuse("is of layer ", m.layer, " where the model has ", spec.layers, " layers");
    if (IsFeedForward(m.module) && spec.layer[m.layer].experts) {
      return absl::UnimplementedError(absl::StrCat(file.folder(), ": ", Quoted(m.name),
                                                   " is of a layer of experts, which adapters cannot add to yet; "
                                                   "train q_proj, k_proj, v_proj and o_proj alone"));
    }
    int64_t rows = 0, k = 0;
    for (const Product& product : ProductsOf(spec, m.module)) {
      rows += product.rows;
      k = product.k;
    }
    if (m.a->shape[1] == k && m.b->shape[0] == rows) continue;
    return refuse("adds to a product of ", m.b->shape[0], " outputs and ", m.a->shape[1],
                  " inputs where the model's has ", rows, " and ", k);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LoraAdapter>> LoraAdapter::Load(const PeftAdapter& file, const ModelSpec& spec,
                                                               const ShardSpec& shard, Backend& backend) {
  RETURN_IF_ERROR(CheckAdapterFits(file, spec));
  ASSIGN_OR_RETURN(const TensorSplit split, SplitTensors(spec, shard.tensor_rank, shard.tensor_ranks));
  std::unique_ptr<LoraAdapter> adapter(new LoraAdapter);
  adapter->digest_ = file.digest();
  adapter->layer_begin_ = shard.layer_begin;
  adapter->layers_.resize(shard.layers());
  const auto elsewhere = [&shard](const AdaptedMatrix& m) {
    return m.layer < shard.layer_begin || m.layer >= shard.layer_end;
  };
  int64_t bytes = 0;
  for (const AdaptedMatrix& m : file.matrices()) {
    if (elsewhere(m)) continue;
    const int64_t rank = m.a->shape[0];
    for (const Product& product : ProductsOf(spec, m.module)) {
      const Share share = ShareOf(product, split, spec.head_dim);
      bytes += BytesOf(backend.ops(), rank, share.k.size()) + BytesOf(backend.ops(), share.rows.size(), rank);
    }
  }
  if (bytes == 0) return adapter;  // it adds to other stages' layers alone
  ASSIGN_OR_RETURN(adapter->weights_, backend.Allocate(bytes));
  std::byte* next = adapter->weights_->data();
  for (const AdaptedMatrix& m : file.matrices()) {
    if (elsewhere(m)) continue;
    const Matrix a = ReadMatrix(*m.a), b = ReadMatrix(*m.b);
    int64_t first = 0;  // row of B
    for (const Product& product : ProductsOf(spec, m.module)) {
      const Share share = ShareOf(product, split, spec.head_dim);
      const bool rotated = product.part == LoraPart::kQ || product.part == LoraPart::kK;
      const RopePairs pairs = rotated ? spec.pairs : RopePairs::kHalves;
      LoraWeight& to = adapter->layers_[m.layer - shard.layer_begin][static_cast<size_t>(product.part)];
      to.a = Pack(Columns(a, share.k), backend, &next);
      to.b = Pack(Rows(b, first, share.rows, m.scale, pairs, spec.head_dim), backend, &next);
      adapter->adapts_gate_ |= product.part == LoraPart::kGate || product.part == LoraPart::kUp;
      adapter->most_rank_ = std::max(adapter->most_rank_, a.rows);
      first += product.rows;
    }
  }
  RETURN_IF_ERROR(backend.Synchronize());
  return adapter;
}

absl::StatusOr<std::unique_ptr<LoraSet>> LoraSet::Load(absl::Span<const AdapterPlace> places, const ModelSpec& spec,
                                                       const ShardSpec& shard, Backend& backend) {
  std::unique_ptr<LoraSet> set(new LoraSet);
  for (const AdapterPlace& place : places) {
    absl::StatusOr<std::unique_ptr<PeftAdapter>> file = PeftAdapter::Open(place.folder);
    absl::Status status = file.status();
    if (status.ok() && !set->adapters_.contains((*file)->digest())) {
      absl::StatusOr<std::unique_ptr<LoraAdapter>> adapter = LoraAdapter::Load(**file, spec, shard, backend);
      status = adapter.status();
      if (status.ok()) {
        LOG(INFO) << "adapter loaded" << Field("name", place.name) << Field("digest", (*adapter)->digest())
                  << Field("rank", (*adapter)->most_rank()) << Field("bytes", (*adapter)->bytes());
        set->adapters_.emplace((*adapter)->digest(), *std::move(adapter));
      }
    }
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat("model.adapters=", place.name, ": ", status.message()));
    }
  }
  return set;
}

const LoraAdapter* LoraSet::Find(absl::string_view digest) const {
  const auto found = adapters_.find(digest);
  return found == adapters_.end() ? nullptr : found->second.get();
}

std::vector<std::string> LoraSet::digests() const {
  std::vector<std::string> digests;
  for (const auto& [digest, adapter] : adapters_) digests.push_back(digest);
  return digests;
}

int64_t LoraSet::most_rank() const {
  int64_t most = 0;
  for (const auto& [digest, adapter] : adapters_) most = std::max(most, adapter->most_rank());
  return most;
}

bool LoraSet::adapts_gate() const {
  return std::any_of(adapters_.begin(), adapters_.end(), [](const auto& one) { return one.second->adapts_gate(); });
}

}  // namespace interlace
