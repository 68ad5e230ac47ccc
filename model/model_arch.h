// ModelArch: one architecture: embedding, one layer, logits. The runner owns the layer loop.
#pragma once

#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "model/layer_kv.h"
#include "model/lora.h"
#include "model/model_spec.h"
#include "model/shard_spec.h"
#include "model/tensor_group.h"

namespace interlace {

// The rows of one step, all sequences one after another.
struct StepInput {
  absl::Span<const int32_t> tokens;     // [tokens]
  absl::Span<const int32_t> positions;  // [tokens], in the sequence of each
  // [tokens]: what adds to the products of each row; null: nothing. Empty: nothing adds to any row's.
  absl::Span<const LoraAdapter* const> adapters = {};
  StepInput Rows(int64_t begin, int64_t count) const {
    const auto from = static_cast<size_t>(begin), rows = static_cast<size_t>(count);
    return {tokens.subspan(from, rows), positions.subspan(from, rows),
            adapters.empty() ? adapters : adapters.subspan(from, rows)};
  }
};

// Weights never change after Make; scratch belongs to the object. Owned by the runner; thread: runner.
// The trap: a sublayer must not touch another layer: residency, prefetch, skipping and traces are the loop's.
class ModelArch {
 public:
  virtual ~ModelArch() = default;
  virtual void Embed(const StepInput& in, const Tensor& x) = 0;  // x: F32 [tokens, width]
  // A layer is these two, one after the other. x in place; a row's result depends on its own x, KV and adapter alone,
  // so rows may pass a sublayer over. `in` is of the rows of x.
  virtual void Attention(LayerId layer, const StepInput& in, LayerKv& kv, const Tensor& x) = 0;
  virtual void FeedForward(LayerId layer, const StepInput& in, const Tensor& x) = 0;
  // In place of Attention, for rows that pass it over: their K and V are kept, and x stays what it is.
  virtual void KeysAndValues(LayerId layer, const StepInput& in, LayerKv& kv, const Tensor& x) = 0;
  // logits[i, :] of row rows[i] of x. logits: F32 [rows.size(), vocab].
  virtual void Logits(const Tensor& x, absl::Span<const int32_t> rows, const Tensor& logits) = 0;
  // Rows of x become the last hidden states, from which logits are made: behind the final norm. In place.
  virtual void Hidden(const Tensor& x) = 0;
};

struct ArchInput {
  const Checkpoint* checkpoint;  // outlives the architecture: weights may stay mapped
  const ModelSpec* spec;         // the checkpoint's
  ShardSpec shard;               // only its layers are loaded; first: embedding; last: final norm and head
  Backend* backend;
  int32_t max_tokens = 512;           // rows of the largest step
  TensorGroup* group = nullptr;       // outlives the architecture; null iff shard.tensor_ranks is 1, or nothing is run
  const LoraSet* adapters = nullptr;  // outlives it too: all that steps may name; null: none
  // Called with (bytes done, bytes in all) while weights load; may be null-like (an empty lambda).
  absl::FunctionRef<void(int64_t, int64_t)> progress;
};

// Unimplemented names an architecture that is not in the table (model/arch/archs.cc), or a tensor whose type or whose
// part in the model is not built in; InvalidArgument names a tensor that is missing or has the wrong shape.
absl::StatusOr<std::unique_ptr<ModelArch>> MakeArch(const ArchInput& input);

}  // namespace interlace
