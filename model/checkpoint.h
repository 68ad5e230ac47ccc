// Checkpoint: the tensors of a model, whatever file or folder holds them.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "checkpoint/gguf.h"
#include "checkpoint/safetensors.h"
#include "kernels/dtype.h"
#include "model/model_spec.h"

namespace interlace {

// The rows of a matrix that its folder keeps in a form that no kernel reads.
class RowSource {
 public:
  virtual ~RowSource() = default;
  // Writes rows [begin, begin + count) as the tensor's dtype lays them out in a file.
  virtual void Write(int64_t begin, int64_t count, std::byte* out) const = 0;
};

// A matrix, or a vector of one row, where the file has it.
struct CheckpointTensor {
  std::optional<DType> dtype;  // none: a type that no kernel computes with
  std::string type;            // as the file writes it
  int64_t rows = 0;
  int64_t cols = 0;
  absl::Span<const std::byte> data;         // of any alignment; with a source, what it reads most of
  std::shared_ptr<const RowSource> source;  // null: the rows are `data`
  int64_t source_row = 0;                   // the first row, in the source
  int64_t bytes() const {
    return source != nullptr ? rows * RowBytes(*dtype, cols) : static_cast<int64_t>(data.size());
  }
};

// Names are GGUF's, "blk.7.attn_q.weight"; an expert's matrices are "blk.7.ffn_gate.3.weight". What files keep in one
// tensor is cut apart: a layer's experts, q, k and v, gate and up.
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
  absl::Status AddPlain(const std::string& file, const std::string& name, const SafetensorsTensor& from);
  // The canonical name of a folder's tensor; empty: it is no part of the text model.
  absl::StatusOr<std::string> NameOf(absl::string_view file, absl::string_view given) const;
  // `file` and `given` are for messages: whose tensor it is, and its name there. `depth`: how many experts lie one
  // behind another; 0: it is no such stack.
  absl::Status Add(absl::string_view file, absl::string_view given, const std::string& name,
                   const CheckpointTensor& tensor, int64_t depth);
  absl::Status AddParts(absl::string_view file, absl::string_view given, absl::string_view stem,
                        const CheckpointTensor& tensor, absl::Span<const std::pair<absl::string_view, int64_t>> parts,
                        absl::string_view suffix);

  std::string name_;
  ModelSpec spec_;
  std::map<std::string, CheckpointTensor, std::less<>> tensors_;
  std::unique_ptr<GgufFile> opened_;
  const GgufFile* gguf_ = nullptr;
  std::vector<std::unique_ptr<SafetensorsFile>> shards_;
  absl::Span<const absl::string_view> prefixes_;  // TextPrefixes of the folder's class
};

// The name that a tensor of a folder would have in a folder of the text model alone (TextPrefixes):
// "language_model.model.norm.weight" and "model.language_model.norm.weight" are "model.norm.weight". nullopt: it is
// part of what reads pictures.
std::optional<std::string> TextName(absl::string_view name, absl::Span<const absl::string_view> prefixes);
// The canonical name of a tensor of a Hugging Face text model whose norms stand there. Empty: it says nothing that
// ModelSpec does not. nullopt: unknown.
std::optional<std::string> CanonicalName(absl::string_view name, NormPlace norms);

}  // namespace interlace
