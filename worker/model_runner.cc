#include "worker/model_runner.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/layer_rows.h"
#include "worker/prompt_key.h"

namespace interlace {
namespace {

bool Samples(const StepPlan& plan) {
  return absl::c_any_of(plan.sequences, [](const PlanSequence& s) { return s.sample; });
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Create(const Options& options, Backend& backend,
                                                                 std::unique_ptr<ModelArch> arch,
                                                                 std::unique_ptr<LayerPager> pager,
                                                                 ActivationChannel* activations, StageGroup* group,
                                                                 Clock& clock) {
  std::unique_ptr<ModelRunner> runner(
      new ModelRunner(options, backend, std::move(arch), std::move(pager), activations, group, clock));
  const PlanLimits& limits = options.limits;
  if (limits.sequence_ranks > 1) {
    const RowShare::Options share{options.stage_rank, limits.sequence_ranks, options.kv_width};
    runner->share_ = std::make_unique<RowShare>(share, *group, *runner->pager_, clock);
  }
  ASSIGN_OR_RETURN(runner->hidden_,
                   backend.Allocate(int64_t{limits.max_tokens} * options.width * int64_t{sizeof(float)}));
  if (options.shard.last()) {
    ASSIGN_OR_RETURN(runner->logits_,
                     backend.Allocate(int64_t{limits.max_samples} * limits.vocab * int64_t{sizeof(float)}));
    runner->masks_ = std::make_unique<OutputMasks>(options.vocabulary, limits.vocab, clock);
  }
  if (options.draft_model != nullptr) {
    runner->model_drafter_ =
        std::make_unique<ModelDrafter>(*options.draft_model, backend, *runner->pager_, runner->sampler_);
  }
  return runner;
}

ModelRunner::ModelRunner(const Options& options, Backend& backend, std::unique_ptr<ModelArch> arch,
                         std::unique_ptr<LayerPager> pager, ActivationChannel* activations, StageGroup* group,
                         Clock& clock)
    : options_(options),
      backend_(backend),
      sampler_(backend, options.limits.vocab),
      arch_(std::move(arch)),
      pager_(std::move(pager)),
      drafter_(options.shard, options.limits.vocab, *arch_, *pager_, sampler_),
      activations_(activations),
      group_(group),
      clock_(clock) {}

StepResult ModelRunner::Execute(const StepPlan& plan, NextPlan next) {
  const absl::Time begin = clock_.Now();
  StepResult result{
      .epoch = plan.epoch, .plan = plan.id, .stage = StageId{options_.shard.stage}, .stage_rank = options_.stage_rank};
  result.status = CheckPlan(plan, options_.limits);
  if (result.status.ok()) result.status = TakeSamples(plan);
  if (!result.status.ok()) return result;

  pager_->Open(plan, RefusedOf(plan));
  if (group_ != nullptr) group_->Begin(plan.epoch, plan.id, *pager_);
  if (share_ != nullptr) share_->Begin(plan);
  pager_->Begin(LayerId{options_.shard.layer_begin});  // the first layer's blocks travel while its input does
  DraftOwn(plan, &result);
  BeginMasks(plan);
  const ShardRange own = OwnRows(plan);
  const StepInput in = InputOf(plan).Rows(own.begin, own.size());
  const Tensor x{hidden_->data(), DType::kF32, plan.tokens(), options_.width};
  const LayerSet keyed = KeyLayers(plan);
  LayerRows rows(plan, options_.limits.layers, *arch_, *pager_);
  result.status = EnterStage(plan, in, x.Rows(own.begin, own.size()));
  for (int32_t l = options_.shard.layer_begin; l < options_.shard.layer_end && result.status.ok() && x.rows > 0; ++l) {
    const LayerId layer{l};
    pager_->Begin(layer);
    RunLayer(layer, in, x.Rows(own.begin, own.size()), &rows);
    pager_->End(layer);
    result.status = GroupStatus();
    if (keyed.Has(layer) && result.status.ok()) result.status = TakeKeys(plan, layer, x, &result);
  }
  if (result.status.ok()) {
    const StepPlan* const following = next();
    pager_->EndLayers(following);  // from here on the link works for the next plan
    if (masks_ != nullptr && following != nullptr) masks_->Prepare(*following);
  }
  if (result.status.ok()) result.status = LeaveStage(plan, x, &result);
  // Nothing of this step is queued any more when its result leaves.
  if (absl::Status done = backend_.Synchronize(); result.status.ok()) result.status = done;
  if (!result.status.ok()) {
    result.sampled.clear();
    result.scored.clear();
    result.pooled.clear();
    result.keys.clear();
    result.drafted.clear();
  }
  if (masks_ != nullptr) masks_->Await();
  pager_->Close(&result);
  result.lost.insert(result.lost.end(), unmasked_.begin(), unmasked_.end());
  if (ended_ != absl::InfinitePast()) result.gap_us = absl::ToInt64Microseconds(begin - ended_);
  if (share_ != nullptr) result.exchange_us = absl::ToInt64Microseconds(share_->exchanged());
  ended_ = clock_.Now();
  result.run_us = absl::ToInt64Microseconds(ended_ - begin);
  return result;
}

void ModelRunner::Reset() {
  pager_->Reset();
  if (model_drafter_ != nullptr) model_drafter_->Reset();
  if (masks_ != nullptr) masks_->Reset();
  unreturned_.clear();
  ended_ = absl::InfinitePast();
}

// Samples come in the order of plans. Those that no plan needs are taken too, once they are there: a stream may go on
// much later.
absl::Status ModelRunner::TakeSamples(const StepPlan& plan) {
  if (!options_.shard.first() || options_.shard.last()) return absl::OkStatus();
  const PlanId needed = pager_->AwaitedSamples(plan);
  while (!unreturned_.empty()) {
    const PlanId next = unreturned_.front();
    if (next > needed && !activations_->SamplesArrived(plan.epoch, next)) break;
    ASSIGN_OR_RETURN(const std::vector<ReturnedSample> samples,
                     activations_->ReceiveSamples(plan.epoch, next, options_.activation_timeout));
    for (const ReturnedSample& s : samples) {
      if (s.token >= options_.limits.vocab) {
        return absl::InvalidArgumentError(absl::StrCat("the last stage sampled token ", s.token,
                                                       " where the vocabulary has ", options_.limits.vocab));
      }
      pager_->NoteReturned(next, s.request, s.attempt, s.token);
    }
    unreturned_.pop_front();
  }
  if (Samples(plan)) unreturned_.push_back(plan.id);
  return absl::OkStatus();
}

StepResult ModelRunner::Report(Epoch epoch) {
  StepResult result{.epoch = epoch, .stage = StageId{options_.shard.stage}, .stage_rank = options_.stage_rank};
  pager_->Report(&result);
  return result;
}

Refusals ModelRunner::RefusedOf(const StepPlan& plan) const {
  Refusals refused;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    if (std::string why = WhyRefused(plan.sequences[i], options_.limits); !why.empty()) refused[i] = std::move(why);
  }
  return refused;
}

void ModelRunner::DraftOwn(const StepPlan& plan, StepResult* result) {
  if (!options_.limits.whole_model) return;
  const absl::Time begin = clock_.Now();
  const Tensor x{hidden_->data(), DType::kF32, plan.tokens(), options_.width};
  bool any = drafter_.Run(plan, x, logits_->data());
  if (model_drafter_ != nullptr) any |= model_drafter_->Run(plan, logits_->data(), &result->drafted);
  if (any) result->draft_us = absl::ToInt64Microseconds(clock_.Now() - begin);
}

StepInput ModelRunner::InputOf(const StepPlan& plan) {
  tokens_.clear();
  positions_.clear();
  adapters_.clear();
  bool adapted = false;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const size_t rows = plan.sequences[i].tokens.size();
    const LoraAdapter* const adapter = pager_->IsLost(i) ? nullptr : pager_->sequence(i).adapter.get();
    adapters_.insert(adapters_.end(), rows, adapter);
    adapted |= adapter != nullptr;
    if (pager_->IsLost(i)) {
      tokens_.resize(tokens_.size() + rows);
      positions_.resize(positions_.size() + rows);
      continue;
    }
    const int32_t start = plan.sequences[i].start;
    const absl::Span<const int32_t> tokens = pager_->sequence(i).tokens().subspan(start);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    for (size_t r = 0; r < rows; ++r) positions_.push_back(start + static_cast<int32_t>(r));
  }
  if (!adapted) adapters_.clear();
  return {tokens_, positions_, adapters_};
}

ShardRange ModelRunner::OwnRows(const StepPlan& plan) const {
  return share_ == nullptr ? ShardRange{0, plan.tokens()} : share_->own();
}

void ModelRunner::RunLayer(LayerId layer, const StepInput& in, const Tensor& x, LayerRows* rows) {
  if (!Divides()) {
    rows->Attention(layer, in, x);
    return rows->FeedForward(layer, in, x);
  }
  if (x.rows == 0) return share_->Attend(layer, {}, {}, {}, {});  // KV of the others' rows comes here too
  arch_->Attention(layer, in, *share_, x);
  arch_->FeedForward(layer, in, x);
}

absl::Status ModelRunner::EnterStage(const StepPlan& plan, const StepInput& in, const Tensor& x) {
  if (plan.sequences.empty()) return absl::OkStatus();
  if (options_.shard.first()) {
    if (x.rows > 0) arch_->Embed(in, x);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const ActivationNote note,
                   activations_->Receive(plan.epoch, plan.id, x, options_.activation_timeout));
  for (size_t index : note.lost) {
    if (index < pager_->running()) pager_->MarkLost(index);
  }
  return absl::OkStatus();
}

absl::Status ModelRunner::LeaveStage(const StepPlan& plan, const Tensor& x, StepResult* result) {
  if (x.rows == 0) return absl::OkStatus();
  TakeMasks(plan);
  RETURN_IF_ERROR(Agree(plan, x));
  if (options_.shard.last()) {
    Sample(plan, x, result);
    RETURN_IF_ERROR(GroupStatus());
    if (!options_.shard.first() && Samples(plan)) {  // streams go on while prompts are scored
      RETURN_IF_ERROR(activations_->SendSamples(plan.epoch, plan.id, result->sampled));
    }
    Score(plan, x, result);
    RETURN_IF_ERROR(GroupStatus());
    return Pool(plan, x, result);
  }
  return HandOn(plan, x);
}

// Somebody may have been lost here alone since the last exchange. Where every rank computes all rows, none of the
// others is worse for it: the loss is in this rank's result.
absl::Status ModelRunner::Agree(const StepPlan& plan, const Tensor& x) {
  if (group_ == nullptr || (share_ != nullptr && !share_->divided())) return absl::OkStatus();
  if (share_ == nullptr || !options_.shard.last()) return group_->Agree();
  share_->Gather(RowsOfResult(plan), x);
  return GroupStatus();
}

// The rank of the next stage that has the same heads, or the same rows of this plan, goes on with them.
absl::Status ModelRunner::HandOn(const StepPlan& plan, const Tensor& x) {
  ActivationNote note{plan.epoch, plan.id, {}};
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    if (pager_->IsLost(i)) note.lost.push_back(i);
  }
  RETURN_IF_ERROR(backend_.Synchronize());
  const ShardRange own = OwnRows(plan);
  return activations_->Send(note, x.Rows(own.begin, own.size()));
}

void ModelRunner::Score(const StepPlan& plan, const Tensor& x, StepResult* result) {
  std::vector<ScoreRow> asked;
  std::vector<int32_t> rows;  // of x, one for each
  int32_t row = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlanSequence& s = plan.sequences[i];
    if (s.score && !pager_->IsLost(i)) {
      const auto count = static_cast<int32_t>(s.score->targets.size());
      PromptScores& scores = result->scored.emplace_back();
      scores = {s.request, s.attempt, s.start + s.score->first + 1, s.score->top, {}, {}};
      scores.ranks.reserve(count);
      scores.scores.reserve(size_t{1} * count * (1 + s.score->top));
      for (int32_t t = 0; t < count; ++t) {
        rows.push_back(row + s.score->first + t);
        asked.push_back({s.score->targets[t], result->scored.size() - 1});
      }
    }
    row += static_cast<int32_t>(s.tokens.size());
  }
  for (size_t begin = 0; begin < rows.size();) {
    const size_t count = std::min(rows.size() - begin, static_cast<size_t>(options_.limits.max_samples));
    const Tensor logits{logits_->data(), DType::kF32, static_cast<int64_t>(count), options_.limits.vocab};
    arch_->Logits(x, absl::MakeConstSpan(rows).subspan(begin, count), logits);
    sampler_.Score(absl::MakeConstSpan(asked).subspan(begin, count), logits, &result->scored);
    begin += count;
  }
}

absl::Status ModelRunner::Pool(const StepPlan& plan, const Tensor& x, StepResult* result) {
  const auto pools = [&](size_t i) { return plan.sequences[i].pool != Pooling::kNone && !pager_->IsLost(i); };
  const auto each = [&](auto body) {
    int64_t row = 0;
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      const auto count = static_cast<int64_t>(plan.sequences[i].tokens.size());
      if (pools(i)) body(i, x.Rows(row, count));
      row += count;
    }
  };
  bool any = false;
  each([&](size_t, const Tensor& rows) {
    arch_->Hidden(rows);
    any = true;
  });
  if (!any) return absl::OkStatus();
  RETURN_IF_ERROR(backend_.Synchronize());
  each([&](size_t i, const Tensor& rows) {
    const PlanSequence& s = plan.sequences[i];
    std::vector<double>& sum = pager_->hidden_sum(i);
    sum.resize(options_.width);
    for (int64_t r = 0; r < rows.rows; ++r) {
      const float* const hidden = rows.f32_row(r);
      for (int32_t d = 0; d < options_.width; ++d) sum[d] += hidden[d];
    }
    if (s.pool != Pooling::kGive) return;
    PooledHidden& pooled = result->pooled.emplace_back(PooledHidden{s.request, s.attempt, {}});
    const auto positions = static_cast<double>(s.start + static_cast<int32_t>(s.tokens.size()));
    for (const double total : sum) pooled.mean.push_back(static_cast<float>(total / positions));
  });
  return absl::OkStatus();
}

absl::Status ModelRunner::TakeKeys(const StepPlan& plan, LayerId layer, const Tensor& x, StepResult* result) {
  if (Divides()) {
    share_->Gather(RowsOfKeys(plan, layer), x);
    RETURN_IF_ERROR(GroupStatus());
  }
  RETURN_IF_ERROR(backend_.Synchronize());
  int64_t row = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlanSequence& s = plan.sequences[i];
    const int64_t begin = row;
    row += static_cast<int64_t>(s.tokens.size());
    if (!s.key || s.key->layer != layer || pager_->IsLost(i)) continue;
    KeySum& key = pager_->key_sum(i);
    key.Add(s.start, static_cast<int32_t>(s.tokens.size()), options_.width, x.Rows(begin, row - begin).f32_row(0));
    if (s.key->give) result->keys.push_back({s.request, s.attempt, key.Mean()});
  }
  return absl::OkStatus();
}

void ModelRunner::BeginMasks(const StepPlan& plan) {
  unmasked_.clear();
  if (masks_ == nullptr) return;
  for (const Release& release : plan.releases) masks_->Release(release.request);
  masks_->Prepare(plan);
  std::vector<MaskAsk> asks;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlanSequence& s = plan.sequences[i];
    if (!s.sample || pager_->IsLost(i)) continue;
    const SequenceKv& kv = pager_->sequence(i);
    if (!kv.sampling.constraint && kv.sampling.allowed_tokens.empty()) continue;
    const size_t known = kv.tokens().size() - static_cast<size_t>(s.drafts);
    const size_t prompt = known - static_cast<size_t>(s.sample_index);
    for (int32_t d = 0; d <= s.drafts; ++d) {
      asks.push_back({i, d, s.request, s.attempt, &kv.sampling, kv.tokens().subspan(prompt, known + d - prompt)});
    }
  }
  masks_->Begin(std::move(asks));
}

void ModelRunner::TakeMasks(const StepPlan& plan) {
  if (masks_ == nullptr) return;
  masks_->Await();
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    if (!plan.sequences[i].sample || pager_->IsLost(i)) continue;
    const RowMask* mask = masks_->Find(i, 0);
    if (mask != nullptr && !mask->status.ok()) Unmask(plan.sequences[i], i, mask->status.message());
  }
}

void ModelRunner::Unmask(const PlanSequence& sequence, size_t index, absl::string_view why) {
  const int32_t unsealed = pager_->sequence(index).shared();  // nothing is wrong with the blocks before
  pager_->MarkLost(index);
  unmasked_.push_back({sequence.request, sequence.attempt, LayerId{options_.shard.layer_begin}, unsealed,
                       LossCause::kRefused, std::string(why)});
}

ModelRunner::SampleRows ModelRunner::RowsToSample(const StepPlan& plan) {
  SampleRows out;
  int32_t row = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlanSequence& s = plan.sequences[i];
    row += static_cast<int32_t>(s.tokens.size());
    if (!s.sample || pager_->IsLost(i)) continue;
    const SequenceKv& kv = pager_->sequence(i);
    for (int32_t d = 0; d <= s.drafts; ++d) {  // the logits after the last known token, then after each draft
      const int32_t behind = s.drafts - d;
      out.rows.push_back(row - 1 - behind);
      out.sequences.push_back(i);
      out.asks.push_back({s.request, s.attempt, s.sample_index + d, &kv.sampling,
                          kv.tokens().first(kv.tokens().size() - static_cast<size_t>(behind))});
      const RowMask* mask = masks_->Find(i, d);
      if (mask == nullptr || !mask->status.ok()) continue;
      out.asks.back().allowed = mask->bits;
      out.asks.back().must_end = mask->must_end;
    }
  }
  return out;
}

void ModelRunner::Sample(const StepPlan& plan, const Tensor& x, StepResult* result) {
  const SampleRows rows = RowsToSample(plan);
  if (rows.asks.empty()) return;
  const Tensor logits{logits_->data(), DType::kF32, static_cast<int64_t>(rows.rows.size()), options_.limits.vocab};
  arch_->Logits(x, rows.rows, logits);
  result->sampled = sampler_.Sample(rows.asks, logits);
  NoteSamples(plan, rows, &result->sampled);
}

void ModelRunner::NoteSamples(const StepPlan& plan, const SampleRows& rows, std::vector<SampledToken>* sampled) {
  // Whether the guesses before each row were right, so that its token counts.
  std::vector<bool> counts(rows.sequences.size(), true);
  for (size_t i = 1; i < rows.sequences.size(); ++i) {
    const size_t index = rows.sequences[i];
    if (rows.sequences[i - 1] != index) continue;
    const SequenceKv& kv = pager_->sequence(index);
    const size_t known = kv.tokens().size() - static_cast<size_t>(plan.sequences[index].drafts);
    const auto draft = static_cast<size_t>(rows.asks[i].index - plan.sequences[index].sample_index);
    counts[i] = counts[i - 1] && (*sampled)[i - 1].token == kv.tokens()[known + draft - 1];
  }
  size_t kept = 0;
  for (size_t i = 0; i < rows.sequences.size(); ++i) {
    const size_t index = rows.sequences[i];
    pager_->NoteSample(index, (*sampled)[i].token);
    if ((*sampled)[i].token < 0 && !rows.asks[i].allowed.empty() && !pager_->IsLost(index) && counts[i]) {
      Unmask(plan.sequences[index], index,
             "no token may follow: the constraint, allowed_token_ids, bad_words and logit_bias leave none");
    }
    if (plan.sequences[index].rank_drafts() && !counts[i]) continue;
    if (kept != i) (*sampled)[kept] = std::move((*sampled)[i]);
    ++kept;
  }
  sampled->resize(kept);
}

}  // namespace interlace
