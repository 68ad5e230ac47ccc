// ModelSpec: the dimensions and switches of a model, read from the checkpoint's own metadata.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/text/gguf.h"

namespace interlace {

struct ModelSpec {
  std::string architecture;  // "llama"
  std::string digest;        // GgufFile::digest
  int32_t layers = 0;
  int32_t width = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t feed_forward = 0;
  int32_t vocab = 0;
  int32_t context = 0;  // tokens
  float norm_epsilon = 1e-5f;
  std::vector<float> rope_frequencies;  // [head_dim / 2], the model's scaling applied
  bool tied_head = false;               // the output head is the embedding
};

// InvalidArgument names file and field; Unimplemented names an architecture or a rope scaling that is not built in.
absl::StatusOr<ModelSpec> ReadModelSpec(const GgufFile& file);

}  // namespace interlace
