#include "model/lora.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/adapter_folder.h"
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

const float* RowOf(const LoraMatrix& m, int64_t row) { return m.values.data() + row * m.cols; }

LoraMatrix ReadMatrix(const SafetensorsTensor& tensor) {
  const DType dtype = tensor.dtype == "F32" ? DType::kF32 : tensor.dtype == "F16" ? DType::kF16 : DType::kBF16;
  LoraMatrix m{tensor.shape[0], tensor.shape[1], std::vector<float>(tensor.shape[0] * tensor.shape[1])};
  std::vector<std::byte> aligned(tensor.data.begin(), tensor.data.end());  // the file need not be
  DequantiseRow(dtype, aligned.data(), m.rows * m.cols, m.values.data());
  return m;
}

// Columns `k` of A.
LoraMatrix Columns(const LoraMatrix& a, ShardRange k) {
  LoraMatrix part{a.rows, k.size(), {}};
  for (int64_t r = 0; r < a.rows; ++r)
    part.values.insert(part.values.end(), RowOf(a, r) + k.begin, RowOf(a, r) + k.end);
  return part;
}

// Rows [first + rows.begin, first + rows.end) of B, times the scale. `pairs`: how the model's file orders the rows of a
// head of q and k; adapters have them as halves.
LoraMatrix Rows(const LoraMatrix& b, int64_t first, ShardRange rows, double scale, RopePairs pairs, int64_t head_dim) {
  LoraMatrix part{rows.size(), b.cols, {}};
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const int64_t in_head = r % head_dim;
    const int64_t from = pairs == RopePairs::kAdjacent ? r - in_head + in_head % 2 * (head_dim / 2) + in_head / 2 : r;
    const float* row = RowOf(b, first + from);
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
LinearWeight Pack(LoraMatrix m, Backend& backend, std::byte** next) {
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

absl::StatusOr<LoraDraft> ReadLora(const PeftAdapter& file, const ModelSpec& spec, const ShardSpec& shard,
                                   const OpTable& ops) {
  RETURN_IF_ERROR(CheckAdapterFits(file, spec));
  ASSIGN_OR_RETURN(const TensorSplit split, SplitTensors(spec, shard.tensor_rank, shard.tensor_ranks));
  LoraDraft draft{.digest = file.digest(), .pairs = {}};
  for (const AdaptedMatrix& m : file.matrices()) {
    if (m.layer < shard.layer_begin || m.layer >= shard.layer_end) continue;
    const LoraMatrix a = ReadMatrix(*m.a), b = ReadMatrix(*m.b);
    int64_t first = 0;  // row of B
    for (const Product& product : ProductsOf(spec, m.module)) {
      const Share share = ShareOf(product, split, spec.head_dim);
      const bool rotated = product.part == LoraPart::kQ || product.part == LoraPart::kK;
      const RopePairs pairs = rotated ? spec.pairs : RopePairs::kHalves;
      draft.pairs.push_back(
          {m.layer, product.part, Columns(a, share.k), Rows(b, first, share.rows, m.scale, pairs, spec.head_dim)});
      draft.bytes += BytesOf(ops, a.rows, share.k.size()) + BytesOf(ops, share.rows.size(), a.rows);
      draft.most_rank = std::max(draft.most_rank, a.rows);
      first += product.rows;
    }
  }
  return draft;
}

absl::StatusOr<LoraDraft> ReadLora(const LoraPlace& place, const ModelSpec& spec, const ShardSpec& shard,
                                   const OpTable& ops) {
  ASSIGN_OR_RETURN(const AdapterFolder folder, FindAdapterFolder(place.root, place.path));
  ASSIGN_OR_RETURN(const std::unique_ptr<PeftAdapter> file, PeftAdapter::Open(folder.real));
  if (file->digest() != place.digest) {
    return absl::FailedPreconditionError(absl::StrCat(folder.real, " has the digest ", file->digest(),
                                                      ", the coordinator's ", place.digest,
                                                      "; copy the same folder to each machine"));
  }
  int64_t rank = 0;
  for (const AdaptedMatrix& m : file->matrices()) rank = std::max(rank, static_cast<int64_t>(m.a->shape[0]));
  if (rank > place.most_rank) {
    return absl::ResourceExhaustedError(absl::StrCat(folder.real, " has the rank ", rank,
                                                     ", and model.max_adapter_rank=", place.most_rank,
                                                     "; restart with a higher one"));
  }
  return ReadLora(*file, spec, shard, ops);
}

absl::StatusOr<std::unique_ptr<LoraAdapter>> LoraAdapter::Place(LoraDraft draft, const ShardSpec& shard,
                                                                Backend& backend) {
  std::unique_ptr<LoraAdapter> adapter(new LoraAdapter);
  adapter->digest_ = std::move(draft.digest);
  adapter->layer_begin_ = shard.layer_begin;
  adapter->most_rank_ = draft.most_rank;
  adapter->layers_.resize(shard.layers());
  if (draft.bytes == 0) return adapter;  // it adds to other stages' layers alone
  ASSIGN_OR_RETURN(adapter->weights_, backend.Allocate(draft.bytes));
  std::byte* next = adapter->weights_->data();
  for (LoraDraft::Pair& pair : draft.pairs) {
    LoraWeight& to = adapter->layers_[pair.layer - shard.layer_begin][static_cast<size_t>(pair.part)];
    to.a = Pack(std::move(pair.a), backend, &next);
    to.b = Pack(std::move(pair.b), backend, &next);
    adapter->adapts_gate_ |= pair.part == LoraPart::kGate || pair.part == LoraPart::kUp;
  }
  RETURN_IF_ERROR(backend.Synchronize());
  return adapter;
}

absl::StatusOr<std::unique_ptr<LoraAdapter>> LoraAdapter::Load(const PeftAdapter& file, const ModelSpec& spec,
                                                               const ShardSpec& shard, Backend& backend) {
  ASSIGN_OR_RETURN(LoraDraft draft, ReadLora(file, spec, shard, backend.ops()));
  return Place(std::move(draft), shard, backend);
}

absl::StatusOr<std::unique_ptr<LoraSet>> LoraSet::Load(absl::Span<const AdapterPlace> places, const ModelSpec& spec,
                                                       const ShardSpec& shard, Backend& backend, LoraRoom room) {
  std::unique_ptr<LoraSet> set(new LoraSet(room));
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

void LoraSet::Replace(std::vector<std::shared_ptr<const LoraAdapter>> later) {
  later_.clear();
  for (std::shared_ptr<const LoraAdapter>& adapter : later) later_[adapter->digest()] = std::move(adapter);
}

std::shared_ptr<const LoraAdapter> LoraSet::Hold(absl::string_view digest) const {
  for (const ByDigest* adapters : {&adapters_, &later_}) {
    const auto found = adapters->find(digest);
    if (found != adapters->end()) return found->second;
  }
  return nullptr;
}

std::vector<std::string> LoraSet::digests() const {
  std::vector<std::string> digests;
  for (const auto& [digest, adapter] : adapters_) digests.push_back(digest);
  return digests;
}

int64_t LoraSet::bytes() const {
  int64_t bytes = 0;
  for (const auto& [digest, adapter] : adapters_) bytes += adapter->bytes();
  return bytes;
}

int64_t LoraSet::most_rank() const {
  int64_t most = room_.most_rank;
  for (const auto& [digest, adapter] : adapters_) most = std::max(most, adapter->most_rank());
  return most;
}

bool LoraSet::adapts_gate() const {
  return room_.most_rank > 0 ||
         std::any_of(adapters_.begin(), adapters_.end(), [](const auto& one) { return one.second->adapts_gate(); });
}

}  // namespace interlace
