// TappedBackend: a backend that can time its ops and show logits, and costs nothing while it does neither.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "kernels/backend.h"

namespace interlace {

enum class OpKind : uint8_t {
  kEmbedding,
  kRmsNorm,
  kRope,
  kLinear,
  kGatedLinear,
  kGate,
  kKvAppend,
  kPagedAttention,
  kSample,
  kResidualAdd,
  kSoftCap,
  kMoeRoute,
  kMoeFfn,
};
inline constexpr int kOpKinds = 13;
absl::string_view OpKindName(OpKind kind);

struct OpCall {
  OpKind kind;
  absl::Duration time;
};

// Forwards to the backend of the table of backends. Owned by the Rank that made it; thread: the one that runs steps.
// The trap: only ops called on the thread that called Time or WatchLogits are seen.
class TappedBackend final : public Backend {
 public:
  // A MakeBackend, for Rank::Create.
  static absl::StatusOr<std::unique_ptr<Backend>> Make(const BackendOptions& options);

  // From now on each op's time is added to `calls`, in order; until Off.
  void Time(Clock& clock, std::vector<OpCall>* calls);
  // From now on `watch` sees the logits of each sample op, before it runs; until Off.
  void WatchLogits(std::function<void(const Tensor&)> watch);
  void Off();

  absl::string_view name() const override { return inner_->name(); }
  const OpTable& ops() const override { return table_; }
  OpContext context() override { return inner_->context(); }
  absl::Status Synchronize() override { return inner_->Synchronize(); }
  int threads() const override { return inner_->threads(); }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(int64_t bytes) override { return inner_->Allocate(bytes); }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateDevice(int64_t bytes) override {
    return inner_->AllocateDevice(bytes);
  }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateHost(int64_t bytes) override {
    return inner_->AllocateHost(bytes);
  }
  DeviceCopies& copies() override { return inner_->copies(); }

 private:
  friend struct OpTap;
  explicit TappedBackend(std::unique_ptr<Backend> inner);

  const std::unique_ptr<Backend> inner_;
  OpTable table_;
  Clock* clock_ = nullptr;
  std::vector<OpCall>* calls_ = nullptr;
  std::function<void(const Tensor&)> watch_;
};

}  // namespace interlace
