#include "model/decoder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr int64_t kTogether = 3;  // products of one x that adapters add to: q, k and v

int64_t Slots(const ExpertSpec& experts) { return experts.top_k + (experts.shared_feed_forward > 0 ? 1 : 0); }

ShardRange Times(ShardRange range, int64_t factor) { return {range.begin * factor, range.end * factor}; }

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Create(const ArchInput& input) {
  ASSIGN_OR_RETURN(const TensorSplit split,
                   SplitTensors(*input.spec, input.shard.tensor_rank, input.shard.tensor_ranks));
  return std::unique_ptr<Decoder>(new Decoder(input, split));
}

Decoder::Decoder(const ArchInput& input, const TensorSplit& split)
    : spec_(*input.spec),
      shard_(input.shard),
      split_(split),
      backend_(*input.backend),
      group_(input.group),
      adapters_(input.adapters),
      max_tokens_(input.max_tokens),
      loader_(*input.checkpoint, input.shard, *input.backend) {}

// ---- loading ----

std::string Decoder::NameOf(int32_t layer, absl::string_view part) const {
  return absl::StrCat("blk.", layer, ".", part);
}

void Decoder::WantAttention(int32_t layer, AttentionWeights* w) {
  const int64_t head_dim = spec_.head_dim, width = spec_.width;
  const int64_t q_rows = spec_.heads * head_dim, kv_rows = spec_.kv_heads * head_dim;
  const ShardRange q = Times(split_.heads, head_dim), kv = Times(split_.kv_heads, head_dim), all{0, width};
  loader_.Matrix(NameOf(layer, "attn_q.weight"), q_rows, width, q, all, &w->q);
  loader_.Matrix(NameOf(layer, "attn_k.weight"), kv_rows, width, kv, all, &w->k);
  loader_.Matrix(NameOf(layer, "attn_v.weight"), kv_rows, width, kv, all, &w->v);
  loader_.Matrix(NameOf(layer, "attn_output.weight"), width, q_rows, all, q, &w->output);
  if (spec_.parts.qkv_bias) {
    loader_.Bias(NameOf(layer, "attn_q.bias"), q_rows, q, &w->q_bias);
    loader_.Bias(NameOf(layer, "attn_k.bias"), kv_rows, kv, &w->k_bias);
    loader_.Bias(NameOf(layer, "attn_v.bias"), kv_rows, kv, &w->v_bias);
  }
  if (spec_.parts.qk_norm != QkNorm::kNone) {
    const bool each = spec_.parts.qk_norm == QkNorm::kHead;
    loader_.Norm(NameOf(layer, "attn_q_norm.weight"), each ? head_dim : q_rows, &w->q_norm);
    loader_.Norm(NameOf(layer, "attn_k_norm.weight"), each ? head_dim : kv_rows, &w->k_norm);
  }
}

void Decoder::WantNorm(int32_t layer, const std::string& name, Tensor* norm) {
  loader_.Norm(NameOf(layer, name + ".weight"), spec_.width, norm);
}

void Decoder::WantGated(int32_t layer, const std::string& suffix, int64_t feed_forward, ShardRange rows,
                        LinearWeight* gate, LinearWeight* up, LinearWeight* down) {
  const ShardRange all{0, spec_.width};
  loader_.Matrix(NameOf(layer, absl::StrCat("ffn_gate", suffix, ".weight")), feed_forward, spec_.width, rows, all,
                 gate);
  loader_.Matrix(NameOf(layer, absl::StrCat("ffn_up", suffix, ".weight")), feed_forward, spec_.width, rows, all, up);
  loader_.Matrix(NameOf(layer, absl::StrCat("ffn_down", suffix, ".weight")), spec_.width, feed_forward, all, rows,
                 down);
}

void Decoder::WantFfn(int32_t layer, FfnWeights* w) {
  WantGated(layer, "", spec_.feed_forward, split_.feed_forward, &w->gate, &w->up, &w->down);
}

void Decoder::WantExperts(int32_t layer, MoeWeights* w) {
  const ExpertSpec& experts = spec_.experts;
  const bool shared = experts.shared_feed_forward > 0;
  w->experts.resize(experts.count + (shared ? 1 : 0));
  loader_.Matrix(NameOf(layer, "ffn_gate_inp.weight"), experts.count, spec_.width, &w->router);
  for (int64_t e = split_.experts.begin; e < split_.experts.end; ++e) {
    ExpertWeight& expert = w->experts[e];
    WantGated(layer, absl::StrCat(".", e), experts.feed_forward, {0, experts.feed_forward}, &expert.gate, &expert.up,
              &expert.down);
  }
  if (!shared) return;
  loader_.Matrix(NameOf(layer, "ffn_gate_inp_shexp.weight"), 1, spec_.width, &w->shared_router);
  ExpertWeight& expert = w->experts.back();
  WantGated(layer, "_shexp", experts.shared_feed_forward, split_.shared_feed_forward, &expert.gate, &expert.up,
            &expert.down);
}

void Decoder::WantEnds() {
  const bool whole = shard_.tensor_ranks == 1;
  const bool head_is_embedding = shard_.last() && spec_.tied_head && whole;
  if (shard_.first() || head_is_embedding) {
    loader_.Matrix("token_embd.weight", spec_.vocab, spec_.width, &embedding_);
  }
  if (!shard_.last()) return;
  // The head alone reads what this norm gives, so that the norm may carry the scale of the logits.
  loader_.Norm("output_norm.weight", spec_.width, &output_norm_, spec_.logit_scale);
  if (spec_.logit_scale != 1) loader_.Norm("output_norm.weight", spec_.width, &hidden_norm_);
  if (head_is_embedding) return;
  loader_.Matrix(spec_.tied_head ? "token_embd.weight" : "output.weight", spec_.vocab, spec_.width, split_.vocab,
                 {0, spec_.width}, &head_);
}

absl::Status Decoder::Load(absl::FunctionRef<void(int64_t, int64_t)> progress) {
  WantEnds();
  ASSIGN_OR_RETURN(weights_, loader_.Load(progress));
  if (head_.data == nullptr) head_ = embedding_;
  return AllocateScratch();
}

absl::Status Decoder::AllocateScratch() {
  const ExpertSpec& experts = spec_.experts;
  const int64_t slots = Slots(experts), expert_width = experts.count > 0 ? spec_.width : 0;
  const int64_t largest = experts.count > 0 ? std::max(experts.feed_forward, experts.shared_feed_forward) : 0;
  const int64_t most_rank = adapters_ != nullptr ? adapters_->most_rank() : 0;
  const bool gates = adapters_ != nullptr && adapters_->adapts_gate();
  const struct {
    Tensor* tensor;
    int64_t rows_per_token, cols;
  } wanted[] = {{&normed_, 1, spec_.width},
                {&q_, 1, split_.heads.size() * spec_.head_dim},
                {&k_, 1, split_.kv_heads.size() * spec_.head_dim},
                {&v_, 1, split_.kv_heads.size() * spec_.head_dim},
                {&attended_, 1, split_.heads.size() * spec_.head_dim},
                {&gated_, 1, split_.feed_forward.size()},
                {&up_, 1, gates ? split_.feed_forward.size() : 0},
                {&low_, 1, kTogether * most_rank},
                {&branch_, 1, spec_.width},
                {&router_logits_, 1, experts.count},
                {&shared_logits_, 1, 1},
                {&slot_weights_, 1, slots},
                {&moe_gathered_, slots, expert_width},
                {&moe_gated_, slots, largest},
                {&moe_products_, slots, expert_width}};
  int64_t floats = 0;
  for (const auto& [tensor, rows_per_token, cols] : wanted) {
    floats += (max_tokens_ * rows_per_token * cols + 15) / 16 * 16;  // each begins on a cache line
  }
  ASSIGN_OR_RETURN(scratch_, backend_.Allocate(floats * int64_t{sizeof(float)}));
  auto* next = reinterpret_cast<float*>(scratch_->data());
  for (const auto& [tensor, rows_per_token, cols] : wanted) {
    *tensor = {next, DType::kF32, max_tokens_ * rows_per_token, cols};
    next += (tensor->rows * cols + 15) / 16 * 16;
  }
  slot_experts_.resize(max_tokens_ * slots);
  return absl::OkStatus();
}

// ---- running ----

void Decoder::Embed(const StepInput& in, const Tensor& x) {
  CHECK(shard_.first());
  backend_.ops().embedding({x, embedding_, in.tokens, spec_.embedding_scale}, backend_.context());
}

Tensor Decoder::Normed(const Tensor& x, const Tensor& weight) {
  CHECK(x.rows <= max_tokens_);
  const Tensor h = normed_.Rows(0, x.rows);
  backend_.ops().rms_norm({h, x, weight, spec_.norm_epsilon}, backend_.context());
  return h;
}

void Decoder::Norm(const Tensor& y, const Tensor& weight) {
  backend_.ops().rms_norm({y, y, weight, spec_.norm_epsilon}, backend_.context());
}

template <typename Compute>
void Decoder::Reduce(const Tensor& y, bool accumulate, Compute compute) {
  if (group_ == nullptr) return compute(y, accumulate);
  const Tensor part = group_->Part(y.rows, y.cols);
  compute(part, false);
  group_->Sum(part, y, accumulate);
}

void Decoder::Place(LayerId layer, const StepInput& in, const Tensor& x, int64_t heads, const Tensor& norm) {
  if (spec_.parts.qk_norm == QkNorm::kAll) Norm(x, norm);
  if (spec_.parts.qk_norm == QkNorm::kHead) Norm({x.data, DType::kF32, x.rows * heads, spec_.head_dim}, norm);
  const int32_t index = spec_.layer[Value(layer)].rope;
  if (index < 0) return;
  const RopeSpec& rope = spec_.ropes[index];
  backend_.ops().rope({x, in.positions, rope.frequencies, spec_.head_dim, spec_.pairs, rope.magnitude},
                      backend_.context());
}

void Decoder::Attention(LayerId layer, const AttentionWeights& w, const StepInput& in, LayerKv& kv, const Tensor& h,
                        const Tensor& y, bool accumulate) {
  CHECK(Value(layer) >= shard_.layer_begin && Value(layer) < shard_.layer_end && h.rows <= max_tokens_);
  const OpTable& ops = backend_.ops();
  const OpContext on = backend_.context();
  const int64_t n = h.rows;
  const Tensor q = q_.Rows(0, n), k = k_.Rows(0, n), v = v_.Rows(0, n), attended = attended_.Rows(0, n);
  ops.linear({h, {{q, w.q, w.q_bias}, {k, w.k, w.k_bias}, {v, w.v, w.v_bias}}}, on);
  Adapt(layer, in, h, {{LoraPart::kQ, q}, {LoraPart::kK, k}, {LoraPart::kV, v}});
  Place(layer, in, q, split_.heads.size(), w.q_norm);
  Place(layer, in, k, split_.kv_heads.size(), w.k_norm);
  kv.Attend(layer, q, k, v, attended);
  Reduce(y, accumulate, [&](const Tensor& to, bool add) {
    ops.linear({attended, {{.y = to, .w = w.output, .accumulate = add}}}, on);
    Adapt(layer, in, attended, {{LoraPart::kOutput, to}});
  });
}

void Decoder::KeysAndValues(LayerId layer, const AttentionWeights& w, const StepInput& in, LayerKv& kv,
                            const Tensor& h) {
  const Tensor k = k_.Rows(0, h.rows), v = v_.Rows(0, h.rows);
  backend_.ops().linear({h, {{k, w.k, w.k_bias}, {v, w.v, w.v_bias}}}, backend_.context());
  Adapt(layer, in, h, {{LoraPart::kK, k}, {LoraPart::kV, v}});
  Place(layer, in, k, split_.kv_heads.size(), w.k_norm);
  kv.Attend(layer, {}, k, v, {});
}

void Decoder::Ffn(LayerId layer, const FfnWeights& w, const StepInput& in, const Tensor& h, const Tensor& y,
                  bool accumulate) {
  const Tensor gated = Gated(layer, w, in, h);
  Reduce(y, accumulate, [&](const Tensor& to, bool add) {
    backend_.ops().linear({gated, {{.y = to, .w = w.down, .accumulate = add}}}, backend_.context());
    Adapt(layer, in, gated, {{LoraPart::kDown, to}});
  });
}

Tensor Decoder::Gated(LayerId layer, const FfnWeights& w, const StepInput& in, const Tensor& h) {
  const OpTable& ops = backend_.ops();
  const OpContext on = backend_.context();
  const Tensor gated = gated_.Rows(0, h.rows);
  const auto adapts = [layer](const LoraAdapter* adapter) { return adapter != nullptr && adapter->AdaptsGate(layer); };
  if (std::none_of(in.adapters.begin(), in.adapters.end(), adapts)) {
    ops.gated_linear({gated, h, w.gate, w.up, spec_.parts.gate}, on);
    return gated;
  }
  const Tensor up = up_.Rows(0, h.rows);
  ops.linear({h, {{gated, w.gate}, {up, w.up}}}, on);
  Adapt(layer, in, h, {{LoraPart::kGate, gated}, {LoraPart::kUp, up}});
  ops.gate({gated, up, spec_.parts.gate}, on);
  return gated;
}

void Decoder::Adapt(LayerId layer, const StepInput& in, const Tensor& x, std::initializer_list<Adapted> products) {
  const auto rows = static_cast<int64_t>(in.adapters.size());
  for (int64_t begin = 0, end = 0; begin < rows; begin = end) {
    const LoraAdapter* const adapter = in.adapters[begin];
    while (end < rows && in.adapters[end] == adapter) ++end;
    if (adapter == nullptr) continue;
    absl::InlinedVector<Adapted, kTogether> of_rows;
    for (const Adapted& product : products) of_rows.push_back({product.part, product.y.Rows(begin, end - begin)});
    AdaptRows(*adapter, layer, x.Rows(begin, end - begin), of_rows);
  }
}

void Decoder::AdaptRows(const LoraAdapter& adapter, LayerId layer, const Tensor& x,
                        absl::Span<const Adapted> products) {
  absl::InlinedVector<LinearOut, kTogether> narrow;
  float* next = low_.f32();
  for (const Adapted& product : products) {
    const LinearWeight& a = adapter.Find(layer, product.part).a;
    if (a.data == nullptr) continue;
    narrow.push_back({{next, DType::kF32, x.rows, a.rows}, a});
    next += x.rows * a.rows;
  }
  if (narrow.empty()) return;
  backend_.ops().linear({x, narrow}, backend_.context());
  size_t i = 0;
  for (const Adapted& product : products) {
    const LoraWeight& w = adapter.Find(layer, product.part);
    if (w.a.data == nullptr) continue;
    backend_.ops().linear({narrow[i++].y, {{.y = product.y, .w = w.b, .accumulate = true}}}, backend_.context());
  }
}

void Decoder::Experts(const MoeWeights& w, const Tensor& h, const Tensor& y) {
  const OpTable& ops = backend_.ops();
  const OpContext on = backend_.context();
  const int64_t n = h.rows, slots = Slots(spec_.experts);
  const Tensor logits = router_logits_.Rows(0, n), weights = slot_weights_.Rows(0, n);
  const Tensor shared = w.shared_router.data != nullptr ? shared_logits_.Rows(0, n) : Tensor{};
  ops.linear({h, {{logits, w.router}}}, on);
  if (shared.data != nullptr) ops.linear({h, {{shared, w.shared_router}}}, on);
  const absl::Span<int32_t> experts = absl::MakeSpan(slot_experts_).first(n * slots);
  ops.moe_route({.weights = weights,
                 .experts = experts,
                 .logits = logits,
                 .shared = shared,
                 .top_k = spec_.experts.top_k,
                 .normalise = spec_.experts.normalise,
                 .scale = spec_.residual_scale},
                on);
  Reduce(y, /*accumulate=*/true, [&](const Tensor& to, bool add) {
    if (!add) std::memset(to.data, 0, static_cast<size_t>(to.bytes()));  // the op adds to what is there
    ops.moe_ffn({to, h, weights, experts, w.experts, spec_.parts.gate, moe_gathered_, moe_gated_, moe_products_}, on);
  });
}

void Decoder::Add(const Tensor& x, const Tensor& y) {
  backend_.ops().residual_add({x, y, spec_.residual_scale}, backend_.context());
}

void Decoder::Logits(const Tensor& x, absl::Span<const int32_t> rows, const Tensor& logits) {
  const auto count = static_cast<int64_t>(rows.size());
  CHECK(shard_.last() && count <= max_tokens_);
  for (int64_t i = 0; i < count;) {  // rows that follow one another, as those of a decode step do, in one call
    int64_t end = i + 1;
    while (end < count && rows[end] == rows[end - 1] + 1) ++end;
    backend_.ops().rms_norm({normed_.Rows(i, end - i), x.Rows(rows[i], end - i), output_norm_, spec_.norm_epsilon},
                            backend_.context());
    i = end;
  }
  const Tensor part = group_ == nullptr ? logits : group_->Part(count, split_.vocab.size());
  backend_.ops().linear({normed_.Rows(0, count), {{part, head_}}}, backend_.context());
  if (group_ != nullptr) group_->Join(part, logits);
  if (spec_.logit_cap > 0) backend_.ops().soft_cap({logits, spec_.logit_cap}, backend_.context());
}

void Decoder::Hidden(const Tensor& x) {
  CHECK(shard_.last());
  Norm(x, hidden_norm_.data != nullptr ? hidden_norm_ : output_norm_);
}

}  // namespace interlace
