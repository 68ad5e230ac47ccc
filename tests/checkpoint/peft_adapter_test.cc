// The reader of adapters: what it reads, and by what name it refuses everything else.
#include "checkpoint/peft_adapter.h"

#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/kernels/random_tensor.h"
#include "tests/model/safetensors_writer.h"
#include "tests/model/tiny_adapter.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr AdapterShape kShape{.layers = 2, .width = 16, .q = 24, .kv = 8, .feed_forward = 40};

absl::StatusOr<std::unique_ptr<PeftAdapter>> Parse(const std::string& config, const std::string& weights) {
  return PeftAdapter::Parse(
      config, absl::MakeConstSpan(reinterpret_cast<const std::byte*>(weights.data()), weights.size()), "folder");
}

// `edit` gets the configuration, and the tensors.
template <typename Edit>
absl::Status Refusal(Edit edit, const TinyAdapterOptions& options = {}) {
  TinyAdapter adapter(kShape, options);
  Json config = Json::parse(adapter.config);
  edit(config, adapter.weights.tensors);
  return Parse(config.dump(), adapter.weights.Bytes()).status();
}

absl::Status RefusedField(const std::string& field, const Json& value) {
  return Refusal([&](Json& config, auto&) { config[field] = value; });
}

TEST(PeftAdapterTest, ReadsEveryModuleWithItsScale) {
  for (const std::string dtype : {"F32", "BF16"}) {
    const TinyAdapter adapter(kShape, {.rank = 3, .alpha = 12, .dtype = dtype});
    const std::string weights = adapter.weights.Bytes();
    const auto file = Parse(adapter.config, weights);
    ASSERT_OK(file);
    ASSERT_EQ((*file)->matrices().size(), 14u);
    EXPECT_EQ((*file)->base_model(), "tiny");
    std::set<std::pair<int32_t, AdaptedModule>> seen;
    for (const AdaptedMatrix& m : (*file)->matrices()) {
      EXPECT_TRUE(seen.emplace(m.layer, m.module).second);
      EXPECT_EQ(m.scale, 4);
      EXPECT_EQ(m.a->shape[0], 3);
      EXPECT_EQ(m.b->shape[1], 3);
      EXPECT_EQ(m.a->shape[1], m.module == AdaptedModule::kOutput ? 24 : m.module == AdaptedModule::kDown ? 40 : 16);
    }
  }
}

TEST(PeftAdapterTest, ModelsThatReadPicturesHaveTheirLayersElsewhere) {
  for (const std::string layers : {"model.language_model.layers.", "language_model.model.layers."}) {
    TinyAdapter adapter(kShape, {.modules = {"q_proj"}});
    for (SafetensorsWriter::Tensor& tensor : adapter.weights.tensors) {
      tensor.name.replace(tensor.name.find("model.layers."), 13, layers);
    }
    const std::string weights = adapter.weights.Bytes();
    const auto file = Parse(adapter.config, weights);
    ASSERT_OK(file);
    EXPECT_EQ((*file)->matrices()[1].layer, 1);
  }
}

TEST(PeftAdapterTest, PatternsAndRootsGiveAModuleItsOwnScale) {
  TinyAdapter adapter(kShape, {.rank = 4, .alpha = 8, .modules = {"q_proj", "down_proj"}});
  Json config = Json::parse(adapter.config);
  const auto scales = [&] {
    const std::string weights = adapter.weights.Bytes();
    const auto file = Parse(config.dump(), weights);
    EXPECT_OK(file);
    std::map<std::string, double> by_name;
    if (!file.ok()) return by_name;
    for (const AdaptedMatrix& m : (*file)->matrices()) by_name[m.name] = m.scale;
    return by_name;
  };
  EXPECT_EQ(scales().at("model.layers.1.self_attn.q_proj"), 2);
  config["use_rslora"] = true;
  EXPECT_EQ(scales().at("model.layers.1.self_attn.q_proj"), 4);
  config["alpha_pattern"] = {{"layers.1.self_attn.q_proj", 2}, {"mlp.down_proj", 6}};
  EXPECT_EQ(scales().at("model.layers.0.self_attn.q_proj"), 4);
  EXPECT_EQ(scales().at("model.layers.1.self_attn.q_proj"), 1);
  EXPECT_EQ(scales().at("model.layers.0.mlp.down_proj"), 3);
  config["rank_pattern"] = {{"q_proj", 4}, {"down_proj", 9}};
  const std::string weights = adapter.weights.Bytes();
  EXPECT_THAT(Parse(config.dump(), weights).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("down_proj"), HasSubstr("rank 9"))));
  for (SafetensorsWriter::Tensor& t : adapter.weights.tensors) {  // down_proj becomes as wide as that
    if (!absl::StrContains(t.name, "down_proj")) continue;
    const bool is_a = absl::StrContains(t.name, "lora_A");
    t.shape = is_a ? std::vector<int64_t>{9, 40} : std::vector<int64_t>{16, 9};
    t.data.assign(t.shape[0] * t.shape[1] * sizeof(float), '\0');
  }
  EXPECT_EQ(scales().at("model.layers.0.mlp.down_proj"), 2);  // 6 / sqrt(9)
  // A name that ends alike is not the module's.
  config["alpha_pattern"] = {{"proj", 1}};
  EXPECT_EQ(scales().at("model.layers.1.self_attn.q_proj"), 4);
}

TEST(PeftAdapterTest, TheDigestIsOfAllBytes) {
  const TinyAdapter adapter(kShape, {});
  const std::string weights = adapter.weights.Bytes();
  const std::string digest = (*Parse(adapter.config, weights))->digest();
  EXPECT_EQ(digest.size(), 32u);
  EXPECT_EQ((*Parse(adapter.config, weights))->digest(), digest);
  EXPECT_NE((*Parse(adapter.config + " ", weights))->digest(), digest);
  const size_t data = weights.size() - adapter.weights.Data().size();
  for (size_t at = data; at < weights.size(); at += 101) {
    std::string other = weights;
    other[at] = static_cast<char>(other[at] ^ 1);
    const auto file = Parse(adapter.config, other);
    if (file.ok()) {
      EXPECT_NE((*file)->digest(), digest) << at;
    }
  }
}

TEST(PeftAdapterTest, FieldsOfOtherAdaptersAreRefusedByNameValueAndWayOut) {
  const std::pair<std::string, Json> kUnbuilt[] = {
      {"bias", "all"},
      {"bias", "lora_only"},
      {"modules_to_save", {"lm_head"}},
      {"use_dora", true},
      {"use_qalora", true},
      {"lora_bias", true},
      {"fan_in_fan_out", true},
      {"target_parameters", {"experts.w1"}},
      {"trainable_token_indices", {1, 2}},
      {"layer_replication", Json::array({{0, 1}})},
      {"alora_invocation_tokens", {7}},
      {"arrow_config", {{"top_k", 3}}},
      {"peft_type", "LOHA"},
      {"peft_type", nullptr},
      {"init_lora_weights", "pissa_niter_16"},
      {"init_lora_weights", "olora"},
      {"target_modules", {"q_proj", "lm_head"}},
      {"target_modules", {"w1"}},
      {"rank_pattern", {{"layers\\.[01].*q_proj", 3}}},
      {"alpha_pattern", {{"^model.layers.0.self_attn.q_proj", 3}}},
  };
  for (const auto& [field, value] : kUnbuilt) {
    EXPECT_THAT(RefusedField(field, value),
                StatusIs(absl::StatusCode::kUnimplemented,
                         AllOf(HasSubstr("folder/adapter_config.json: " + field), HasSubstr("is not built in; "))))
        << field << " " << value;
  }
  const std::pair<std::string, Json> kInvalid[] = {
      {"r", 0},
      {"r", 4097},
      {"r", 2.5},
      {"r", nullptr},
      {"r", uint64_t{1} << 63},
      {"lora_alpha", "16"},
      {"lora_alpha", 1e300},
      {"use_rslora", 1},
      {"rank_pattern", {3}},
      {"rank_pattern", {{"q_proj", 0}}},
      {"alpha_pattern", {{"q_proj", "1"}}},
      {"target_modules", 3},
      {"target_modules", {3}},
  };
  for (const auto& [field, value] : kInvalid) {
    EXPECT_THAT(RefusedField(field, value),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("folder/adapter_config.json: " + field)));
  }
}

TEST(PeftAdapterTest, ValuesThatAskForNothingAreTaken) {
  for (const auto& [field, value] : std::vector<std::pair<std::string, Json>>{{"bias", nullptr},
                                                                              {"modules_to_save", Json::array()},
                                                                              {"use_dora", false},
                                                                              {"target_modules", "all-linear"},
                                                                              {"target_modules", nullptr},
                                                                              {"init_lora_weights", true},
                                                                              {"init_lora_weights", "gaussian"},
                                                                              {"trainable_token_indices", nullptr},
                                                                              {"lora_dropout", 0.1},
                                                                              {"something_new", {1, 2}}}) {
    EXPECT_OK(RefusedField(field, value)) << field;
  }
}

TEST(PeftAdapterTest, TensorsThatAreNoPairsAreRefusedByName) {
  using Tensors = std::vector<SafetensorsWriter::Tensor>;
  struct Case {
    std::function<void(Tensors&)> edit;
    std::string says;
  };
  const std::string data(64, '\0');
  const auto rename = [](const std::string& name) { return [name](Tensors& t) { t[0].name = name; }; };
  const Case cases[] = {
      {rename("base_model.model.lm_head.lora_A.weight"), "lm_head.lora_A.weight"},
      {rename("base_model.model.model.embed_tokens.lora_embedding_A"), "lora_embedding_A"},
      {rename("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"), "lora_magnitude_vector"},
      {rename("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias"), "lora_B.bias"},
      {rename("base_model.model.model.layers.0.mlp.experts.3.up_proj.lora_A.weight"), "experts.3.up_proj"},
      {rename("base_model.model.model.vision_tower.layers.0.self_attn.q_proj.lora_A.weight"), "vision_tower"},
      {rename("base_model.model.model.layers.-1.self_attn.q_proj.lora_A.weight"), "layers.-1"},
      {rename("base_model.model.model.layers.99999999999.self_attn.q_proj.lora_A.weight"), "layers.99999999999"},
      {rename("model.layers.0.self_attn.q_proj.lora_A.weight"), "model.layers.0.self_attn.q_proj.lora_A.weight"},
      {[](Tensors& t) { t.erase(t.begin()); }, "has lora_B and no lora_A"},
      {[](Tensors& t) { t.erase(t.begin() + 1); }, "has lora_A and no lora_B"},
      {[](Tensors& t) { t.clear(); }, "there are no tensors"},
      {[&](Tensors& t) {
         t[0] = {t[0].name, "F64", {2, 4}, data};
       },
       "has type F64"},
      {[&](Tensors& t) {
         t[0] = {t[0].name, "F32", {16}, data};
       },
       "is no matrix"},
      {[&](Tensors& t) {
         t[0] = {t[0].name, "F32", {1, 4, 4}, data};
       },
       "is no matrix"},
      {[&](Tensors& t) {
         t[0] = {t[0].name, "F32", {0, 16}, ""};
       },
       "is no matrix"},
      {[&](Tensors& t) {
         t[0] = {t[0].name, "F32", {1, 16}, data};
       },
       "rank 3"},
      {[](Tensors& t) {
         const float inf = std::numeric_limits<float>::infinity();
         std::memcpy(t[0].data.data() + 8, &inf, sizeof inf);
       },
       "not finite"},
      {[](Tensors& t) {
         t.push_back(t[0]);
         t.push_back(t[1]);
         for (size_t i = t.size() - 2; i < t.size(); ++i) t[i].name.replace(17, 13, "model.language_model.layers.");
       },
       "comes twice"},
      {[](Tensors& t) { std::erase_if(t, [](const auto& x) { return absl::StrContains(x.name, "v_proj"); }); },
       "target_modules names 'v_proj'"},
  };
  for (const Case& c : cases) {
    EXPECT_THAT(Refusal([&](Json&, Tensors& tensors) { c.edit(tensors); }),
                ::testing::AnyOf(StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(c.says)),
                                 StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.says))))
        << c.says;
  }
  EXPECT_THAT(Refusal([](Json& config, Tensors&) { config["target_modules"] = {"q_proj"}; }),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is none of those that target_modules")));
}

TEST(PeftAdapterTest, FilesThatAreMissingAreNamed) {
  const AdapterFolder folder(kShape, {});
  ASSERT_OK(PeftAdapter::Open(folder.path()));
  std::filesystem::rename(folder.path() + "/adapter_model.safetensors", folder.path() + "/adapter_model.bin");
  EXPECT_THAT(PeftAdapter::Open(folder.path()).status(),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("adapter_model.safetensors"), HasSubstr("save the adapter as safetensors"))));
  std::filesystem::remove(folder.path() + "/adapter_config.json");
  EXPECT_THAT(PeftAdapter::Open(folder.path()).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("adapter_config.json")));
}

// Bytes changed, cut and repeated anywhere: a status or an adapter, never a crash.
TEST(PeftAdapterTest, BrokenFilesAreRefusedOrRead) {
  const TinyAdapter adapter(kShape, {.modules = {"q_proj", "down_proj"}});
  const std::string config = adapter.config, weights = adapter.weights.Bytes();
  Random random(11);
  const auto damage = [&](std::string bytes) {
    for (int64_t n = random.Between(1, 4); n > 0 && !bytes.empty(); --n) {
      const int64_t at = random.Below(static_cast<int64_t>(bytes.size()));
      switch (random.Below(3)) {
        case 0:
          bytes[at] = static_cast<char>(random.Below(256));
          break;
        case 1:
          bytes.resize(at);
          break;
        default:
          bytes.insert(at, bytes.substr(at, random.Between(1, 40)));
      }
    }
    return bytes;
  };
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    const std::string broken = i % 3 == 0 ? weights : damage(weights);
    refused += Parse(i % 3 == 1 ? config : damage(config), broken).ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 1000);
}

TEST(AdapterPlacesTest, NamesAndFolders) {
  EXPECT_TRUE(ParseAdapterPlaces("")->empty());
  const auto places = ParseAdapterPlaces("sql=/a/b,chat=c=d");
  ASSERT_OK(places);
  ASSERT_EQ(places->size(), 2u);
  EXPECT_EQ((*places)[0].name, "sql");
  EXPECT_EQ((*places)[0].folder, "/a/b");
  EXPECT_EQ((*places)[1].folder, "c=d");
  for (const char* bad : {"a", "=b", "a=", "a=b,", ",a=b", "a=b,a=c"}) {
    EXPECT_THAT(ParseAdapterPlaces(bad).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("model.adapters: '")))
        << bad;
  }
}

}  // namespace
}  // namespace interlace
