#include "model/arch/decoder_arch.h"

#include <algorithm>
#include <utility>

#include "common/status_macros.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<ModelArch>> DecoderArch::Make(const ArchInput& input) {
  ASSIGN_OR_RETURN(std::unique_ptr<Decoder> decoder, Decoder::Create(input));
  std::unique_ptr<DecoderArch> arch(new DecoderArch(std::move(decoder)));
  RETURN_IF_ERROR(arch->Load(input.progress));
  return arch;
}

DecoderArch::DecoderArch(std::unique_ptr<Decoder> decoder)
    : decoder_(std::move(decoder)),
      norms_before_(decoder_->spec().parts.norms != NormPlace::kAfter),
      norms_after_(decoder_->spec().parts.norms != NormPlace::kBefore),
      adds_at_once_(!norms_after_ && decoder_->spec().residual_scale == 1),
      layers_(decoder_->shard().layers()) {}

absl::Status DecoderArch::Load(absl::FunctionRef<void(int64_t, int64_t)> progress) {
  int32_t l = decoder_->shard().layer_begin;
  for (Weights& w : layers_) {
    if (norms_before_) decoder_->WantNorm(l, "attn_norm", &w.attention_norm);
    decoder_->WantAttention(l, &w.attention);
    if (norms_after_) decoder_->WantNorm(l, "post_attention_norm", &w.post_attention_norm);
    if (norms_before_) decoder_->WantNorm(l, "ffn_norm", &w.ffn_norm);
    if (decoder_->spec().layer[l].experts) {
      decoder_->WantExperts(l, &w.experts);
    } else {
      decoder_->WantFfn(l, &w.ffn);
    }
    if (norms_after_) decoder_->WantNorm(l, "post_ffw_norm", &w.post_ffn_norm);
    ++l;
  }
  return decoder_->Load(progress);
}

void DecoderArch::Join(const Tensor& x, const Tensor& y, const Tensor& norm) {
  if (norms_after_) decoder_->Norm(y, norm);
  if (!adds_at_once_) decoder_->Add(x, y);
}

void DecoderArch::Attention(LayerId layer, const StepInput& in, LayerKv& kv, const Tensor& x) {
  const Weights& w = WeightsOf(layer);
  const Tensor y = OutputFor(x);
  decoder_->Attention(layer, w.attention, in, kv, InputOf(x, w.attention_norm), y, adds_at_once_);
  Join(x, y, w.post_attention_norm);
}

void DecoderArch::KeysAndValues(LayerId layer, const StepInput& in, LayerKv& kv, const Tensor& x) {
  const Weights& w = WeightsOf(layer);
  decoder_->KeysAndValues(layer, w.attention, in, kv, InputOf(x, w.attention_norm));
}

void DecoderArch::FeedForward(LayerId layer, const StepInput& in, const Tensor& x) {
  const Weights& w = WeightsOf(layer);
  if (decoder_->spec().layer[Value(layer)].experts) return decoder_->Experts(w.experts, InputOf(x, w.ffn_norm), x);
  const Tensor y = OutputFor(x);
  decoder_->Ffn(layer, w.ffn, in, InputOf(x, w.ffn_norm), y, adds_at_once_);
  Join(x, y, w.post_ffn_norm);
}

}  // namespace interlace
