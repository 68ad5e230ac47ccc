// LoRA adapters: pairs of narrow matrices that add to products of a model, for the rows of some sequences.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "checkpoint/peft_adapter.h"
#include "kernels/backend.h"
#include "model/model_spec.h"
#include "model/shard_spec.h"

namespace interlace {

// The products of a layer that an adapter may add to.
enum class LoraPart : uint8_t { kQ, kK, kV, kOutput, kGate, kUp, kDown };
inline constexpr size_t kLoraParts = 7;

// y += B (A x), B with the adapter's scale in it.
struct LoraWeight {
  LinearWeight a;  // [rank, k]; no data: the adapter leaves the product alone
  LinearWeight b;  // [rows, rank]
};

// Whether the adapter adds to products of this model alone, and to matrices of their shapes. InvalidArgument and
// Unimplemented name folder, module, shapes, and the model that the adapter was trained on.
absl::Status CheckAdapterFits(const PeftAdapter& file, const ModelSpec& spec);

// A matrix of a LoraDraft: F32, row after row.
struct LoraMatrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;
};

// What a rank has of an adapter, as it lies in host memory before a backend has it: read by any thread while steps run,
// so that the runner only copies.
struct LoraDraft {
  struct Pair {
    int32_t layer = 0;  // of the model
    LoraPart part{};
    LoraMatrix a, b;
  };
  std::string digest;
  std::vector<Pair> pairs;
  int64_t bytes = 0;  // that they take on the backend
  int64_t most_rank = 0;
};

// As CheckAdapterFits, and what SplitTensors says. `ops`: of the backend that will have it.
absl::StatusOr<LoraDraft> ReadLora(const PeftAdapter& file, const ModelSpec& spec, const ShardSpec& shard,
                                   const OpTable& ops);

// Where an adapter lies that comes while a rank runs, and what it must be.
struct LoraPlace {
  std::string root;  // model.adapter_dir
  std::string path;  // of the folder below it
  std::string digest;
  int64_t most_rank = 0;
};
// The same of a folder. As FindAdapterFolder and PeftAdapter::Open; FailedPrecondition: it has other contents;
// ResourceExhausted: a larger rank.
absl::StatusOr<LoraDraft> ReadLora(const LoraPlace& place, const ModelSpec& spec, const ShardSpec& shard,
                                   const OpTable& ops);

// One adapter, as far as a rank has its layers: of products whose rows the rank has a part of, the rows of B; of those
// whose columns, the columns of A, so that the sums over the ranks of a stage are whole as the model's own are. Its
// matrices are F32. Immutable once placed; thread: runner.
class LoraAdapter {
 public:
  // What Backend::Allocate says. `backend` outlives it.
  static absl::StatusOr<std::unique_ptr<LoraAdapter>> Place(LoraDraft draft, const ShardSpec& shard, Backend& backend);
  // ReadLora, then Place.
  static absl::StatusOr<std::unique_ptr<LoraAdapter>> Load(const PeftAdapter& file, const ModelSpec& spec,
                                                           const ShardSpec& shard, Backend& backend);
  const std::string& digest() const { return digest_; }
  // Requires: the layer is one of the shard's.
  const LoraWeight& Find(LayerId layer, LoraPart part) const {
    return layers_[Value(layer) - layer_begin_][static_cast<size_t>(part)];
  }
  // Whether it adds to gate or up, in that layer.
  bool AdaptsGate(LayerId layer) const {
    return Find(layer, LoraPart::kGate).a.data != nullptr || Find(layer, LoraPart::kUp).a.data != nullptr;
  }
  bool adapts_gate() const { return adapts_gate_; }  // in any layer
  int64_t most_rank() const { return most_rank_; }
  int64_t bytes() const { return weights_ == nullptr ? 0 : weights_->bytes(); }

 private:
  LoraAdapter() = default;
  std::string digest_;
  int32_t layer_begin_ = 0;
  int64_t most_rank_ = 0;
  bool adapts_gate_ = false;
  std::vector<std::array<LoraWeight, kLoraParts>> layers_;
  std::unique_ptr<DeviceBuffer> weights_;
};

// What is kept for adapters that come while a rank runs.
struct LoraRoom {
  int64_t most_rank = 0;  // 0: none come
};

// The adapters of a rank, by digest: two names of one content are one adapter. Owned by Rank; thread: runner. Those of
// the start stay; others come and go between steps, and a sequence that holds one keeps it until it is released.
class LoraSet {
 public:
  static absl::StatusOr<std::unique_ptr<LoraSet>> Load(absl::Span<const AdapterPlace> places, const ModelSpec& spec,
                                                       const ShardSpec& shard, Backend& backend, LoraRoom room = {});
  // From now on these are there beside those of the start, and no others.
  void Replace(std::vector<std::shared_ptr<const LoraAdapter>> later);
  // Null: there is none.
  const LoraAdapter* Find(absl::string_view digest) const { return Hold(digest).get(); }
  std::shared_ptr<const LoraAdapter> Hold(absl::string_view digest) const;
  std::vector<std::string> digests() const;  // of the start, in their order
  int64_t bytes() const;                     // of the start
  // What steps need room for, of all that are there or may come.
  int64_t most_rank() const;  // 0: there are no adapters
  bool adapts_gate() const;   // one of them, in a layer of the shard

 private:
  using ByDigest = std::map<std::string, std::shared_ptr<const LoraAdapter>, std::less<>>;
  explicit LoraSet(LoraRoom room) : room_(room) {}
  const LoraRoom room_;
  ByDigest adapters_;  // of the start
  ByDigest later_;
};

}  // namespace interlace
