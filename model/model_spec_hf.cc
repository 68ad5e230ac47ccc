// ModelSpec out of config.json, with the defaults of transformers' configuration classes.
#include <cmath>

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

absl::Status ReadDimensions(const Values& values, ModelSpec* spec) {
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
  spec->tied_head = spec->architecture == "gemma3";
  RETURN_IF_ERROR(values.FlagIfAny("tie_word_embeddings", &spec->tied_head));
  for (const char* key : {"hidden_act", "hidden_activation"}) {
    if (!values.Has(key)) continue;
    ASSIGN_OR_RETURN(const std::string activation, values.config().Text(key));
    const std::string wanted = spec->architecture == "gemma3" ? "gelu_pytorch_tanh" : "silu";
    if (activation != wanted) return values.Refuse(key, absl::StrCat("'", activation, "' is not ", wanted));
  }
  for (const char* key : {"final_logit_softcapping", "attn_logit_softcapping", "quantization_config"}) {
    if (values.Has(key)) return values.Refuse(key, "is not built in");
  }
  return absl::OkStatus();
}

// Rotary positions as the keys under `group` say ("rope_parameters", "rope_scaling"); the base may stand outside.
absl::StatusOr<RopeSpec> ReadRope(const Values& values, const std::string& group, double base, const ModelSpec& spec) {
  const auto key = [&](absl::string_view name) { return absl::StrCat(group, ".", name); };
  RETURN_IF_ERROR(values.RealIfAny(key("rope_theta"), 1, &base));
  for (const std::string& name : {std::string("partial_rotary_factor"), key("partial_rotary_factor")}) {
    double part = 1;
    RETURN_IF_ERROR(values.RealIfAny(name, 0, &part));
    if (part != 1) return values.Refuse(name, absl::StrCat("=", part, " rotates part of a head"));
  }
  std::string type = "default";
  for (const char* name : {"type", "rope_type"}) {
    if (!values.Has(key(name))) continue;
    ASSIGN_OR_RETURN(type, values.config().Text(key(name)));
  }
  RopeScaling scaling;
  if (type == "default") return MakeRope(spec.head_dim, base, scaling);
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
  } else if (type == "llama3") {
    scaling.kind = RopeScaling::Kind::kLlama3;
  } else if (type == "yarn") {
    scaling.kind = RopeScaling::Kind::kYarn;
  } else {
    return values.Refuse(key("rope_type"),
                         absl::StrCat("'", type, "' is not built in; known: default, linear, llama3, yarn"));
  }
  scaling.original_context = spec.context;
  const std::pair<const char*, double*> numbers[] = {{"factor", &scaling.factor},
                                                     {"original_max_position_embeddings", &scaling.original_context},
                                                     {"low_freq_factor", &scaling.low_frequency_factor},
                                                     {"high_freq_factor", &scaling.high_frequency_factor},
                                                     {"beta_fast", &scaling.beta_fast},
                                                     {"beta_slow", &scaling.beta_slow},
                                                     {"attention_factor", &scaling.magnitude}};
  for (const auto& [name, number] : numbers) RETURN_IF_ERROR(values.RealIfAny(key(name), 0, number));
  if (!(scaling.high_frequency_factor > scaling.low_frequency_factor)) {
    return absl::InvalidArgumentError(absl::StrCat(values.config().name(), ": ", key("high_freq_factor"), "=",
                                                   scaling.high_frequency_factor, " is not above low_freq_factor"));
  }
  for (const char* name : {"mscale", "mscale_all_dim", "truncate"}) {
    if (values.Has(key(name))) return values.Refuse(key(name), "is not built in");
  }
  return MakeRope(spec.head_dim, base, scaling);
}

// The layers that see a window. Gemma 3 repeats a pattern; the Qwens have a switch, off in all that are published.
absl::StatusOr<std::vector<bool>> ReadLocalLayers(const Values& values, const ModelSpec& spec) {
  std::vector<bool> local(spec.layers, false);
  const bool everywhere = spec.architecture == "mixtral" || spec.architecture == "mistral";
  bool used = spec.architecture == "gemma3" || everywhere;
  RETURN_IF_ERROR(values.FlagIfAny("use_sliding_window", &used));
  if (!used || !values.Has("sliding_window")) return local;
  if (values.Has("layer_types")) {
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
  int32_t pattern = 6, first = 28;  // first: from which layer on, for the Qwens
  RETURN_IF_ERROR(values.CountIfAny("sliding_window_pattern", 1, 1024, &pattern));
  RETURN_IF_ERROR(values.CountIfAny("max_window_layers", 0, 1024, &first));
  for (int32_t l = 0; l < spec.layers; ++l) {
    local[l] = spec.architecture == "gemma3" ? (l + 1) % pattern != 0 : everywhere || l >= first;
  }
  return local;
}

absl::Status ReadAttention(const Values& values, ModelSpec* spec) {
  const bool gemma = spec->architecture == "gemma3";
  double scalar = gemma ? 256 : spec->head_dim;
  if (gemma) RETURN_IF_ERROR(values.RealIfAny("query_pre_attn_scalar", 0, &scalar));
  ASSIGN_OR_RETURN(const std::vector<bool> local, ReadLocalLayers(values, *spec));
  int32_t window = 0;
  RETURN_IF_ERROR(values.CountIfAny("sliding_window", 0, 1 << 24, &window));
  for (int32_t l = 0; l < spec->layers; ++l) {
    spec->layer[l].attention = {.scale = static_cast<float>(1 / std::sqrt(scalar)), .window = local[l] ? window : 0};
    spec->layer[l].rope = gemma && local[l] ? 1 : 0;
  }
  // Since transformers 5 the parameters stand together, and apart for the two kinds of layers where these differ.
  const std::string group = values.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const std::string nested = values.Has(group + ".full_attention") ? group + ".full_attention" : group;
  double base = gemma ? 1000000 : spec->architecture == "mixtral" ? 1000000 : 10000;
  RETURN_IF_ERROR(values.RealIfAny("rope_theta", 1, &base));
  ASSIGN_OR_RETURN(RopeSpec rope, ReadRope(values, nested, base, *spec));
  spec->ropes.push_back(std::move(rope));
  if (!gemma) return absl::OkStatus();
  double local_base = 10000;
  RETURN_IF_ERROR(values.RealIfAny("rope_local_base_freq", 1, &local_base));
  ASSIGN_OR_RETURN(RopeSpec local_rope, ReadRope(values, group + ".sliding_attention", local_base, *spec));
  spec->ropes.push_back(std::move(local_rope));
  spec->embedding_scale = std::sqrt(static_cast<float>(spec->width));
  spec->norm_offset = 1;
  bool both_ways = false;
  RETURN_IF_ERROR(values.FlagIfAny("use_bidirectional_attention", &both_ways));
  return both_ways ? values.Refuse("use_bidirectional_attention", "is not built in") : absl::OkStatus();
}

absl::Status ReadExperts(const Values& values, ModelSpec* spec) {
  ExpertSpec& experts = spec->experts;
  if (spec->architecture == "mixtral") {
    experts.feed_forward = spec->feed_forward;
    experts.normalise = true;
  } else if (spec->architecture == "qwen2moe" || spec->architecture == "qwen3moe") {
    RETURN_IF_ERROR(values.Count("moe_intermediate_size", 8, 1 << 20, &experts.feed_forward));
    RETURN_IF_ERROR(values.FlagIfAny("norm_topk_prob", &experts.normalise));
    if (spec->architecture == "qwen2moe") {
      RETURN_IF_ERROR(values.Count("shared_expert_intermediate_size", 8, 1 << 20, &experts.shared_feed_forward));
    }
  } else {
    return absl::OkStatus();
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

}  // namespace

absl::StatusOr<ModelSpec> ReadModelSpec(const HfConfig& config, const std::string& digest) {
  ModelSpec spec;
  ASSIGN_OR_RETURN(const std::string name, config.Architecture());
  ASSIGN_OR_RETURN(const absl::string_view architecture, FindArch(name, config.name()));
  spec.architecture = std::string(architecture);
  spec.digest = digest;
  const Values values(config);
  RETURN_IF_ERROR(ReadDimensions(values, &spec));
  spec.layer.resize(spec.layers);
  RETURN_IF_ERROR(ReadAttention(values, &spec));
  RETURN_IF_ERROR(ReadExperts(values, &spec));
  RETURN_IF_ERROR(CheckModelSpec(spec, config.name()));
  return spec;
}

}  // namespace interlace
