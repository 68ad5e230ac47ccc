// Rank: one shard of a model, ready to execute plans; the composition that worker and `interlace run` share.
#pragma once

#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/fault.h"
#include "common/transport.h"
#include "kernels/backend.h"
#include "kvstore/frame_store.h"
#include "kvstore/kv_arena.h"
#include "kvstore/kv_pool.h"
#include "model/checkpoint.h"
#include "model/lora.h"
#include "proto/plan/step_plan.h"
#include "worker/activation_channel.h"
#include "worker/adapter_loader.h"
#include "worker/draft_model.h"
#include "worker/model_runner.h"
#include "worker/stage_group.h"

namespace interlace {

// What kv.dtype says. InvalidArgument lists what is known.
absl::StatusOr<DType> ParseKvDType(absl::string_view name);

// Owned by main. Thread: created and destroyed on one, runner() used by one. The trap: everything that the constructor
// takes by reference outlives it.
class Rank {
 public:
  // Loads only the stage's layers. `transport` may be null with one stage and no remote tier.
  // Errors name the field of the configuration to change. `make_backend` null: engine.backend of the table of backends.
  static absl::StatusOr<std::unique_ptr<Rank>> Create(const Config& config, uint64_t incarnation, Clock& clock,
                                                      FaultPoints& faults, Transport* transport,
                                                      absl::FunctionRef<void(int64_t, int64_t)> progress,
                                                      MakeBackend make_backend = nullptr);
  const RankInfo& info() const { return info_; }
  const ModelSpec& spec() const { return checkpoint_->spec(); }
  ModelRunner& runner() { return *runner_; }
  ActivationChannel* activations() { return activations_.get(); }
  // An epoch begins: where the next stage is, and, for the last one, the first, and the ranks that share this stage's
  // layers. Called where the runner is used; the next three by any thread.
  absl::Status Connect(absl::string_view next_stage_address, absl::string_view first_stage_address,
                       absl::Span<const std::string> collective_addresses, Epoch epoch);
  // Ends waits for other ranks: of every epoch below `epoch` for good, or of any until Resume.
  void Interrupt(Epoch epoch);
  void Interrupt();
  void Resume();
  const KvArena& arena() const { return *arena_; }
  const FrameStore& frames() const { return *frames_; }
  KvPool& pool() { return *pool_; }
  AdapterLoader& adapter_loader() { return *adapter_loader_; }
  Backend& backend() { return *backend_; }

 private:
  Rank() = default;
  absl::Status LoadAdapters(const Config& config, const ShardSpec& shard);
  // `setting` says how many ranks share the stage.
  absl::Status MakeGroup(absl::string_view setting, int32_t rank, int32_t ranks, const StageGroup::Options& options,
                         Clock& clock);

  RankInfo info_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<KvArena> arena_;
  std::unique_ptr<FrameStore> frames_;
  std::unique_ptr<KvPool> pool_;
  std::unique_ptr<ActivationChannel> activations_;
  std::unique_ptr<Collective> collective_;
  std::unique_ptr<StageGroup> group_;
  std::unique_ptr<LoraSet> adapters_;
  std::unique_ptr<AdapterLoader> adapter_loader_;
  std::unique_ptr<DraftModel> draft_model_;  // null: there is none
  std::unique_ptr<ModelRunner> runner_;
};

}  // namespace interlace
