// A replica of one stage that exists in virtual time alone: the real Scheduler, its plans executed by arithmetic.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "bench/serve/load_record.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "coordinator/policy/policy.h"
#include "coordinator/scheduler.h"

namespace interlace {

// How fast the machine is. A step takes fixed + row x rows + row_beyond x (rows beyond kKnee) + context x (KV positions
// read) + product x (query and key pairs) + moved x (bytes over the link meanwhile, both ways), and no less than the
// link needs for what the plan reads from the host.
struct MachineLaw {
  static constexpr int64_t kKnee = 32;  // rows up to which weights are read faster than they are used
  double fixed = 4.6e-3;                // seconds: the weights are read
  double row = 0.3e-3;
  double context = 23e3 / 19e9;
  double product = 0.23e-6;
  double link = 2e9;  // bytes/s, each way
  double row_beyond = 0;
  double moved = 0;       // seconds a byte: where there is no copy engine, the cores that compute copy as well
  double unreported = 0;  // share of a step's time that it takes longer than the replica says
  double noise = 0;       // of a step's time: the standard deviation of its logarithm
  // Where it is set: the seconds that a plan with rows takes to compute, in place of the terms above.
  std::function<double(const StepPlan&)> of_plan;
  // Seconds that a step takes to compute while `bytes` move, waits for the link not counted; 0 for one without rows.
  double Compute(const StepWork& work, double bytes = 0) const;
};

// A tier that all replicas of a run reach; it forgets nothing. Owned by the run.
struct VirtualTier {
  double bytes_per_second = 0;                     // of each replica, each way
  absl::Duration answer = absl::Milliseconds(1);   // to a question, there and back
  absl::flat_hash_map<BlockId, absl::Time> there;  // from when on it has a block
};

struct VirtualShape {
  int32_t layers = 30;
  int32_t block_tokens = 16;
  int64_t slot_bytes = 12288;  // one block of one layer
  int32_t device_slots = 2000;
  int32_t host_frames = 1 << 20;
  VirtualTier* tier = nullptr;  // null: there is none. Outlives the replica
};

// One thing that a plan does with the blocks of one request: its sealed blocks first .. first + blocks - 1, in so many
// layers each.
struct MemoryOperation {
  absl::Duration at;    // when the plan is sent, since the run began
  std::string kind;     // a MoveKindName; "leave": sealed straight to the host; "stream": read for one turn; "release"
  int64_t request = 0;  // index in the run
  int32_t first = 0, blocks = 0, layers = 0;
};

// What crossed the link, in blocks of one layer, and how often a request came back.
struct KvTraffic {
  int64_t in = 0, out = 0;
  int64_t streamed = 0;  // of `in`: read for one turn of a layer and dropped after it
  int64_t resumed = 0;   // times that a request ran again with blocks that it had before
};

// Plans run one after another. A block that a plan reads from the host, be it for one turn or to stay, crosses the link
// while the step is computed; what does not get through in that time stalls the step. Blocks that leave occupy the way
// back, which nobody waits for. With a tier, sealed blocks leave for it layer by layer while the step is computed, and
// what is fetched arrives as its link has time, whatever is computed meanwhile. Owned by RunVirtually; thread: its own.
class VirtualReplica final : public PlanChannel {
 public:
  // `trace` may be null; it outlives this.
  VirtualReplica(const MachineLaw& law, const VirtualShape& shape, Clock& clock,
                 std::vector<MemoryOperation>* trace = nullptr)
      : law_(law), shape_(shape), clock_(clock), began_(clock.Now()), trace_(trace) {}
  void Send(const StepPlan& plan) override;
  void Reset(const absl::Status& why) override;

  RankInfo info() const;
  absl::Time next() const { return results_.empty() ? absl::InfiniteFuture() : results_.front().first; }
  StepResult Take();
  const KvTraffic& traffic() const { return traffic_; }

 private:
  struct Known {
    LayerSet kept;
    int32_t sealed = 0;
  };
  void Move(const BlockMove& move);
  void Seal(RequestId request, const SealedNames& names);
  double Noise();
  void Answer(absl::Time at, StepResult result);
  void Probe(const StepPlan& plan);
  void Offer(absl::Time began, absl::Time ended);
  void Trace(absl::string_view kind, RequestId request, int32_t first, int32_t blocks, int32_t layers);

  const MachineLaw law_;
  const VirtualShape shape_;
  Clock& clock_;
  const absl::Time began_;
  std::vector<MemoryOperation>* const trace_;
  absl::flat_hash_map<BlockId, std::pair<RequestId, int32_t>> sealed_by_;  // kept for the trace alone
  absl::flat_hash_set<RequestId> opened_;
  KvTraffic traffic_;
  absl::flat_hash_map<RequestId, Known> known_;
  std::deque<std::pair<absl::Time, StepResult>> results_;  // by time
  absl::Time free_ = absl::InfinitePast();                 // when the last plan ends
  std::vector<BlockId> leaving_;                           // sealed by the plan at hand, for the tier
  std::vector<FetchAnswer> fetched_;                       // by the plan at hand
  absl::Time tier_out_ = absl::InfinitePast(), tier_in_ = absl::InfinitePast();  // when its link is free again
  const std::unique_ptr<Entropy> entropy_ = MakeSeededEntropy(1);
};

struct VirtualRun {
  Scheduler::Options options;
  const Policy* policy = nullptr;
  MachineLaw law;
  VirtualShape shape;
  std::vector<MemoryOperation>* trace = nullptr;  // null: not written down
};
struct VirtualOutcome {
  LoadRun run;
  double parks = 0;
  double stall = 0;  // seconds that steps waited for the link
  KvTraffic traffic;
};
// The requests' prompts are expected_prompt_tokens of their own, their answers max_tokens long. Ends when all have
// ended.
VirtualOutcome RunVirtually(const VirtualRun& setup, absl::Span<const PlannedRequest> requests);

}  // namespace interlace
