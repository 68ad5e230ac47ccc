#include "cli/skip_model.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "cli/model_cost.h"
#include "cli/skip_logits.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "model/weights.h"
#include "worker/rank.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<SkipModel>> SkipModel::Open(const Config& config, int32_t context) {
  std::unique_ptr<SkipModel> model(new SkipModel);
  ASSIGN_OR_RETURN(model->checkpoint_, Checkpoint::Open(config.model.path));
  const ModelSpec& spec = model->spec();
  if (spec.layers < 3) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model has ", spec.layers, " layers; of 3 the one in the middle may be passed over"));
  }
  ASSIGN_OR_RETURN(const DType dtype, ParseKvDType(config.kv.dtype));
  model->shape_ = {static_cast<int32_t>(config.kv.block_tokens), spec.kv_heads, spec.head_dim, dtype};
  const int threads = config.engine.threads > 0 ? static_cast<int>(config.engine.threads) : AvailableCores();
  ASSIGN_OR_RETURN(model->backend_, CreateBackend(config.engine.backend, {config.engine.ops, threads}));
  Backend& backend = *model->backend_;
  const ShardSpec whole{.layer_end = spec.layers};
  ASSIGN_OR_RETURN(model->arch_, MakeArch({.checkpoint = model->checkpoint_.get(),
                                           .spec = &spec,
                                           .shard = whole,
                                           .backend = &backend,
                                           .max_tokens = kMostRows,
                                           .progress = [](int64_t, int64_t) {}}));
  const int64_t blocks = (context + model->shape_.block_tokens - 1) / model->shape_.block_tokens;
  ASSIGN_OR_RETURN(model->kv_, backend.Allocate(blocks * spec.layers * model->shape_.bytes()));
  model->blocks_.resize(spec.layers);
  std::byte* next = model->kv_->data();
  for (std::vector<std::byte*>& layer : model->blocks_) {
    for (int64_t b = 0; b < blocks; ++b, next += model->shape_.bytes()) layer.push_back(next);
  }
  model->cost_ = CostOfModel(*model->checkpoint_, model->shape_.bytes() / model->shape_.block_tokens);
  const int64_t hidden_bytes = int64_t{kMostRows} * spec.width * int64_t{sizeof(float)};
  ASSIGN_OR_RETURN(model->hidden_, backend.Allocate(hidden_bytes));
  ASSIGN_OR_RETURN(model->before_, backend.Allocate(hidden_bytes));
  return model;
}

std::vector<int32_t> SkipModel::Begin(int32_t start, absl::Span<const int32_t> tokens) {
  CHECK(tokens.size() <= kMostRows);
  rows_ = static_cast<int64_t>(tokens.size());
  start_ = start;
  first_row_ = 0;
  std::vector<int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), start);
  return positions;
}

void SkipModel::RunLayers(int32_t start, absl::Span<const int32_t> tokens, const SkipPlan& plan, bool keep_kv,
                          const Watch* watch) {
  const std::vector<int32_t> positions = Begin(start, tokens);
  const StepInput in{tokens, positions};
  const int32_t layers = spec().layers;
  const Tensor x{hidden_->data(), DType::kF32, rows_, spec().width};
  const Tensor before{before_->data(), DType::kF32, rows_, spec().width};
  arch_->Embed(in, x);
  for (int32_t l = 0; l < layers; ++l) {
    if (watch != nullptr) {
      CHECK(backend_->Synchronize().ok());
      std::memcpy(before.data, x.data, static_cast<size_t>(x.bytes()));
    }
    if (plan.RunsAttention(LayerId{l}, layers)) {
      arch_->Attention(LayerId{l}, in, *this, x);
    } else if (keep_kv) {
      arch_->KeysAndValues(LayerId{l}, in, *this, x);
    }
    if (plan.RunsFeedForward(LayerId{l}, layers)) arch_->FeedForward(LayerId{l}, in, x);
    if (watch != nullptr) {
      CHECK(backend_->Synchronize().ok());
      (*watch)(l, before, x);
    }
  }
}

absl::StatusOr<std::vector<ExitedRow>> SkipModel::RunExiting(int32_t start, absl::Span<const int32_t> tokens,
                                                             const ExitRule& rule) {
  const std::vector<int32_t> positions = Begin(start, tokens);
  const StepInput in{tokens, positions};
  std::vector<ExitedRow> rows(tokens.size(), ExitedRow{spec().layers, 0});
  arch_->Embed(in, {hidden_->data(), DType::kF32, rows_, spec().width});
  for (int32_t l = 0; l < spec().layers; ++l) {
    RunRows(LayerId{l}, in, rows);
    const bool looks = std::find(rule.looks.begin(), rule.looks.end(), l) != rule.looks.end();
    if (looks && l + 1 < spec().layers) RETURN_IF_ERROR(Look(l, rule.lead, &rows));
  }
  first_row_ = 0;
  return rows;
}

void SkipModel::RunRows(LayerId layer, const StepInput& in, absl::Span<const ExitedRow> rows) {
  const Tensor x{hidden_->data(), DType::kF32, rows_, spec().width};
  const auto runs = [&](size_t row) { return Value(layer) < rows[row].layers; };
  // Rows side by side that do the same; upwards, since a row attends to those before it.
  for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
    while (end < rows.size() && runs(end) == runs(begin)) ++end;
    const auto first = static_cast<int64_t>(begin), count = static_cast<int64_t>(end - begin);
    first_row_ = static_cast<int32_t>(begin);
    if (runs(begin)) {
      arch_->Attention(layer, in.Rows(first, count), *this, x.Rows(first, count));
      arch_->FeedForward(layer, in.Rows(first, count), x.Rows(first, count));
    } else {
      arch_->KeysAndValues(layer, in.Rows(first, count), *this, x.Rows(first, count));
    }
  }
}

absl::Status SkipModel::Look(int32_t layer, double lead, std::vector<ExitedRow>* rows) {
  std::vector<int32_t> asked;
  for (size_t row = 0; row < rows->size(); ++row) {
    if ((*rows)[row].layers == spec().layers) asked.push_back(static_cast<int32_t>(row));
  }
  if (asked.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const absl::Span<const float> logits, Logits(asked));
  for (size_t i = 0; i < asked.size(); ++i) {
    ExitedRow& row = (*rows)[asked[i]];
    ++row.looks;
    const auto vocab = static_cast<size_t>(spec().vocab);
    if (LeadOf(logits.subspan(i * vocab, vocab)) > lead) row.layers = layer + 1;
  }
  return absl::OkStatus();
}

void SkipModel::Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) {
  const int32_t start = start_ + first_row_;
  const auto end = static_cast<size_t>(start + k.rows);
  const auto block_tokens = static_cast<size_t>(shape_.block_tokens);
  const AttentionSpec& attention = spec().layer[Value(layer)].attention;
  const SequenceRows rows{0, k.rows, start,
                          absl::MakeConstSpan(blocks_[Value(layer)]).first((end + block_tokens - 1) / block_tokens)};
  backend_->ops().kv_append({shape_, k, v, {&rows, 1}}, backend_->context());
  if (q.rows == 0) return;
  backend_->ops().paged_attention({.out = out,
                                   .q = q,
                                   .shape = shape_,
                                   .sequences = {&rows, 1},
                                   .heads = spec().heads,
                                   .scale = attention.scale,
                                   .window = attention.window,
                                   .soft_cap = attention.soft_cap},
                                  backend_->context());
}

absl::StatusOr<absl::Span<const float>> SkipModel::Logits(absl::Span<const int32_t> rows) {
  const auto count = static_cast<int64_t>(rows.size());
  const int64_t bytes = count * spec().vocab * int64_t{sizeof(float)};
  if (logits_ == nullptr || logits_->bytes() < bytes) {
    ASSIGN_OR_RETURN(logits_, backend_->Allocate(bytes));
  }
  arch_->Logits({hidden_->data(), DType::kF32, rows_, spec().width}, rows,
                {logits_->data(), DType::kF32, count, spec().vocab});
  RETURN_IF_ERROR(backend_->Synchronize());
  return absl::MakeConstSpan(reinterpret_cast<const float*>(logits_->data()),
                             static_cast<size_t>(count) * static_cast<size_t>(spec().vocab));
}

absl::StatusOr<std::vector<int32_t>> SkipModel::Choices(int32_t count) {
  std::vector<int32_t> rows(count);
  std::iota(rows.begin(), rows.end(), 0);
  ASSIGN_OR_RETURN(const absl::Span<const float> logits, Logits(rows));
  std::vector<int32_t> choices;
  for (int32_t r = 0; r < count; ++r) {
    const float* const row = logits.data() + int64_t{r} * spec().vocab;
    choices.push_back(FirstChoice({row, static_cast<size_t>(spec().vocab)}));
  }
  return choices;
}

}  // namespace interlace
