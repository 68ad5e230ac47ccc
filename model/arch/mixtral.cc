// Mixtral: a Llama whose feed-forward part is eight experts, two of which run for each token.
// Source: Jiang et al., "Mixtral of Experts", 2024.
#include <memory>
#include <utility>
#include <vector>

#include "model/arch/archs.h"
#include "model/decoder.h"

namespace interlace {
namespace {

struct MixtralLayer {
  Tensor attention_norm, ffn_norm;  // [1, width]
  AttentionWeights attention;
  MoeWeights experts;
};

class Mixtral final : public ModelArch {
 public:
  explicit Mixtral(std::unique_ptr<Decoder> decoder)
      : decoder_(std::move(decoder)), layers_(decoder_->shard().layers()) {}

  absl::Status Load(absl::FunctionRef<void(int64_t, int64_t)> progress) {
    int32_t l = decoder_->shard().layer_begin;
    for (MixtralLayer& w : layers_) {
      decoder_->WantNorm(l, "attn_norm", &w.attention_norm);
      decoder_->WantAttention(l, Decoder::Bias::kNone, Decoder::HeadNorms::kNone, &w.attention);
      decoder_->WantNorm(l, "ffn_norm", &w.ffn_norm);
      decoder_->WantExperts(l, &w.experts);
      ++l;
    }
    return decoder_->Load(progress);
  }

  void Embed(const StepInput& in, const Tensor& x) override { decoder_->Embed(in, x); }

  void Layer(LayerId layer, const StepInput& in, LayerKv& kv, const Tensor& x) override {
    const MixtralLayer& w = layers_[Value(layer) - decoder_->shard().layer_begin];
    decoder_->Attention(layer, w.attention, in, kv, decoder_->Normed(x, w.attention_norm), x, /*accumulate=*/true);
    decoder_->Experts(w.experts, decoder_->Normed(x, w.ffn_norm), x);
  }

  void Logits(const Tensor& x, absl::Span<const int32_t> rows, const Tensor& logits) override {
    decoder_->Logits(x, rows, logits);
  }

 private:
  const std::unique_ptr<Decoder> decoder_;
  std::vector<MixtralLayer> layers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelArch>> MakeMixtral(const ArchInput& input) {
  return MakeDecoderArch<Mixtral>(input);
}

}  // namespace interlace
