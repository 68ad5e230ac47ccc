#include "model/arch/archs.h"

#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

struct Row {
  absl::string_view name;  // as a checkpoint has it: general.architecture, or the class in config.json
  absl::string_view architecture;
  absl::StatusOr<std::unique_ptr<ModelArch>> (*make)(const ArchInput&);
};

// The table of architectures. A Mistral is a Llama whose layers may see a window; GGUF files call it "llama". GGUF
// calls a Mixtral "llama"; the reader tells them apart by their experts.
constexpr Row kArchs[] = {
    {"llama", "llama", &MakeLlama},          {"LlamaForCausalLM", "llama", &MakeLlama},
    {"mistral", "mistral", &MakeLlama},      {"MistralForCausalLM", "mistral", &MakeLlama},
    {"qwen2", "qwen2", &MakeQwen2},          {"Qwen2ForCausalLM", "qwen2", &MakeQwen2},
    {"qwen3", "qwen3", &MakeQwen3},          {"Qwen3ForCausalLM", "qwen3", &MakeQwen3},
    {"gemma3", "gemma3", &MakeGemma3},       {"Gemma3ForCausalLM", "gemma3", &MakeGemma3},
    {"mixtral", "mixtral", &MakeMixtral},    {"MixtralForCausalLM", "mixtral", &MakeMixtral},
    {"qwen2moe", "qwen2moe", &MakeQwen2Moe}, {"Qwen2MoeForCausalLM", "qwen2moe", &MakeQwen2Moe},
    {"qwen3moe", "qwen3moe", &MakeQwen3Moe}, {"Qwen3MoeForCausalLM", "qwen3moe", &MakeQwen3Moe},
};

absl::StatusOr<const Row*> Find(absl::string_view name) {
  std::string known;
  for (const Row& row : kArchs) {
    if (row.name == name) return &row;
    absl::StrAppend(&known, known.empty() ? "" : ", ", row.name);
  }
  return absl::UnimplementedError(
      absl::StrCat("architecture '", name.substr(0, 80), "' is not built in; known: ", known));
}

}  // namespace

absl::StatusOr<absl::string_view> FindArch(absl::string_view name, absl::string_view file) {
  const absl::StatusOr<const Row*> row = Find(name);
  if (!row.ok()) return absl::UnimplementedError(absl::StrCat(file, ": ", row.status().message()));
  return (*row)->architecture;
}

absl::StatusOr<std::unique_ptr<ModelArch>> MakeArch(const ArchInput& input) {
  const absl::StatusOr<const Row*> row = Find(input.spec->architecture);
  if (!row.ok()) return row.status();
  return (*row)->make(input);
}

}  // namespace interlace
