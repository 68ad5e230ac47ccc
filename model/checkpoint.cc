#include "model/checkpoint.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "checkpoint/file_mapping.h"
#include "checkpoint/gguf_values.h"
#include "checkpoint/model_folder.h"
#include "common/status_macros.h"
#include "model/arch/archs.h"
#include "model/quantised_folder.h"

namespace interlace {
namespace {

constexpr int64_t kMostExperts = 4096;

std::optional<DType> DTypeOf(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return DType::kF32;
    case GgufType::kF16:
      return DType::kF16;
    case GgufType::kBF16:
      return DType::kBF16;
    case GgufType::kQ8_0:
      return DType::kQ8_0;
    case GgufType::kQ4_0:
      return DType::kQ4_0;
    case GgufType::kQ4_1:
      return DType::kQ4_1;
    case GgufType::kQ5_0:
      return DType::kQ5_0;
    case GgufType::kQ5_1:
      return DType::kQ5_1;
    case GgufType::kQ4_K:
      return DType::kQ4_K;
    case GgufType::kQ5_K:
      return DType::kQ5_K;
    case GgufType::kQ6_K:
      return DType::kQ6_K;
    case GgufType::kIQ4_NL:
      return DType::kIQ4_NL;
    case GgufType::kIQ4_XS:
      return DType::kIQ4_XS;
    case GgufType::kMXFP4:
      return DType::kMXFP4;
    case GgufType::kQ3_K:
      return DType::kQ3_K;
    case GgufType::kQ2_K:
      return DType::kQ2_K;
  }
  return std::nullopt;
}

std::optional<DType> DTypeOf(absl::string_view safetensors) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (TraitsOf(dtype).name == safetensors) return dtype;
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& path) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  if (IsModelFolder(path)) {
    RETURN_IF_ERROR(checkpoint->ReadFolder(path));
    return checkpoint;
  }
  ASSIGN_OR_RETURN(checkpoint->opened_, GgufFile::Open(path));
  RETURN_IF_ERROR(checkpoint->ReadGguf(*checkpoint->opened_));
  return checkpoint;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Of(const GgufFile& file) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  RETURN_IF_ERROR(checkpoint->ReadGguf(file));
  return checkpoint;
}

absl::Status Checkpoint::ReadGguf(const GgufFile& file) {
  gguf_ = &file;
  name_ = file.name();
  ASSIGN_OR_RETURN(spec_, ReadModelSpec(file));
  for (const auto& [name, from] : file.tensors()) {
    CheckpointTensor tensor{DTypeOf(from.type), absl::StrCat("GGUF type ", static_cast<uint32_t>(from.type)),
                            from.dims.size() > 1 ? from.dims[1] : 1, from.dims[0], from.data};
    const bool stacked = from.dims.size() == 3 && absl::EndsWith(name, "_exps.weight");
    for (size_t i = 2; !stacked && i < from.dims.size(); ++i) tensor.rows *= from.dims[i];
    std::string ours = name;
    // GGUF calls the tensor of both "up".
    if (tensor.rows == 2 * int64_t{spec_.feed_forward} && absl::EndsWith(name, ".ffn_up.weight") &&
        !file.Tensor(absl::StrReplaceAll(name, {{".ffn_up.", ".ffn_gate."}})).ok()) {
      ours = absl::StrReplaceAll(name, {{".ffn_up.", ".ffn_gate_up."}});
    }
    RETURN_IF_ERROR(Add(name_, name, ours, tensor, stacked ? from.dims[2] : 0));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::Add(absl::string_view file, absl::string_view given, const std::string& name,
                             const CheckpointTensor& tensor, int64_t depth) {
  const auto twice = [&] {
    return absl::InvalidArgumentError(absl::StrCat(file, ": tensor ", Quoted(given), " appears twice"));
  };
  absl::string_view stem = name;
  if (depth > 0 && depth <= kMostExperts && absl::ConsumeSuffix(&stem, "_exps.weight")) {
    const size_t bytes = tensor.data.size() / static_cast<size_t>(depth);
    for (int64_t e = 0; e < depth; ++e) {
      CheckpointTensor expert = tensor;
      expert.data = tensor.data.subspan(static_cast<size_t>(e) * bytes, bytes);
      RETURN_IF_ERROR(Add(file, given, absl::StrCat(stem, ".", e, ".weight"), expert, 0));
    }
    return absl::OkStatus();
  }
  if (stem = name; absl::ConsumeSuffix(&stem, "attn_qkv.weight")) {
    const int64_t q = int64_t{spec_.heads} * spec_.head_dim, kv = int64_t{spec_.kv_heads} * spec_.head_dim;
    return AddParts(file, given, stem, tensor, {{"attn_q", q}, {"attn_k", kv}, {"attn_v", kv}}, ".weight");
  }
  if (const size_t at = name.find("ffn_gate_up"); at != std::string::npos && absl::EndsWith(name, ".weight")) {
    const std::string rest = name.substr(at + absl::string_view("ffn_gate_up").size());  // ".3.weight" of an expert
    return AddParts(file, given, absl::string_view(name).substr(0, at), tensor,
                    {{"ffn_gate", tensor.rows / 2}, {"ffn_up", tensor.rows - tensor.rows / 2}}, rest);
  }
  return tensors_.emplace(name, tensor).second ? absl::OkStatus() : twice();
}

absl::Status Checkpoint::AddParts(absl::string_view file, absl::string_view given, absl::string_view stem,
                                  const CheckpointTensor& tensor,
                                  absl::Span<const std::pair<absl::string_view, int64_t>> parts,
                                  absl::string_view suffix) {
  int64_t rows = 0;
  for (const auto& [name, part_rows] : parts) rows += part_rows;
  if (rows != tensor.rows || rows == 0 || tensor.data.size() % static_cast<size_t>(rows) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": tensor ", Quoted(given), " has ", tensor.rows, " rows, expected ", rows));
  }
  const auto row_bytes = tensor.data.size() / static_cast<size_t>(rows);
  size_t begin = 0;
  for (const auto& [name, part_rows] : parts) {
    CheckpointTensor part = tensor;
    part.rows = part_rows;
    part.source_row += static_cast<int64_t>(begin);
    if (part.source == nullptr) {
      part.data = tensor.data.subspan(begin * row_bytes, static_cast<size_t>(part_rows) * row_bytes);
    }
    begin += static_cast<size_t>(part_rows);
    RETURN_IF_ERROR(Add(file, given, absl::StrCat(stem, name, suffix), part, 0));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::ReadFolder(const std::string& folder) {
  name_ = folder;
  ASSIGN_OR_RETURN(ModelFolder opened, OpenModelFolder(folder));
  shards_ = std::move(opened.shards);
  ASSIGN_OR_RETURN(spec_, ReadModelSpec(opened.config, opened.digest));
  ASSIGN_OR_RETURN(const std::string class_name, opened.config.Architecture());
  prefixes_ = TextPrefixes(class_name);
  FolderTensors tensors;
  for (const std::unique_ptr<SafetensorsFile>& shard : shards_) {
    for (const auto& [name, tensor] : shard->tensors()) {
      if (tensors.emplace(name, FolderTensor{shard.get(), &tensor}).second) continue;
      return absl::InvalidArgumentError(absl::StrCat(shard->name(), ": tensor ", Quoted(name), " appears twice"));
    }
  }
  using Matrices = std::map<std::string, CheckpointTensor>;
  ASSIGN_OR_RETURN(const Matrices quantised, TakeQuantised(opened.config, &tensors));
  for (const auto& [name, tensor] : quantised) {
    ASSIGN_OR_RETURN(const std::string ours, NameOf(name_, name));
    if (!ours.empty()) RETURN_IF_ERROR(Add(name_, name, ours, tensor, 0));
  }
  for (const auto& [name, from] : tensors) RETURN_IF_ERROR(AddPlain(from.file->name(), name, *from.tensor));
  // A head that is tied is the embedding, though some files keep a copy of it.
  if (spec_.tied_head) tensors_.erase("output.weight");
  return absl::OkStatus();
}

absl::StatusOr<std::string> Checkpoint::NameOf(absl::string_view file, absl::string_view given) const {
  const std::optional<std::string> text_name = TextName(given, prefixes_);
  if (!text_name.has_value()) return std::string();
  const std::optional<std::string> ours = CanonicalName(*text_name, spec_.parts.norms);
  if (!ours.has_value()) {
    return absl::UnimplementedError(absl::StrCat(file, ": tensor ", Quoted(given), " has no part in the architecture '",
                                                 spec_.architecture, "' that is built in"));
  }
  return *ours;
}

absl::Status Checkpoint::AddPlain(const std::string& file, const std::string& name, const SafetensorsTensor& from) {
  ASSIGN_OR_RETURN(const std::string ours, NameOf(file, name));
  if (ours.empty()) return absl::OkStatus();
  const bool stacked = from.shape.size() == 3 && absl::EndsWith(ours, "_exps.weight");
  if (from.shape.empty() || (from.shape.size() > 2 && !stacked) || from.data.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": tensor ", Quoted(name), " is neither a vector nor a matrix"));
  }
  const CheckpointTensor tensor{DTypeOf(from.dtype), from.dtype,
                                from.shape.size() > 1 ? from.shape[from.shape.size() - 2] : 1, from.shape.back(),
                                from.data};
  return Add(file, name, ours, tensor, stacked ? from.shape[0] : 0);
}

void Checkpoint::Drop(absl::Span<const std::byte> part) const {
  if (gguf_ != nullptr) return gguf_->Drop(part);
  for (const std::unique_ptr<SafetensorsFile>& shard : shards_) {
    if (shard->Contains(part)) return shard->Drop(part);
  }
}

}  // namespace interlace
