// SequenceState: one request in the scheduler's eyes.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/ids.h"
#include "coordinator/block_pool.h"
#include "coordinator/explanation.h"
#include "coordinator/request.h"

namespace interlace {

// kWaiting: holds nothing. kRunning: holds blocks, ranks know it. kRetiring: its end is decided, a plan with it is
// still in flight (contracts.retire: never planned again; its blocks go back when the plan is back).
enum class Phase : uint8_t { kWaiting, kRunning, kRetiring };

// Owned by the Scheduler; thread: the replica's. The trap: tokens() grows by accepted tokens only; computed counts
// positions whose KV exists on the ranks, and never exceeds tokens().
struct SequenceState {
  Request request;
  Phase phase = Phase::kWaiting;
  std::vector<int32_t> tokens;  // prompt, then what the ledger accepted
  int32_t computed = 0;
  bool in_flight = false;  // in a plan whose results are not all back
  int32_t keep = -1;       // x in force; -1: not on the device
  Generation generation{};
  std::vector<BlockRef> blocks;
  std::optional<RequestEnd> end;                // kRetiring: how it will end
  absl::Time started, first_token, last_token;  // infinite past: not yet
  int32_t recomputed_from = 0;                  // positions below it are computed again after a loss
  Explanation explanation;

  explicit SequenceState(Request r) : request(std::move(r)), tokens(request.prompt) {}
  int32_t prompt_tokens() const { return static_cast<int32_t>(request.prompt.size()); }
  int32_t generated() const { return static_cast<int32_t>(tokens.size()) - prompt_tokens(); }
  int32_t remaining() const { return static_cast<int32_t>(tokens.size()) - computed; }
  void Note(std::string text) {
    if (explanation.notes.size() < 32) explanation.notes.push_back(std::move(text));
  }
};

}  // namespace interlace
