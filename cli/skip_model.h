// SkipModel: a whole model and the KV of one sequence, run by any skip plan: what `interlace bench skip` measures with.
#pragma once

#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "bench/study/skip_cost.h"
#include "common/config.h"
#include "kernels/backend.h"
#include "kernels/paged_attention/kv_block.h"
#include "model/checkpoint.h"
#include "model/model_arch.h"
#include "proto/plan/skip_plan.h"

namespace interlace {

// A row leaves the model behind one of `looks` (layers, upwards) where the head, asked there, gives its first choice
// more than `lead` more probability than its second. A lead of 1 or more: no row ever does.
struct ExitRule {
  std::vector<int32_t> looks;
  double lead = 1;
};
// Of one row: the layers that ran, and how often the head was asked before the last of them.
struct ExitedRow {
  int32_t layers = 0, looks = 0;
};

// Owned by the command; thread: one. The trap: KV of a position is what the last Run of it wrote, in the layers that
// its plan ran; whoever drafts computes the position again before going on.
class SkipModel final : private LayerKv {
 public:
  static constexpr int32_t kMostRows = 256;  // of one Run

  // `context`: positions of the sequence. Errors are those of a rank that cannot load the model.
  static absl::StatusOr<std::unique_ptr<SkipModel>> Open(const Config& config, int32_t context);

  const ModelSpec& spec() const { return checkpoint_->spec(); }
  const ModelCost& cost() const { return cost_; }
  // Hidden states before and behind a layer, [rows, width].
  using Watch = absl::FunctionRef<void(int32_t layer, const Tensor& before, const Tensor& after)>;
  // Computes positions start, start + 1, .. Requires: at most kMostRows, and the positions before were computed.
  void Run(int32_t start, absl::Span<const int32_t> tokens, const SkipPlan& plan) {
    RunLayers(start, tokens, plan, false, nullptr);
  }
  void Run(int32_t start, absl::Span<const int32_t> tokens, Watch watch) {
    RunLayers(start, tokens, {}, false, &watch);
  }
  // The same, but of attention that is passed over K and V are made all the same, as steps of bounded streams do.
  void RunBounded(int32_t start, absl::Span<const int32_t> tokens, const SkipPlan& plan) {
    RunLayers(start, tokens, plan, true, nullptr);
  }
  // Rows leave by the rule, each by itself; of the layers behind, K and V are made of the hidden state with which it
  // left, and Logits are those of that state.
  absl::StatusOr<std::vector<ExitedRow>> RunExiting(int32_t start, absl::Span<const int32_t> tokens,
                                                    const ExitRule& rule);
  // Of rows of the last Run: [rows.size(), vocab], good until the next call.
  absl::StatusOr<absl::Span<const float>> Logits(absl::Span<const int32_t> rows);
  // The tokens with the largest logits of `count` rows from the first on. The lowest of equal ones.
  absl::StatusOr<std::vector<int32_t>> Choices(int32_t count);

 private:
  SkipModel() = default;
  // Positions of the rows of a Run that begins.
  std::vector<int32_t> Begin(int32_t start, absl::Span<const int32_t> tokens);
  void RunLayers(int32_t start, absl::Span<const int32_t> tokens, const SkipPlan& plan, bool keep_kv,
                 const Watch* watch);
  // Rows that still run go through the layer; of the others K and V are made.
  void RunRows(LayerId layer, const StepInput& in, absl::Span<const ExitedRow> rows);
  // Rows for which the head, asked behind a layer, is sure leave there.
  absl::Status Look(int32_t layer, double lead, std::vector<ExitedRow>* rows);
  void Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override;

  std::unique_ptr<Checkpoint> checkpoint_;
  ModelCost cost_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<ModelArch> arch_;
  KvBlockShape shape_;
  std::unique_ptr<DeviceBuffer> kv_, hidden_, before_, logits_;
  std::vector<std::vector<std::byte*>> blocks_;  // by layer
  int32_t start_ = 0;                            // of the Run under way
  int32_t first_row_ = 0;                        // of its rows that a sublayer is computing
  int64_t rows_ = 0;                             // of the last Run
};

}  // namespace interlace
