// A replica of one stage that exists in virtual time alone: the real Scheduler, its plans executed by arithmetic.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "bench/serve/load_record.h"
#include "common/clock.h"
#include "coordinator/policy/policy.h"
#include "coordinator/scheduler.h"

namespace interlace {

// How fast the machine is. A step takes fixed + row x rows + context x (KV positions read) + product x (query and key
// pairs), and no less than the link needs for what the plan reads from the host.
struct MachineLaw {
  double fixed = 4.6e-3;  // seconds: the weights are read
  double row = 0.3e-3;
  double context = 23e3 / 19e9;
  double product = 0.23e-6;
  double link = 2e9;  // bytes/s, each way
  // Where it is set: the seconds that a plan with rows takes to compute, in place of the terms above.
  std::function<double(const StepPlan&)> of_plan;
};

struct VirtualShape {
  int32_t layers = 30;
  int32_t block_tokens = 16;
  int64_t slot_bytes = 12288;  // one block of one layer
  int32_t device_slots = 2000;
  int32_t host_frames = 1 << 20;
};

// Plans run one after another. A block that a plan reads from the host, be it for one turn or to stay, crosses the link
// while the step is computed; what does not get through in that time stalls the step. Blocks that leave occupy the way
// back, which nobody waits for. Owned by RunVirtually; thread: its own.
class VirtualReplica final : public PlanChannel {
 public:
  VirtualReplica(const MachineLaw& law, const VirtualShape& shape, Clock& clock)
      : law_(law), shape_(shape), clock_(clock) {}
  void Send(const StepPlan& plan) override;
  void Reset(const absl::Status& why) override;

  RankInfo info() const;
  absl::Time next() const { return results_.empty() ? absl::InfiniteFuture() : results_.front().first; }
  StepResult Take();

 private:
  struct Known {
    LayerSet kept;
    int32_t sealed = 0;
  };
  const MachineLaw law_;
  const VirtualShape shape_;
  Clock& clock_;
  absl::flat_hash_map<RequestId, Known> known_;
  std::deque<std::pair<absl::Time, StepResult>> results_;
  absl::Time free_ = absl::InfinitePast();  // when the last plan ends
};

struct VirtualRun {
  Scheduler::Options options;
  const Policy* policy = nullptr;
  MachineLaw law;
  VirtualShape shape;
};
struct VirtualOutcome {
  LoadRun run;
  double parks = 0;
};
// The requests' prompts are expected_prompt_tokens of their own, their answers max_tokens long. Ends when all have
// ended.
VirtualOutcome RunVirtually(const VirtualRun& setup, absl::Span<const PlannedRequest> requests);

}  // namespace interlace
