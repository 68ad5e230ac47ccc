// DecoderArch: every architecture of the table: a layer is attention, then a feed-forward part or routed experts, each
// with norms before it, after it or both.
#pragma once

#include <memory>
#include <vector>

#include "model/decoder.h"

namespace interlace {

// Owned by a rank; thread: runner. The trap: a layer has either `ffn` or `experts`, and norms only where
// ModelSpec::parts has them; the others are empty.
class DecoderArch final : public ModelArch {
 public:
  static absl::StatusOr<std::unique_ptr<ModelArch>> Make(const ArchInput& input);

  void Embed(const StepInput& in, const Tensor& x) override { decoder_->Embed(in, x); }
  void Attention(LayerId layer, const StepInput& in, LayerKv& kv, const Tensor& x) override;
  void FeedForward(LayerId layer, const StepInput& in, const Tensor& x) override;
  void KeysAndValues(LayerId layer, const StepInput& in, LayerKv& kv, const Tensor& x) override;
  void Logits(const Tensor& x, absl::Span<const int32_t> rows, const Tensor& logits) override {
    decoder_->Logits(x, rows, logits);
  }
  void Hidden(const Tensor& x) override { decoder_->Hidden(x); }

 private:
  struct Weights {
    Tensor attention_norm, post_attention_norm;  // [1, width]
    Tensor ffn_norm, post_ffn_norm;              // [1, width]
    AttentionWeights attention;
    FfnWeights ffn;
    MoeWeights experts;
  };

  const Weights& WeightsOf(LayerId layer) const { return layers_[Value(layer) - decoder_->shard().layer_begin]; }
  // Where a sublayer's output goes: x itself, or scratch.
  Tensor OutputFor(const Tensor& x) const { return adds_at_once_ ? x : decoder_->branch(x.rows); }
  // What a sublayer reads of x.
  Tensor InputOf(const Tensor& x, const Tensor& norm) { return norms_before_ ? decoder_->Normed(x, norm) : x; }
  // x += y, if it is not that already.
  void Join(const Tensor& x, const Tensor& y, const Tensor& norm);
  explicit DecoderArch(std::unique_ptr<Decoder> decoder);
  absl::Status Load(absl::FunctionRef<void(int64_t, int64_t)> progress);

  const std::unique_ptr<Decoder> decoder_;
  const bool norms_before_, norms_after_;
  const bool adds_at_once_;      // a part adds to the hidden state as it is computed: nothing is done to its sum before
  std::vector<Weights> layers_;  // of this shard
};

}  // namespace interlace
