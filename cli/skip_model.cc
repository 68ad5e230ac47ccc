#include "cli/skip_model.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
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
  const int64_t hidden_bytes = int64_t{kMostRows} * spec.width * int64_t{sizeof(float)};
  ASSIGN_OR_RETURN(model->hidden_, backend.Allocate(hidden_bytes));
  ASSIGN_OR_RETURN(model->before_, backend.Allocate(hidden_bytes));
  return model;
}

void SkipModel::RunLayers(int32_t start, absl::Span<const int32_t> tokens, const SkipPlan& plan, const Watch* watch) {
  CHECK(tokens.size() <= kMostRows);
  rows_ = static_cast<int64_t>(tokens.size());
  start_ = start;
  std::vector<int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), start);
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
    if (plan.RunsAttention(LayerId{l}, layers)) arch_->Attention(LayerId{l}, in, *this, x);
    if (plan.RunsFeedForward(LayerId{l}, layers)) arch_->FeedForward(LayerId{l}, in, x);
    if (watch != nullptr) {
      CHECK(backend_->Synchronize().ok());
      (*watch)(l, before, x);
    }
  }
}

void SkipModel::Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) {
  const auto end = static_cast<size_t>(start_ + rows_);
  const auto block_tokens = static_cast<size_t>(shape_.block_tokens);
  const AttentionSpec& attention = spec().layer[Value(layer)].attention;
  const SequenceRows rows{0, rows_, start_,
                          absl::MakeConstSpan(blocks_[Value(layer)]).first((end + block_tokens - 1) / block_tokens)};
  backend_->ops().kv_append({shape_, k, v, {&rows, 1}}, backend_->context());
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
    choices.push_back(static_cast<int32_t>(std::max_element(row, row + spec().vocab) - row));
  }
  return choices;
}

}  // namespace interlace
