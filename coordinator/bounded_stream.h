// BoundedStream: a stream whose steps may pass sublayers over, and how its audits went.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>

#include "coordinator/fidelity.h"
#include "coordinator/skip_index/acceptance.h"
#include "kvstore/block_id.h"
#include "proto/plan/skip_plan.h"

namespace interlace {

// Its first steps are audited one after the other, so that a plan which does not suit the stream is found out before
// anything was skipped; then one of so many. What is known of the agreement is Wilson's interval: once even its upper
// bound is below what the request asks for, the plan is switched off for good.
//
// Positions that a step passed over sublayers for have KV that is not the model's, and so has all that attends to them.
// Blocks from the first of them on are named under a root of their own, made of the request's nonce and its attempt, so
// that no other request and no later attempt finds them.
//
// Owned by the sequence's state; thread: the replica's.
struct BoundedStream {
  static constexpr int32_t kFirstAudits = 4;
  static constexpr int32_t kNone = std::numeric_limits<int32_t>::max();

  explicit BoundedStream(const Fidelity& fidelity) {
    report.mode = fidelity.mode;
    report.target = fidelity.agreement;
  }
  // It got that far on another replica.
  void Resume(const FidelityReport& before) {
    report = before;
    agreement = Acceptance(before.audited, before.agreed);
  }
  // `every`: of so many steps one is audited.
  bool AuditDue(int64_t every) const { return report.audited < kFirstAudits || unaudited + 1 >= every; }
  void NoteAudit(bool agreed) {
    ++report.audited;
    report.agreed += agreed ? 1 : 0;
    agreement.Note(1, agreed ? 1 : 0);
    unaudited = 0;
  }
  bool FallsShort() const { return report.audited >= kFirstAudits && agreement.Upper() < report.target; }
  // What comes of it is computed whole, from blocks that are the model's.
  void ForgetKv() {
    own_from = kNone;
    own_chain.reset();
  }

  std::optional<SkipPlan> plan;  // nullopt: it was not needed yet
  int32_t passed = 0;            // sublayers that the plan passes over
  Acceptance agreement;
  int64_t unaudited = 0;     // steps that were planned with the plan since the last audit
  int32_t whole_to = 0;      // of the attempt: positions below it are computed whole
  int32_t own_from = kNone;  // the first position of the attempt whose KV is not the model's; kNone: all is
  std::unique_ptr<BlockChain> own_chain;  // names of blocks from there on
  FidelityReport report;
};

}  // namespace interlace
