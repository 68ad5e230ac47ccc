// StepPlan and StepResult: what the scheduler tells the ranks, and what they answer. Values: printable, comparable,
// replayable. A rank needs nothing else to execute a step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/ids.h"
#include "kvstore/residency_plan.h"
#include "proto/plan/sampling.h"

namespace interlace {

// One request's share of a step: the ranks compute positions start .. start + tokens.size() - 1. There is no prefill
// and no decode: a position catches up with its tokens. A start below what a rank has computed is a rollback: KV from
// there on is computed again.
struct PlanSequence {
  RequestId request{};
  uint32_t attempt = 0;     // of the request; results of older attempts are dropped
  Generation generation{};  // of this attempt's KV keys
  int32_t start = 0;
  std::vector<int32_t> tokens;
  bool sample = false;       // the last position's logits choose the next token
  int32_t sample_index = 0;  // of that token in the output
  Sampling sampling;         // where sample is set
  LayerResidencyPlan residency;
  std::string salt;  // of the tenant; seeds the chain of block hashes
  friend bool operator==(const PlanSequence&, const PlanSequence&) = default;
};

// A request that does not run in this step and whose layers move all the same, to make room for one that does.
struct ResidencyChange {
  RequestId request{};
  LayerResidencyPlan residency;
  friend bool operator==(const ResidencyChange&, const ResidencyChange&) = default;
};

struct StepPlan {
  Epoch epoch{};
  PlanId id{};
  std::vector<PlanSequence> sequences;
  std::vector<RequestId> releases;                      // forgotten before the sequences run
  std::vector<ResidencyChange> residency;               // applied before the sequences run
  absl::Duration remaining = absl::InfiniteDuration();  // until the tightest deadline of the step
  int32_t tokens() const;
  std::string ToString() const;
  friend bool operator==(const StepPlan&, const StepPlan&) = default;
};

struct SampledToken {
  RequestId request{};
  uint32_t attempt = 0;
  int32_t index = 0;
  int32_t token = -1;              // -1: the logits held no finite value
  std::vector<TokenScore> scores;  // of the token itself, then of the most likely; empty if the plan asks for none
  friend bool operator==(const SampledToken&, const SampledToken&) = default;
};

enum class LossCause : uint8_t { kMissing, kCorrupt, kLate, kNoSlot };
absl::string_view LossCauseName(LossCause cause);

// A block that a layer needed and could not have: the request's step counts for nothing, its position goes back to the
// start of the block.
struct LostBlock {
  RequestId request{};
  uint32_t attempt = 0;
  LayerId layer{};
  int32_t block = 0;
  LossCause cause{};
  std::string detail;
  friend bool operator==(const LostBlock&, const LostBlock&) = default;
};

// What one layer of one request did in a step, and where its blocks are after it.
struct LayerUse {
  RequestId request{};
  LayerId layer{};
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  int64_t stall_us = 0;
  int32_t blocks_device = 0;
  std::vector<int32_t> blocks_tier;  // per tier of the rank
  friend bool operator==(const LayerUse&, const LayerUse&) = default;
};

struct TierUse {
  int64_t blocks = 0;
  int64_t bytes = 0;
  int64_t capacity_bytes = 0;
  friend bool operator==(const TierUse&, const TierUse&) = default;
};

struct StepResult {
  Epoch epoch{};
  PlanId plan{};  // 0: of no plan, an idle rank says what it holds
  StageId stage{};
  absl::Status status;                // not OK: the rank cannot go on
  std::vector<SampledToken> sampled;  // last stage only
  std::vector<LostBlock> lost;        // the first of each request on this stage
  std::vector<LayerUse> layers;
  int32_t arena_used = 0;  // slots, after the step
  std::vector<TierUse> tiers;
  int64_t run_us = 0;
  int64_t stall_us = 0;        // of run_us, waiting for KV
  int64_t transfer_in_us = 0;  // transfer busy time since the last result
  int64_t transfer_out_us = 0;
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  int32_t corrupt = 0;
  int32_t missing = 0;
  std::string ToString() const;
  friend bool operator==(const StepResult&, const StepResult&) = default;
};

// What a rank says of itself when it registers.
struct RankInfo {
  StageId stage{};
  int32_t stages = 1;
  uint64_t incarnation = 0;
  std::string model_digest;
  int32_t layers = 0;  // of the model
  int32_t layer_begin = 0;
  int32_t layer_end = 0;
  int32_t block_tokens = 0;
  int32_t arena_slots = 0;
  int64_t slot_bytes = 0;
  int64_t tier_bytes = 0;  // capacity below the device
  std::string transport_address;
  std::vector<std::string> tiers;
  friend bool operator==(const RankInfo&, const RankInfo&) = default;
};

}  // namespace interlace
