// The tiny checkpoints of every architecture (tests/golden/make_tiny_checkpoints.py).
#pragma once

#include <string>
#include <vector>

#include "model/checkpoint.h"

namespace interlace {

struct TinyCheckpoint {
  const char* name;          // of its folder
  const char* architecture;  // ModelSpec's
  std::string Folder() const { return std::string("tests/golden/archs/") + name; }
  std::string Hf() const { return Folder() + "/hf"; }
  std::string Gguf() const { return Folder() + "/model.gguf"; }
};
inline constexpr TinyCheckpoint kTinyCheckpoints[] = {
    {"llama", "llama"},     {"qwen2", "qwen2"},          {"qwen3", "qwen3"},        {"gemma3", "gemma3"},
    {"mixtral", "mixtral"}, {"qwen2_moe", "qwen2moe"},   {"qwen3_moe", "qwen3moe"}, {"mistral", "mistral"},
    {"gemma2", "gemma2"},   {"gemma3_vision", "gemma3"}, {"phi3", "phi3"},          {"smollm3", "smollm3"},
    {"olmo2", "olmo2"},     {"olmo3", "olmo3"},          {"granite", "granite"},    {"granite_moe", "granitemoe"},
};

}  // namespace interlace
