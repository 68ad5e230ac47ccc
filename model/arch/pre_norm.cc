#include "model/arch/pre_norm.h"

#include <utility>

namespace interlace {

PreNorm::PreNorm(std::unique_ptr<Decoder> decoder, PreNormKind kind)
    : decoder_(std::move(decoder)), kind_(kind), layers_(decoder_->shard().layers()) {}

absl::Status PreNorm::Load(absl::FunctionRef<void(int64_t, int64_t)> progress) {
  int32_t l = decoder_->shard().layer_begin;
  for (Weights& w : layers_) {
    decoder_->WantNorm(l, "attn_norm", &w.attention_norm);
    decoder_->WantAttention(l, kind_.bias, kind_.head_norms, &w.attention);
    decoder_->WantNorm(l, "ffn_norm", &w.ffn_norm);
    if (decoder_->spec().layer[l].experts) {
      decoder_->WantExperts(l, &w.experts);
    } else {
      decoder_->WantFfn(l, &w.ffn);
    }
    ++l;
  }
  return decoder_->Load(progress);
}

void PreNorm::Layer(LayerId layer, const StepInput& in, LayerKv& kv, const Tensor& x) {
  const Weights& w = layers_[Value(layer) - decoder_->shard().layer_begin];
  decoder_->Attention(layer, w.attention, in, kv, decoder_->Normed(x, w.attention_norm), x, /*accumulate=*/true);
  const Tensor h = decoder_->Normed(x, w.ffn_norm);
  if (decoder_->spec().layer[Value(layer)].experts) {
    decoder_->Experts(w.experts, h, x);
  } else {
    decoder_->Ffn(w.ffn, GateKind::kSilu, h, x, /*accumulate=*/true);
  }
}

}  // namespace interlace
