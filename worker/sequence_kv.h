// SequenceKv: one attempt of a request on one rank: its tokens, the blocks that it holds, its unsealed tail.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "common/ids.h"
#include "kvstore/block_id.h"
#include "kvstore/block_pointers.h"
#include "kvstore/kv_arena.h"
#include "kvstore/kv_pool.h"
#include "kvstore/layer_set.h"
#include "model/lora.h"
#include "proto/plan/sampling.h"
#include "proto/plan/step_plan.h"
#include "worker/prompt_key.h"

namespace interlace {

// Its blocks in order: shared ones (sealed in every layer of the rank, held in the pool), then its own. Within a step,
// blocks that the step seals leave the tail layer by layer, and are shared when it is over. Owned by LayerPager;
// thread: runner.
class SequenceKv {
 public:
  SequenceKv(RequestId request, uint32_t attempt, int32_t layers, int32_t block_tokens)
      : request_(request), attempt_(attempt), block_tokens_(block_tokens), pointers(layers), tails_(layers) {}

  RequestId request() const { return request_; }
  uint32_t attempt() const { return attempt_; }
  int32_t length() const { return length_; }                            // positions with KV
  int32_t end() const { return static_cast<int32_t>(tokens_.size()); }  // with those of the present step
  absl::Span<const int32_t> tokens() const { return tokens_; }          // of positions [0, end())
  int32_t Blocks() const { return (end() + block_tokens_ - 1) / block_tokens_; }
  int32_t shared() const { return pointers.shared(); }

  // The tokens of the blocks that it adopts. Requires: a new sequence.
  void Adopt(absl::Span<const int32_t> tokens);
  // Forgets positions from `start` on, and gives their slots back. Requires: CanStart(start).
  void Truncate(int32_t start);
  bool CanStart(int32_t start) const { return start <= length_ && start >= shared() * block_tokens_; }
  // The step's tokens, behind position length().
  void Extend(absl::Span<const int32_t> tokens);
  // One of the step's tokens was guessed meanwhile.
  void SetToken(int32_t position, int32_t token) { tokens_.at(position) = token; }
  // The step's tokens are computed: they count from now on.
  void Commit() { length_ = end(); }

  void Name(const SealedNames& names);
  const BlockId& name(int32_t block) const { return names_[block]; }
  // How many blocks, from the first on, are named and filled by the first `tokens` tokens. At least shared().
  int32_t Sealable(int32_t tokens) const;

  // ---- the tail: slots of this layer's own blocks; layers count from the rank's first ----
  // The first block whose slot is still missing.
  int32_t TailEnd(int32_t layer) const {
    return tails_[layer].first + static_cast<int32_t>(tails_[layer].slots.size());
  }
  int32_t TailBegin(int32_t layer) const { return tails_[layer].first; }
  void PushSlot(int32_t layer, ArenaSlot slot);
  ArenaSlot TakeSlot(int32_t layer, int32_t block);  // requires: it is in the tail
  void DropTaken(int32_t layer, int32_t end);        // slots of blocks below `end` were taken
  void DropTail();                                   // the sequence is lost: its slots are free for others

 private:
  struct Tail {
    int32_t first = 0;
    std::vector<ArenaSlot> slots;
  };
  const RequestId request_;
  const uint32_t attempt_;
  const int32_t block_tokens_;

 public:
  Sampling sampling;
  std::shared_ptr<const LoraAdapter> adapter;  // null: none
  LayerSet kept;
  bool lost = false;               // nothing of it counts any more; it waits to be released
  PlanId sampled_in{};             // the plan in which it last was to sample; 0: none
  int32_t last_sample = -1;        // the token that it sampled there; -1: none, or none that this stage knows
  int32_t pooled_to = 0;           // positions whose hidden states go into the sum, from 0 on
  std::vector<double> hidden_sum;  // [width] of these; on the last stage, empty before the first
  KeySum key;
  BlockPointers pointers;
  std::vector<SharedBlock*> blocks;  // held, in order: the shared ones, then those that the present step seals

 private:
  std::vector<int32_t> tokens_;
  std::vector<BlockId> names_;  // a BlockId of zeros: not named yet
  std::vector<Tail> tails_;     // [layers]
  int32_t length_ = 0;
};

}  // namespace interlace
