// Whether a rank fits a replica.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "proto/plan/step_plan.h"

namespace interlace {

// What the coordinator's own configuration asks of every rank.
struct ReplicaTerms {
  int32_t stages = 1;
  int32_t tensor_ranks = 1;
  int32_t sequence_ranks = 1;
  std::string model_digest;
  std::vector<std::string> adapters;  // RankInfo's
  int32_t block_tokens = 16;
  int32_t replicas = 1;
  bool draft_model = false;  // sched.speculate=draft-model: it must have one
};

// FailedPrecondition: its draft model is to guess, and it has none.
absl::Status CheckDraftModel(const RankInfo& rank);

// FailedPrecondition names the first field in which `rank` disagrees with the terms.
absl::Status CheckTerms(const RankInfo& rank, const ReplicaTerms& terms);

// Likewise with a rank of another replica: streams go on elsewhere when a replica is lost, to the bit, and find their
// KV there by name.
absl::Status CheckAlike(const RankInfo& rank, const RankInfo& other);

// Likewise with another rank of its replica, or by which the stages would not hold all layers, each once and in order,
// or the ranks of a stage not all heads. `others`: by RankInfo::index.
absl::Status CheckFit(const RankInfo& rank, const ReplicaTerms& terms,
                      const std::map<int32_t, const RankInfo*>& others);

}  // namespace interlace
