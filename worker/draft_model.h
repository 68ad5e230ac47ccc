// DraftModel: a second, smaller model of a rank, which guesses what the rank's model will say.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "common/config.h"
#include "kernels/backend.h"
#include "kernels/paged_attention/kv_block.h"
#include "kvstore/kv_arena.h"
#include "model/checkpoint.h"
#include "model/model_arch.h"

namespace interlace {

// What can be told of engine.draft_model without loading it: InvalidArgument names the setting and what does not fit, a
// replica of several ranks, or another vocabulary than that of model.path. Requires: it is not empty.
absl::Status CheckDraftSettings(const Config& config);

// Weights, and memory for KV. Owned by Rank; thread: made where the rank is, used by the runner. It lives on the rank's
// backend, and its tokens are the model's.
struct DraftModel {
  // engine.draft_model beside the model in `model`, for steps with as many sequences that sample as `most_sequences`.
  // InvalidArgument names the setting and what does not fit, as CheckDraftSettings does, or another head.
  static absl::StatusOr<std::unique_ptr<DraftModel>> Load(const Config& config, const Checkpoint& model, DType kv,
                                                          int32_t most_sequences, Backend& backend,
                                                          absl::FunctionRef<void(int64_t, int64_t)> progress);
  const ModelSpec& spec() const { return checkpoint->spec(); }
  // Of a pass, in memory: over that of a step of the model beside it.
  double share = 0;
  KvBlockShape shape;                    // of one layer
  int32_t rows = 0;                      // of the largest pass
  std::vector<AttentionSpec> attention;  // [layers]
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<ModelArch> arch;
  std::unique_ptr<KvArena> arena;        // a slot is a block of all layers, one layer after another
  std::unique_ptr<DeviceBuffer> hidden;  // F32 [rows, width]
};

}  // namespace interlace
