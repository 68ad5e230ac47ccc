// PreNorm: the architecture that Llama set: a norm before attention and one before the feed-forward part, which is
// SwiGLU or routed experts.
#pragma once

#include <memory>
#include <vector>

#include "model/decoder.h"

namespace interlace {

// What its families differ by. Which layers have experts is in the spec.
struct PreNormKind {
  Decoder::Bias bias = Decoder::Bias::kNone;
  Decoder::HeadNorms head_norms = Decoder::HeadNorms::kNone;
};

// Owned by a rank; thread: runner. The trap: a layer has either `ffn` or `experts`; the other is empty.
class PreNorm final : public ModelArch {
 public:
  PreNorm(std::unique_ptr<Decoder> decoder, PreNormKind kind);
  absl::Status Load(absl::FunctionRef<void(int64_t, int64_t)> progress);

  void Embed(const StepInput& in, const Tensor& x) override { decoder_->Embed(in, x); }
  void Layer(LayerId layer, const StepInput& in, LayerKv& kv, const Tensor& x) override;
  void Logits(const Tensor& x, absl::Span<const int32_t> rows, const Tensor& logits) override {
    decoder_->Logits(x, rows, logits);
  }
  void Hidden(const Tensor& x) override { decoder_->Hidden(x); }

 private:
  struct Weights {
    Tensor attention_norm, ffn_norm;  // [1, width]
    AttentionWeights attention;
    FfnWeights ffn;
    MoeWeights experts;
  };

  const std::unique_ptr<Decoder> decoder_;
  const PreNormKind kind_;
  std::vector<Weights> layers_;  // of this shard
};

}  // namespace interlace
