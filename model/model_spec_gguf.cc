// ModelSpec out of GGUF metadata, with the defaults that llama.cpp gives each architecture.
#include <cmath>
#include <cstring>

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

// LongRoPE's factors are a tensor each; that they are there is all that says so.
absl::StatusOr<RopeScaling> ReadLongRope(const GgufFile& file, const Keys& keys, int32_t context, int32_t rotated) {
  RopeScaling scaling;
  int32_t original = context;
  RETURN_IF_ERROR(keys.CountIfAny("rope.scaling.original_context_length", 2, 1 << 24, &original));
  const std::string name =
      UsesLongFactors(context, original) ? "rope_factors_long.weight" : "rope_factors_short.weight";
  ASSIGN_OR_RETURN(const GgufTensor* factors, file.Tensor(name));
  const auto broken = [&] {
    return absl::InvalidArgumentError(absl::StrCat(file.name(), ": ", name, " is not F32 [", rotated / 2, "] above 0"));
  };
  if (factors->type != GgufType::kF32) return broken();
  for (size_t i = 0; i < factors->data.size() / sizeof(float); ++i) {
    float factor;
    std::memcpy(&factor, factors->data.data() + i * sizeof(float), sizeof factor);
    scaling.pair_factors.push_back(factor);
  }
  if (!PairFactorsAreSound(scaling.pair_factors, rotated)) return broken();
  scaling.kind = RopeScaling::Kind::kLongRope;
  scaling.original_context = original;
  scaling.factor = static_cast<double>(context) / original;
  RETURN_IF_ERROR(keys.RealIfAny("rope.scaling.attn_factor", 0, &scaling.magnitude));
  return scaling;
}

absl::Status ReadRope(const GgufFile& file, const Keys& keys, const Arch& arch, ModelSpec* spec) {
  int32_t rotated = spec->head_dim;
  RETURN_IF_ERROR(keys.CountIfAny("rope.dimension_count", 2, spec->head_dim, &rotated));
  if (rotated != spec->head_dim && (!arch.partial_rope || rotated % 2 != 0)) {
    return keys.Refuse("rope.dimension_count",
                       absl::StrCat("=", rotated, " rotates part of a head of ", spec->head_dim));
  }
  double base = arch.gguf_rope_base;
  RETURN_IF_ERROR(keys.RealIfAny("rope.freq_base", 1, &base));
  const bool longrope = file.Tensor("rope_factors_long.weight").ok();
  ASSIGN_OR_RETURN(const RopeScaling scaling,
                   longrope ? ReadLongRope(file, keys, spec->context, rotated) : ReadScaling(keys, spec->context));
  spec->ropes.push_back(MakeRope(rotated, base, scaling));
  RETURN_IF_ERROR(DivideByFactors(file, &spec->ropes[0]));
  if (arch.local_rope == LocalRope::kSame) return absl::OkStatus();
  double local_base = arch.local_rope == LocalRope::kOwnBase ? 10000 : base;
  RETURN_IF_ERROR(keys.RealIfAny("rope.freq_base_swa", 1, &local_base));
  spec->ropes.push_back(MakeRope(rotated, local_base, {}));
  return absl::OkStatus();
}

// Which layers see a window: all, or all but every n-th; or a list says so of each.
absl::StatusOr<std::vector<bool>> ReadLocalLayers(const GgufFile& file, const Keys& keys, const Arch& arch,
                                                  const ModelSpec& spec) {
  const std::string key = keys.Full("attention.sliding_window_pattern");
  std::vector<bool> local(spec.layers, arch.windows == Windows::kAll);
  if (arch.windows != Windows::kPattern) return local;
  if (const absl::StatusOr<std::vector<int64_t>> list = file.Integers(key); list.ok()) {
    if (static_cast<int64_t>(list->size()) != spec.layers) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.name(), ": ", key, " has ", list->size(), " entries for ", spec.layers, " layers"));
    }
    for (int32_t l = 0; l < spec.layers; ++l) local[l] = (*list)[l] != 0;
    return local;
  }
  int32_t pattern = arch.window_pattern;
  RETURN_IF_ERROR(keys.CountIfAny("attention.sliding_window_pattern", 1, 1024, &pattern));
  for (int32_t l = 0; l < spec.layers; ++l) local[l] = (l + 1) % pattern != 0;
  return local;
}

absl::Status ReadMultipliers(const Keys& keys, double* score_scale, ModelSpec* spec) {
  double embedding = 1, residual = 1, logits = 1;
  RETURN_IF_ERROR(keys.RealIfAny("embedding_scale", 0, &embedding));
  RETURN_IF_ERROR(keys.RealIfAny("residual_scale", 0, &residual));
  RETURN_IF_ERROR(keys.RealIfAny("attention.scale", 0, score_scale));
  RETURN_IF_ERROR(keys.RealIfAny("logit_scale", 0, &logits));
  spec->embedding_scale = static_cast<float>(embedding);
  spec->residual_scale = static_cast<float>(residual);
  spec->logit_scale = static_cast<float>(1 / logits);
  return absl::OkStatus();
}

// The largest Gemmas alone scale by their width; the file does not say so.
double ScoreDivisor(const Arch& arch, const ModelSpec& spec) {
  const bool is_27b =
      (spec.architecture == "gemma2" && spec.layers == 46) || (spec.architecture == "gemma3" && spec.layers == 62);
  return arch.attention_scalar && is_27b ? spec.width / spec.heads : spec.head_dim;
}

absl::Status ReadAttention(const GgufFile& file, const Keys& keys, const Arch& arch, ModelSpec* spec) {
  double score_scale = 1 / std::sqrt(ScoreDivisor(arch, *spec)), score_cap = arch.score_cap, logit_cap = arch.logit_cap;
  if (arch.multipliers) RETURN_IF_ERROR(ReadMultipliers(keys, &score_scale, spec));
  for (const auto& [key, cap] :
       {std::pair{"attn_logit_softcapping", &score_cap}, {"final_logit_softcapping", &logit_cap}}) {
    if (!arch.capped && keys.Has(key)) return keys.Refuse(key, absl::StrCat("is not built in for ", arch.architecture));
    RETURN_IF_ERROR(keys.RealIfAny(key, 0, cap));
  }
  spec->logit_cap = static_cast<float>(logit_cap);
  int32_t window = arch.gguf_window;
  const bool windows = arch.windows == Windows::kAll || arch.windows == Windows::kPattern;
  if (windows) RETURN_IF_ERROR(keys.CountIfAny("attention.sliding_window", 0, 1 << 24, &window));
  ASSIGN_OR_RETURN(const std::vector<bool> local, ReadLocalLayers(file, keys, arch, *spec));
  for (int32_t l = 0; l < spec->layers; ++l) {
    const bool sees_window = window > 0 && local[l];
    LayerSpec& layer = spec->layer[l];
    layer.attention = {.scale = static_cast<float>(score_scale),
                       .window = sees_window ? window : 0,
                       .soft_cap = static_cast<float>(score_cap)};
    layer.rope = sees_window && arch.local_rope != LocalRope::kSame ? 1 : 0;
    if (arch.rope_free_interval > 0 && (l + 1) % arch.rope_free_interval == 0) layer.rope = -1;
  }
  if (arch.embedding_by_width) spec->embedding_scale = std::sqrt(static_cast<float>(spec->width));
  return absl::OkStatus();
}

absl::Status ReadExperts(const GgufFile& file, const Keys& keys, const Arch& arch, ModelSpec* spec) {
  ExpertSpec& experts = spec->experts;
  RETURN_IF_ERROR(keys.CountIfAny("expert_count", 0, 4096, &experts.count));
  if (experts.count == 0) return absl::OkStatus();
  const bool qwen2 = arch.experts == ExpertKind::kQwen2;
  RETURN_IF_ERROR(keys.Count("expert_used_count", 1, experts.count, &experts.top_k));
  experts.feed_forward = qwen2 ? spec->feed_forward / experts.top_k : spec->feed_forward;
  RETURN_IF_ERROR(keys.CountIfAny("expert_feed_forward_length", 8, 1 << 20, &experts.feed_forward));
  if (qwen2) {
    experts.shared_feed_forward = spec->feed_forward;
    RETURN_IF_ERROR(keys.CountIfAny("expert_shared_feed_forward_length", 8, 1 << 20, &experts.shared_feed_forward));
  }
  experts.normalise = !qwen2;
  RETURN_IF_ERROR(keys.FlagIfAny("expert_weights_norm", &experts.normalise));
  for (int32_t l = 0; l < spec->layers; ++l) {
    spec->layer[l].experts = file.Tensor(absl::StrCat("blk.", l, ".ffn_gate_inp.weight")).ok();
  }
  return absl::OkStatus();
}

// The row of the table, beyond the file's own name: a llama with experts is a Mixtral, an olmo2 with windows an OLMo 3.
absl::StatusOr<const Arch*> ArchOf(const GgufFile& file, const std::string& name) {
  ASSIGN_OR_RETURN(const Arch* arch, FindArch(name, file.name()));
  int32_t experts = 0, window = 0;
  const Keys keys(file, name);
  RETURN_IF_ERROR(keys.CountIfAny("expert_count", 0, 4096, &experts));
  RETURN_IF_ERROR(keys.CountIfAny("attention.sliding_window", 0, 1 << 24, &window));
  if (name == "llama" && experts > 0) return FindArch("mixtral", file.name());
  if (name == "olmo2" && window > 0) return FindArch("olmo3", file.name());
  return arch;
}

absl::StatusOr<ModelSpec> Read(const GgufFile& file) {
  ModelSpec spec;
  ASSIGN_OR_RETURN(const std::string name, file.Text("general.architecture"));
  ASSIGN_OR_RETURN(const Arch* arch, ArchOf(file, name));
  spec.architecture = std::string(arch->architecture);
  spec.parts = arch->parts;
  const Keys keys(file, name);
  spec.digest = file.digest();
  RETURN_IF_ERROR(ReadDimensions(file, keys, &spec));
  RETURN_IF_ERROR(CheckModelSpec(spec, file.name()));
  spec.pairs = arch->gguf_pairs;
  spec.layer.resize(spec.layers);
  RETURN_IF_ERROR(ReadRope(file, keys, *arch, &spec));
  RETURN_IF_ERROR(ReadAttention(file, keys, *arch, &spec));
  RETURN_IF_ERROR(ReadExperts(file, keys, *arch, &spec));
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
