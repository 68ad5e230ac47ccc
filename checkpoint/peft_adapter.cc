#include "checkpoint/peft_adapter.h"

#include <xxhash.h>

#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "checkpoint/gguf_values.h"
#include "checkpoint/peft_config.h"
#include "common/check.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr absl::string_view kConfigFile = "adapter_config.json", kWeightsFile = "adapter_model.safetensors";

struct ModuleName {
  absl::string_view name;  // within a layer
  AdaptedModule module;
};
constexpr ModuleName kModules[] = {
    {"self_attn.q_proj", AdaptedModule::kQ},      {"self_attn.k_proj", AdaptedModule::kK},
    {"self_attn.v_proj", AdaptedModule::kV},      {"self_attn.qkv_proj", AdaptedModule::kQkv},
    {"self_attn.o_proj", AdaptedModule::kOutput}, {"mlp.gate_proj", AdaptedModule::kGate},
    {"mlp.up_proj", AdaptedModule::kUp},          {"mlp.gate_up_proj", AdaptedModule::kGateUp},
    {"mlp.down_proj", AdaptedModule::kDown},
};
// Where a text model's layers are, in models that read pictures too.
constexpr absl::string_view kLayers[] = {"model.layers.", "model.language_model.layers.",
                                         "language_model.model.layers."};

// The layer and the module of "model.layers.3.self_attn.q_proj".
std::optional<std::pair<int32_t, AdaptedModule>> PlaceOf(absl::string_view name) {
  for (absl::string_view layers : kLayers) {
    absl::string_view rest = name;
    if (!absl::ConsumePrefix(&rest, layers)) continue;
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(rest, absl::MaxSplits('.', 1));
    int32_t layer = 0;
    if (!absl::SimpleAtoi(parts.first, &layer) || layer < 0) return std::nullopt;
    for (const ModuleName& known : kModules) {
      if (known.name == parts.second) return std::pair(layer, known.module);
    }
  }
  return std::nullopt;
}

// Of any alignment: elements are copied before they are looked at.
template <typename Bits>
bool AllFinite(absl::Span<const std::byte> data, Bits exponent) {
  for (size_t at = 0; at < data.size(); at += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, data.data() + at, sizeof bits);
    if ((bits & exponent) == exponent) return false;
  }
  return true;
}

absl::Status CheckMatrix(const SafetensorsTensor& tensor, const std::string& file, const std::string& name) {
  const auto refuse = [&](auto&&... what) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": tensor ", Quoted(name), " ", what...));
  };
  if (tensor.shape.size() != 2 || tensor.data.empty()) return refuse("is no matrix");
  const bool f32 = tensor.dtype == "F32", f16 = tensor.dtype == "F16";
  if (!f32 && !f16 && tensor.dtype != "BF16") {
    return refuse("has type ", tensor.dtype, "; F32, F16 and BF16 are built in: save the adapter as one of them");
  }
  const bool finite = f32   ? AllFinite<uint32_t>(tensor.data, 0x7f800000)
                      : f16 ? AllFinite<uint16_t>(tensor.data, 0x7c00)
                            : AllFinite<uint16_t>(tensor.data, 0x7f80);
  return finite ? absl::OkStatus() : refuse("holds a value that is not finite");
}

// "base_model.model.NAME.lora_A.weight" is one of the two matrices of NAME.
struct TensorName {
  std::string module;
  bool is_a = false;
};
std::optional<TensorName> ParseTensorName(absl::string_view name) {
  TensorName parsed;
  if (!absl::ConsumePrefix(&name, "base_model.model.")) return std::nullopt;
  parsed.is_a = absl::ConsumeSuffix(&name, ".lora_A.weight");
  if (!parsed.is_a && !absl::ConsumeSuffix(&name, ".lora_B.weight")) return std::nullopt;
  parsed.module = std::string(name);
  return parsed;
}

struct Pair {
  const SafetensorsTensor *a = nullptr, *b = nullptr;
};

absl::StatusOr<std::map<std::string, Pair>> PairUp(const SafetensorsFile& file) {
  std::map<std::string, Pair> pairs;  // by module
  for (const auto& [name, tensor] : file.tensors()) {
    const std::optional<TensorName> parsed = ParseTensorName(name);
    if (!parsed || !PlaceOf(parsed->module)) {
      return absl::UnimplementedError(absl::StrCat(
          file.name(), ": tensor ", Quoted(name), " is none of lora_A and lora_B of ", kAdaptableModules,
          " of a decoder's layer; merge the adapter into its model (PEFT's merge_and_unload) and serve that"));
    }
    RETURN_IF_ERROR(CheckMatrix(tensor, file.name(), name));
    Pair& pair = pairs[parsed->module];
    (parsed->is_a ? pair.a : pair.b) = &tensor;
  }
  if (pairs.empty()) return absl::InvalidArgumentError(absl::StrCat(file.name(), ": there are no tensors"));
  return pairs;
}

// What the configuration says of a module and what its matrices are is the same.
absl::Status CheckPair(const Pair& pair, const PeftConfig& config, const std::string& file, const std::string& module) {
  const auto refuse = [&](auto&&... what) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", Quoted(module), " ", what...));
  };
  if (pair.a == nullptr) return refuse("has lora_B and no lora_A: the file is not whole");
  if (pair.b == nullptr) return refuse("has lora_A and no lora_B: the file is not whole");
  const int64_t rank = config.RankOf(module);
  if (pair.a->shape[0] == rank && pair.b->shape[1] == rank) return absl::OkStatus();
  return refuse("has lora_A [", pair.a->shape[0], ", ", pair.a->shape[1], "] and lora_B [", pair.b->shape[0], ", ",
                pair.b->shape[1], "], where ", kConfigFile, " says rank ", rank, " (r, rank_pattern)");
}

// PEFT loads what target_modules names and nothing else.
absl::Status CheckTargets(const std::map<std::string, Pair>& pairs, const PeftConfig& config,
                          const std::string& config_name, const std::string& file) {
  if (config.targets().empty()) return absl::OkStatus();
  std::set<std::string> met;
  for (const auto& [module, pair] : pairs) {
    bool named = false;
    for (const std::string& target : config.targets()) {
      if (!NamesModule(target, module)) continue;
      named = true;
      met.insert(target);
    }
    if (!named) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": ", Quoted(module), " is none of those that target_modules of ", kConfigFile, " names"));
    }
  }
  for (const std::string& target : config.targets()) {
    if (met.contains(target)) continue;
    return absl::InvalidArgumentError(absl::StrCat(config_name, ": target_modules names ", Quoted(target),
                                                   ", of which ", kWeightsFile,
                                                   " has no matrices: the file is not whole"));
  }
  return absl::OkStatus();
}

std::string DigestOf(absl::string_view config, absl::Span<const std::byte> weights) {
  const uint64_t config_bytes = config.size();  // where one ends and the other begins
  XXH3_state_t* state = XXH3_createState();
  CHECK(state != nullptr);
  XXH3_128bits_reset_withSeed(state, config_bytes);
  XXH3_128bits_update(state, config.data(), config.size());
  XXH3_128bits_update(state, weights.data(), weights.size());
  const XXH128_hash_t hash = XXH3_128bits_digest(state);
  XXH3_freeState(state);
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

}  // namespace

absl::StatusOr<std::unique_ptr<PeftAdapter>> PeftAdapter::Open(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::unique_ptr<FileMapping> config,
                   FileMapping::Open(absl::StrCat(folder, "/", kConfigFile)));
  absl::StatusOr<std::unique_ptr<FileMapping>> weights = FileMapping::Open(absl::StrCat(folder, "/", kWeightsFile));
  if (!weights.ok()) {
    return absl::Status(weights.status().code(),
                        absl::StrCat(weights.status().message(), "; save the adapter as safetensors"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<PeftAdapter> adapter, Parse(config->text(), (*weights)->bytes(), folder));
  adapter->mapping_ = *std::move(weights);
  return adapter;
}

absl::StatusOr<std::unique_ptr<PeftAdapter>> PeftAdapter::Parse(absl::string_view config,
                                                                absl::Span<const std::byte> weights,
                                                                const std::string& folder) {
  const std::string config_name = absl::StrCat(folder, "/", kConfigFile);
  ASSIGN_OR_RETURN(const PeftConfig said, PeftConfig::Parse(config, config_name));
  std::unique_ptr<PeftAdapter> adapter(new PeftAdapter);
  adapter->folder_ = folder;
  adapter->base_model_ = said.base_model();
  ASSIGN_OR_RETURN(adapter->file_, SafetensorsFile::Parse(weights, absl::StrCat(folder, "/", kWeightsFile)));
  const std::string& file = adapter->file_->name();
  ASSIGN_OR_RETURN(const auto pairs, PairUp(*adapter->file_));
  RETURN_IF_ERROR(CheckTargets(pairs, said, config_name, file));
  std::set<std::pair<int32_t, AdaptedModule>> seen;
  for (const auto& [module, pair] : pairs) {
    RETURN_IF_ERROR(CheckPair(pair, said, file, module));
    const auto [layer, of] = *PlaceOf(module);
    if (!seen.emplace(layer, of).second) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": ", Quoted(module), " comes twice, under two names"));
    }
    adapter->matrices_.push_back({module, layer, of, pair.a, pair.b, said.ScaleOf(module)});
  }
  adapter->digest_ = DigestOf(config, weights);
  return adapter;
}

absl::StatusOr<std::vector<AdapterPlace>> ParseAdapterPlaces(absl::string_view text) {
  std::vector<AdapterPlace> places;
  if (text.empty()) return places;
  std::set<std::string> names;
  for (absl::string_view entry : absl::StrSplit(text, ',')) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(entry, absl::MaxSplits('=', 1));
    if (parts.first.empty() || parts.second.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.adapters: '", entry, "' is not NAME=FOLDER; give NAME=FOLDER,NAME=FOLDER"));
    }
    if (!names.insert(parts.first).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.adapters: '", parts.first, "' comes twice; give each adapter a name of its own"));
    }
    places.push_back({parts.first, parts.second});
  }
  return places;
}

}  // namespace interlace
