// Scheduler: results into tokens, losses into new attempts.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"
#include "coordinator/scheduler.h"

namespace interlace {
namespace {

constexpr int32_t kManyTokens = 64;  // a step with so many is a measure of how fast prompts are computed

void Blend(double sample, double* average) { *average = *average <= 0 ? sample : 0.8 * *average + 0.2 * sample; }

}  // namespace

void Scheduler::OnResult(StepResult result) {
  auto it = in_flight_.find(result.plan);
  const bool of_no_plan = result.plan == PlanId{};
  const bool again =
      it != in_flight_.end() && std::any_of(it->second.results.begin(), it->second.results.end(),
                                            [&](const StepResult& known) { return known.stage == result.stage; });
  if (!placement_ || result.epoch != epoch_ || (!of_no_plan && it == in_flight_.end()) || again ||
      Value(result.stage) < 0 || Value(result.stage) >= static_cast<int32_t>(shape()->stages.size())) {
    metrics_.registry.Add("interlace_stale_messages_total", 1, {{"kind", "result"}});
    return;
  }
  if (!result.status.ok()) {
    const absl::Status why =
        absl::UnavailableError(absl::StrCat("stage ", Value(result.stage), " failed: ", result.status.message()));
    channel_.Reset(why);
    return OnLost(why);
  }
  TakeAnswers(result);
  Account(result);
  if (of_no_plan) return;
  InFlight& step = it->second;
  const int32_t tokens = step.plan.tokens();
  if (tokens >= kManyTokens && result.run_us > 0) {
    Blend(1e6 * tokens / static_cast<double>(result.run_us), &prefill_rate_);
  }
  step.results.push_back(std::move(result));
  if (step.results.size() < shape()->stages.size()) return;
  InFlight done = std::move(step);
  in_flight_.erase(it);
  Commit(std::move(done));
}

// What ranks say of their tiers and of their memory, with a plan's result or without.
void Scheduler::TakeAnswers(const StepResult& result) {
  for (const ProbeAnswer& answer : result.probed) {
    SequenceState* sequence = Find(answer.request);
    if (sequence == nullptr || sequence->below != Below::kAsked) continue;
    sequence->probe_answers = std::min(sequence->probe_answers, answer.blocks);
    if (++sequence->stages_answered < static_cast<int32_t>(shape()->stages.size())) continue;
    sequence->below = Below::kKnown;
    sequence->below_blocks += sequence->probe_answers;
  }
  for (const FetchAnswer& answer : result.fetched) placement_->OnFetched(answer);
  if (!result.fetched.empty()) SettleFetching();
}

void Scheduler::Account(const StepResult& result) {
  const std::string stage = absl::StrCat(Value(result.stage));
  Metrics& registry = metrics_.registry;
  registry.Set("interlace_kv_arena_slots_used", result.slots_used, {{"stage", stage}});
  registry.Set("interlace_kv_frames_used", result.frames_used, {{"stage", stage}});
  for (size_t t = 0; t < result.tiers.size() && t < shape()->tiers.size(); ++t) {
    registry.Set("interlace_kv_tier_blocks", static_cast<double>(result.tiers[t].blocks),
                 {{"stage", stage}, {"tier", shape()->tiers[t]}});
    registry.Set("interlace_kv_tier_bytes", static_cast<double>(result.tiers[t].bytes),
                 {{"stage", stage}, {"tier", shape()->tiers[t]}});
  }
  metrics_.bytes_in.Add(static_cast<double>(result.bytes_in));
  metrics_.bytes_out.Add(static_cast<double>(result.bytes_out));
  metrics_.busy_in.Add(1e-6 * static_cast<double>(result.transfer_in_us));
  metrics_.busy_out.Add(1e-6 * static_cast<double>(result.transfer_out_us));
  metrics_.stall.Add(1e-6 * static_cast<double>(result.stall_us));
  metrics_.corrupt.Add(result.corrupt);
  metrics_.missing.Add(result.missing);
  for (const LayerTraffic& traffic : result.traffic) {
    SequenceState* sequence = Find(traffic.request);
    if (sequence == nullptr || Value(traffic.layer) < 0) continue;
    if (Value(traffic.layer) >= static_cast<int32_t>(sequence->explanation.layers.size())) continue;
    LayerExplanation& layer = sequence->explanation.layers[Value(traffic.layer)];
    layer.bytes_in += traffic.bytes_in;
    layer.bytes_out += traffic.bytes_out;
    layer.stall_us += traffic.stall_us;
  }
}

void Scheduler::Commit(InFlight step) {
  placement_->EndPlan(step.plan.id);
  commit_time_ = clock_.Now();
  metrics_.steps.Add();
  metrics_.step_seconds.Observe(absl::ToDoubleSeconds(commit_time_ - step.sent));
  absl::flat_hash_map<RequestId, const LostSequence*> lost;  // the earliest block that any stage lost
  const std::vector<SampledToken>* sampled = nullptr;
  for (const StepResult& result : step.results) {
    for (const LostSequence& loss : result.lost) {
      const LostSequence*& earliest = lost[loss.request];
      if (earliest == nullptr || loss.block < earliest->block) earliest = &loss;
    }
    if (Value(result.stage) + 1 == static_cast<int32_t>(shape()->stages.size())) sampled = &result.sampled;
  }
  deliveries_.reserve(deliveries_.size() + sampled->size());
  size_t next = 0;  // sampled tokens come in the order of the plan's sequences
  for (const PlanSequence& planned : step.plan.sequences) {
    const size_t first = next;
    while (next < sampled->size() && (*sampled)[next].request == planned.request) ++next;
    auto loss = lost.find(planned.request);
    CommitSequence(planned, loss == lost.end() ? nullptr : loss->second,
                   absl::MakeConstSpan(*sampled).subspan(first, next - first));
  }
  const EngineLoad load = Load();
  metrics_.running.Set(load.running);
  metrics_.waiting.Set(load.waiting);
  metrics_.blocks_held.Set(load.blocks_held);
  metrics_.blocks_cached.Set(load.blocks_cached);
  metrics_.usage.Set(load.blocks > 0 ? static_cast<double>(load.blocks_held) / load.blocks : 0);
}

void Scheduler::CommitSequence(const PlanSequence& planned, const LostSequence* loss,
                               absl::Span<const SampledToken> sampled) {
  SequenceState* found = Find(planned.request);
  if (found == nullptr || found->attempt != planned.attempt || found->in_flight == 0) return;
  SequenceState& sequence = *found;
  --sequence.in_flight;
  ++sequence.explanation.steps;
  if (sequence.void_attempt) return;
  if (loss != nullptr) return OnLoss(sequence, *loss);
  sequence.confirmed = planned.start + static_cast<int32_t>(planned.tokens.size()) - planned.drafts;
  if (!planned.sample) return;
  --sequence.pending;
  if (sampled.size() != static_cast<size_t>(1 + planned.drafts)) {
    return Finish(sequence,
                  absl::InternalError(absl::StrCat("the last stage sampled ", sampled.size(), " tokens where ",
                                                   1 + planned.drafts, " were due")),
                  FinishReason::kStop);
  }
  AcceptTokens(sequence, planned, sampled);
}

void Scheduler::OnLoss(SequenceState& sequence, const LostSequence& loss) {
  const int32_t before = sequence.scheduled;
  sequence.void_attempt = true;
  sequence.pending = 0;
  sequence.drafting = false;
  ++sequence.explanation.recomputes;
  LOG(WARNING) << "kv lost" << Field("request", sequence.request.name) << Field("layer", Value(loss.layer))
               << Field("block", loss.block) << Field("cause", LossCauseName(loss.cause))
               << Field("detail", loss.detail);
  // The lost block is in doubt, and so is what plans in flight were to seal. What lies behind it and is nobody else's
  // is computed again anyway, and may be gone too.
  const auto blocks = static_cast<int32_t>(sequence.blocks.size());
  const int32_t sealed = std::max(sequence.adopted, sequence.confirmed / shape()->block_tokens);
  for (int32_t b = std::min(loss.block, sealed); b < blocks; ++b) {
    BlockEntry& entry = *sequence.blocks[b];
    const bool alone = static_cast<int32_t>(entry.users.size()) + entry.holds <= 1;
    if (b >= sealed || b == loss.block || (b > loss.block && alone)) placement_->Forget(entry);
  }
  if (loss.cause == LossCause::kRefused) {
    return Finish(sequence, absl::InvalidArgumentError(absl::StrCat("a rank refused the request: ", loss.detail)),
                  FinishReason::kStop);
  }
  const int32_t kept = std::min(loss.block, sealed) * shape()->block_tokens;
  metrics_.registry.Add("interlace_kv_recomputed_tokens_total", std::max(0, before - kept),
                        {{"cause", LossCauseName(loss.cause)}});
  sequence.Note(absl::StrCat("layer ", Value(loss.layer), " block ", loss.block, " ", LossCauseName(loss.cause),
                             ": computed again from position ", kept, " (", loss.detail, ")"));
  if (loss.cause != LossCause::kLate && sequence.explanation.recomputes > options_.max_recomputes) {
    const std::string text = absl::StrCat("KV was lost ", sequence.explanation.recomputes,
                                          " times (sched.max_recomputes=", options_.max_recomputes,
                                          "), at last: ", LossCauseName(loss.cause), ", ", loss.detail);
    return Finish(sequence,
                  loss.cause == LossCause::kNoSlot ? absl::ResourceExhaustedError(text) : absl::DataLossError(text),
                  FinishReason::kStop);
  }
  sequence.below = Below::kUnknown;
  if (sequence.phase == Phase::kRunning) Park(sequence, "begins a new attempt");
}

// The first token is the model's; each draft that equals the token before it makes the next one the model's too. What
// follows a wrong guess is dropped, and so is its KV: the next step starts where the accepted tokens end.
void Scheduler::AcceptTokens(SequenceState& sequence, const PlanSequence& planned,
                             absl::Span<const SampledToken> sampled) {
  sequence.drafting = false;
  if (planned.drafts > 0) sequence.scheduled = sequence.confirmed;
  const absl::Span<const int32_t> guesses = absl::MakeConstSpan(planned.tokens).last(planned.drafts);
  for (size_t i = 0; i < sampled.size(); ++i) {
    if (i > 0 && guesses[i - 1] != sampled[i - 1].token) return;
    if (!AcceptToken(sequence, sampled[i])) return;
    if (i > 0) sequence.scheduled = ++sequence.confirmed;
  }
}

// False if the sequence ended with it, and is gone.
bool Scheduler::AcceptToken(SequenceState& sequence, const SampledToken& sampled) {
  const Request& request = sequence.request;
  if (sampled.token < 0) {
    Finish(sequence, absl::InternalError("the logits hold no finite value"), FinishReason::kStop);
    return false;
  }
  if (sampled.index != sequence.generated()) {
    metrics_.registry.Add("interlace_stale_messages_total", 1, {{"kind", "token"}});
    Finish(sequence,
           absl::InternalError(absl::StrCat("the last stage answered token ", sampled.index, " where ",
                                            sequence.generated(), " was due")),
           FinishReason::kStop);
    return false;
  }
  if (std::find(request.stop_tokens.begin(), request.stop_tokens.end(), sampled.token) != request.stop_tokens.end()) {
    Finish(sequence, absl::OkStatus(), FinishReason::kStop);
    return false;
  }
  const absl::Time now = commit_time_;
  if (sequence.first_token == absl::InfinitePast()) {
    sequence.first_token = now;
    metrics_.first_token.Observe(absl::ToDoubleSeconds(now - request.arrival));
  } else {
    metrics_.between_tokens.Observe(absl::ToDoubleSeconds(now - sequence.last_token));
    sequence.largest_gap = std::max(sequence.largest_gap, now - sequence.last_token);
  }
  sequence.last_token = now;
  sequence.losses = 0;  // it got on
  sequence.tokens.push_back(sampled.token);
  if (sequence.length() % shape()->block_tokens == 0) ExtendIds(sequence);
  metrics_.generation_tokens.Add();
  Delivery& delivery = deliveries_.emplace_back();
  delivery.sink = request.sink;
  delivery.token = sampled;
  delivery.scored = request.sampling.logprobs >= 0;
  const bool full = sequence.length() >= options_.context;
  if (sequence.generated() < request.max_tokens && !full) return true;
  Finish(sequence, absl::OkStatus(), FinishReason::kLength);
  return false;
}

}  // namespace interlace
