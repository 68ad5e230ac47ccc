#include "model/model_spec.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// An integer of the metadata that must lie in [least, most].
absl::Status ReadCount(const GgufFile& file, const std::string& key, int64_t least, int64_t most, int32_t* out) {
  ASSIGN_OR_RETURN(const int64_t value, file.Integer(key));
  if (value < least || value > most) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.name(), ": ", key, "=", value, " is outside [", least, ", ", most, "]"));
  }
  *out = static_cast<int32_t>(value);
  return absl::OkStatus();
}

// base^(-2i/d), divided by the factor of linear scaling, and by those of rope_freqs.weight where the file has them
// (Llama 3's long-context scaling).
absl::Status ReadRope(const GgufFile& file, const std::string& arch, ModelSpec* spec) {
  double base = 10000;
  if (file.Has(arch + ".rope.freq_base")) {
    ASSIGN_OR_RETURN(base, file.Real(arch + ".rope.freq_base"));
  }
  if (!(base > 1) || std::isinf(base))
    return absl::InvalidArgumentError(absl::StrCat(file.name(), ": ", arch, ".rope.freq_base=", base));
  if (file.Has(arch + ".rope.scale_linear")) {
    return absl::UnimplementedError(
        absl::StrCat(file.name(), ": ", arch, ".rope.scale_linear is a key of old files; convert the model anew"));
  }
  double divisor = 1;
  if (file.Has(arch + ".rope.scaling.type")) {
    ASSIGN_OR_RETURN(const std::string type, file.Text(arch + ".rope.scaling.type"));
    if (type == "linear") {
      ASSIGN_OR_RETURN(divisor, file.Real(arch + ".rope.scaling.factor"));
      if (!(divisor > 0) || std::isinf(divisor)) {
        return absl::InvalidArgumentError(absl::StrCat(file.name(), ": ", arch, ".rope.scaling.factor=", divisor));
      }
    } else if (type != "none") {
      return absl::UnimplementedError(
          absl::StrCat(file.name(), ": rope scaling '", type, "' is not built in; known: none, linear"));
    }
  }
  int32_t rotated = spec->head_dim;
  if (file.Has(arch + ".rope.dimension_count")) {
    RETURN_IF_ERROR(ReadCount(file, arch + ".rope.dimension_count", 2, spec->head_dim, &rotated));
  }
  if (rotated != spec->head_dim) {
    return absl::UnimplementedError(absl::StrCat(file.name(), ": ", arch, ".rope.dimension_count=", rotated,
                                                 " rotates part of a head of ", spec->head_dim));
  }
  for (int32_t i = 0; i < spec->head_dim / 2; ++i) {
    spec->rope_frequencies.push_back(static_cast<float>(std::pow(base, -2.0 * i / spec->head_dim) / divisor));
  }
  const absl::StatusOr<const GgufTensor*> factors = file.Tensor("rope_freqs.weight");
  if (!factors.ok()) return absl::OkStatus();
  if ((*factors)->type != GgufType::kF32 || (*factors)->dims[0] != spec->head_dim / 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.name(), ": rope_freqs.weight is not F32 [", spec->head_dim / 2, "]"));
  }
  const float* factor = reinterpret_cast<const float*>((*factors)->data.data());
  for (int32_t i = 0; i < spec->head_dim / 2; ++i) {
    if (!(factor[i] > 0)) return absl::InvalidArgumentError(absl::StrCat(file.name(), ": rope_freqs.weight[", i, "]"));
    spec->rope_frequencies[i] /= factor[i];
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelSpec> Read(const GgufFile& file) {
  ModelSpec spec;
  ASSIGN_OR_RETURN(spec.architecture, file.Text("general.architecture"));
  const std::string& arch = spec.architecture;
  if (arch != "llama") {
    return absl::UnimplementedError(
        absl::StrCat(file.name(), ": general.architecture '", arch, "' is not built in; known: llama"));
  }
  spec.digest = file.digest();
  RETURN_IF_ERROR(ReadCount(file, arch + ".block_count", 1, 1024, &spec.layers));
  RETURN_IF_ERROR(ReadCount(file, arch + ".embedding_length", 8, 1 << 16, &spec.width));
  RETURN_IF_ERROR(ReadCount(file, arch + ".feed_forward_length", 8, 1 << 20, &spec.feed_forward));
  RETURN_IF_ERROR(ReadCount(file, arch + ".attention.head_count", 1, 1024, &spec.heads));
  RETURN_IF_ERROR(ReadCount(file, arch + ".context_length", 1, 1 << 24, &spec.context));
  spec.kv_heads = spec.heads;
  if (file.Has(arch + ".attention.head_count_kv")) {
    RETURN_IF_ERROR(ReadCount(file, arch + ".attention.head_count_kv", 1, spec.heads, &spec.kv_heads));
  }
  spec.head_dim = spec.width / spec.heads;
  if (file.Has(arch + ".attention.key_length")) {
    RETURN_IF_ERROR(ReadCount(file, arch + ".attention.key_length", 8, 1024, &spec.head_dim));
  }
  int32_t value_length = spec.head_dim;
  if (file.Has(arch + ".attention.value_length")) {
    RETURN_IF_ERROR(ReadCount(file, arch + ".attention.value_length", 1, 1024, &value_length));
  }
  if (value_length != spec.head_dim) {
    return absl::UnimplementedError(absl::StrCat(file.name(), ": attention.value_length=", value_length,
                                                 " differs from a head of ", spec.head_dim));
  }
  if (spec.heads % spec.kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.name(), ": head_count=", spec.heads, " is no multiple of head_count_kv=", spec.kv_heads));
  }
  if (spec.head_dim % 8 != 0) {
    return absl::UnimplementedError(
        absl::StrCat(file.name(), ": heads of ", spec.head_dim, " elements; a multiple of 8 is built in"));
  }
  ASSIGN_OR_RETURN(const double epsilon, file.Real(arch + ".attention.layer_norm_rms_epsilon"));
  if (!(epsilon > 0 && epsilon < 1)) {
    return absl::InvalidArgumentError(absl::StrCat(file.name(), ": layer_norm_rms_epsilon=", epsilon));
  }
  spec.norm_epsilon = static_cast<float>(epsilon);
  ASSIGN_OR_RETURN(const GgufTensor* embedding, file.Tensor("token_embd.weight"));
  if (embedding->dims.size() != 2 || embedding->dims[0] != spec.width || embedding->dims[1] > (1 << 24)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.name(), ": token_embd.weight is not [vocab, ", spec.width, "]"));
  }
  spec.vocab = static_cast<int32_t>(embedding->dims[1]);
  if (file.Has(arch + ".vocab_size")) {
    int32_t stated = 0;
    RETURN_IF_ERROR(ReadCount(file, arch + ".vocab_size", spec.vocab, spec.vocab, &stated));
  }
  int32_t experts = 0;
  if (file.Has(arch + ".expert_count")) RETURN_IF_ERROR(ReadCount(file, arch + ".expert_count", 0, 1 << 16, &experts));
  if (experts > 0) {
    return absl::UnimplementedError(
        absl::StrCat(file.name(), ": ", arch, ".expert_count=", experts, "; models of experts are not built in"));
  }
  spec.tied_head = !file.Tensor("output.weight").ok();
  RETURN_IF_ERROR(ReadRope(file, arch, &spec));
  return spec;
}

}  // namespace

absl::StatusOr<ModelSpec> ReadModelSpec(const GgufFile& file) {
  absl::StatusOr<ModelSpec> spec = Read(file);
  // A key that the file lacks is a broken file to the caller, not a thing to look for elsewhere.
  if (absl::IsNotFound(spec.status())) return absl::InvalidArgumentError(spec.status().message());
  return spec;
}

}  // namespace interlace
