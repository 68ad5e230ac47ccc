// LayerPager: (layer, block) -> device slot, for the layer at hand and the next ones.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
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

// A row of a draft pass: the sequence's index into the plan's, and the row's position.
struct DraftRow {
  size_t sequence = 0;
  int32_t position = 0;
};

// K and V of the rows begin, begin + 1, .. of a step: F32 [rows, kv_heads * head_dim].
struct KvRows {
  int64_t begin = 0;
  Tensor k, v;
};

// Does with KV what a plan says. Of a step: Open takes the plan's changes; for each layer, Begin starts the reads of
// blocks that are on the host alone, for this layer and, as far as slots are spare, for all behind it, so that the link
// is never idle while a later layer of the step needs it; Attend appends, waits for the reads, attends; End seals what
// the plan names; EndLayers starts the reads of the plan that follows, where it is known, so that the link is not idle
// while the head is computed and between two steps either; Close ends the step.
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
    const LoraSet* adapters = nullptr;     // that openings may name; outlives the pager
  };
  LayerPager(const Options& options, Backend& backend, KvPool& pool, Clock& clock);
  ~LayerPager() override;

  void Open(const StepPlan& plan, const Refusals& refused);
  void Begin(LayerId layer);
  void Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override {
    AttendRows(layer, 0, q, {{0, k, v}}, out);
  }
  // Likewise for a part of the step's rows: q and out are those of the rows begin, begin + 1, .., which may be none,
  // and `all` has K and V of these, or of every row of the step where others of the stage compute rows too.
  void AttendRows(LayerId layer, int64_t begin, const Tensor& q, absl::Span<const KvRows> all, const Tensor& out);
  void End(LayerId layer);
  // Of a draft pass, before the step's first layer: appends k and v, one row for each of `rows`, to the sequences'
  // tails and attends. Nothing is read and nothing sealed; rows of sequences that are lost, or whose KV of the layer is
  // not all on the device, are left alone.
  void AttendDraft(LayerId layer, absl::Span<const DraftRow> rows, const Tensor& q, const Tensor& k, const Tensor& v,
                   const Tensor& out);
  // The layers are done: sequences that are not lost advance. Then blocks that `next` (null: not known) will read come
  // in, from its first layer on, into slots that neither its moves nor its new blocks need. The next plan that is
  // opened is `next`, unless Reset comes first.
  void EndLayers(const StepPlan* next);
  // Ends the step; if the result's status is an error, nothing of it counts. Losses, traffic, answers and usage go into
  // the result. Reads for the next plan are traffic of this step: it is now that they use the link.
  void Close(StepResult* result);
  // What the pager itself took of the last step, without waiting for copies.
  absl::Duration own_time() const { return own_time_; }
  // Answers and usage, for a rank that runs no plan.
  void Report(StepResult* result);

  // A sequence that an earlier stage lost. By index into the plan's sequences, here and below.
  void MarkLost(size_t index);
  bool IsLost(size_t index) const { return running_[index].lost; }
  size_t running() const { return running_.size(); }
  // Of the sequence as the plan says it; tokens reach from position 0 to the step's last. Good until the next Open.
  const SequenceKv& sequence(size_t index) const { return *running_[index].kv; }
  // All that the sequence sees in the layer lies on the device.
  bool OnDevice(size_t index, LayerId layer) const { return running_[index].kv->pointers.absent(Local(layer)) == 0; }
  // The guess that the sequence made for one of the step's positions.
  void NoteDraft(size_t index, int32_t position, int32_t token) { running_[index].kv->SetToken(position, token); }
  void NoteSample(size_t index, int32_t token) { running_[index].kv->last_sample = token; }
  // Of a sequence that pools, for whoever adds to it.
  std::vector<double>& hidden_sum(size_t index) { return running_[index].kv->hidden_sum; }
  // Of a sequence that wants a key, likewise.
  KeySum& key_sum(size_t index) { return running_[index].kv->key; }
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
  using BlockSet = absl::flat_hash_set<BlockId>;
  struct Running {  // a sequence of the present step
    SequenceKv* kv;
    int32_t start;
    int64_t row;  // of its first token in the step
    int64_t rows;
    int32_t seal_to;                 // blocks that are sealed after the step
    const SkipPlan* skip = nullptr;  // what its rows pass over; null: nothing
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

  // Counts, while it lives, what passes as the pager's own time.
  class OwnTime {
   public:
    explicit OwnTime(LayerPager& pager) : pager_(pager), begin_(pager.clock_.Now()), waited_(pager.pool_.waited()) {}
    ~OwnTime() { pager_.own_time_ += pager_.clock_.Now() - begin_ - (pager_.pool_.waited() - waited_); }

   private:
    LayerPager& pager_;
    const absl::Time begin_;
    const absl::Duration waited_;
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
  // Rows from `start` on see nothing of blocks that lie wholly behind a layer's window.
  void SeeFrom(SequenceKv& kv, int32_t start);
  void FindActive();
  void Attention(LayerId layer, absl::Span<const SequenceRows> rows, const Tensor& q, const Tensor& out);
  void FillRows(LayerId layer);
  // What the rows begin .. begin + count - 1 of the step are of rows_, counted from `begin`. Good until the next call.
  absl::Span<const SequenceRows> CutRows(int64_t begin, int64_t count);
  // False: its rows pass the layer's attention over, so that nothing of its KV there is read.
  bool Attends(const Running& running, LayerId layer) const {
    return running.skip == nullptr || running.skip->RunsAttention(layer, layers());
  }
  int32_t layers() const { return static_cast<int32_t>(options_.attention.size()); }  // of the model

  // Holds blocks [held, seal_to) of the sequence in the pool.
  void HoldNamed(SequenceKv& kv, int32_t seal_to);
  // False: a block has nowhere to go in this layer; *copied counts those that go to the host.
  bool SealLayer(SequenceKv& kv, int32_t layer, int32_t seal_to, int32_t* copied);
  // Blocks of all layers are sealed.
  void Share(SequenceKv& kv, int32_t seal_to);

  // Starts reads of what the sequence needs in the layer, but for blocks in `moved`, while more than `reserved` slots
  // are free. False: there are no more.
  bool ReadAhead(const SequenceKv& kv, LayerId layer, int32_t reserved, const BlockSet& moved);
  void ReadForNext(const StepPlan& next);
  // What the layer's turn needs is asked for; then it is waited for.
  void TakeTurn(LayerId layer);
  void AwaitTurn(LayerId layer);
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
  // Sequences with blocks that are not on the device, or may be there for a turn alone; indices of running_, as below.
  std::vector<size_t> reading_;
  std::vector<size_t> growing_;  // that need new slots
  std::vector<size_t> sealing_;  // that seal blocks
  std::vector<SequenceRows> rows_, cut_;
  std::vector<int32_t> tokens_;  // of the sequence being opened
  Epoch epoch_{};
  PlanId plan_{};
  bool holds_turns_ = false;  // since the step before: a block that is here may yet leave before its layer comes
  int32_t read_ahead_ = 0;    // reads of the layers before this one were started
  int32_t new_blocks_ = 0;    // that the step begins, in each layer
  bool any_lost_ = false;
  std::vector<LostSequence> lost_;
  std::vector<LayerTraffic> traffic_;
  absl::flat_hash_map<std::pair<RequestId, LayerId>, size_t> traffic_of_;
  absl::Duration waited_before_;  // of the pool, when the step began
  absl::Duration own_time_;

  CopyStats reported_copies_;
  TierStats reported_tiers_;
  std::vector<TierUse> reported_usage_;
};

}  // namespace interlace
