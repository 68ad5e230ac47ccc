// ModelSpec out of GGUF metadata, with the defaults that llama.cpp gives each architecture.
#include <cmath>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "model/arch/archs.h"
#include "model/model_spec.h"

namespace interlace {
namespace {

// Reads keys of one architecture: "heads" is "<architecture>.heads".
class Keys {
 public:
  Keys(const GgufFile& file, const std::string& architecture) : file_(file), prefix_(architecture + ".") {}

  std::string Full(absl::string_view key) const { return absl::StrCat(prefix_, key); }
  bool Has(absl::string_view key) const { return file_.Has(Full(key)); }
  absl::StatusOr<std::string> Text(absl::string_view key) const { return file_.Text(Full(key)); }
  // An integer that must lie in [least, most].
  absl::Status Count(absl::string_view key, int64_t least, int64_t most, int32_t* out) const {
    ASSIGN_OR_RETURN(const int64_t value, file_.Integer(Full(key)));
    if (value < least || value > most) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_.name(), ": ", Full(key), "=", value, " is outside [", least, ", ", most, "]"));
    }
    *out = static_cast<int32_t>(value);
    return absl::OkStatus();
  }
  absl::Status CountIfAny(absl::string_view key, int64_t least, int64_t most, int32_t* out) const {
    return Has(key) ? Count(key, least, most, out) : absl::OkStatus();
  }
  // A number above `least`; *out stays where there is none.
  absl::Status RealIfAny(absl::string_view key, double least, double* out) const {
    if (!Has(key)) return absl::OkStatus();
    ASSIGN_OR_RETURN(*out, file_.Real(Full(key)));
    if (*out > least && !std::isinf(*out)) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(file_.name(), ": ", Full(key), "=", *out));
  }
  absl::Status FlagIfAny(absl::string_view key, bool* out) const {
    if (!Has(key)) return absl::OkStatus();
    ASSIGN_OR_RETURN(*out, file_.Flag(Full(key)));
    return absl::OkStatus();
  }
  absl::Status Refuse(absl::string_view key, absl::string_view why) const {
    return absl::UnimplementedError(absl::StrCat(file_.name(), ": ", Full(key), " ", why));
  }

 private:
  const GgufFile& file_;
  const std::string prefix_;
};

absl::Status ReadDimensions(const GgufFile& file, const Keys& keys, ModelSpec* spec) {
  RETURN_IF_ERROR(keys.Count("block_count", 1, 1024, &spec->layers));
  RETURN_IF_ERROR(keys.Count("embedding_length", 8, 1 << 16, &spec->width));
  RETURN_IF_ERROR(keys.Count("feed_forward_length", 8, 1 << 20, &spec->feed_forward));
  RETURN_IF_ERROR(keys.Count("attention.head_count", 1, 1024, &spec->heads));
  RETURN_IF_ERROR(keys.Count("context_length", 1, 1 << 24, &spec->context));
  spec->kv_heads = spec->heads;
  RETURN_IF_ERROR(keys.CountIfAny("attention.head_count_kv", 1, spec->heads, &spec->kv_heads));
  spec->head_dim = spec->width / spec->heads;
  RETURN_IF_ERROR(keys.CountIfAny("attention.key_length", 8, 1024, &spec->head_dim));
  int32_t value_length = spec->head_dim;
  RETURN_IF_ERROR(keys.CountIfAny("attention.value_length", 1, 1024, &value_length));
  if (value_length != spec->head_dim) {
    return keys.Refuse("attention.value_length",
                       absl::StrCat("=", value_length, " differs from a head of ", spec->head_dim));
  }
  ASSIGN_OR_RETURN(const double epsilon, file.Real(keys.Full("attention.layer_norm_rms_epsilon")));
  spec->norm_epsilon = static_cast<float>(epsilon);
  ASSIGN_OR_RETURN(const GgufTensor* embedding, file.Tensor("token_embd.weight"));
  if (embedding->dims.size() != 2 || embedding->dims[0] != spec->width || embedding->dims[1] > (1 << 24)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.name(), ": token_embd.weight is not [vocab, ", spec->width, "]"));
  }
  spec->vocab = static_cast<int32_t>(embedding->dims[1]);
  int32_t stated = 0;
  RETURN_IF_ERROR(keys.CountIfAny("vocab_size", spec->vocab, spec->vocab, &stated));
  spec->tied_head = !file.Tensor("output.weight").ok();
  return absl::OkStatus();
}

// Divides by the factors of rope_freqs.weight, where the file has them: Llama 3's scaling, worked out by the converter.
absl::Status DivideByFactors(const GgufFile& file, RopeSpec* rope) {
  const absl::StatusOr<const GgufTensor*> factors = file.Tensor("rope_freqs.weight");
  if (!factors.ok()) return absl::OkStatus();
  const auto pairs = static_cast<int64_t>(rope->frequencies.size());
  const bool aligned = reinterpret_cast<uintptr_t>((*factors)->data.data()) % alignof(float) == 0;
  if ((*factors)->type != GgufType::kF32 || (*factors)->dims[0] != pairs || !aligned) {
    return absl::InvalidArgumentError(absl::StrCat(file.name(), ": rope_freqs.weight is not F32 [", pairs, "]"));
  }
  const float* factor = reinterpret_cast<const float*>((*factors)->data.data());
  for (int64_t i = 0; i < pairs; ++i) {
    if (!(factor[i] > 0)) return absl::InvalidArgumentError(absl::StrCat(file.name(), ": rope_freqs.weight[", i, "]"));
    rope->frequencies[i] /= factor[i];
  }
  return absl::OkStatus();
}

absl::StatusOr<RopeScaling> ReadScaling(const Keys& keys, int32_t context) {
  RopeScaling scaling;
  if (keys.Has("rope.scale_linear")) {
    return keys.Refuse("rope.scale_linear", "is a key of old files; convert the model anew");
  }
  if (!keys.Has("rope.scaling.type")) return scaling;
  ASSIGN_OR_RETURN(const std::string type, keys.Text("rope.scaling.type"));
  if (type == "none") return scaling;
  if (type != "linear" && type != "yarn") {
    return keys.Refuse("rope.scaling.type", absl::StrCat("'", type, "' is not built in; known: none, linear, yarn"));
  }
  scaling.kind = type == "linear" ? RopeScaling::Kind::kLinear : RopeScaling::Kind::kYarn;
  RETURN_IF_ERROR(keys.RealIfAny("rope.scaling.factor", 0, &scaling.factor));
  if (type == "linear") return scaling;
  int32_t original = context;
  RETURN_IF_ERROR(keys.CountIfAny("rope.scaling.original_context_length", 1, 1 << 24, &original));
  scaling.original_context = original;
  RETURN_IF_ERROR(keys.RealIfAny("rope.scaling.yarn_beta_fast", 0, &scaling.beta_fast));
  RETURN_IF_ERROR(keys.RealIfAny("rope.scaling.yarn_beta_slow", 0, &scaling.beta_slow));
  if (keys.Has("rope.scaling.yarn_log_multiplier")) {
    return keys.Refuse("rope.scaling.yarn_log_multiplier", "is not built in");
  }
  // The file's factor comes on top of YaRN's own.
  double attention = 1;
  RETURN_IF_ERROR(keys.RealIfAny("rope.scaling.attn_factor", 0, &attention));
  scaling.magnitude = attention * (scaling.factor > 1 ? 0.1 * std::log(scaling.factor) + 1 : 1);
  return scaling;
}

absl::Status ReadRope(const GgufFile& file, const Keys& keys, ModelSpec* spec) {
  int32_t rotated = spec->head_dim;
  RETURN_IF_ERROR(keys.CountIfAny("rope.dimension_count", 2, spec->head_dim, &rotated));
  if (rotated != spec->head_dim) {
    return keys.Refuse("rope.dimension_count",
                       absl::StrCat("=", rotated, " rotates part of a head of ", spec->head_dim));
  }
  double base = spec->architecture == "gemma3" || spec->architecture == "qwen3moe" ? 1000000 : 10000;
  RETURN_IF_ERROR(keys.RealIfAny("rope.freq_base", 1, &base));
  ASSIGN_OR_RETURN(const RopeScaling scaling, ReadScaling(keys, spec->context));
  spec->ropes.push_back(MakeRope(spec->head_dim, base, scaling));
  return DivideByFactors(file, &spec->ropes[0]);
}

// Gemma 3: five layers that see a window and rotate by a base of their own, unscaled, then one that sees all.
absl::Status ReadGemma3(const Keys& keys, ModelSpec* spec) {
  int32_t window = 0, pattern = 6;
  RETURN_IF_ERROR(keys.CountIfAny("attention.sliding_window", 0, 1 << 24, &window));
  RETURN_IF_ERROR(keys.CountIfAny("attention.sliding_window_pattern", 1, 1024, &pattern));
  double local_base = 10000;
  RETURN_IF_ERROR(keys.RealIfAny("rope.freq_base_swa", 1, &local_base));
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    if (keys.Has(key)) return keys.Refuse(key, "is not built in for gemma3");
  }
  spec->ropes.push_back(MakeRope(spec->head_dim, local_base, {}));
  spec->embedding_scale = std::sqrt(static_cast<float>(spec->width));
  // The 27B model alone scales by its width; the file does not say so.
  const bool is_27b = spec->layers == 62;
  const auto divisor = static_cast<float>(is_27b ? spec->width / spec->heads : spec->head_dim);
  for (int32_t l = 0; l < spec->layers; ++l) {
    const bool local = window > 0 && (l + 1) % pattern != 0;
    spec->layer[l] = {{.scale = 1 / std::sqrt(divisor), .window = local ? window : 0}, local ? 1 : 0};
  }
  return absl::OkStatus();
}

absl::Status ReadExperts(const GgufFile& file, const Keys& keys, ModelSpec* spec) {
  ExpertSpec& experts = spec->experts;
  RETURN_IF_ERROR(keys.CountIfAny("expert_count", 0, 4096, &experts.count));
  if (experts.count == 0) return absl::OkStatus();
  if (spec->architecture == "llama") spec->architecture = "mixtral";
  RETURN_IF_ERROR(keys.Count("expert_used_count", 1, experts.count, &experts.top_k));
  experts.feed_forward = spec->architecture == "qwen2moe" ? spec->feed_forward / experts.top_k : spec->feed_forward;
  RETURN_IF_ERROR(keys.CountIfAny("expert_feed_forward_length", 8, 1 << 20, &experts.feed_forward));
  if (spec->architecture == "qwen2moe") {
    experts.shared_feed_forward = spec->feed_forward;
    RETURN_IF_ERROR(keys.CountIfAny("expert_shared_feed_forward_length", 8, 1 << 20, &experts.shared_feed_forward));
  }
  experts.normalise = spec->architecture != "qwen2moe";
  RETURN_IF_ERROR(keys.FlagIfAny("expert_weights_norm", &experts.normalise));
  for (int32_t l = 0; l < spec->layers; ++l) {
    spec->layer[l].experts = file.Tensor(absl::StrCat("blk.", l, ".ffn_gate_inp.weight")).ok();
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelSpec> Read(const GgufFile& file) {
  ModelSpec spec;
  ASSIGN_OR_RETURN(spec.architecture, file.Text("general.architecture"));
  RETURN_IF_ERROR(FindArch(spec.architecture, file.name()).status());
  const Keys keys(file, spec.architecture);
  spec.digest = file.digest();
  RETURN_IF_ERROR(ReadDimensions(file, keys, &spec));
  RETURN_IF_ERROR(CheckModelSpec(spec, file.name()));
  const bool adjacent = spec.architecture == "llama" || spec.architecture == "mistral";
  spec.pairs = adjacent ? RopePairs::kAdjacent : RopePairs::kHalves;
  spec.layer.assign(spec.layers, {{.scale = 1 / std::sqrt(static_cast<float>(spec.head_dim))}});
  RETURN_IF_ERROR(ReadRope(file, keys, &spec));
  if (spec.architecture == "gemma3") RETURN_IF_ERROR(ReadGemma3(keys, &spec));
  RETURN_IF_ERROR(ReadExperts(file, keys, &spec));
  RETURN_IF_ERROR(CheckModelSpec(spec, file.name()));
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
