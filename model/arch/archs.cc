#include "model/arch/archs.h"

#include "absl/strings/str_cat.h"
#include "model/arch/decoder_arch.h"

namespace interlace {
namespace {

// A Llama: a norm before each part, grouped-query attention with rotary positions, SwiGLU. Touvron et al., "LLaMA",
// 2023; Grattafiori et al., "The Llama 3 Herd of Models", 2024.
constexpr Arch kLlama{.architecture = "llama", .gguf_pairs = RopePairs::kAdjacent};

// A Llama whose layers may see a window (v0.1 alone does). GGUF files call it "llama". Jiang et al., 2023.
constexpr Arch kMistral{.architecture = "mistral", .gguf_pairs = RopePairs::kAdjacent, .windows = Windows::kAll};

// A Llama whose feed-forward part is eight experts, two of which run for each token; GGUF calls it "llama", too. Jiang
// et al., "Mixtral of Experts", 2024.
constexpr Arch kMixtral{.architecture = "mixtral",
                        .experts = ExpertKind::kMixtral,
                        .gguf_pairs = RopePairs::kAdjacent,
                        .rope_base = 1000000,
                        .windows = Windows::kAll};

// A Llama whose q, k and v have biases. Yang et al., "Qwen2 Technical Report", 2024.
constexpr Arch kQwen2{.architecture = "qwen2", .parts = {.qkv_bias = true}, .windows = Windows::kSwitch};

// A Qwen2 of many small experts and one that every token passes, behind a gate of its own; some layers may be dense.
constexpr Arch kQwen2Moe{.architecture = "qwen2moe",
                         .parts = {.qkv_bias = true},
                         .experts = ExpertKind::kQwen2,
                         .windows = Windows::kSwitch};

// A Llama that normalises each head of q and k before their rotation. Yang et al., "Qwen3 Technical Report", 2025.
constexpr Arch kQwen3{.architecture = "qwen3", .parts = {.qk_norm = QkNorm::kHead}, .windows = Windows::kSwitch};

// A Qwen3 of many small experts; some layers may be dense.
constexpr Arch kQwen3Moe{.architecture = "qwen3moe",
                         .parts = {.qk_norm = QkNorm::kHead},
                         .experts = ExpertKind::kQwen3,
                         .gguf_rope_base = 1000000,
                         .windows = Windows::kSwitch};

// Norms on either side of each part, GELU, a scaled embedding, caps on scores and logits, a window on every other
// layer. Gemma Team, "Gemma 2", 2024.
constexpr Arch kGemma2{.architecture = "gemma2",
                       .parts = {.norms = NormPlace::kAround, .gate = GateKind::kGeluTanh},
                       .windows = Windows::kPattern,
                       .window_pattern = 2,
                       .gguf_window = 4096,
                       .embedding_by_width = true,
                       .norms_less_one = true,
                       .attention_scalar = true,
                       .score_cap = 50,
                       .logit_cap = 30,
                       .capped = true,
                       .tied_head = true};

// A Gemma 2 without caps that normalises heads; five layers that see a window, with a rope of their own, for each that
// sees all. Gemma Team, "Gemma 3 Technical Report", 2025.
constexpr Arch kGemma3{.architecture = "gemma3",
                       .parts = {.norms = NormPlace::kAround, .qk_norm = QkNorm::kHead, .gate = GateKind::kGeluTanh},
                       .rope_base = 1000000,
                       .gguf_rope_base = 1000000,
                       .local_rope = LocalRope::kOwnBase,
                       .windows = Windows::kPattern,
                       .window_pattern = 6,
                       .embedding_by_width = true,
                       .norms_less_one = true,
                       .attention_scalar = true,
                       .tied_head = true};

// A Llama whose q, k and v, and whose gate and up, are one tensor each (Checkpoint cuts them apart); positions may be
// stretched by LongRoPE and rotate part of a head. Abdin et al., "Phi-3 Technical Report", 2024; "Phi-4-Mini", 2025.
constexpr Arch kPhi3{.architecture = "phi3", .windows = Windows::kAll, .longrope = true, .partial_rope = true};

// A Llama every fourth layer of which knows no positions. Bakouch et al., "SmolLM3", 2025.
constexpr Arch kSmolLm3{.architecture = "smollm3",
                        .gguf_pairs = RopePairs::kAdjacent,
                        .rope_base = 2000000,
                        .windows = Windows::kSwitch,
                        .rope_free_interval = 4,
                        .tied_head = true};

// Norms after each part, none before; all heads of q, and of k, are normalised together. OLMo Team, "2 OLMo 2
// Furious", 2025.
constexpr Arch kOlmo2{.architecture = "olmo2", .parts = {.norms = NormPlace::kAfter, .qk_norm = QkNorm::kAll}};

// An OLMo 2 three quarters of whose layers see a window, unscaled. GGUF calls it "olmo2". OLMo Team, "OLMo 3", 2025.
constexpr Arch kOlmo3{.architecture = "olmo3",
                      .parts = {.norms = NormPlace::kAfter, .qk_norm = QkNorm::kAll},
                      .rope_base = 500000,
                      .local_rope = LocalRope::kUnscaled,
                      .windows = Windows::kPattern,
                      .window_pattern = 4};

// A Llama with multipliers. Granite Team, "Granite 3.0 Language Models", 2024.
constexpr Arch kGranite{.architecture = "granite", .gguf_pairs = RopePairs::kAdjacent, .multipliers = true};

// A Granite of many small experts.
constexpr Arch kGraniteMoe{.architecture = "granitemoe",
                           .experts = ExpertKind::kGranite,
                           .gguf_pairs = RopePairs::kAdjacent,
                           .multipliers = true};

struct Row {
  absl::string_view name;  // as a checkpoint has it
  const Arch* arch;
};
constexpr Row kArchs[] = {
    {"llama", &kLlama},
    {"LlamaForCausalLM", &kLlama},
    {"mistral", &kMistral},
    {"MistralForCausalLM", &kMistral},
    {"MinistralForCausalLM", &kMistral},
    {"Mistral3ForConditionalGeneration", &kMistral},
    {"mixtral", &kMixtral},
    {"MixtralForCausalLM", &kMixtral},
    {"qwen2", &kQwen2},
    {"Qwen2ForCausalLM", &kQwen2},
    {"qwen2moe", &kQwen2Moe},
    {"Qwen2MoeForCausalLM", &kQwen2Moe},
    {"qwen3", &kQwen3},
    {"Qwen3ForCausalLM", &kQwen3},
    {"qwen3moe", &kQwen3Moe},
    {"Qwen3MoeForCausalLM", &kQwen3Moe},
    {"gemma2", &kGemma2},
    {"Gemma2ForCausalLM", &kGemma2},
    {"gemma3", &kGemma3},
    {"Gemma3ForCausalLM", &kGemma3},
    {"Gemma3ForConditionalGeneration", &kGemma3},
    {"phi3", &kPhi3},
    {"Phi3ForCausalLM", &kPhi3},
    {"smollm3", &kSmolLm3},
    {"SmolLM3ForCausalLM", &kSmolLm3},
    {"olmo2", &kOlmo2},
    {"Olmo2ForCausalLM", &kOlmo2},
    {"olmo3", &kOlmo3},
    {"Olmo3ForCausalLM", &kOlmo3},
    {"granite", &kGranite},
    {"GraniteForCausalLM", &kGranite},
    {"granitemoe", &kGraniteMoe},
    {"GraniteMoeForCausalLM", &kGraniteMoe},
};

// Older and newer releases of transformers write the two ways.
constexpr absl::string_view kTextPrefixes[] = {"language_model.", "model.language_model."};

}  // namespace

absl::StatusOr<const Arch*> FindArch(absl::string_view name, absl::string_view file) {
  std::string known;
  for (const Row& row : kArchs) {
    if (row.name == name) return row.arch;
    absl::StrAppend(&known, known.empty() ? "" : ", ", row.name);
  }
  return absl::UnimplementedError(
      absl::StrCat(file, ": architecture '", name.substr(0, 80), "' is not built in; known: ", known));
}

absl::Span<const absl::string_view> TextPrefixes(absl::string_view name) {
  if (name == "Gemma3ForConditionalGeneration" || name == "Mistral3ForConditionalGeneration") return kTextPrefixes;
  return {};
}

absl::StatusOr<std::unique_ptr<ModelArch>> MakeArch(const ArchInput& input) {
  const absl::Status known = FindArch(input.spec->architecture, input.checkpoint->name()).status();
  if (!known.ok()) return known;
  return DecoderArch::Make(input);
}

}  // namespace interlace
