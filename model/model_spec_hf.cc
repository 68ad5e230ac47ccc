// ModelSpec out of config.json, with the defaults of transformers' configuration classes.
#include <cmath>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "model/arch/archs.h"
#include "model/model_spec.h"

namespace interlace {
namespace {

// Reads a value, or leaves *out where there is none.
class Values {
 public:
  explicit Values(const HfConfig& config) : config_(config) {}

  bool Has(absl::string_view key) const { return config_.Has(key); }
  absl::Status Count(absl::string_view key, int64_t least, int64_t most, int32_t* out) const {
    ASSIGN_OR_RETURN(const int64_t value, config_.Integer(key));
    if (value < least || value > most) {
      return absl::InvalidArgumentError(
          absl::StrCat(config_.name(), ": ", key, "=", value, " is outside [", least, ", ", most, "]"));
    }
    *out = static_cast<int32_t>(value);
    return absl::OkStatus();
  }
  absl::Status CountIfAny(absl::string_view key, int64_t least, int64_t most, int32_t* out) const {
    return Has(key) ? Count(key, least, most, out) : absl::OkStatus();
  }
  absl::Status RealIfAny(absl::string_view key, double least, double* out) const {
    if (!Has(key)) return absl::OkStatus();
    ASSIGN_OR_RETURN(*out, config_.Real(key));
    if (*out > least && !std::isinf(*out)) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(config_.name(), ": ", key, "=", *out));
  }
  absl::Status FlagIfAny(absl::string_view key, bool* out) const {
    if (!Has(key)) return absl::OkStatus();
    ASSIGN_OR_RETURN(*out, config_.Flag(key));
    return absl::OkStatus();
  }
  absl::Status Refuse(absl::string_view key, absl::string_view why) const {
    return absl::UnimplementedError(absl::StrCat(config_.name(), ": ", key, " ", why));
  }
  const HfConfig& config() const { return config_; }

 private:
  const HfConfig& config_;
};

absl::Status ReadDimensions(const Values& values, const Arch& arch, ModelSpec* spec) {
  RETURN_IF_ERROR(values.Count("num_hidden_layers", 1, 1024, &spec->layers));
  RETURN_IF_ERROR(values.Count("hidden_size", 8, 1 << 16, &spec->width));
  RETURN_IF_ERROR(values.Count("intermediate_size", 8, 1 << 20, &spec->feed_forward));
  RETURN_IF_ERROR(values.Count("num_attention_heads", 1, 1024, &spec->heads));
  RETURN_IF_ERROR(values.Count("max_position_embeddings", 1, 1 << 24, &spec->context));
  RETURN_IF_ERROR(values.Count("vocab_size", 1, 1 << 24, &spec->vocab));
  spec->kv_heads = spec->heads;
  RETURN_IF_ERROR(values.CountIfAny("num_key_value_heads", 1, spec->heads, &spec->kv_heads));
  spec->head_dim = spec->width / spec->heads;
  RETURN_IF_ERROR(values.CountIfAny("head_dim", 8, 1024, &spec->head_dim));
  double epsilon = 1e-6;
  RETURN_IF_ERROR(values.RealIfAny("rms_norm_eps", 0, &epsilon));
  spec->norm_epsilon = static_cast<float>(epsilon);
  spec->tied_head = arch.tied_head;
  RETURN_IF_ERROR(values.FlagIfAny("tie_word_embeddings", &spec->tied_head));
  for (const char* key : {"hidden_act", "hidden_activation"}) {
    if (!values.Has(key)) continue;
    ASSIGN_OR_RETURN(const std::string activation, values.config().Text(key));
    const std::string wanted = arch.parts.gate == GateKind::kGeluTanh ? "gelu_pytorch_tanh" : "silu";
    if (activation != wanted) return values.Refuse(key, absl::StrCat("'", activation, "' is not ", wanted));
  }
  return absl::OkStatus();
}

// Rotary positions as the keys under `group` say ("rope_parameters", "rope_scaling"); the base may stand outside.
class RopeReader {
 public:
  RopeReader(const Values& values, const Arch& arch, const ModelSpec& spec, std::string group)
      : values_(values), arch_(arch), spec_(spec), group_(std::move(group)) {}

  absl::StatusOr<RopeSpec> Read(double base) {
    RETURN_IF_ERROR(values_.RealIfAny(Key("rope_theta"), 1, &base));
    int32_t rotated = spec_.head_dim;
    RETURN_IF_ERROR(ReadRotated(&rotated));
    std::string type = "default";
    for (const char* name : {"type", "rope_type"}) {
      if (!values_.Has(Key(name))) continue;
      ASSIGN_OR_RETURN(type, values_.config().Text(Key(name)));
    }
    RopeScaling scaling;
    if (type == "default") return MakeRope(rotated, base, scaling);
    const bool old_name = arch_.longrope && (type == "su" || type == "yarn");  // of early Phi-3s
    static constexpr std::pair<absl::string_view, RopeScaling::Kind> kKinds[] = {
        {"linear", RopeScaling::Kind::kLinear},
        {"llama3", RopeScaling::Kind::kLlama3},
        {"yarn", RopeScaling::Kind::kYarn},
        {"longrope", RopeScaling::Kind::kLongRope}};
    for (const auto& [name, kind] : kKinds) {
      if ((old_name ? "longrope" : type) == name) scaling.kind = kind;
    }
    if (scaling.kind == RopeScaling::Kind::kNone) {
      return values_.Refuse(
          Key("rope_type"),
          absl::StrCat("'", type, "' is not built in; known: default, linear, llama3, yarn, longrope"));
    }
    RETURN_IF_ERROR(ReadNumbers(&scaling));
    if (scaling.kind == RopeScaling::Kind::kLongRope) RETURN_IF_ERROR(ReadPairFactors(rotated, &scaling));
    return MakeRope(rotated, base, scaling);
  }

 private:
  std::string Key(absl::string_view name) const { return absl::StrCat(group_, ".", name); }

  absl::Status ReadRotated(int32_t* rotated) const {
    double part = 1;
    for (const std::string& name : {std::string("partial_rotary_factor"), Key("partial_rotary_factor")}) {
      RETURN_IF_ERROR(values_.RealIfAny(name, 0, &part));
      if (part == 1) continue;
      *rotated = static_cast<int32_t>(spec_.head_dim * part);
      if (!arch_.partial_rope || part > 1 || *rotated < 2 || *rotated % 2 != 0) {
        return values_.Refuse(name, absl::StrCat("=", part, " rotates part of a head"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadNumbers(RopeScaling* scaling) const {
    scaling->original_context = spec_.context;
    if (arch_.longrope) {
      RETURN_IF_ERROR(values_.RealIfAny("original_max_position_embeddings", 1, &scaling->original_context));
    }
    const std::pair<const char*, double*> numbers[] = {{"factor", &scaling->factor},
                                                       {"original_max_position_embeddings", &scaling->original_context},
                                                       {"low_freq_factor", &scaling->low_frequency_factor},
                                                       {"high_freq_factor", &scaling->high_frequency_factor},
                                                       {"beta_fast", &scaling->beta_fast},
                                                       {"beta_slow", &scaling->beta_slow},
                                                       {"attention_factor", &scaling->magnitude}};
    for (const auto& [name, number] : numbers) RETURN_IF_ERROR(values_.RealIfAny(Key(name), 0, number));
    if (!(scaling->high_frequency_factor > scaling->low_frequency_factor)) {
      return absl::InvalidArgumentError(absl::StrCat(values_.config().name(), ": ", Key("high_freq_factor"), "=",
                                                     scaling->high_frequency_factor, " is not above low_freq_factor"));
    }
    for (const char* name : {"mscale", "mscale_all_dim", "truncate"}) {
      if (values_.Has(Key(name))) return values_.Refuse(Key(name), "is not built in");
    }
    return absl::OkStatus();
  }

  absl::Status ReadPairFactors(int32_t rotated, RopeScaling* scaling) const {
    if (!values_.Has(Key("factor"))) scaling->factor = spec_.context / scaling->original_context;
    const std::string name =
        Key(UsesLongFactors(spec_.context, scaling->original_context) ? "long_factor" : "short_factor");
    ASSIGN_OR_RETURN(scaling->pair_factors, values_.config().Reals(name));
    if (!PairFactorsAreSound(scaling->pair_factors, rotated)) {
      return absl::InvalidArgumentError(
          absl::StrCat(values_.config().name(), ": ", name, " is not ", rotated / 2, " numbers above 0"));
    }
    return absl::OkStatus();
  }

  const Values& values_;
  const Arch& arch_;
  const ModelSpec& spec_;
  const std::string group_;
};

absl::StatusOr<std::vector<bool>> ReadLayerTypes(const Values& values, const ModelSpec& spec) {
  std::vector<bool> local(spec.layers, false);
  ASSIGN_OR_RETURN(const std::vector<std::string> types, values.config().Texts("layer_types"));
  if (static_cast<int64_t>(types.size()) != spec.layers) {
    return absl::InvalidArgumentError(absl::StrCat(values.config().name(), ": layer_types has ", types.size(),
                                                   " entries for ", spec.layers, " layers"));
  }
  for (int32_t l = 0; l < spec.layers; ++l) {
    local[l] = types[l] == "sliding_attention";
    if (!local[l] && types[l] != "full_attention") {
      return values.Refuse("layer_types", absl::StrCat("has '", types[l], "', which is not built in"));
    }
  }
  return local;
}

// The layers that see a window.
absl::StatusOr<std::vector<bool>> ReadLocalLayers(const Values& values, const Arch& arch, const ModelSpec& spec) {
  std::vector<bool> local(spec.layers, false);
  bool used = arch.windows == Windows::kAll || arch.windows == Windows::kPattern;
  if (arch.windows == Windows::kSwitch) RETURN_IF_ERROR(values.FlagIfAny("use_sliding_window", &used));
  if (!used || !values.Has("sliding_window")) return local;
  if (values.Has("layer_types")) return ReadLayerTypes(values, spec);
  int32_t pattern = arch.window_pattern, first = 28;  // first: from which layer on, for the Qwens
  RETURN_IF_ERROR(values.CountIfAny("sliding_window_pattern", 1, 1024, &pattern));
  RETURN_IF_ERROR(values.CountIfAny("max_window_layers", 0, 1024, &first));
  for (int32_t l = 0; l < spec.layers; ++l) {
    local[l] = arch.windows == Windows::kAll       ? true
               : arch.windows == Windows::kPattern ? (l + 1) % pattern != 0
                                                   : l >= first;
  }
  return local;
}

// The layers whose rows are not rotated.
absl::Status ReadRopeFreeLayers(const Values& values, const Arch& arch, ModelSpec* spec) {
  if (arch.rope_free_interval == 0) return absl::OkStatus();
  int32_t interval = arch.rope_free_interval;
  RETURN_IF_ERROR(values.CountIfAny("no_rope_layer_interval", 1, 1024, &interval));
  std::vector<int64_t> rotated;  // 0: not
  for (int32_t l = 0; l < spec->layers; ++l) rotated.push_back((l + 1) % interval);
  if (values.Has("no_rope_layers")) {
    ASSIGN_OR_RETURN(rotated, values.config().Integers("no_rope_layers"));
  }
  if (static_cast<int64_t>(rotated.size()) != spec->layers) {
    return absl::InvalidArgumentError(absl::StrCat(values.config().name(), ": no_rope_layers has ", rotated.size(),
                                                   " entries for ", spec->layers, " layers"));
  }
  for (int32_t l = 0; l < spec->layers; ++l) {
    if (rotated[l] == 0) spec->layer[l].rope = -1;
  }
  return absl::OkStatus();
}

absl::Status ReadRopes(const Values& values, const Arch& arch, ModelSpec* spec) {
  // Since transformers 5 the parameters stand together, and apart for the two kinds of layers where these differ.
  const std::string group = values.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const std::string nested = values.Has(group + ".full_attention") ? group + ".full_attention" : group;
  double base = arch.rope_base;
  RETURN_IF_ERROR(values.RealIfAny("rope_theta", 1, &base));
  ASSIGN_OR_RETURN(RopeSpec rope, RopeReader(values, arch, *spec, nested).Read(base));
  spec->ropes.push_back(std::move(rope));
  if (arch.local_rope == LocalRope::kSame) return absl::OkStatus();
  double local_base = arch.local_rope == LocalRope::kOwnBase ? 10000 : base;
  RETURN_IF_ERROR(values.RealIfAny("rope_local_base_freq", 1, &local_base));
  ASSIGN_OR_RETURN(RopeSpec local, RopeReader(values, arch, *spec, group + ".sliding_attention").Read(local_base));
  spec->ropes.push_back(std::move(local));
  return absl::OkStatus();
}

// What scores and logits are capped at.
absl::Status ReadCaps(const Values& values, const Arch& arch, double* score_cap, double* logit_cap) {
  for (const auto& [key, cap] :
       {std::pair{"attn_logit_softcapping", score_cap}, {"final_logit_softcapping", logit_cap}}) {
    if (!arch.capped && values.Has(key)) return values.Refuse(key, "is not built in");
    if (values.config().IsNull(key)) *cap = 0;
    RETURN_IF_ERROR(values.RealIfAny(key, 0, cap));
  }
  return absl::OkStatus();
}

absl::Status ReadMultipliers(const Values& values, double* score_scale, ModelSpec* spec) {
  double embedding = 1, residual = 1, logits = 1;
  *score_scale = 1;
  const std::pair<const char*, double*> multipliers[] = {{"embedding_multiplier", &embedding},
                                                         {"residual_multiplier", &residual},
                                                         {"attention_multiplier", score_scale},
                                                         {"logits_scaling", &logits}};
  for (const auto& [key, value] : multipliers) RETURN_IF_ERROR(values.RealIfAny(key, 0, value));
  spec->embedding_scale = static_cast<float>(embedding);
  spec->residual_scale = static_cast<float>(residual);
  spec->logit_scale = static_cast<float>(1 / logits);
  return absl::OkStatus();
}

absl::Status ReadAttention(const Values& values, const Arch& arch, ModelSpec* spec) {
  double scalar = arch.attention_scalar ? 256 : spec->head_dim;
  if (arch.attention_scalar) RETURN_IF_ERROR(values.RealIfAny("query_pre_attn_scalar", 0, &scalar));
  double score_scale = 1 / std::sqrt(scalar), score_cap = arch.score_cap, logit_cap = arch.logit_cap;
  if (arch.multipliers) RETURN_IF_ERROR(ReadMultipliers(values, &score_scale, spec));
  RETURN_IF_ERROR(ReadCaps(values, arch, &score_cap, &logit_cap));
  spec->logit_cap = static_cast<float>(logit_cap);
  ASSIGN_OR_RETURN(const std::vector<bool> local, ReadLocalLayers(values, arch, *spec));
  int32_t window = 0;
  RETURN_IF_ERROR(values.CountIfAny("sliding_window", 0, 1 << 24, &window));
  for (int32_t l = 0; l < spec->layers; ++l) {
    spec->layer[l].attention = {.scale = static_cast<float>(score_scale),
                                .window = local[l] ? window : 0,
                                .soft_cap = static_cast<float>(score_cap)};
    spec->layer[l].rope = arch.local_rope != LocalRope::kSame && local[l] ? 1 : 0;
  }
  RETURN_IF_ERROR(ReadRopeFreeLayers(values, arch, spec));
  RETURN_IF_ERROR(ReadRopes(values, arch, spec));
  if (arch.embedding_by_width) spec->embedding_scale = std::sqrt(static_cast<float>(spec->width));
  spec->norm_offset = arch.norms_less_one ? 1 : 0;
  bool both_ways = false;
  RETURN_IF_ERROR(values.FlagIfAny("use_bidirectional_attention", &both_ways));
  return both_ways ? values.Refuse("use_bidirectional_attention", "is not built in") : absl::OkStatus();
}

absl::Status ReadExperts(const Values& values, const Arch& arch, ModelSpec* spec) {
  ExpertSpec& experts = spec->experts;
  if (arch.experts == ExpertKind::kNone) return absl::OkStatus();
  if (arch.experts == ExpertKind::kMixtral || arch.experts == ExpertKind::kGranite) {
    experts.feed_forward = spec->feed_forward;
    experts.normalise = true;
  } else {
    RETURN_IF_ERROR(values.Count("moe_intermediate_size", 8, 1 << 20, &experts.feed_forward));
    RETURN_IF_ERROR(values.FlagIfAny("norm_topk_prob", &experts.normalise));
  }
  if (arch.experts == ExpertKind::kQwen2) {
    RETURN_IF_ERROR(values.Count("shared_expert_intermediate_size", 8, 1 << 20, &experts.shared_feed_forward));
  }
  // Transformers 5 writes the first for all; published checkpoints of the Qwens have the second.
  const bool local = values.Has("num_local_experts");
  RETURN_IF_ERROR(values.Count(local ? "num_local_experts" : "num_experts", 1, 4096, &experts.count));
  RETURN_IF_ERROR(values.Count("num_experts_per_tok", 1, experts.count, &experts.top_k));
  int32_t step = 1;
  RETURN_IF_ERROR(values.CountIfAny("decoder_sparse_step", 1, 1024, &step));
  std::vector<int64_t> dense;
  if (values.Has("mlp_only_layers")) {
    ASSIGN_OR_RETURN(dense, values.config().Integers("mlp_only_layers"));
  }
  for (int32_t l = 0; l < spec->layers; ++l) {
    spec->layer[l].experts = (l + 1) % step == 0 && !absl::c_linear_search(dense, l);
  }
  return absl::OkStatus();
}

// The class of a model that reads pictures does not say which text model it holds.
absl::Status CheckTextModel(const Values& values, absl::string_view name) {
  if (TextPrefixes(name).empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string type, values.config().Text("text_config.model_type"));
  if (type == "gemma3_text" || type == "mistral") return absl::OkStatus();
  return values.Refuse("text_config.model_type", absl::StrCat("'", type, "' is not built in within ", name));
}

}  // namespace

absl::StatusOr<ModelSpec> ReadModelSpec(const HfConfig& config, const std::string& digest) {
  ModelSpec spec;
  ASSIGN_OR_RETURN(const std::string name, config.Architecture());
  ASSIGN_OR_RETURN(const Arch* arch, FindArch(name, config.name()));
  const Values values(config);
  RETURN_IF_ERROR(CheckTextModel(values, name));
  spec.architecture = std::string(arch->architecture);
  spec.parts = arch->parts;
  spec.digest = digest;
  RETURN_IF_ERROR(ReadDimensions(values, *arch, &spec));
  spec.layer.resize(spec.layers);
  RETURN_IF_ERROR(ReadAttention(values, *arch, &spec));
  RETURN_IF_ERROR(ReadExperts(values, *arch, &spec));
  RETURN_IF_ERROR(CheckModelSpec(spec, config.name()));
  return spec;
}

}  // namespace interlace
