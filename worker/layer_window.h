// LayerWindow: (layer, block) -> device slot, for the layer at hand and the next ones.
#pragma once

#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/clock.h"
#include "kernels/backend.h"
#include "kvstore/kv_arena.h"
#include "kvstore/transfer_engine.h"
#include "model/layer_kv.h"
#include "model/model_spec.h"
#include "model/shard_spec.h"
#include "proto/plan/step_plan.h"
#include "worker/sequence_kv.h"

namespace interlace {

// Begins, waits, appends, attends, writes back, releases. Owned by ModelRunner; thread: runner.
//
// Per layer of a step: Begin(l) starts reads for l and, where slots are spare, for the layers ahead; Attend(l) gives
// new tokens their slots, appends, waits for what is still arriving, attends; End(l) starts the write-back of sealed
// blocks of streamed layers and frees slots whose block is stored.
// The trap: a block that a tier refuses stays on the device and is tried again at the layer's next End.
class LayerWindow final : public LayerKv {
 public:
  struct Options {
    ShardSpec shard;
    KvBlockShape shape;
    int32_t heads = 0;
    std::vector<AttentionSpec> attention;  // [layers of the model]
    absl::Duration read_timeout;
    int32_t lookahead = 2;  // layers
    ChainSeed seed;         // of block hashes; salt comes with the sequence. Its strings outlive the window.
  };
  LayerWindow(const Options& options, Backend& backend, KvArena& arena, TransferEngine& transfers, Clock& clock);
  ~LayerWindow() override;

  // Takes a plan: releases, residency changes, rollbacks, new sequences. A sequence that the rank cannot continue (its
  // start lies beyond what is computed here) is lost from block 0 on.
  void Open(const StepPlan& plan);
  void Begin(LayerId layer);
  void Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override;
  void End(LayerId layer);
  // Ends the step: sequences that are not lost advance; losses, traffic and usage go into the result.
  void Close(StepResult* result);

  // Slots and tier bytes in use now, for a rank that runs no plan.
  void ReportUsage(StepResult* result);

  // A sequence that an earlier stage lost: nothing of it is kept from this step. Index into the plan's sequences.
  void MarkLost(size_t index);
  bool IsLost(size_t index) const { return running_[index].lost; }
  // All tokens of a running sequence that is not lost, from position 0 to the step's last. Valid until the next Open.
  absl::Span<const int32_t> TokensOf(size_t index) const { return running_[index].kv->tokens(); }
  size_t running() const { return running_.size(); }

  // Forgets every request (a new epoch).
  void Reset();
  // Requests known here, for tests: 0 when all were released.
  size_t sequences() const { return sequences_.size(); }

 private:
  struct Read {
    LayerId layer;
    std::vector<int32_t> blocks;
    TransferTicket ticket;
  };
  struct Running {  // a sequence of the present step
    RequestId request;
    SequenceKv* kv;
    int32_t start;
    int32_t row;  // of its first token in the step
    int32_t rows;
    bool lost = false;
    std::vector<Read> reads;
  };
  struct Write {  // of any sequence, also of one forgotten meanwhile
    RequestId request;
    Generation generation;
    LayerId layer;
    std::vector<int32_t> blocks;
    TransferTicket ticket;
    std::vector<ArenaSlot> orphans;  // slots of blocks that their sequence gave up while leaving
  };

  void OpenSequence(const PlanSequence& planned, int32_t row);
  void Forget(RequestId request);
  void GiveUpBlocks(RequestId request, SequenceKv& kv, LayerId layer, int32_t from);
  // The first block that the step's rows see in the layer; earlier ones are behind its window.
  int32_t FirstSeen(const Running& sequence, LayerId layer) const;
  void StartReads(Running& sequence, LayerId layer, bool may_wait);
  static bool Arriving(const Running& sequence, LayerId layer);
  void AwaitReads(Running& sequence, LayerId layer);
  void CancelReads(Running& sequence, Read& read);
  void CancelAllReads(Running& sequence);
  // Slots for the blocks that the sequence's new rows touch.
  bool TakeSlots(Running& sequence, LayerId layer);
  // Appends and attends for those whose blocks are all here, in one call of each op; then slots of stored blocks of
  // streamed layers make room. `ready` is empty afterwards.
  void AttendReady(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                   std::vector<Running*>* ready);
  // Starts the writes of a streamed layer's blocks below `sealed` that no tier has, and frees slots of those that one
  // has.
  void WriteBack(RequestId request, SequenceKv& kv, LayerId layer, int32_t sealed);
  // New residency between steps: blocks of layers that are streamed from now on leave at once.
  void SetResidency(RequestId request, SequenceKv& kv, const LayerResidencyPlan& residency, int32_t computed);
  void ReapWrites();
  void SettleWrite(Write& write, const std::vector<MoveResult>& results);
  // A slot, made free if need be: by waiting for a write under way, then by giving up reads ahead of `layer`.
  ArenaSlot TakeSlot(LayerId layer);
  // Frees slots of stored blocks of streamed layers, save those that `layer`, at hand, still needs.
  void FreeStored(LayerId layer);
  void Lose(Running& sequence, LayerId layer, int32_t block, LossCause cause, absl::string_view detail);

  const Options options_;
  Backend& backend_;
  KvArena& arena_;
  TransferEngine& transfers_;
  Clock& clock_;

  absl::flat_hash_map<RequestId, std::unique_ptr<SequenceKv>> sequences_;
  std::vector<Running> running_;
  std::vector<Write> writes_;
  std::vector<LostBlock> lost_;
  absl::Duration stall_;  // of the present step
  int32_t current_ = 0;   // layer at hand; blocks of layers behind it are not needed again in this step
  TransferStats reported_;
};

}  // namespace interlace
