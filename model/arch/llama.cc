// Llama: RMSNorm, grouped-query attention with rotary positions, SwiGLU.
// Source: Touvron et al., "LLaMA", 2023; "Llama 2", 2023. Tensor names and row order as GGUF writes them.
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "model/arch/archs.h"
#include "model/weights.h"

namespace interlace {
namespace {

struct LlamaLayer {
  Tensor attention_norm;  // F32 [1, width]
  LinearWeight q;         // [heads * head_dim, width]
  LinearWeight k, v;      // [kv_heads * head_dim, width]
  LinearWeight output;    // [width, heads * head_dim]
  Tensor ffn_norm;        // F32 [1, width]
  LinearWeight gate, up;  // [feed_forward, width]
  LinearWeight down;      // [width, feed_forward]
};

// Tensors of a layer ("blk.<layer>.<name>.weight"), and those outside the layers.
constexpr absl::string_view kLayerTensors[] = {"attn_norm", "attn_q", "attn_k",   "attn_v",  "attn_output",
                                               "ffn_norm",  "ffn_up", "ffn_gate", "ffn_down"};
constexpr absl::string_view kOtherTensors[] = {"token_embd.weight", "output_norm.weight", "output.weight",
                                               "rope_freqs.weight"};

// The layer and the name in it, "attn_q.weight", of "blk.7.attn_q.weight"; layer -1 and the whole name otherwise.
std::pair<int32_t, absl::string_view> SplitName(absl::string_view name) {
  absl::string_view rest = name;
  int32_t layer = -1;
  const bool in_layer = absl::ConsumePrefix(&rest, "blk.") &&
                        absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer) && layer >= 0 &&
                        rest.find('.') != absl::string_view::npos;
  if (!in_layer) return {-1, name};
  return {layer, rest.substr(rest.find('.') + 1)};
}

// Some checkpoints of this architecture carry more: biases, experts. Leaving any out would answer with another model.
absl::Status RefuseStrangers(const GgufFile& file) {
  for (const auto& [name, tensor] : file.tensors()) {
    auto [layer, part] = SplitName(name);
    const bool known = layer < 0 ? absl::c_linear_search(kOtherTensors, part)
                                 : absl::ConsumeSuffix(&part, ".weight") && absl::c_linear_search(kLayerTensors, part);
    if (!known) {
      return absl::UnimplementedError(
          absl::StrCat(file.name(), ": tensor ", name, " has no part in the architecture 'llama' that is built in"));
    }
  }
  return absl::OkStatus();
}

class Llama final : public ModelArch {
 public:
  Llama(const ModelSpec& spec, const ShardSpec& shard, Backend& backend)
      : spec_(spec), shard_(shard), backend_(backend) {}

  absl::Status Load(const ArchInput& input) {
    RETURN_IF_ERROR(RefuseStrangers(*input.file));
    WeightReader reader(*input.file, backend_, StageBytes(*input.file), input.progress);
    if (shard_.first() || (shard_.last() && spec_.tied_head)) {
      ASSIGN_OR_RETURN(embedding_, reader.Read("token_embd.weight", spec_.vocab, spec_.width));
    }
    for (int32_t l = shard_.layer_begin; l < shard_.layer_end; ++l) {
      ASSIGN_OR_RETURN(LlamaLayer layer, LoadLayer(reader, absl::StrCat("blk.", l, ".")));
      layers_.push_back(layer);
    }
    if (shard_.last()) {
      ASSIGN_OR_RETURN(output_norm_, reader.ReadVector("output_norm.weight", spec_.width));
      head_ = embedding_;
      if (!spec_.tied_head) {
        ASSIGN_OR_RETURN(head_, reader.Read("output.weight", spec_.vocab, spec_.width));
      }
    }
    weights_ = reader.TakeBuffers();
    return AllocateScratch(input.max_tokens);
  }

  void Embed(const StepInput& in, const Tensor& x) override {
    CHECK(shard_.first());
    backend_.ops().embedding({x, embedding_, in.tokens}, backend_.context());
  }

  void Layer(LayerId layer, const StepInput& in, LayerKv& kv, const Tensor& x) override {
    CHECK(Value(layer) >= shard_.layer_begin && Value(layer) < shard_.layer_end && x.rows <= normed_.rows);
    const LlamaLayer& w = layers_[Value(layer) - shard_.layer_begin];
    const OpTable& ops = backend_.ops();
    const OpContext on = backend_.context();
    const int64_t n = x.rows;
    const Tensor h = normed_.Rows(0, n), q = q_.Rows(0, n), k = k_.Rows(0, n), v = v_.Rows(0, n);
    const Tensor attended = attended_.Rows(0, n), gated = gated_.Rows(0, n);

    ops.rms_norm({h, x, w.attention_norm, spec_.norm_epsilon}, on);
    ops.linear({h, {{q, w.q}, {k, w.k}, {v, w.v}}}, on);
    ops.rope({q, in.positions, spec_.rope_frequencies, spec_.head_dim}, on);
    ops.rope({k, in.positions, spec_.rope_frequencies, spec_.head_dim}, on);
    kv.Attend(layer, q, k, v, attended);
    ops.linear({attended, {{.y = x, .w = w.output, .accumulate = true}}}, on);

    ops.rms_norm({h, x, w.ffn_norm, spec_.norm_epsilon}, on);
    ops.gated_linear({gated, h, w.gate, w.up}, on);
    ops.linear({gated, {{.y = x, .w = w.down, .accumulate = true}}}, on);
  }

  void Logits(const Tensor& x, absl::Span<const int32_t> rows, const Tensor& logits) override {
    CHECK(shard_.last() && static_cast<int64_t>(rows.size()) <= normed_.rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      const int64_t at = static_cast<int64_t>(i);
      backend_.ops().rms_norm({normed_.Rows(at, 1), x.Rows(rows[i], 1), output_norm_, spec_.norm_epsilon},
                              backend_.context());
    }
    backend_.ops().linear({normed_.Rows(0, static_cast<int64_t>(rows.size())), {{logits, head_}}}, backend_.context());
  }

 private:
  // Bytes of the tensors that Load will read.
  int64_t StageBytes(const GgufFile& file) const {
    int64_t bytes = 0;
    for (const auto& [name, tensor] : file.tensors()) {
      const int32_t layer = SplitName(name).first;
      const bool mine = layer >= 0
                            ? layer >= shard_.layer_begin && layer < shard_.layer_end
                            : (name == "token_embd.weight" && (shard_.first() || (shard_.last() && spec_.tied_head))) ||
                                  ((name == "output_norm.weight" || name == "output.weight") && shard_.last());
      if (mine) bytes += static_cast<int64_t>(tensor.data.size());
    }
    return bytes;
  }

  absl::StatusOr<LlamaLayer> LoadLayer(WeightReader& reader, const std::string& prefix) const {
    const int64_t q_width = int64_t{spec_.heads} * spec_.head_dim, kv_width = int64_t{spec_.kv_heads} * spec_.head_dim;
    LlamaLayer w;
    ASSIGN_OR_RETURN(w.attention_norm, reader.ReadVector(prefix + "attn_norm.weight", spec_.width));
    ASSIGN_OR_RETURN(w.q, reader.Read(prefix + "attn_q.weight", q_width, spec_.width));
    ASSIGN_OR_RETURN(w.k, reader.Read(prefix + "attn_k.weight", kv_width, spec_.width));
    ASSIGN_OR_RETURN(w.v, reader.Read(prefix + "attn_v.weight", kv_width, spec_.width));
    ASSIGN_OR_RETURN(w.output, reader.Read(prefix + "attn_output.weight", spec_.width, q_width));
    ASSIGN_OR_RETURN(w.ffn_norm, reader.ReadVector(prefix + "ffn_norm.weight", spec_.width));
    ASSIGN_OR_RETURN(w.gate, reader.Read(prefix + "ffn_gate.weight", spec_.feed_forward, spec_.width));
    ASSIGN_OR_RETURN(w.up, reader.Read(prefix + "ffn_up.weight", spec_.feed_forward, spec_.width));
    ASSIGN_OR_RETURN(w.down, reader.Read(prefix + "ffn_down.weight", spec_.width, spec_.feed_forward));
    return w;
  }

  absl::Status AllocateScratch(int32_t max_tokens) {
    struct {
      Tensor* tensor;
      int64_t cols;
    } const wanted[] = {{&normed_, spec_.width},
                        {&q_, int64_t{spec_.heads} * spec_.head_dim},
                        {&k_, int64_t{spec_.kv_heads} * spec_.head_dim},
                        {&v_, int64_t{spec_.kv_heads} * spec_.head_dim},
                        {&attended_, int64_t{spec_.heads} * spec_.head_dim},
                        {&gated_, spec_.feed_forward}};
    for (const auto& [tensor, cols] : wanted) {
      const int64_t bytes = max_tokens * cols * int64_t{sizeof(float)};
      ASSIGN_OR_RETURN(std::unique_ptr<DeviceBuffer> buffer, backend_.Allocate(bytes));
      *tensor = {buffer->data(), DType::kF32, max_tokens, cols};
      scratch_.push_back(std::move(buffer));
    }
    return absl::OkStatus();
  }

  const ModelSpec spec_;
  const ShardSpec shard_;
  Backend& backend_;
  LinearWeight embedding_;  // [vocab, width]; first stage, and last if tied
  std::vector<LlamaLayer> layers_;
  Tensor output_norm_;  // last stage
  LinearWeight head_;   // last stage
  std::vector<std::unique_ptr<DeviceBuffer>> weights_;
  Tensor normed_, q_, k_, v_, attended_, gated_;  // [max_tokens, ...]
  std::vector<std::unique_ptr<DeviceBuffer>> scratch_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelArch>> MakeLlama(const ArchInput& input) {
  auto llama = std::make_unique<Llama>(*input.spec, input.shard, *input.backend);
  RETURN_IF_ERROR(llama->Load(input));
  return llama;
}

}  // namespace interlace
