// A random LoRA adapter in a folder as PEFT writes one. Tests only.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/model_spec.h"
#include "tests/kernels/random_tensor.h"
#include "tests/model/safetensors_writer.h"
#include "tests/model/tiny_gguf.h"

namespace interlace {

// Sizes of the model that an adapter is for.
struct AdapterShape {
  int32_t layers = 0;
  int64_t width = 0, q = 0, kv = 0, feed_forward = 0;
  static AdapterShape Of(const ModelSpec& spec) {
    return {spec.layers, spec.width, int64_t{spec.heads} * spec.head_dim, int64_t{spec.kv_heads} * spec.head_dim,
            spec.feed_forward};
  }
  static AdapterShape Of(const TinyGgufOptions& o) {
    return {o.layers, o.width, int64_t{o.heads} * o.head_dim, int64_t{o.kv_heads} * o.head_dim, o.feed_forward};
  }
};

inline const std::vector<std::string>& AllAdapted() {
  static const auto* all =
      new std::vector<std::string>{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  return *all;
}
inline const std::vector<std::string>& AttentionAdapted() {
  static const auto* all = new std::vector<std::string>{"q_proj", "k_proj", "v_proj", "o_proj"};
  return *all;
}

struct TinyAdapterOptions {
  uint64_t seed = 1;
  int32_t rank = 3;
  double alpha = 6;
  float gain = 1;  // how much it adds, where 1 is as much as the model's own products; 0: B is zero
  std::vector<std::string> modules = AllAdapted();
  std::string dtype = "F32";  // or BF16
};

// [rows, cols].
struct PlainMatrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;
};

// An adapter before it is written; tests may change what it holds.
struct TinyAdapter {
  std::string config;
  SafetensorsWriter weights;
  std::map<std::string, PlainMatrix> matrices;  // by the name of the tensor: what the file holds

  TinyAdapter(const AdapterShape& shape, const TinyAdapterOptions& options)
      : config(absl::StrCat(R"({"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "r": )", options.rank,
                            R"(, "lora_alpha": )", options.alpha, R"(, "base_model_name_or_path": "tiny", )",
                            R"("modules_to_save": null, "target_modules": [")",
                            absl::StrJoin(options.modules, "\", \""), "\"]}")) {
    Random random(options.seed);
    for (int32_t l = 0; l < shape.layers; ++l) {
      for (const std::string& module : options.modules) {
        const bool attention = absl::StrContains("q_proj k_proj v_proj o_proj qkv_proj", module);
        const std::string name =
            absl::StrCat("base_model.model.model.layers.", l, attention ? ".self_attn." : ".mlp.", module);
        const int64_t in = module == "o_proj" ? shape.q : module == "down_proj" ? shape.feed_forward : shape.width;
        const int64_t out = OutputsOf(shape, module);
        const float a = std::sqrt(3.0f / static_cast<float>(in));
        const float b = options.gain * static_cast<float>(options.rank / options.alpha) *
                        std::sqrt(3.0f / static_cast<float>(options.rank));
        Add(name + ".lora_A.weight", options.dtype, {options.rank, in, random.Floats(options.rank * in, a)});
        Add(name + ".lora_B.weight", options.dtype, {out, options.rank, random.Floats(out * options.rank, b)});
      }
    }
  }

  // Writes both files into `folder`, which is made. Returns it.
  const std::string& Write(const std::string& folder) const {
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/adapter_config.json", std::ios::binary | std::ios::trunc) << config;
    std::ofstream(folder + "/adapter_model.safetensors", std::ios::binary | std::ios::trunc) << weights.Bytes();
    return folder;
  }

 private:
  static int64_t OutputsOf(const AdapterShape& s, const std::string& module) {
    if (module == "q_proj") return s.q;
    if (module == "k_proj" || module == "v_proj") return s.kv;
    if (module == "qkv_proj") return s.q + 2 * s.kv;
    if (module == "gate_up_proj") return 2 * s.feed_forward;
    return module == "gate_proj" || module == "up_proj" ? s.feed_forward : s.width;
  }
  void Add(const std::string& name, const std::string& dtype, PlainMatrix matrix) {
    std::string data;
    for (float& value : matrix.values) {
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      if (dtype == "BF16") bits &= 0xffff0000u;
      std::memcpy(&value, &bits, sizeof bits);
      const char* from = reinterpret_cast<const char*>(&bits);
      data.append(dtype == "BF16" ? from + 2 : from, dtype == "BF16" ? 2 : 4);
    }
    weights.tensors.push_back({name, dtype, {matrix.rows, matrix.cols}, std::move(data)});
    matrices[name] = std::move(matrix);
  }
};

// The folder of an adapter that goes away with the test's process.
class AdapterFolder {
 public:
  explicit AdapterFolder(const TinyAdapter& adapter)
      : path_(absl::StrCat(testing::TempDir(), "/interlace_adapter_", getpid(), "_", ++count_)) {
    adapter.Write(path_);
  }
  AdapterFolder(const AdapterShape& shape, const TinyAdapterOptions& options)
      : AdapterFolder(TinyAdapter(shape, options)) {}
  ~AdapterFolder() { std::filesystem::remove_all(path_); }
  AdapterFolder(const AdapterFolder&) = delete;
  AdapterFolder& operator=(const AdapterFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  static inline int count_ = 0;
  const std::string path_;
};

}  // namespace interlace
