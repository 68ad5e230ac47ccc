// ModelSpec: the dimensions and switches of a model, read from the checkpoint's own metadata.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/gguf.h"
#include "checkpoint/hf_config.h"
#include "kernels/linear/linear.h"
#include "kernels/rope/rope.h"
#include "model/rope_scaling.h"

namespace interlace {

// How a layer attends (PagedAttentionArgs).
struct AttentionSpec {
  float scale = 1;
  int32_t window = 0;  // positions that a row sees, itself among them; 0: all
  float soft_cap = 0;  // 0: none
  friend bool operator==(const AttentionSpec&, const AttentionSpec&) = default;
};

struct LayerSpec {
  AttentionSpec attention;
  int32_t rope = 0;      // index into ModelSpec::ropes; -1: its rows are not rotated (SmolLM3)
  bool experts = false;  // its feed-forward part is routed
};

// The routed feed-forward part of models of experts.
struct ExpertSpec {
  int32_t count = 0;  // 0: the model has none
  int32_t top_k = 0;
  int32_t feed_forward = 0;
  int32_t shared_feed_forward = 0;  // of the expert that every token passes; 0: none
  bool normalise = false;           // the weights of a token's experts add up to one
};

// Where norms of a layer's two parts stand: before the part (Llama), after it and before its sum is added (OLMo 2), or
// both (Gemma 2 and 3).
enum class NormPlace : uint8_t { kBefore, kAfter, kAround };
// What of q and k is normalised before rotation: nothing, each head (Qwen3), or all heads of a token together (OLMo 2).
enum class QkNorm : uint8_t { kNone, kHead, kAll };

// What the layers of an architecture are made of, whatever its sizes: a row of model/arch/archs.cc.
struct DecoderParts {
  NormPlace norms = NormPlace::kBefore;
  QkNorm qk_norm = QkNorm::kNone;
  bool qkv_bias = false;
  GateKind gate = GateKind::kSilu;
};

struct ModelSpec {
  std::string architecture;  // GGUF's name, whatever the checkpoint's form; "mixtral" for a llama with experts
  DecoderParts parts;
  std::string digest;  // tells two checkpoints apart
  int32_t layers = 0;
  int32_t width = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;  // heads * head_dim need not be width
  int32_t feed_forward = 0;
  int32_t vocab = 0;
  int32_t context = 0;  // tokens
  float norm_epsilon = 1e-5f;
  float norm_offset = 0;      // added to the weights of norms at load: the checkpoint holds w of (1 + w)
  float embedding_scale = 1;  // EmbeddingArgs::scale
  float residual_scale = 1;   // of what a part adds to the hidden state
  float logit_scale = 1;      // logits are multiplied by it
  float logit_cap = 0;        // SoftCapArgs::cap of the logits; 0: none
  bool tied_head = false;     // the output head is the embedding
  RopePairs pairs = RopePairs::kHalves;
  std::vector<RopeSpec> ropes;
  std::vector<LayerSpec> layer;  // [layers]
  ExpertSpec experts;
};

// InvalidArgument names file and field; Unimplemented names an architecture or a rope scaling that is not built in.
absl::StatusOr<ModelSpec> ReadModelSpec(const GgufFile& file);
// Of a Hugging Face folder; `digest` is the checkpoint's.
absl::StatusOr<ModelSpec> ReadModelSpec(const HfConfig& config, const std::string& digest);

// What both readers share. LongRoPE has two lists of factors: a model that is served beyond its original context takes
// the long ones for all positions, as vLLM and llama.cpp do: a request's tokens do not depend on how far others go.
bool UsesLongFactors(int32_t context, double original_context);
bool PairFactorsAreSound(const std::vector<double>& factors, int32_t rotated);
// Names `file`.
absl::Status CheckModelSpec(const ModelSpec& spec, const std::string& file);

}  // namespace interlace
