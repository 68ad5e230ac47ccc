// Checkpoint: the tensors of a model, whatever file or folder holds them.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "checkpoint/gguf.h"
#include "checkpoint/safetensors.h"
#include "kernels/dtype.h"
#include "model/model_spec.h"

namespace interlace {

// A matrix, or a vector of one row, where the file has it.
struct CheckpointTensor {
  std::optional<DType> dtype;  // none: a type that no kernel computes with
  std::string type;            // as the file writes it
  int64_t rows = 0;
  int64_t cols = 0;
  absl::Span<const std::byte> data;  // of any alignment
};

// Names are GGUF's, "blk.7.attn_q.weight"; an expert's matrices are "blk.7.ffn_gate.3.weight", whether the file keeps
// the experts of a layer apart or in one tensor.
// Owned by the rank; immutable, any thread. The trap: tensor data points into mapped files, so it must outlive the
// weights that are used in place.
class Checkpoint {
 public:
  // A GGUF file, or a folder with config.json and model.safetensors (or model.safetensors.index.json and its parts).
  // NotFound if nothing is there; InvalidArgument names file and field of what is not sound; Unimplemented names what
  // is not built in.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path);
  // `file` outlives the result.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Of(const GgufFile& file);

  const ModelSpec& spec() const { return spec_; }
  const std::map<std::string, CheckpointTensor, std::less<>>& tensors() const { return tensors_; }
  const std::string& name() const { return name_; }
  // The pages wholly inside `part`, of a tensor's data, leave resident memory until they are read again.
  void Drop(absl::Span<const std::byte> part) const;

 private:
  Checkpoint() = default;
  absl::Status ReadGguf(const GgufFile& file);
  absl::Status ReadFolder(const std::string& folder);
  absl::Status AddShard(const SafetensorsFile& file);

  std::string name_;
  ModelSpec spec_;
  std::map<std::string, CheckpointTensor, std::less<>> tensors_;
  std::unique_ptr<GgufFile> opened_;
  const GgufFile* gguf_ = nullptr;
  std::vector<std::unique_ptr<SafetensorsFile>> shards_;
};

// The canonical name of a tensor in a Hugging Face checkpoint of `architecture` (ModelSpec's name). Empty: it is no
// part of the text model. nullopt: unknown.
std::optional<std::string> CanonicalName(absl::string_view name, absl::string_view architecture);

}  // namespace interlace
