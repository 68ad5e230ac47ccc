// Gemma 3: a norm before and after each part, heads normalised, GELU, a scaled embedding; five layers that see a window
// for each that sees all (ModelSpec::layer).
// Source: Gemma Team, "Gemma 3 Technical Report", 2025.
#include <memory>
#include <utility>
#include <vector>

#include "model/arch/archs.h"
#include "model/decoder.h"

namespace interlace {
namespace {

struct Gemma3Layer {
  Tensor attention_norm, post_attention_norm;  // [1, width]
  Tensor ffn_norm, post_ffn_norm;              // [1, width]
  AttentionWeights attention;
  FfnWeights ffn;
};

class Gemma3 final : public ModelArch {
 public:
  explicit Gemma3(std::unique_ptr<Decoder> decoder)
      : decoder_(std::move(decoder)), layers_(decoder_->shard().layers()) {}

  absl::Status Load(absl::FunctionRef<void(int64_t, int64_t)> progress) {
    int32_t l = decoder_->shard().layer_begin;
    for (Gemma3Layer& w : layers_) {
      decoder_->WantNorm(l, "attn_norm", &w.attention_norm);
      decoder_->WantAttention(l, Decoder::Bias::kNone, Decoder::HeadNorms::kQk, &w.attention);
      decoder_->WantNorm(l, "post_attention_norm", &w.post_attention_norm);
      decoder_->WantNorm(l, "ffn_norm", &w.ffn_norm);
      decoder_->WantFfn(l, &w.ffn);
      decoder_->WantNorm(l, "post_ffw_norm", &w.post_ffn_norm);
      ++l;
    }
    return decoder_->Load(progress);
  }

  void Embed(const StepInput& in, const Tensor& x) override { decoder_->Embed(in, x); }

  void Layer(LayerId layer, const StepInput& in, LayerKv& kv, const Tensor& x) override {
    const Gemma3Layer& w = layers_[Value(layer) - decoder_->shard().layer_begin];
    const Tensor y = decoder_->branch(x.rows);
    decoder_->Attention(layer, w.attention, in, kv, decoder_->Normed(x, w.attention_norm), y, /*accumulate=*/false);
    decoder_->Norm(y, w.post_attention_norm);
    decoder_->Add(x, y);
    decoder_->Ffn(w.ffn, GateKind::kGeluTanh, decoder_->Normed(x, w.ffn_norm), y, /*accumulate=*/false);
    decoder_->Norm(y, w.post_ffn_norm);
    decoder_->Add(x, y);
  }

  void Logits(const Tensor& x, absl::Span<const int32_t> rows, const Tensor& logits) override {
    decoder_->Logits(x, rows, logits);
  }

  void Hidden(const Tensor& x) override { decoder_->Hidden(x); }

 private:
  const std::unique_ptr<Decoder> decoder_;
  std::vector<Gemma3Layer> layers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelArch>> MakeGemma3(const ArchInput& input) { return MakeDecoderArch<Gemma3>(input); }

}  // namespace interlace
