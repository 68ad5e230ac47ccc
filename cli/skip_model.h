// SkipModel: a whole model and the KV of one sequence, run by any skip plan: what `interlace bench skip` measures with.
#pragma once

#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/config.h"
#include "kernels/backend.h"
#include "kernels/paged_attention/kv_block.h"
#include "model/checkpoint.h"
#include "model/model_arch.h"
#include "proto/plan/skip_plan.h"

namespace interlace {

// Owned by the command; thread: one. The trap: KV of a position is what the last Run of it wrote, in the layers that
// its plan ran; whoever drafts computes the position again before going on.
class SkipModel final : private LayerKv {
 public:
  static constexpr int32_t kMostRows = 256;  // of one Run

  // `context`: positions of the sequence. Errors are those of a rank that cannot load the model.
  static absl::StatusOr<std::unique_ptr<SkipModel>> Open(const Config& config, int32_t context);

  const ModelSpec& spec() const { return checkpoint_->spec(); }
  // Hidden states before and behind a layer, [rows, width].
  using Watch = absl::FunctionRef<void(int32_t layer, const Tensor& before, const Tensor& after)>;
  // Computes positions start, start + 1, .. Requires: at most kMostRows, and the positions before were computed.
  void Run(int32_t start, absl::Span<const int32_t> tokens, const SkipPlan& plan) {
    RunLayers(start, tokens, plan, nullptr);
  }
  void Run(int32_t start, absl::Span<const int32_t> tokens, Watch watch) { RunLayers(start, tokens, {}, &watch); }
  // Of rows of the last Run: [rows.size(), vocab], good until the next call.
  absl::StatusOr<absl::Span<const float>> Logits(absl::Span<const int32_t> rows);
  // The tokens with the largest logits of `count` rows from the first on. The lowest of equal ones.
  absl::StatusOr<std::vector<int32_t>> Choices(int32_t count);

 private:
  SkipModel() = default;
  void RunLayers(int32_t start, absl::Span<const int32_t> tokens, const SkipPlan& plan, const Watch* watch);
  void Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override;

  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<ModelArch> arch_;
  KvBlockShape shape_;
  std::unique_ptr<DeviceBuffer> kv_, hidden_, before_, logits_;
  std::vector<std::vector<std::byte*>> blocks_;  // by layer
  int32_t start_ = 0;                            // of the Run under way
  int64_t rows_ = 0;                             // of the last Run
};

}  // namespace interlace
