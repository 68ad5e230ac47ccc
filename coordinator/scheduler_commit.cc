// Scheduler: results into tokens, losses into new attempts.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"
#include "coordinator/scheduler.h"

namespace interlace {
namespace {

struct StepTime {
  absl::Duration compute, exchange;
};

// Of a step: the slowest rank's, without what it waited for KV and what it guessed; and what it took to exchange rows.
StepTime TimeOf(const std::vector<StepResult>& results) {
  StepTime slowest;
  for (const StepResult& r : results) {
    const auto compute = absl::Microseconds(r.run_us - r.stall_us - r.draft_us - r.exchange_us);
    if (compute > slowest.compute) slowest = {compute, absl::Microseconds(r.exchange_us)};
  }
  return slowest;
}

// Guesses of its own that a rank made.
absl::Duration DraftTime(const std::vector<StepResult>& results) {
  int64_t longest = 0;
  for (const StepResult& result : results) longest = std::max(longest, result.draft_us);
  return absl::Microseconds(longest);
}

absl::Duration StallTime(const std::vector<StepResult>& results) {
  int64_t longest = 0;
  for (const StepResult& result : results) longest = std::max(longest, result.stall_us);
  return absl::Microseconds(longest);
}

constexpr size_t kAhead = 8;  // sequences whose tokens are asked of memory before their turn

}  // namespace

void Scheduler::OnResult(StepResult result) {
  auto it = in_flight_.find(result.plan);
  const bool of_no_plan = result.plan == PlanId{};
  const bool again = it != in_flight_.end() &&
                     std::any_of(it->second.results.begin(), it->second.results.end(), [&](const StepResult& known) {
                       return known.stage == result.stage && known.stage_rank == result.stage_rank;
                     });
  if (!placement_ || result.epoch != epoch_ || (!of_no_plan && it == in_flight_.end()) || again ||
      Value(result.stage) < 0 || Value(result.stage) >= static_cast<int32_t>(shape()->stages.size()) ||
      result.stage_rank < 0 || result.stage_rank >= shape()->stage_ranks) {
    metrics_.registry.Add("interlace_stale_messages_total", 1, {{"kind", "result"}});
    return;
  }
  if (!result.status.ok()) {
    const absl::Status why =
        absl::UnavailableError(absl::StrCat("stage ", Value(result.stage), " failed: ", result.status.message()));
    channel_.Reset(why);
    plan_failed_ = !absl::IsUnavailable(result.status);  // that would be a neighbour who is gone
    return OnLost(why);
  }
  TakeAnswers(result);
  Account(result);
  if (of_no_plan) return;
  InFlight& step = it->second;
  step.results.push_back(std::move(result));
  if (step.results.size() < shape()->ranks()) return;
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
    if (++sequence->ranks_answered < static_cast<int32_t>(shape()->ranks())) continue;
    if (AskAgain(*sequence)) continue;
    SetBelow(*sequence, Below::kKnown);
    sequence->below_blocks += sequence->probe_answers;
  }
  for (const FetchAnswer& answer : result.fetched) {
    const auto joint = fetch_answers_->Take(result.stage, result.stage_rank, answer);
    if (joint) placement_->OnFetched(joint->answer, joint->uneven);
  }
  if (!result.fetched.empty()) SettleFetching();
}

void Scheduler::Account(const StepResult& result) {
  // Ranks of a stage hold the same blocks, or each its heads of them: the first speaks for all.
  const StageMetrics& stage = stage_metrics_[Value(result.stage)];
  if (result.stage_rank == 0) stage.slots.Set(result.slots_used);
  if (result.stage_rank == 0) stage.frames.Set(result.frames_used);
  for (size_t t = 0; result.stage_rank == 0 && t < result.tiers.size() && t < stage.tiers.size(); ++t) {
    stage.tiers[t].blocks.Set(static_cast<double>(result.tiers[t].blocks));
    stage.tiers[t].bytes.Set(static_cast<double>(result.tiers[t].bytes));
  }
  LearnTransfer(Route::kIn, result.bytes_in, absl::Microseconds(result.transfer_in_us));
  LearnTransfer(Route::kOut, result.bytes_out, absl::Microseconds(result.transfer_out_us));
  metrics_.offload_in.Add(static_cast<double>(result.bytes_in));
  metrics_.offload_out.Add(static_cast<double>(result.bytes_out));
  metrics_.offload_time_in.Add(1e-6 * static_cast<double>(result.transfer_in_us));
  metrics_.offload_time_out.Add(1e-6 * static_cast<double>(result.transfer_out_us));
  metrics_.bytes_in.Add(static_cast<double>(result.bytes_in));
  metrics_.bytes_out.Add(static_cast<double>(result.bytes_out));
  metrics_.busy_in.Add(1e-6 * static_cast<double>(result.transfer_in_us));
  metrics_.busy_out.Add(1e-6 * static_cast<double>(result.transfer_out_us));
  metrics_.stall.Add(1e-6 * static_cast<double>(result.stall_us));
  metrics_.corrupt.Add(result.corrupt);
  metrics_.missing.Add(result.missing);
  const absl::Time now = clock_.Now();
  for (const LayerTraffic& traffic : result.traffic) {
    history_.OnTraffic(traffic);
    SequenceState* sequence = Find(traffic.request);
    if (sequence == nullptr || Value(traffic.layer) < 0) continue;
    if (Value(traffic.layer) >= static_cast<int32_t>(sequence->explanation.layers.size())) continue;
    LayerExplanation& layer = sequence->explanation.layers[Value(traffic.layer)];
    layer.last_move = now - sequence->request.arrival;
    if (layer.bytes_in == 0 && layer.bytes_out == 0) {
      layer.first_move = std::max(absl::ZeroDuration(), layer.last_move - absl::Microseconds(result.run_us));
    }
    layer.bytes_in += traffic.bytes_in;
    layer.bytes_out += traffic.bytes_out;
    layer.stall_us += traffic.stall_us;
  }
}

// What was predicted is compared before it is learned from.
void Scheduler::LearnStep(const InFlight& step) {
  const auto [compute, exchange] = TimeOf(step.results);
  if (cost_.known() && step.work.rows > 0 && compute > absl::ZeroDuration()) {
    const absl::Duration predicted = cost_.Expect(step.work), took = compute + exchange;
    metrics_.step_compute.Observe(absl::ToDoubleSeconds(took));
    metrics_.step_predicted.Observe(absl::ToDoubleSeconds(predicted));
    if (predicted > absl::ZeroDuration()) metrics_.step_ratio.Observe(absl::FDivDuration(took, predicted));
  }
  if (const int32_t ranks = step.plan.row_ranks(); ranks > 1) {
    cost_.ObserveDivided(step.work, ranks, compute, exchange);
  } else {
    cost_.Observe(step.work, compute);
  }
}

void Scheduler::LearnTransfer(Route route, int64_t bytes, absl::Duration busy) {
  const absl::Duration predicted = cost_.Transfer(route, bytes);
  if (predicted > absl::ZeroDuration() && busy > absl::ZeroDuration()) {
    const Metrics::Histogram& ratio = route == Route::kIn    ? metrics_.ratio_in
                                      : route == Route::kOut ? metrics_.ratio_out
                                                             : metrics_.ratio_below;
    ratio.Observe(absl::FDivDuration(busy, predicted));
  }
  cost_.ObserveTransfer(route, bytes, busy);
}

void Scheduler::Commit(InFlight step) {
  placement_->EndPlan(step.plan.id);
  const absl::Time before = std::exchange(commit_time_, clock_.Now());
  const absl::Time began = std::max(step.sent, before);
  const bool whole = !step.plan.skips();  // else it says nothing of what whole steps take
  if (step.follows && whole && cost_.known()) {
    step_error_.Observe(cost_.Expect(step.work),
                        commit_time_ - began - StallTime(step.results) - DraftTime(step.results));
  }
  WeighDrafts(step, commit_time_ - began);
  if (whole) LearnDrafts(step, commit_time_ - before);
  if (whole) LearnStep(step);
  metrics_.steps.Add();
  if (step.work.rows > 0) metrics_.iteration_tokens.Observe(static_cast<double>(step.work.rows));
  metrics_.step_seconds.Observe(absl::ToDoubleSeconds(commit_time_ - step.sent));
  history_.OnStep(commit_time_, commit_time_ - step.sent, step.work.rows);
  absl::flat_hash_map<RequestId, const LostSequence*> lost;  // the earliest block that any stage lost
  StepResult* last = nullptr;                                // of the last stage
  absl::flat_hash_map<RequestId, PromptKey*> keys;
  for (StepResult& result : step.results) {
    if (step.follows) metrics_.rank_gap.Observe(1e-6 * static_cast<double>(result.gap_us));
    for (const LostSequence& loss : result.lost) {
      const LostSequence*& earliest = lost[loss.request];
      if (earliest == nullptr || loss.block < earliest->block) earliest = &loss;
    }
    const bool is_last = Value(result.stage) + 1 == static_cast<int32_t>(shape()->stages.size());
    if (is_last && result.stage_rank == 0) last = &result;
    for (PromptKey& key : result.keys) keys[key.request] = &key;
  }
  std::vector<SampledToken>* const sampled = &last->sampled;
  absl::flat_hash_map<RequestId, PromptScores*> scored;
  for (PromptScores& scores : last->scored) scored[scores.request] = &scores;
  absl::flat_hash_map<RequestId, const ModelDrafted*> drafted;
  for (const ModelDrafted& d : last->drafted) drafted[d.request] = &d;
  absl::flat_hash_map<RequestId, PooledHidden*> pooled;
  for (PooledHidden& hidden : last->pooled) pooled[hidden.request] = &hidden;
  const auto of = [](const auto& map, RequestId request) {
    const auto it = map.empty() ? map.end() : map.find(request);
    return it == map.end() ? nullptr : it->second;
  };
  deliveries_.reserve(deliveries_.size() + sampled->size());
  // Looked up together, so that the memory of one is waited for while the next is found. A sequence that ends in the
  // loop below is in the plan once, and ends no other.
  found_.clear();
  for (const PlanSequence& planned : step.plan.sequences) {
    found_.push_back(Find(planned.request));
    if (found_.back() != nullptr) found_.back()->Prefetch();
  }
  size_t next = 0;  // sampled tokens come in the order of the plan's sequences
  for (size_t i = 0; i < found_.size(); ++i) {
    const PlanSequence& planned = step.plan.sequences[i];
    if (i + kAhead < found_.size() && found_[i + kAhead] != nullptr) {
      __builtin_prefetch(found_[i + kAhead]->tokens.data() + found_[i + kAhead]->tokens.size(), 1);
    }
    const size_t first = next;
    while (next < sampled->size() && (*sampled)[next].request == planned.request) ++next;
    CommitSequence(
        found_[i], planned,
        {of(lost, planned.request), absl::MakeSpan(*sampled).subspan(first, next - first), of(scored, planned.request),
         of(pooled, planned.request), of(keys, planned.request), of(drafted, planned.request)});
  }
  RecordTokens();
  step.plan.sequences.clear();
  spare_ = std::move(step.plan.sequences);
  const EngineLoad load = Load();
  metrics_.running.Set(load.running);
  metrics_.waiting.Set(load.waiting);
  metrics_.blocks_held.Set(load.blocks_held);
  metrics_.blocks_cached.Set(load.blocks_cached);
  metrics_.host_usage.Set(HostUsage());
  metrics_.usage.Set(load.blocks > 0 ? static_cast<double>(load.blocks_held) / load.blocks : 0);
}

// The share of the host frames, of all stages, that is taken.
double Scheduler::HostUsage() const {
  int64_t taken = 0, total = 0;
  for (const KvRoom& room : placement_->budget().taken()) taken += room.frames;
  for (const KvRoom& room : placement_->budget().total()) total += room.frames;
  return total > 0 ? static_cast<double>(taken) / static_cast<double>(total) : 0;
}

void Scheduler::CommitSequence(SequenceState* found, const PlanSequence& planned, const Gains& gains) {
  if (found == nullptr || found->attempt != planned.attempt || found->in_flight == 0) return;
  SequenceState& sequence = *found;
  --sequence.in_flight;
  ++sequence.steps;
  if (sequence.void_attempt) return;
  if (gains.loss != nullptr) return OnLoss(sequence, *gains.loss);
  sequence.confirmed = planned.start + static_cast<int32_t>(planned.tokens.size()) - planned.drafts;
  if (planned.score && !TakeScores(sequence, planned, gains.scored)) return;
  if (planned.pool == Pooling::kGive && !TakePooled(sequence, gains.pooled)) return;
  if (planned.key) TakeKey(sequence, gains.key);
  if (sequence.request.max_tokens == 0 && sequence.confirmed == sequence.prompt) {
    return Finish(sequence, absl::OkStatus(), FinishReason::kLength);
  }
  if (!planned.sample) return;
  --sequence.pending;
  // Of guesses that the rank made itself, it gives those that count.
  const auto rows = static_cast<size_t>(1 + planned.drafts);
  const bool whole =
      planned.rank_drafts() ? !gains.sampled.empty() && gains.sampled.size() <= rows : gains.sampled.size() == rows;
  if (!whole) {
    FailStage(sequence,
              absl::StrCat("sampled ", gains.sampled.size(), " tokens where ", 1 + planned.drafts, " were due"));
    return;
  }
  AcceptTokens(sequence, planned, gains);
}

// The last stage answered what it was not asked. Returns false: the sequence is gone.
bool Scheduler::FailStage(SequenceState& sequence, absl::string_view what) {
  Finish(sequence, absl::InternalError(absl::StrCat("the last stage ", what)), FinishReason::kStop);
  return false;
}

// False if the sequence ended, and is gone. Attempts that begin anew ask for what is missing, so each token is scored
// once.
bool Scheduler::TakeScores(SequenceState& sequence, const PlanSequence& planned, PromptScores* scored) {
  const ScoreAsk& asked = *planned.score;
  const int32_t first = planned.start + asked.first + 1, count = static_cast<int32_t>(asked.targets.size());
  if (scored == nullptr || scored->first != first || scored->size() != count || scored->top != asked.top ||
      first != sequence.scored_rows + 1) {
    return FailStage(sequence, absl::StrCat("did not score tokens ", first, "+", count, " of the prompt"));
  }
  if (std::find(scored->ranks.begin(), scored->ranks.end(), 0) != scored->ranks.end()) {
    Finish(sequence, absl::InternalError("the logits hold no finite value"), FinishReason::kStop);
    return false;
  }
  sequence.scored_rows += count;
  deliveries_.push_back({sequence.request.sink.get(), Delivery::Kind::kPromptScores, 0, prompt_scores_.size()});
  prompt_scores_.push_back(std::move(*scored));
  return true;
}

bool Scheduler::TakePooled(SequenceState& sequence, PooledHidden* pooled) {
  if (pooled == nullptr) return FailStage(sequence, "did not pool the prompt");
  deliveries_.push_back({sequence.request.sink.get(), Delivery::Kind::kPooled, 0, pooled_.size()});
  pooled_.push_back(std::move(*pooled));
  return true;
}

void Scheduler::OnLoss(SequenceState& sequence, const LostSequence& loss) {
  sequence.void_attempt = true;
  sequence.pending = 0;
  sequence.drafting = false;
  ++sequence.explanation.recomputes;
  LOG(WARNING) << "kv lost" << Field("request_id", sequence.request.name) << Field("layer", Value(loss.layer))
               << Field("block", loss.block) << Field("cause", LossCauseName(loss.cause))
               << Field("detail", loss.detail);
  // The lost block is in doubt, and so is what plans in flight were to seal. What lies behind it and is nobody else's
  // is computed again anyway, and may be gone too.
  const auto blocks = static_cast<int32_t>(sequence.blocks.size());
  // A block that lies nowhere was forgotten at the loss of another request, which was to seal it: its fault alone.
  const bool of_another = loss.block < blocks && sequence.blocks[loss.block]->placed().empty();
  if (!of_another) ++sequence.faults;
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
  Note(sequence, DecisionKind::kLostBlock, {Value(loss.layer), loss.block, kept},
       absl::StrCat(LossCauseName(loss.cause), ", ", loss.detail));
  if (sequence.faults > options_.max_recomputes) {
    const std::string text =
        absl::StrCat("KV was lost ", sequence.faults, " times (sched.max_recomputes=", options_.max_recomputes,
                     "), at last: ", LossCauseName(loss.cause), ", ", loss.detail);
    return Finish(sequence,
                  loss.cause == LossCause::kNoSlot ? absl::ResourceExhaustedError(text) : absl::DataLossError(text),
                  FinishReason::kStop);
  }
  SetBelow(sequence, Below::kUnknown);
  if (sequence.phase != Phase::kRunning) return;
  Note(sequence, DecisionKind::kNewAttempt);
  Park(sequence, LossCauseName(loss.cause));
}

// The first token is the model's; each draft that equals the token before it makes the next one the model's too. What
// follows a wrong guess is dropped, and so is its KV: the next step starts where the accepted tokens end.
void Scheduler::AcceptTokens(SequenceState& sequence, const PlanSequence& planned, const Gains& gains) {
  const absl::Span<SampledToken> sampled = gains.sampled;
  sequence.drafting = false;
  if (planned.drafts > 0) sequence.scheduled = sequence.confirmed;
  const absl::Span<const int32_t> guesses = absl::MakeConstSpan(planned.tokens).last(planned.drafts);
  size_t counts = 1;
  while (counts < sampled.size() && (planned.rank_drafts() || guesses[counts - 1] == sampled[counts - 1].token))
    ++counts;
  const auto accepted = static_cast<int32_t>(counts) - 1;
  if (planned.model_drafts) {
    NoteModel(sequence, planned, gains.drafted, accepted);
  } else if (planned.drafts > 0 && !sequence.skips) {
    NoteDrafts(sequence, planned, accepted);
  }
  NoteOutcome(sequence, planned, accepted);
  if (sequence.bounded != nullptr) NoteBounded(sequence, planned, accepted);
  for (size_t i = 0; i < counts; ++i) {
    if (!AcceptToken(sequence, sampled[i])) return;
    if (i > 0) sequence.scheduled = ++sequence.confirmed;
  }
}

void Scheduler::RecordTokens() {
  if (gaps_ > 0) metrics_.between_tokens.Observe(absl::ToDoubleSeconds(gap_), gaps_);
  metrics_.generation_tokens.Add(static_cast<double>(accepted_));
  history_.OnTokens(commit_time_, accepted_);
  gaps_ = 0;
  accepted_ = 0;
}

// False if the sequence ended with it, and is gone.
bool Scheduler::AcceptToken(SequenceState& sequence, SampledToken& sampled) {
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
    Finish(sequence, absl::OkStatus(), FinishReason::kStop, &sampled);
    return false;
  }
  const absl::Time now = commit_time_;
  const absl::Time released = options_.release_at_pace ? ReleaseOf(sequence, now) : now;
  if (released > now) {
    Hold(sequence, sampled, released);
  } else if (!sequence.begun()) {
    LearnForecast(sequence, now);
    sequence.first_token = now;
    if (sequence.phase == Phase::kWaiting) ++begun_waiting_;  // it was parked while the token was on its way
    metrics_.first_token.Observe(absl::ToDoubleSeconds(now - request.arrival));
  } else {
    if (options_.release_at_pace) ReleaseAll(sequence, now);  // the pace of those before it has caught up
    if (sequence.last_token != gap_began_ || gaps_ == 0) {
      RecordTokens();
      gap_began_ = sequence.last_token;
      gap_ = now - gap_began_;
    }
    ++gaps_;
    sequence.largest_so_far = std::max(sequence.largest_so_far, gap_);
  }
  if (sequence.spending == Spending::kPrefill) sequence.Spend(Spending::kDecode, now);
  sequence.last_token = released;
  sequence.losses = 0;  // it got on
  sequence.tokens.push_back(sampled.token);
  ++sequence.known;
  if (sequence.known % shape()->block_tokens == 0) ExtendIds(sequence);
  NoteAccepted(sequence);
  ++accepted_;
  if (released <= now) AddDelivery(sequence, sampled.token, &sampled.scores);
  const bool full = sequence.known >= options_.context;
  if (sequence.generated() < request.max_tokens && !full) return true;
  Finish(sequence, absl::OkStatus(), FinishReason::kLength);
  return false;
}

void Scheduler::AddDelivery(SequenceState& sequence, int32_t token, std::vector<TokenScore>* scores) {
  TokenSink* const sink = sequence.request.sink.get();
  Delivery& delivery = deliveries_.emplace_back(Delivery{sink, Delivery::Kind::kToken, token});
  if (!sequence.scored) return;
  delivery.kind = Delivery::Kind::kScored;
  delivery.at = scores_.size();
  scores_.push_back(std::move(*scores));
}

}  // namespace interlace
