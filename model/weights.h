// Weights: tensors of a checkpoint, checked against what the architecture expects.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "model/shard_spec.h"

namespace interlace {

// What a step of four streams costs that attend to 256 positions each, in the checkpoint's own bytes; of routed
// experts, those of one token. `kv_bytes`: of one position in one layer. The KV of more and longer streams outweighs
// the head, that of fewer and shorter ones is nothing beside it: this is the middle.
StepCost CostOfStep(const Checkpoint& checkpoint, int64_t kv_bytes);

// First the architecture says what it wants and where the result shall be written; then Load checks all of it, packs it
// into one allocation, in the layout of the backend's op table, and lets go of the file's pages as it goes, so that
// weights are in memory once. Where the layout is the file's own, matrices stay in the checkpoint's mapping.
// Owned by an architecture's Make; thread: one, at start (packing uses the backend's threads). The trap: what the
// pointers point to must stay where it is until Load.
class WeightLoader {
 public:
  // Both outlive the loader; the checkpoint outlives the weights.
  WeightLoader(const Checkpoint& checkpoint, const ShardSpec& shard, Backend& backend)
      : checkpoint_(checkpoint), shard_(shard), backend_(backend) {}

  // Rows `rows` and columns `k` of the [all_rows, all_k] matrix `name`.
  void Matrix(const std::string& name, int64_t all_rows, int64_t all_k, ShardRange rows, ShardRange k,
              LinearWeight* out);
  // All of it.
  void Matrix(const std::string& name, int64_t all_rows, int64_t all_k, LinearWeight* out) {
    Matrix(name, all_rows, all_k, {0, all_rows}, {0, all_k}, out);
  }
  // The weight of a norm, F32 [1, cols], with the model's norm_offset added, times `scale`.
  void Norm(const std::string& name, int64_t cols, Tensor* out, float scale = 1);
  // Elements `part` of a vector of `all`, F32.
  void Bias(const std::string& name, int64_t all, ShardRange part, const float** out);

  // Loads all that was asked for. `progress` gets bytes done and in all, of the checkpoint's. Returns the memory of the
  // weights. InvalidArgument names the tensor that is missing, has another shape, or is cut inside a quantised block;
  // Unimplemented one whose type no kernel computes with, or one of this rank's layers that nobody asked for: leaving
  // it out would answer with another model.
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Load(absl::FunctionRef<void(int64_t, int64_t)> progress);

 private:
  struct Want {
    std::string name;
    int64_t all_rows, all_k;
    ShardRange rows, k;
    LinearWeight* matrix;  // or
    Tensor* norm;          // or
    const float** bias;
    float scale = 1;  // of a norm
    const CheckpointTensor* tensor = nullptr;
    int64_t offset = -1;  // in the allocation; -1: stays in the mapping
  };

  absl::Status Check(Want* want) const;
  absl::Status RefuseStrangers() const;
  int64_t BytesInArena(const Want& want) const;
  // Bytes of the checkpoint that it reads.
  static int64_t SourceBytes(const Want& want);
  void Pack(const Want& want, std::byte* arena);
  void PackMatrix(const Want& want, std::byte* out);
  void Unpack(const Want& want, float* out) const;
  void Advance(int64_t bytes);

  const Checkpoint& checkpoint_;
  const ShardSpec shard_;
  Backend& backend_;
  std::vector<Want> wanted_;
  int64_t done_bytes_ = 0, all_bytes_ = 0;
  const absl::FunctionRef<void(int64_t, int64_t)>* progress_ = nullptr;
};

}  // namespace interlace
