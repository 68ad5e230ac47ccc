// PeftAdapter: a LoRA adapter as Hugging Face's PEFT saves one: adapter_config.json beside adapter_model.safetensors.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/file_mapping.h"
#include "checkpoint/safetensors.h"

namespace interlace {

// Which product of a decoder's layer a pair of matrices adds to. Some models keep q, k and v, or gate and up, in one.
enum class AdaptedModule : uint8_t { kQ, kK, kV, kQkv, kOutput, kGate, kUp, kGateUp, kDown };

// y += scale * B (A x). The two are finite, of type F32, F16 or BF16, and of the adapter's memory.
struct AdaptedMatrix {
  std::string name;  // of the module: "model.layers.3.self_attn.q_proj"
  int32_t layer = 0;
  AdaptedModule module{};
  const SafetensorsTensor* a = nullptr;  // [rank, inputs]
  const SafetensorsTensor* b = nullptr;  // [outputs, rank]
  double scale = 1;                      // lora_alpha / r, or by its root with use_rslora
};

// Source: Hu et al., "LoRA", ICLR 2022; Kalajdzievski, "A Rank Stabilization Scaling Factor", 2023 (use_rslora).
// What an adapter holds besides such pairs (biases, whole modules, DoRA's magnitudes, ..) is refused, never left out:
// the model would answer as somebody else's. Whether it fits a model is for the model to say: LoraAdapter.
// Immutable, any thread. The trap: its matrices point into the mapped file, so it outlives every view of them.
class PeftAdapter {
 public:
  // NotFound: a file is missing. InvalidArgument and Unimplemented name the file, the field or the tensor, and what to
  // do instead.
  static absl::StatusOr<std::unique_ptr<PeftAdapter>> Open(const std::string& folder);
  // The same checks over what the two files hold; `weights` outlives the result (tests, fuzzing).
  static absl::StatusOr<std::unique_ptr<PeftAdapter>> Parse(absl::string_view config,
                                                            absl::Span<const std::byte> weights,
                                                            const std::string& folder);

  const std::vector<AdaptedMatrix>& matrices() const { return matrices_; }  // each module of a layer once
  const std::string& folder() const { return folder_; }
  // Of both files, all of their bytes: XXH3-128 as 32 hex digits. KV that was computed with the adapter is named by it.
  const std::string& digest() const { return digest_; }
  // What the adapter was trained on, as its author's machine called it; may be empty.
  const std::string& base_model() const { return base_model_; }

  static constexpr int64_t kMostRank = 4096;

 private:
  PeftAdapter() = default;
  std::string folder_, digest_, base_model_;
  std::unique_ptr<FileMapping> mapping_;  // null when the bytes are someone else's
  std::unique_ptr<SafetensorsFile> file_;
  std::vector<AdaptedMatrix> matrices_;
};

// One entry of model.adapters: a name by which clients ask for the adapter, and its folder.
struct AdapterPlace {
  std::string name;
  std::string folder;
};
// NAME=FOLDER,NAME=FOLDER; empty: none. InvalidArgument names the entry that has no name or no folder, or whose name
// comes twice.
absl::StatusOr<std::vector<AdapterPlace>> ParseAdapterPlaces(absl::string_view text);

}  // namespace interlace
