// Whether a rank fits a replica.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "proto/plan/step_plan.h"

namespace interlace {

// What the coordinator's own configuration asks of every rank.
struct ReplicaTerms {
  int32_t stages = 1;
  int32_t tensor_ranks = 1;
  std::string model_digest;
  int32_t block_tokens = 16;
};

// FailedPrecondition names the first field in which `rank` disagrees with the terms or with another rank, or by which
// the stages would not hold all layers, each once and in order, or the ranks of a stage not all heads. `others`: by
// RankInfo::index.
absl::Status CheckFit(const RankInfo& rank, const ReplicaTerms& terms,
                      const std::map<int32_t, const RankInfo*>& others);

}  // namespace interlace
