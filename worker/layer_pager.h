// LayerPager: (layer, block) -> device slot, for the layer at hand and the next ones.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/clock.h"
#include "kernels/backend.h"
#include "kernels/paged_attention/kv_block.h"
#include "kvstore/kv_pool.h"
#include "model/layer_kv.h"
#include "model/model_spec.h"
#include "model/shard_spec.h"
#include "proto/plan/step_plan.h"
#include "worker/sequence_kv.h"

namespace interlace {

// What a rank refuses of a plan: by index of the sequence, why.
using Refusals = absl::flat_hash_map<size_t, std::string>;

// Does with KV what a plan says. Of a step: Open takes the plan's changes; for each layer, Begin starts the reads of
// blocks that are on the host alone, for this layer and, as far as slots are spare, for all behind it, so that the link
// is never idle while a later layer of the step needs it; Attend appends, waits for the reads, attends; End seals what
// the plan names; Close ends the step.
//
// Sequences whose blocks are all on the device cost a few words per layer: addresses lie ready in arrays that change
// when a block moves, and a counter says whether any is missing. Nothing waits for the device's ops. Owned by
// ModelRunner; thread: runner.
class LayerPager final : public LayerKv {
 public:
  struct Options {
    ShardSpec shard;
    KvBlockShape shape;
    int32_t heads = 0;
    std::vector<AttentionSpec> attention;  // [layers of the model]
  };
  LayerPager(const Options& options, Backend& backend, KvPool& pool, Clock& clock);
  ~LayerPager() override;

  void Open(const StepPlan& plan, const Refusals& refused);
  void Begin(LayerId layer);
  void Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override;
  void End(LayerId layer);
  // Ends the step: sequences that are not lost advance, unless the result's status is an error. Losses, traffic,
  // answers and usage go into the result.
  void Close(StepResult* result);
  // Answers and usage, for a rank that runs no plan.
  void Report(StepResult* result);

  // A sequence that an earlier stage lost. By index into the plan's sequences, here and below.
  void MarkLost(size_t index);
  bool IsLost(size_t index) const { return running_[index].lost; }
  size_t running() const { return running_.size(); }
  // Of the sequence as the plan says it; tokens reach from position 0 to the step's last. Good until the next Open.
  const SequenceKv& sequence(size_t index) const { return *running_[index].kv; }
  void NoteSample(size_t index, int32_t token) { running_[index].kv->last_sample = token; }
  // Between steps, on the first of several stages: what the last one sampled in `plan` for an attempt of a request.
  void NoteReturned(PlanId plan, RequestId request, uint32_t attempt, int32_t token);
  // The newest plan whose samples this stage must know before it opens `plan`; 0: none.
  PlanId AwaitedSamples(const StepPlan& plan);

  // Forgets every request and every block (a new epoch).
  void Reset();
  size_t sequences() const { return sequences_.size(); }
  KvPool& pool() { return pool_; }
  const KvPool& pool() const { return pool_; }

 private:
  struct Running {  // a sequence of the present step
    SequenceKv* kv;
    int32_t start;
    int64_t row;  // of its first token in the step
    int64_t rows;
    int32_t seal_to;  // blocks that are sealed after the step
    bool lost = false;
  };
  struct Active {  // one that is not lost, as attention needs it
    int64_t row;
    int64_t rows;
    int32_t start;
    int32_t blocks;
    std::byte* const* addresses;  // of the rank's first layer
    size_t stride;                // to the next layer's
  };

  int32_t Local(LayerId layer) const { return Value(layer) - options_.shard.layer_begin; }
  SequenceKv* Find(RequestId request);  // null: unknown
  void Release(const interlace::Release& release);
  void Forget(RequestId request);
  void Change(SequenceKv& kv, const std::optional<LayerSet>& kept, const std::optional<SealedNames>& names,
              int32_t computed);
  void Move(const BlockMove& move);
  void OpenSequence(const PlanSequence& planned, int64_t row, const std::string* refusal);
  // It goes on with the token that it sampled last, and there is none: it was lost where it samples, or its logits held
  // nothing finite.
  bool SampledNothing(const SequenceKv& kv, const PlanSequence& planned) const;
  // Why the sequence cannot continue as the plan says; empty: it can.
  std::string Continue(SequenceKv& kv, const PlanSequence& planned, bool fresh);
  void Adopt(SequenceKv& kv, const Opening& opening);
  // Loses the sequence if a block that it will read has no place.
  void CheckAdopted(Running& running);
  // Sorts the sequence into the step's lists.
  void Prepare(size_t index);
  void FindActive();
  void FillRows(LayerId layer);

  // Holds blocks [held, seal_to) of the sequence in the pool.
  void HoldNamed(SequenceKv& kv, int32_t seal_to);
  // False: a block has nowhere to go in this layer; *copied counts those that go to the host.
  bool SealLayer(SequenceKv& kv, int32_t layer, int32_t seal_to, int32_t* copied);
  // Blocks of all layers are sealed.
  void Share(SequenceKv& kv, int32_t seal_to);

  // Starts the layer's reads while more than `reserved` slots are free. False: there are no more.
  bool ReadAhead(LayerId layer, int32_t reserved);
  void ReadNow(LayerId layer, Running& running);
  void AwaitReads(LayerId layer, Running& running);
  void TakeTail(LayerId layer);
  void Lose(Running& running, LayerId layer, int32_t block, LossCause cause, std::string detail);
  LayerTraffic& TrafficOf(RequestId request, LayerId layer);

  const Options options_;
  const std::vector<int32_t> windowed_;  // layers of the rank, from its first, that have a window
  Backend& backend_;
  KvPool& pool_;
  Clock& clock_;

  absl::flat_hash_map<RequestId, std::unique_ptr<SequenceKv>> sequences_;
  // Of the present step.
  std::vector<Running> running_;
  std::vector<Active> active_;
  std::vector<size_t> reading_;  // sequences with blocks that are not on the device; indices of running_, as below
  std::vector<size_t> growing_;  // that need new slots
  std::vector<size_t> sealing_;  // that seal blocks
  std::vector<SequenceRows> rows_;
  std::vector<int32_t> tokens_;  // of the sequence being opened
  PlanId plan_{};
  int32_t read_ahead_ = 0;  // reads of the layers before this one were started
  int32_t new_blocks_ = 0;  // that the step begins, in each layer
  bool any_lost_ = false;
  std::vector<LostSequence> lost_;
  std::vector<LayerTraffic> traffic_;
  absl::flat_hash_map<std::pair<RequestId, LayerId>, size_t> traffic_of_;
  absl::Duration stall_;

  CopyStats reported_copies_;
  TierStats reported_tiers_;
  std::vector<TierUse> reported_usage_;
};

}  // namespace interlace
