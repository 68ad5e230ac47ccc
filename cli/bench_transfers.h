// TransferBench: how much of the KV traffic between device and host a rank hides behind its computing.
#pragma once

#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/fault.h"
#include "worker/rank.h"

namespace interlace {

// Of a prompt whose layers all go to the host, beside the same one whose layers all stay.
struct WriteBack {
  absl::Duration stays;   // to the first token
  absl::Duration leaves;  // likewise
  absl::Duration left;    // from there until the last byte is out
  int64_t bytes = 0;      // that leave
  int64_t read_back = 0;  // bytes that later chunks of the prompt read again
  absl::Duration stall;   // of `leaves`, waiting for these
  // 1 - slowdown / transfer, of all that passes over the link: 1 if the first token is no later, 0 if it waits for all
  // of the transfer.
  double Hidden(double bytes_per_second) const;
};

// Of decode steps of streams with `host` of their layers on the host.
struct HostStep {
  int32_t host = 0;
  absl::Duration step;
  absl::Duration stall;     // of it, as the rank reports it: waiting for copies
  int64_t bytes_in = 0;     // that a step reads
  absl::Duration resident;  // a step of the same round with all layers on the device
  absl::Duration pager;     // of the step, beyond what the resident one has: the rank's own work for these reads
  // What is left of the step: its ops took so much longer than the resident one's, beside copies that use the same
  // memory and caches.
  absl::Duration Slower() const { return step - resident - stall - pager; }
};

// A rank that holds a whole model, its link to the host slowed down to kv.link_bytes, driven by plans of our own
// making. Owned by the command; thread: one.
class TransferBench {
 public:
  struct Options {
    Config config;          // model.path, engine.*, kv.block_tokens, kv.dtype, kv.link_bytes, sched.chunk_tokens count
    int32_t prompt = 1024;  // tokens of the prompt that leaves
    int32_t streams = 8;    // that decode
    int32_t context = 512;  // positions before them; whole blocks
  };
  static absl::StatusOr<std::unique_ptr<TransferBench>> Create(const Options& options, Clock& clock,
                                                               FaultPoints& faults,
                                                               absl::FunctionRef<void(int64_t, int64_t)> progress);

  // The prompt in chunks of so many tokens.
  absl::StatusOr<WriteBack> Prefill(int32_t chunk);
  // Some steps with as many layers on the host. The streams are filled at the first call.
  absl::StatusOr<HostStep> Decode(int32_t host);
  int32_t layers() const { return rank_->spec().layers; }
  // How many layers of all streams a step of that length hides: step x link / (streams x context x bytes of a token).
  double HiddenLayers(absl::Duration step) const;

 private:
  struct Stream {
    RequestId request{};
    std::vector<BlockId> blocks;
    int32_t done = 0;
  };
  TransferBench(const Options& options, Clock& clock) : options_(options), clock_(clock) {}
  Stream Open();
  PlanSequence Part(Stream& stream, int32_t count, LayerSet kept);
  struct Filled {
    absl::Duration time, stall;
    int64_t read_back = 0;
  };
  absl::StatusOr<Filled> Fill(Stream& stream, int32_t tokens, int32_t chunk, LayerSet kept);
  // Moves the layers' blocks of all streams so that exactly `host` of them lie on the host alone.
  absl::Status Place(int32_t host);
  // Ends the stream and frees its blocks; returns when copies of them are done.
  absl::StatusOr<absl::Duration> Forget(const Stream& stream);
  // One token of each stream that decodes.
  StepPlan NextStep();
  // `next`: the plan that follows, where it is known, as it is in a rank's queue.
  absl::StatusOr<StepResult> Execute(const StepPlan& plan, absl::Duration* time, const StepPlan* next = nullptr);
  StepPlan NewPlan() { return {.epoch = Epoch{1}, .id = PlanId{++plans_}}; }
  int32_t block_tokens() const { return static_cast<int32_t>(options_.config.kv.block_tokens); }

  const Options options_;
  Clock& clock_;
  std::unique_ptr<Rank> rank_;
  uint64_t plans_ = 0, requests_ = 0, blocks_ = 0;
  std::vector<Stream> streams_;  // that decode
  LayerSet on_host_;             // of theirs
};

}  // namespace interlace
