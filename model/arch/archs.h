// The table of architectures: what each is made of, and what its files leave unsaid.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/model_spec.h"

namespace interlace {

// Which layers see a window (where the file names its size).
enum class Windows : uint8_t {
  kNone,
  kAll,      // Mistral, Phi-3
  kPattern,  // all but every n-th: Gemma, OLMo 3
  kSwitch,   // use_sliding_window, off in all that are published: Qwen, SmolLM3
};
// The rope of layers that see a window, where it differs from the others'.
enum class LocalRope : uint8_t { kSame, kOwnBase, kUnscaled };  // kOwnBase: Gemma 3; kUnscaled: OLMo 3
enum class ExpertKind : uint8_t { kNone, kMixtral, kQwen2, kQwen3, kGranite };

// One architecture. The numbers are what transformers' configuration class, or llama.cpp, takes where a file is silent.
struct Arch {
  absl::string_view architecture;  // ModelSpec's name
  DecoderParts parts;
  ExpertKind experts = ExpertKind::kNone;
  RopePairs gguf_pairs = RopePairs::kHalves;  // how GGUF stores q and k; safetensors are always halves
  double rope_base = 10000, gguf_rope_base = 10000;
  LocalRope local_rope = LocalRope::kSame;
  Windows windows = Windows::kNone;
  int32_t window_pattern = 0;       // n of kPattern
  int32_t gguf_window = 0;          // where a GGUF file names none
  int32_t rope_free_interval = 0;   // every n-th layer is not rotated; 0: all are
  bool embedding_by_width = false;  // the embedding is scaled by the root of the width
  bool norms_less_one = false;      // safetensors hold w of norms by 1 + w; GGUF files hold 1 + w
  bool multipliers = false;         // Granite's: of the embedding, the residual stream, attention and logits
  bool attention_scalar = false;    // Gemma's query_pre_attn_scalar takes the place of the head's size
  double score_cap = 0, logit_cap = 0;
  bool capped = false;        // the caps are built in: Gemma 2
  bool longrope = false;      // early folders name LongRoPE "su" or "yarn"
  bool partial_rope = false;  // a head may be rotated in part
  bool tied_head = false;
};

// Looks up a name as a checkpoint has it: general.architecture, or a class in config.json. Unimplemented names the file
// and lists the known ones.
absl::StatusOr<const Arch*> FindArch(absl::string_view name, absl::string_view file);

// Where the text model's tensors are in a folder of class `name`, "language_model." say; names that do not begin with
// any of these belong to other parts, which read pictures. Empty: the folder holds a text model alone.
absl::Span<const absl::string_view> TextPrefixes(absl::string_view name);

}  // namespace interlace
