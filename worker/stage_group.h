// StageGroup: the ranks that share the layers of a stage, within a step.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kernels/backend.h"
#include "model/tensor_group.h"
#include "transport/collective.h"
#include "worker/layer_pager.h"

namespace interlace {

// Ranks share a stage by heads and columns (TensorGroup: sums of their parts), or by rows (Gather).
// Each part is headed by the sequences that its rank has lost so far in the step, and what one has lost all have lost
// when the exchange is over: sums of its rows are worth nothing from then on, so nobody may seal what follows from
// them. Owned by the rank; thread: runner.
class StageGroup final : public TensorGroup {
 public:
  struct Options {
    int32_t max_tokens = 0;   // rows, and so sequences, of the largest step
    int64_t width = 0;        // floats of a row that is summed or gathered
    int32_t max_samples = 0;  // rows of logits
    int64_t vocab = 0;        // of the largest part
    absl::Duration timeout;   // of an exchange
  };
  // What Collective::max_bytes must be at least.
  static int64_t MaxBytes(const Options& options);
  // Both outlive this object.
  StageGroup(const Options& options, Collective& collective, Backend& backend);

  // A step begins, whose sequences `pager` has opened.
  void Begin(Epoch epoch, PlanId plan, LayerPager& pager);
  // All ranks know whom any of them lost. Like Sum and Join, it does nothing once an exchange has failed.
  absl::Status Agree();
  // The parts of all ranks, in order: F32 [rows[r], cols] of rank r, good until the next exchange. Nothing: it failed.
  std::vector<Tensor> Gather(absl::Span<const int64_t> rows, int64_t cols);
  // Of the step so far. Unavailable: another rank is gone or late. Internal: its parts are not those of this step.
  const absl::Status& status() const { return status_; }

  Tensor Part(int64_t rows, int64_t cols) override;
  void Sum(const Tensor& part, const Tensor& y, bool accumulate) override;
  void Join(const Tensor& part, const Tensor& y) override;

 private:
  // False: it failed. parts_ are then what they were.
  bool Exchange(int64_t bytes);
  void TellLost();
  void TakeLost(absl::Span<const std::byte> part);
  // No data, and status_ says why: it is not of this size.
  Tensor PartOf(int32_t rank, int64_t rows, int64_t cols);

  const Options options_;
  Collective& collective_;
  Backend& backend_;
  LayerPager* pager_ = nullptr;
  int64_t head_bytes_ = 0;  // of a part in this step
  ExchangeId next_;
  Collective::Parts parts_;
  absl::Status status_;
};

}  // namespace interlace
