// Scheduler: results into tokens, losses into rollbacks.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"
#include "coordinator/scheduler.h"

namespace interlace {

void Scheduler::OnResult(StepResult result) {
  auto it = in_flight_.find(result.plan);
  const bool of_no_plan = result.plan == PlanId{};
  const bool again =
      it != in_flight_.end() && std::any_of(it->second.results.begin(), it->second.results.end(),
                                            [&](const StepResult& known) { return known.stage == result.stage; });
  if (!shape_ || result.epoch != epoch_ || (!of_no_plan && it == in_flight_.end()) || again ||
      Value(result.stage) < 0 || Value(result.stage) >= static_cast<int32_t>(shape_->stages.size())) {
    metrics_.Add("interlace_stale_messages_total", 1, {{"kind", "result"}});
    return;
  }
  if (result.status.ok() && of_no_plan) return AccountUsage(result);
  if (!result.status.ok()) {
    const absl::Status why =
        absl::UnavailableError(absl::StrCat("stage ", Value(result.stage), " failed: ", result.status.message()));
    channel_.Reset(why);
    return OnLost(why);
  }
  InFlight& step = it->second;
  step.results.push_back(std::move(result));
  if (step.results.size() < shape_->stages.size()) return;
  InFlight done = std::move(step);
  in_flight_.erase(it);
  Commit(std::move(done));
}

void Scheduler::Commit(InFlight step) {
  metrics_.Add("interlace_steps_total");
  metrics_.Observe("interlace_step_seconds", absl::ToDoubleSeconds(clock_.Now() - step.sent));
  for (const StepResult& result : step.results) Account(result);
  for (const PlanSequence& planned : step.plan.sequences) {
    if (SequenceState* sequence = Find(planned.request, planned.attempt)) CommitSequence(planned, *sequence, step);
  }
}

void Scheduler::AccountUsage(const StepResult& result) {
  const std::string stage = absl::StrCat(Value(result.stage));
  metrics_.Set("interlace_kv_arena_slots_used", result.arena_used, {{"stage", stage}});
  for (size_t t = 0; t < result.tiers.size() && t < shape_->tiers.size(); ++t) {
    metrics_.Set("interlace_kv_tier_blocks", static_cast<double>(result.tiers[t].blocks),
                 {{"stage", stage}, {"tier", shape_->tiers[t]}});
    metrics_.Set("interlace_kv_tier_bytes", static_cast<double>(result.tiers[t].bytes),
                 {{"stage", stage}, {"tier", shape_->tiers[t]}});
  }
}

void Scheduler::Account(const StepResult& result) {
  AccountUsage(result);
  metrics_.Add("interlace_transfer_bytes_total", static_cast<double>(result.bytes_in), {{"direction", "in"}});
  metrics_.Add("interlace_transfer_bytes_total", static_cast<double>(result.bytes_out), {{"direction", "out"}});
  metrics_.Add("interlace_transfer_busy_seconds_total", 1e-6 * static_cast<double>(result.transfer_in_us),
               {{"direction", "in"}});
  metrics_.Add("interlace_transfer_busy_seconds_total", 1e-6 * static_cast<double>(result.transfer_out_us),
               {{"direction", "out"}});
  metrics_.Add("interlace_layer_stall_seconds_total", 1e-6 * static_cast<double>(result.stall_us));
  metrics_.Add("interlace_kv_block_corrupt_total", result.corrupt);
  metrics_.Add("interlace_kv_block_missing_total", result.missing);
  for (const LayerUse& use : result.layers) {
    auto it = sequences_.find(use.request);
    if (it == sequences_.end() || Value(use.layer) < 0 || Value(use.layer) >= shape_->layers) continue;
    SequenceState& sequence = *it->second;
    if (Value(use.layer) >= static_cast<int32_t>(sequence.explanation.layers.size())) continue;  // it never ran
    LayerExplanation& layer = sequence.explanation.layers[Value(use.layer)];
    layer.stage = Value(result.stage);
    layer.kept = KeepsLayer(Value(use.layer), std::max(0, sequence.keep), shape_->layers);
    layer.blocks_device = use.blocks_device;
    layer.blocks_tier = use.blocks_tier;
    layer.bytes_in += use.bytes_in;
    layer.bytes_out += use.bytes_out;
    layer.stall_us += use.stall_us;
  }
}

void Scheduler::CommitSequence(const PlanSequence& planned, SequenceState& sequence, const InFlight& step) {
  sequence.in_flight = false;
  ++sequence.explanation.steps;
  if (sequence.phase == Phase::kRetiring) return Retire(planned.request);
  const LostBlock* loss = nullptr;  // the earliest block that any stage lost
  const SampledToken* sampled = nullptr;
  for (const StepResult& result : step.results) {
    for (const LostBlock& l : result.lost) {
      if (l.request == planned.request && (loss == nullptr || l.block < loss->block)) loss = &l;
    }
    for (const SampledToken& s : result.sampled) {
      if (s.request == planned.request) sampled = &s;
    }
  }
  if (loss != nullptr) return RollBack(sequence, *loss);
  const int32_t end = planned.start + static_cast<int32_t>(planned.tokens.size());
  if (const int32_t again = std::min(end, sequence.recomputed_from) - planned.start; again > 0) {
    sequence.explanation.recomputed_tokens += again;
  }
  sequence.computed = end;
  if (!planned.sample) return;
  if (sampled == nullptr) {
    return Finish(sequence, absl::InternalError("the last stage sampled no token"), FinishReason::kStop);
  }
  AcceptToken(sequence, *sampled);
}

void Scheduler::RollBack(SequenceState& sequence, const LostBlock& loss) {
  // At a block's start: ranks keep nothing of a block whose step did not count.
  const int32_t block = std::min(sequence.computed / shape_->block_tokens, loss.block);
  const int32_t start = block * shape_->block_tokens;
  metrics_.Add("interlace_kv_recomputed_tokens_total", sequence.computed - start,
               {{"cause", LossCauseName(loss.cause)}});
  ++sequence.explanation.recomputes;
  sequence.Note(absl::StrCat("layer ", Value(loss.layer), " block ", loss.block, " ", LossCauseName(loss.cause),
                             ": computed again from position ", start, " (", loss.detail, ")"));
  LOG(WARNING) << "kv block lost" << Field("request", sequence.request.name) << Field("layer", Value(loss.layer))
               << Field("block", loss.block) << Field("cause", LossCauseName(loss.cause))
               << Field("detail", loss.detail);
  if (sequence.explanation.recomputes > options_.max_recomputes) {
    const std::string text = absl::StrCat("KV was lost ", sequence.explanation.recomputes,
                                          " times (sched.max_recomputes=", options_.max_recomputes,
                                          "), at last: ", LossCauseName(loss.cause), ", ", loss.detail);
    return Finish(sequence,
                  loss.cause == LossCause::kNoSlot ? absl::ResourceExhaustedError(text) : absl::DataLossError(text),
                  FinishReason::kStop);
  }
  sequence.recomputed_from = std::max(sequence.recomputed_from, sequence.computed);
  sequence.computed = start;
}

void Scheduler::AcceptToken(SequenceState& sequence, const SampledToken& sampled) {
  const Request& request = sequence.request;
  if (sampled.token < 0) {
    return Finish(sequence, absl::InternalError("the logits hold no finite value"), FinishReason::kStop);
  }
  if (sampled.attempt != ledger_.attempt(request.id) || sampled.index != sequence.generated()) {
    metrics_.Add("interlace_stale_messages_total", 1, {{"kind", "token"}});
    return Finish(sequence,
                  absl::InternalError(absl::StrCat("the last stage answered token ", sampled.attempt, ".",
                                                   sampled.index, " where ", ledger_.attempt(request.id), ".",
                                                   sequence.generated(), " was due")),
                  FinishReason::kStop);
  }
  const bool stops =
      std::find(request.stop_tokens.begin(), request.stop_tokens.end(), sampled.token) != request.stop_tokens.end();
  const absl::Time now = clock_.Now();
  if (stops) return Finish(sequence, absl::OkStatus(), FinishReason::kStop);
  CHECK_MSG(ledger_.Accept(request.id, sampled.attempt, sampled.index, sampled.token), "contracts.ledger");
  if (sequence.first_token == absl::InfinitePast()) {
    sequence.first_token = now;
    metrics_.Observe("vllm:time_to_first_token_seconds", absl::ToDoubleSeconds(now - request.arrival));
  } else {
    metrics_.Observe("vllm:inter_token_latency_seconds", absl::ToDoubleSeconds(now - sequence.last_token));
  }
  sequence.last_token = now;
  sequence.tokens.push_back(sampled.token);
  metrics_.Add("vllm:generation_tokens_total");
  if (request.sampling.logprobs >= 0) {
    request.sink->OnScoredToken(sampled.token, sampled.scores);
  } else {
    request.sink->OnTokens({&sampled.token, 1});
  }
  const bool full = static_cast<int32_t>(sequence.tokens.size()) >= options_.context;
  if (sequence.generated() >= request.max_tokens || full) Finish(sequence, absl::OkStatus(), FinishReason::kLength);
}

}  // namespace interlace
