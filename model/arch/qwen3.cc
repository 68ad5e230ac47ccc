// Qwen3: a Llama that normalises each head of q and k before their rotation.
// Source: Yang et al., "Qwen3 Technical Report", 2025.
#include <memory>
#include <utility>
#include <vector>

#include "model/arch/archs.h"
#include "model/decoder.h"

namespace interlace {
namespace {

struct Qwen3Layer {
  Tensor attention_norm, ffn_norm;  // [1, width]
  AttentionWeights attention;
  FfnWeights ffn;
};

class Qwen3 final : public ModelArch {
 public:
  explicit Qwen3(std::unique_ptr<Decoder> decoder)
      : decoder_(std::move(decoder)), layers_(decoder_->shard().layers()) {}

  absl::Status Load(absl::FunctionRef<void(int64_t, int64_t)> progress) {
    int32_t l = decoder_->shard().layer_begin;
    for (Qwen3Layer& w : layers_) {
      decoder_->WantNorm(l, "attn_norm", &w.attention_norm);
      decoder_->WantAttention(l, Decoder::Bias::kNone, Decoder::HeadNorms::kQk, &w.attention);
      decoder_->WantNorm(l, "ffn_norm", &w.ffn_norm);
      decoder_->WantFfn(l, &w.ffn);
      ++l;
    }
    return decoder_->Load(progress);
  }

  void Embed(const StepInput& in, const Tensor& x) override { decoder_->Embed(in, x); }

  void Layer(LayerId layer, const StepInput& in, LayerKv& kv, const Tensor& x) override {
    const Qwen3Layer& w = layers_[Value(layer) - decoder_->shard().layer_begin];
    decoder_->Attention(layer, w.attention, in, kv, decoder_->Normed(x, w.attention_norm), x, /*accumulate=*/true);
    decoder_->Ffn(w.ffn, GateKind::kSilu, decoder_->Normed(x, w.ffn_norm), x, /*accumulate=*/true);
  }

  void Logits(const Tensor& x, absl::Span<const int32_t> rows, const Tensor& logits) override {
    decoder_->Logits(x, rows, logits);
  }

 private:
  const std::unique_ptr<Decoder> decoder_;
  std::vector<Qwen3Layer> layers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelArch>> MakeQwen3(const ArchInput& input) { return MakeDecoderArch<Qwen3>(input); }

}  // namespace interlace
