// Decoder: the parts that decoder-only transformers share; DecoderArch puts them together as ModelSpec says.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/moe/moe.h"
#include "model/model_arch.h"
#include "model/weights.h"

namespace interlace {

struct AttentionWeights {
  LinearWeight q;                                                       // [heads * head_dim, width]
  LinearWeight k, v;                                                    // [kv_heads * head_dim, width]
  LinearWeight output;                                                  // [width, heads * head_dim]
  const float *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr;  // null: none
  Tensor q_norm, k_norm;  // [1, head_dim] of each head, or [1, width of q or k] of all; no data: none
};
struct FfnWeights {
  LinearWeight gate, up;  // [feed_forward, width]
  LinearWeight down;      // [width, feed_forward]
};
struct MoeWeights {
  LinearWeight router;                // [experts, width]
  LinearWeight shared_router;         // [1, width]; no data: no shared expert
  std::vector<ExpertWeight> experts;  // the shared one last
};

// Owned by an architecture; thread: runner. First the Want calls and Load, once; then the others, of which each runs on
// all rows of x. With several tensor-parallel ranks and no group to share with, outputs are this rank's part of a sum,
// and logits its part of the vocabulary.
// The trap: `Normed` and `branch` are the decoder's scratch, good until the next call that fills them.
class Decoder {
 public:
  // InvalidArgument: the model cannot be split so (SplitTensors).
  static absl::StatusOr<std::unique_ptr<Decoder>> Create(const ArchInput& input);

  const ModelSpec& spec() const { return spec_; }
  const ShardSpec& shard() const { return shard_; }
  const TensorSplit& split() const { return split_; }

  // What a layer is made of; filled by Load.
  void WantAttention(int32_t layer, AttentionWeights* w);
  void WantNorm(int32_t layer, const std::string& name, Tensor* norm);  // [1, width]
  void WantFfn(int32_t layer, FfnWeights* w);
  void WantExperts(int32_t layer, MoeWeights* w);
  // Those, and the embedding, the final norm and the head that the rank needs.
  absl::Status Load(absl::FunctionRef<void(int64_t, int64_t)> progress);

  void Embed(const StepInput& in, const Tensor& x);
  // rms_norm(x), in scratch.
  Tensor Normed(const Tensor& x, const Tensor& weight);
  // y = rms_norm(y), in place.
  void Norm(const Tensor& y, const Tensor& weight);
  // Q or K of a layer, of so many heads, in place: its norm, where the model has one, and the positions of its rows.
  void Place(LayerId layer, const StepInput& in, const Tensor& x, int64_t heads, const Tensor& norm);
  // y = or += attention of h, projections and positions included.
  void Attention(LayerId layer, const AttentionWeights& w, const StepInput& in, LayerKv& kv, const Tensor& h,
                 const Tensor& y, bool accumulate);
  // K and V of h alone, projections and positions included, as Attention makes them.
  void KeysAndValues(LayerId layer, const AttentionWeights& w, const StepInput& in, LayerKv& kv, const Tensor& h);
  // y = or += down(act(gate h) * up h).
  void Ffn(LayerId layer, const FfnWeights& w, const StepInput& in, const Tensor& h, const Tensor& y, bool accumulate);
  // y += the routed experts of h, times the model's residual_scale; h is not y.
  void Experts(const MoeWeights& w, const Tensor& h, const Tensor& y);
  // x += y, times the model's residual_scale.
  void Add(const Tensor& x, const Tensor& y);
  // Scratch of `rows` rows of width.
  Tensor branch(int64_t rows) const { return branch_.Rows(0, rows); }
  void Logits(const Tensor& x, absl::Span<const int32_t> rows, const Tensor& logits);
  // x = the final norm of x.
  void Hidden(const Tensor& x);

 private:
  Decoder(const ArchInput& input, const TensorSplit& split);
  std::string NameOf(int32_t layer, absl::string_view part) const;
  void WantEnds();
  void WantGated(int32_t layer, const std::string& suffix, int64_t feed_forward, ShardRange rows, LinearWeight* gate,
                 LinearWeight* up, LinearWeight* down);
  absl::Status AllocateScratch();
  // `compute(y, accumulate)` makes y, or adds to it; with several ranks, each its part of it.
  template <typename Compute>
  void Reduce(const Tensor& y, bool accumulate, Compute compute);
  // A product of a layer and what it has made.
  struct Adapted {
    LoraPart part;
    Tensor y;
  };
  // What the rows' adapters add to products of x. Rows of one adapter that stand side by side are computed together.
  void Adapt(LayerId layer, const StepInput& in, const Tensor& x, std::initializer_list<Adapted> products);
  void AdaptRows(const LoraAdapter& adapter, LayerId layer, const Tensor& x, absl::Span<const Adapted> products);
  // act(gate h) * up h, in scratch.
  Tensor Gated(LayerId layer, const FfnWeights& w, const StepInput& in, const Tensor& h);

  const ModelSpec spec_;
  const ShardSpec shard_;
  const TensorSplit split_;
  Backend& backend_;
  TensorGroup* const group_;
  const LoraSet* const adapters_;  // null: none
  const int32_t max_tokens_;
  WeightLoader loader_;
  LinearWeight embedding_;  // [vocab, width]; first stage, and last if tied
  LinearWeight head_;       // last stage
  Tensor output_norm_;      // last stage, with the scale of the logits
  Tensor hidden_norm_;      // without it, where it is not 1
  std::unique_ptr<DeviceBuffer> weights_, scratch_;
  // [max_tokens, ...]
  Tensor normed_, q_, k_, v_, attended_, gated_, up_, branch_, router_logits_, shared_logits_, slot_weights_;
  Tensor low_;                                      // the narrow products of adapters, of up to three parts of a layer
  std::vector<int32_t> slot_experts_;               // [max_tokens, slots]
  Tensor moe_gathered_, moe_gated_, moe_products_;  // [max_tokens * slots, ...]
};

}  // namespace interlace
