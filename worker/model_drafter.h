// ModelDrafter: guesses that a rank's draft model makes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kernels/backend.h"
#include "kvstore/kv_arena.h"
#include "proto/plan/step_plan.h"
#include "worker/draft_guesses.h"
#include "worker/draft_model.h"
#include "worker/layer_pager.h"

namespace interlace {

// Before a guess the draft model has read the whole sequence. The first of a step's passes therefore computes, of each
// sequence, what was not read yet and its newest token, at most kDraftRows rows in all; who is still behind then makes
// no guess in this step. Each pass after it computes one row, the newest guess, of each sequence that wants more.
//
// Its KV of a sequence lies in blocks of an arena of its own and is good for the tokens that stand beside it: what the
// sequence has other tokens at (guesses that were wrong) is cut off, by comparing tokens, whatever attempt of the
// request it is of. It is given back when the request is released; where the arena is full, by the sequence that has
// not drafted for longest, unless it did so within the last steps: two groups of streams that take turns would throw
// each other out and never guess.
//
// Owned by ModelRunner of a rank that holds the whole model; thread: runner.
class ModelDrafter {
 public:
  // All outlive it.
  ModelDrafter(DraftModel& model, Backend& backend, LayerPager& pager, Sampler& sampler)
      : model_(model), backend_(backend), pager_(pager), guesses_(model.spec().vocab, pager, sampler) {}

  // Between LayerPager's Open and the step's first layer: the guesses become tokens of the sequences whose plan says
  // so. `logits` has room for a row of each. What fell short of the plan goes into `drafted`. False: nothing was
  // computed.
  bool Run(const StepPlan& plan, std::byte* logits, std::vector<ModelDrafted>* drafted);
  // Forgets every sequence.
  void Reset() { known_.clear(); }
  size_t sequences() const { return known_.size(); }

  static constexpr uint64_t kKeptRuns = 8;

 private:
  // What the draft model has read of one request.
  struct Known {
    std::vector<int32_t> tokens;                  // of positions 0, 1, ..: their KV is there
    std::vector<ArenaSlot> slots;                 // of its blocks
    std::vector<std::vector<std::byte*>> blocks;  // [layers][slots.size()]
    uint64_t drafted_in = 0;                      // run_ when it drafted last
  };
  // A sequence of the plan that is to guess or read.
  struct Asked {
    size_t sequence = 0;  // of the plan
    Known* known = nullptr;
    int32_t rows = 0;      // of the pass
    bool guesses = false;  // it has read all; makes guesses until its plan's depth
    int32_t made = 0;
    bool room = true;
  };
  class Kv;

  // Those that the plan asks for, first the ones that are to guess, and the rows of each in the first pass.
  void Gather(const StepPlan& plan);
  // Rows that it computes next; 0: there is no room for it.
  void Admit(const PlanSequence& planned, int32_t left, Asked* asked);
  size_t BlocksOf(size_t positions) const {
    return (positions + model_.shape.block_tokens - 1) / model_.shape.block_tokens;
  }
  // The first so many of its blocks; the others are free.
  static void KeepBlocks(Known* known, size_t count);
  // Blocks for `positions`; false: there are none.
  bool Reserve(Known* known, int32_t positions);
  bool GiveWay();
  // Computes the next `rows` of each of asked_, and makes the guesses behind them.
  void Pass(const StepPlan& plan, std::byte* logits);

  DraftModel& model_;
  Backend& backend_;
  LayerPager& pager_;
  DraftGuesses guesses_;
  absl::flat_hash_map<RequestId, std::unique_ptr<Known>> known_;
  uint64_t run_ = 0;  // runs that some sequence drafted in
  std::vector<Asked> asked_;
  // Of a pass.
  std::vector<int32_t> tokens_, positions_, last_rows_;
  std::vector<DraftRow> places_;
};

}  // namespace interlace
