// BenchEngine: a rank that holds a whole model, driven by plans of our own making: what benchmarks time.
#pragma once

#include <memory>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "cli/bench_ops.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/fault.h"
#include "worker/rank.h"

namespace interlace {

// What a step must read and compute at least, by the file's own sizes.
struct ModelWork {
  int64_t file_bytes = 0;  // all tensors
  double layer_bytes = 0;  // weights of all layers
  double head_bytes = 0;   // weights of the output head
  double kv_bytes = 0;     // of one token in one layer
  double layer_int8 = 0;   // operations a token with quantised weights: 8-bit products
  double layer_float = 0;  // the same with float weights
  double head_int8 = 0;
  double head_float = 0;
  double attention = 0;          // operations of a query and a position that it sees, in one layer
  std::vector<int32_t> windows;  // of each layer; 0: all positions are seen
};
// An amount of work.
struct Work {
  double bytes = 0;  // read from memory
  double int8_ops = 0;
  double float_ops = 0;
  double tokens = 0;  // that count as the result
  int steps = 0;
};

// Sequences of random tokens; all layers kept. Owned by the command; thread: one, which runs the steps.
// The trap: sequences that Decode filled stay on the device, so that a later round starts at once; the arena must hold
// those of all cases.
class BenchEngine {
 public:
  struct Options {
    Config config;          // model.path, engine.*, kv.block_tokens, sched.chunk_tokens and sched.step_tokens count
    int64_t kv_tokens = 0;  // of all sequences at once, padding to blocks not counted
    int32_t sequences = 1;  // at once
  };
  static absl::StatusOr<std::unique_ptr<BenchEngine>> Create(const Options& options, Clock& clock, FaultPoints& faults,
                                                             absl::FunctionRef<void(int64_t, int64_t)> progress);

  // The time to compute `batch` prompts of `tokens` tokens each, chunk by chunk, and sample after the last of each.
  absl::StatusOr<absl::Duration> Prefill(int32_t batch, int32_t tokens);
  // The time of `steps` steps that each compute one token of `batch` sequences and sample; the first stands at position
  // `context`. Sequences are filled up to there first, if they are not; that is not timed.
  absl::StatusOr<absl::Duration> Decode(int32_t batch, int32_t context, int32_t steps);
  // Feeds tokens of the caller's choice: sequence i gets `parts[i]` from `starts[i]` on; a sequence whose part is
  // empty rests. Samples after each part if `sample`.
  absl::StatusOr<std::vector<SampledToken>> Feed(const std::vector<std::vector<int32_t>>& parts,
                                                 const std::vector<int32_t>& starts, bool sample);
  // Forgets every sequence.
  void Reset() {
    rank_->runner().Reset();
    known_.clear();
  }

  Work PrefillWork(int32_t batch, int32_t tokens) const;
  Work DecodeWork(int32_t batch, int32_t context, int32_t steps) const;
  TappedBackend& backend() { return static_cast<TappedBackend&>(rank_->backend()); }
  const ModelSpec& spec() const { return rank_->spec(); }
  const ModelWork& work() const { return work_; }
  // Times of the steps of the last Prefill or Decode.
  const std::vector<absl::Duration>& step_times() const { return step_times_; }

 private:
  struct Sequence {
    uint64_t id = 0;
    int32_t done = 0;
  };
  BenchEngine(const Options& options, Clock& clock) : options_(options), clock_(clock) {}
  PlanSequence Part(const Sequence& sequence, int32_t count, bool sample);
  // Computes every sequence up to `tokens`, in the steps that the scheduler would make; samples after the last if
  // `sample`.
  absl::StatusOr<absl::Duration> Fill(std::vector<Sequence>& sequences, int32_t tokens, bool sample);
  // Positions that layers read, summed over them: by a row at the end of `positions`, and by the rows of one prompt.
  double SeenBy(double positions) const;
  double SeenByPrompt(int32_t tokens) const;
  double ReadByChunks(int32_t tokens) const;  // each chunk of a prompt reads a position once
  absl::StatusOr<StepResult> Execute(std::vector<PlanSequence> sequences, absl::Duration* time);

  const Options options_;
  Clock& clock_;
  ModelWork work_;
  std::unique_ptr<Rank> rank_;
  uint64_t plans_ = 0;
  std::vector<Release> releases_;
  absl::flat_hash_set<RequestId> known_;  // that the rank knows
  std::vector<std::pair<std::pair<int32_t, int32_t>, std::vector<Sequence>>> filled_;  // by (batch, context)
  uint64_t sequences_ = 0;
  std::vector<absl::Duration> step_times_;
};

}  // namespace interlace
