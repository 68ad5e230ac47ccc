// Matrices that a Hugging Face folder keeps quantised in its own way (quantization_config): FP8, GPTQ, AWQ and
// compressed-tensors, as rows of a type that kernels have.
//
//   kept as                                         becomes  which is
//   GPTQ, AWQ, pack-quantized, 4 bits, all zeros 8  Q4_0     the same numbers: scale * (q - 8)
//   GPTQ, AWQ, 4 bits, other zeros                  Q5_0     the same numbers: scale * ((q - zero + 16) - 16)
//   GPTQ whose columns are in groups out of order   F16      scale * (q - zero), rounded to F16
//   FP8 (e4m3), scales of blocks, rows or all       F16      scale * value, rounded to F16: two bytes for one
//
// Scales that are not F16 are rounded to it, too.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/safetensors.h"
#include "model/checkpoint.h"

namespace interlace {

struct FolderTensor {
  const SafetensorsFile* file;  // outlives what is made of it
  const SafetensorsTensor* tensor;
};
using FolderTensors = std::map<std::string, FolderTensor, std::less<>>;

// Takes the tensors of quantised matrices out of `tensors` and gives the matrices by the names that they would have as
// they are, "model.layers.0.mlp.up_proj.weight". Nothing, where the configuration does not say that the folder is
// quantised. Unimplemented names a method, or a way of one, that is not built in; InvalidArgument the tensor that is
// missing or has another shape.
absl::StatusOr<std::map<std::string, CheckpointTensor>> TakeQuantised(const HfConfig& config, FolderTensors* tensors);

}  // namespace interlace
