#include "model/checkpoint.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "checkpoint/file_mapping.h"
#include "checkpoint/gguf_values.h"
#include "checkpoint/model_folder.h"
#include "common/status_macros.h"

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
    absl::string_view stem = name;
    // The experts of a layer in one tensor: cut apart.
    if (from.dims.size() == 3 && from.dims[2] <= kMostExperts && absl::ConsumeSuffix(&stem, "_exps.weight")) {
      const size_t bytes = from.data.size() / static_cast<size_t>(from.dims[2]);
      for (int64_t e = 0; e < from.dims[2]; ++e) {
        tensor.data = from.data.subspan(static_cast<size_t>(e) * bytes, bytes);
        if (!tensors_.emplace(absl::StrCat(stem, ".", e, ".weight"), tensor).second) {
          return absl::InvalidArgumentError(absl::StrCat(name_, ": tensor ", Quoted(name), " has an expert twice"));
        }
      }
      continue;
    }
    for (size_t i = 2; i < from.dims.size(); ++i) tensor.rows *= from.dims[i];
    if (!tensors_.emplace(name, tensor).second) {
      return absl::InvalidArgumentError(absl::StrCat(name_, ": tensor ", Quoted(name), " appears twice"));
    }
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::ReadFolder(const std::string& folder) {
  name_ = folder;
  ASSIGN_OR_RETURN(ModelFolder opened, OpenModelFolder(folder));
  shards_ = std::move(opened.shards);
  ASSIGN_OR_RETURN(spec_, ReadModelSpec(opened.config, opened.digest));
  for (const std::unique_ptr<SafetensorsFile>& shard : shards_) RETURN_IF_ERROR(AddShard(*shard));
  // A head that is tied is the embedding, though some files keep a copy of it.
  if (spec_.tied_head) tensors_.erase("output.weight");
  return absl::OkStatus();
}

absl::Status Checkpoint::AddShard(const SafetensorsFile& file) {
  for (const auto& [name, from] : file.tensors()) {
    const std::optional<std::string> ours = CanonicalName(name, spec_.architecture);
    if (!ours.has_value()) {
      return absl::UnimplementedError(absl::StrCat(file.name(), ": tensor ", Quoted(name),
                                                   " has no part in the architecture '", spec_.architecture,
                                                   "' that is built in"));
    }
    if (ours->empty()) continue;
    if (from.shape.empty() || from.shape.size() > 2 || from.data.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.name(), ": tensor ", Quoted(name), " is neither a vector nor a matrix"));
    }
    const CheckpointTensor tensor{DTypeOf(from.dtype), from.dtype, from.shape.size() == 2 ? from.shape[0] : 1,
                                  from.shape.back(), from.data};
    if (!tensors_.emplace(*ours, tensor).second) {
      return absl::InvalidArgumentError(absl::StrCat(file.name(), ": tensor ", Quoted(name), " appears twice"));
    }
  }
  return absl::OkStatus();
}

void Checkpoint::Drop(absl::Span<const std::byte> part) const {
  if (gguf_ != nullptr) return gguf_->Drop(part);
  for (const std::unique_ptr<SafetensorsFile>& shard : shards_) {
    if (shard->Contains(part)) return shard->Drop(part);
  }
}

}  // namespace interlace
