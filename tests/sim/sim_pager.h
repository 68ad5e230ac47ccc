// SimPager: the LayerPager and the layers of a simulated rank.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "proto/plan/step_plan.h"
#include "tests/sim/sim_pool.h"

namespace interlace::sim {

// One attempt of a request on one rank; see worker/sequence_kv.h. Layers count from the rank's first.
struct SimSequence {
  RequestId request{};
  uint32_t attempt = 0;
  std::vector<int32_t> tokens;    // of positions [0, end); kLastSample where this rank does not know the token
  int32_t length = 0;             // positions with KV
  std::vector<BlockId> names;     // zeros: not named yet
  std::vector<SimBlock*> blocks;  // held, in order: the shared ones, then those that the present step seals
  int32_t shared = 0;
  struct Tail {
    int32_t first = 0;
    std::vector<int32_t> slots;
  };
  std::vector<Tail> tails;         // [layers]
  std::vector<int32_t> seen_from;  // [layers] blocks before it are behind the window
  LayerSet kept;
  uint64_t sampling_seed = 0;
  bool lost = false;
  int32_t last_sample = -1, sample_before = -1;
  PlanId sampled_by{};  // the last plan that samples for it; on several stages its sample comes from the last one
};

// A port of LayerPager (worker/layer_pager.h) onto SimPool and DigestModel: it takes plans in the same order, computes
// each layer out of the numbers that it reads, and reports the same losses. Owned by SimRank. Thread: the simulation's.
class SimPager {
 public:
  struct Options {
    StageId stage{};
    bool first = true, last = true;  // stage
    std::set<RequestId> refused;     // requests that this rank refuses
    Canary canary = Canary::kNone;
  };
  SimPager(const Options& options, const SimPool::Options& pool, const DigestModel& model,
           std::unique_ptr<SimPool> made, Ledger& ledger);

  // Whether the plan needs a sample that another stage has not sent yet.
  bool AwaitsSample(const StepPlan& plan) const;
  // What the last stage sampled, in the plan; sequences that should have a token there and have none are lost.
  void TakeSamples(PlanId plan, absl::Span<const SampledToken> samples);

  void Open(const StepPlan& plan, absl::Time now);
  // The rows' numbers before the stage's first layer. Requires: first stage.
  std::vector<uint64_t> Embed() const;
  void MarkLost(size_t index);
  bool IsLost(size_t index) const { return running_[index].lost; }
  // The stage's layers; `x`: one number a row.
  void RunLayers(std::vector<uint64_t>* x);
  std::vector<SampledToken> Sample(const StepPlan& plan, const std::vector<uint64_t>& x);
  void Close(StepResult* result, absl::Time now);
  // Answers, for a rank that runs no plan.
  void Report(StepResult* result, absl::Time now);
  void Reset();

  size_t sequences() const { return sequences_.size(); }
  SimPool& pool() { return *pool_; }
  const SimPool& pool() const { return *pool_; }
  // Of sequences that are known: their tails.
  int32_t tail_slots() const;

 private:
  struct Running {
    SimSequence* kv;
    const PlanSequence* planned;
    int32_t start;
    int32_t row;
    int32_t rows;
    int32_t seal_to = 0;
    bool lost = false;
  };
  int32_t layers() const { return pool_options_.layer_end - pool_options_.layer_begin; }
  int32_t block_tokens() const { return pool_options_.block_tokens; }
  int32_t BlocksOf(const SimSequence& kv) const {
    return (static_cast<int32_t>(kv.tokens.size()) + block_tokens() - 1) / block_tokens();
  }
  SimSequence* Find(RequestId request);
  void Release(const interlace::Release& release);
  void Forget(RequestId request);
  void Change(SimSequence& kv, const std::optional<LayerSet>& kept, const std::optional<SealedNames>& names,
              int32_t computed);
  void Name(SimSequence& kv, const SealedNames& names);
  int32_t Sealable(const SimSequence& kv, int32_t tokens) const;
  bool CanStart(const SimSequence& kv, int32_t start) const {
    return start <= kv.length && start >= kv.shared * block_tokens();
  }
  void Truncate(SimSequence& kv, int32_t start);
  void Move(const BlockMove& move);
  void OpenSequence(const PlanSequence& planned, int32_t row);
  std::string Continue(SimSequence& kv, const PlanSequence& planned, bool fresh);
  void SeeFrom(SimSequence& kv, int32_t start);
  void CheckAdopted(Running& running);
  void HoldNamed(SimSequence& kv, int32_t seal_to);
  bool SealLayer(SimSequence& kv, int32_t layer, int32_t seal_to);
  void TakeTail(int32_t layer, Running& running);
  void ReadAhead(int32_t layer);
  void ReadNow(int32_t layer, Running& running);
  void AwaitReads(int32_t layer, Running& running);
  void Append(int32_t layer, const Running& running, const std::vector<uint64_t>& x);
  void Attend(int32_t layer, const Running& running, std::vector<uint64_t>* x);
  void Lose(Running& running, int32_t layer, int32_t block, LossCause cause, std::string detail);
  void DropTail(SimSequence& kv);
  // What the sequence was to seal is not there; whoever adopted it meanwhile is about to miss it.
  void NeverSealed(const SimSequence& kv, const std::optional<SealedNames>& names);

  const Options options_;
  const SimPool::Options pool_options_;
  const DigestModel& model_;
  const std::unique_ptr<SimPool> pool_;
  Ledger& ledger_;
  std::map<RequestId, std::unique_ptr<SimSequence>> sequences_;
  std::vector<Running> running_;
  std::vector<LostSequence> lost_;
  std::vector<const Extent*> extents_;  // of the sequence and layer at hand
  int32_t read_ahead_ = 0;
  int32_t new_blocks_ = 0;
};

}  // namespace interlace::sim
