// config.json in the words of transformers 4 and 5.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "model/model_spec.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

// `more` comes last, where it wins over what stands before.
absl::StatusOr<ModelSpec> SpecOf(const std::string& architecture, const std::string& more = "") {
  const auto config = HfConfig::Parse(
      absl::StrCat(R"({"architectures":[")", architecture, R"("],"num_hidden_layers":12,"hidden_size":64,)",
                   R"("intermediate_size":96,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":300,)",
                   R"("max_position_embeddings":4096,"rms_norm_eps":1e-5)", more.empty() ? "" : ",", more, "}"),
      "test/config.json");
  if (!config.ok()) return config.status();
  return ReadModelSpec(*config, "digest");
}

TEST(ModelSpecHfTest, ReadsALlamaOfTransformers4) {
  const auto spec = SpecOf("LlamaForCausalLM", R"("rope_theta":500000.0,"rope_scaling":null,"head_dim":24)");
  ASSERT_OK(spec);
  EXPECT_EQ(spec->architecture, "llama");
  EXPECT_EQ(spec->digest, "digest");
  EXPECT_EQ(spec->layers, 12);
  EXPECT_EQ(spec->width, 64);
  EXPECT_EQ(spec->heads, 4);
  EXPECT_EQ(spec->kv_heads, 2);
  EXPECT_EQ(spec->head_dim, 24);
  EXPECT_EQ(spec->feed_forward, 96);
  EXPECT_EQ(spec->vocab, 300);
  EXPECT_EQ(spec->context, 4096);
  EXPECT_FALSE(spec->tied_head);
  EXPECT_EQ(spec->pairs, RopePairs::kHalves);
  EXPECT_FLOAT_EQ(spec->layer[3].attention.scale, 1 / std::sqrt(24.0f));
  ASSERT_EQ(spec->ropes.size(), 1u);
  EXPECT_FLOAT_EQ(spec->ropes[0].frequencies[1], std::pow(500000.0, -2.0 / 24));
}

// Mistral 7B v0.1 has a window on every layer, later ones write null.
TEST(ModelSpecHfTest, AMistralIsALlamaWithAWindowOnEveryLayer) {
  const auto llama = SpecOf("LlamaForCausalLM", R"("rope_theta":1000000.0)");
  const auto free = SpecOf("MistralForCausalLM", R"("rope_theta":1000000.0,"sliding_window":null)");
  const auto window = SpecOf("MistralForCausalLM", R"("rope_theta":1000000.0,"sliding_window":4096)");
  ASSERT_OK(llama);
  ASSERT_OK(free);
  ASSERT_OK(window);
  EXPECT_EQ(free->architecture, "mistral");
  EXPECT_EQ(free->ropes, llama->ropes);
  EXPECT_EQ(free->pairs, llama->pairs);
  for (int32_t l = 0; l < 12; ++l) {
    EXPECT_EQ(free->layer[l].attention.window, 0) << l;
    EXPECT_EQ(window->layer[l].attention.window, 4096) << l;
  }
}

TEST(ModelSpecHfTest, RopeScalingOfBothFormsIsTheSame) {
  for (const std::string kind : {R"("rope_type":"linear","factor":4.0)",
                                 R"("rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,)"
                                 R"("original_max_position_embeddings":1024)",
                                 R"("rope_type":"yarn","factor":4.0,"original_max_position_embeddings":1024)"}) {
    const auto plain = SpecOf("Qwen3ForCausalLM", R"("rope_theta":10000.0)");
    const auto four = SpecOf("Qwen3ForCausalLM", absl::StrCat(R"("rope_theta":10000.0,"rope_scaling":{)", kind, "}"));
    const auto old = SpecOf("Qwen3ForCausalLM", absl::StrCat(R"("rope_theta":10000.0,"rope_scaling":{)",
                                                             absl::StrReplaceAll(kind, {{"rope_type", "type"}}), "}"));
    const auto five =
        SpecOf("Qwen3ForCausalLM", absl::StrCat(R"("rope_parameters":{"rope_theta":10000.0,)", kind, "}"));
    ASSERT_OK(plain);
    ASSERT_OK(four);
    ASSERT_OK(old);
    ASSERT_OK(five);
    EXPECT_EQ(four->ropes, five->ropes) << kind;
    EXPECT_EQ(old->ropes, five->ropes) << kind;
    EXPECT_NE(plain->ropes, five->ropes) << kind;
  }
}

TEST(ModelSpecHfTest, Gemma3OfTransformers4HasItsPattern) {
  const std::string more =
      R"("sliding_window":512,"sliding_window_pattern":6,"query_pre_attn_scalar":100,"rope_theta":1000000.0,)"
      R"("rope_local_base_freq":5000.0,"rope_scaling":{"rope_type":"linear","factor":8.0},"head_dim":32)";
  const auto spec = SpecOf("Gemma3ForCausalLM", more);
  ASSERT_OK(spec);
  EXPECT_TRUE(spec->tied_head);
  EXPECT_EQ(spec->norm_offset, 1);
  EXPECT_FLOAT_EQ(spec->embedding_scale, 8);
  ASSERT_EQ(spec->ropes.size(), 2u);
  EXPECT_FLOAT_EQ(spec->ropes[0].frequencies[1], std::pow(1000000.0, -2.0 / 32) / 8);
  EXPECT_FLOAT_EQ(spec->ropes[1].frequencies[1], std::pow(5000.0, -2.0 / 32));
  for (int l = 0; l < 12; ++l) {
    const bool global = l == 5 || l == 11;
    EXPECT_EQ(spec->layer[l].attention.window, global ? 0 : 512) << l;
    EXPECT_EQ(spec->layer[l].rope, global ? 0 : 1) << l;
    EXPECT_FLOAT_EQ(spec->layer[l].attention.scale, 0.1f);
  }
}

TEST(ModelSpecHfTest, QwensHaveAWindowOnlyWhereTheSwitchIsOn) {
  const auto off = SpecOf("Qwen2ForCausalLM", R"("sliding_window":128,"use_sliding_window":false)");
  const auto on =
      SpecOf("Qwen2ForCausalLM", R"("sliding_window":128,"use_sliding_window":true,"max_window_layers":10)");
  ASSERT_OK(off);
  ASSERT_OK(on);
  for (int l = 0; l < 12; ++l) {
    EXPECT_EQ(off->layer[l].attention.window, 0);
    EXPECT_EQ(on->layer[l].attention.window, l >= 10 ? 128 : 0);
  }
}

TEST(ModelSpecHfTest, ExpertsAreWhereTheConfigurationPutsThem) {
  const auto spec = SpecOf("Qwen2MoeForCausalLM",
                           R"("num_experts":60,"num_experts_per_tok":4,"moe_intermediate_size":32,)"
                           R"("shared_expert_intermediate_size":128,"decoder_sparse_step":2,"mlp_only_layers":[3])");
  ASSERT_OK(spec);
  EXPECT_EQ(spec->experts.count, 60);
  EXPECT_EQ(spec->experts.top_k, 4);
  EXPECT_EQ(spec->experts.shared_feed_forward, 128);
  EXPECT_FALSE(spec->experts.normalise);
  for (int l = 0; l < 12; ++l) EXPECT_EQ(spec->layer[l].experts, l % 2 == 1 && l != 3) << l;
  const auto mixtral = SpecOf("MixtralForCausalLM", R"("num_local_experts":8,"num_experts_per_tok":2)");
  ASSERT_OK(mixtral);
  EXPECT_TRUE(mixtral->experts.normalise);
  EXPECT_EQ(mixtral->experts.feed_forward, 96);
}

TEST(ModelSpecHfTest, WhatIsBrokenIsNamed) {
  const std::pair<const char*, const char*> kBroken[] = {
      {R"("num_hidden_layers":0)", "num_hidden_layers"},
      {R"("num_hidden_layers":"12")", "num_hidden_layers"},
      {R"("num_hidden_layers":9223372036854775808)", "num_hidden_layers"},
      {R"("hidden_size":-64)", "hidden_size"},
      {R"("hidden_size":1e9)", "hidden_size"},
      {R"("num_key_value_heads":3)", "head_count_kv"},
      {R"("num_key_value_heads":5)", "num_key_value_heads"},
      {R"("vocab_size":0)", "vocab_size"},
      {R"("rms_norm_eps":0)", "rms_norm_eps"},
      {R"("rope_theta":1)", "rope_theta"},
      {R"("rope_scaling":{"rope_type":"linear","factor":0})", "factor"},
      {R"("rope_scaling":{"rope_type":7})", "rope_type"},
      {R"("tie_word_embeddings":3)", "tie_word_embeddings"},
      {R"("sliding_window":8,"use_sliding_window":true,"layer_types":["full_attention"])", "layer_types"},
  };
  for (const auto& [more, named] : kBroken) {
    EXPECT_THAT(SpecOf("Qwen2ForCausalLM", more), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(named)))
        << more;
  }
  EXPECT_THAT(SpecOf("Qwen3MoeForCausalLM"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("moe_inter")));
  for (const char* text : {"", "[]", "{", "3", "\"x\""}) {
    EXPECT_THAT(HfConfig::Parse(text, "test/config.json").status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("test/config.json")));
  }
}

// Phi-3-mini-128k's folder, but for its sizes: heads of 16, of which 12 elements are rotated.
std::string Phi3(int context, int original) {
  return absl::StrCat(R"("max_position_embeddings":)", context, R"(,"original_max_position_embeddings":)", original,
                      R"(,"partial_rotary_factor":0.75,"rope_theta":10000.0,"rope_scaling":{"type":"longrope",)",
                      R"("short_factor":[1,1,1,1,1,2],"long_factor":[1,2,3,4,5,6]})");
}

TEST(ModelSpecHfTest, Phi3TakesTheLongFactorsWhereItsContextIsLong) {
  const auto longer = SpecOf("Phi3ForCausalLM", Phi3(8192, 2048)), within = SpecOf("Phi3ForCausalLM", Phi3(2048, 2048));
  ASSERT_OK(longer);
  ASSERT_OK(within);
  ASSERT_EQ(longer->ropes[0].frequencies.size(), 6u);
  for (int i = 0; i < 6; ++i) {
    const double frequency = std::pow(10000.0, -2.0 * i / 12);
    EXPECT_FLOAT_EQ(longer->ropes[0].frequencies[i], frequency / (i + 1)) << i;
    EXPECT_FLOAT_EQ(within->ropes[0].frequencies[i], frequency / (i == 5 ? 2 : 1)) << i;
  }
  EXPECT_FLOAT_EQ(longer->ropes[0].magnitude, std::sqrt(1 + std::log(4.0) / std::log(2048.0)));
  EXPECT_FLOAT_EQ(within->ropes[0].magnitude, 1);
  const auto su = SpecOf("Phi3ForCausalLM", absl::StrReplaceAll(Phi3(8192, 2048), {{"longrope", "su"}}));
  ASSERT_OK(su);
  EXPECT_EQ(su->ropes, longer->ropes);
  EXPECT_THAT(SpecOf("Phi3ForCausalLM", absl::StrReplaceAll(Phi3(8192, 2048), {{"[1,2,3,4,5,6]", "[1,2,3,4,5]"}})),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("long_factor")));
}

TEST(ModelSpecHfTest, SomeLayersOfSmolLm3KnowNoPositions) {
  const auto every = SpecOf("SmolLM3ForCausalLM");
  const auto listed = SpecOf("SmolLM3ForCausalLM", R"("no_rope_layers":[0,1,1,1,1,1,1,1,1,1,1,0])");
  ASSERT_OK(every);
  ASSERT_OK(listed);
  EXPECT_TRUE(every->tied_head);
  for (int32_t l = 0; l < 12; ++l) {
    EXPECT_EQ(every->layer[l].rope, l % 4 == 3 ? -1 : 0) << l;
    EXPECT_EQ(listed->layer[l].rope, l == 0 || l == 11 ? -1 : 0) << l;
  }
  EXPECT_THAT(SpecOf("SmolLM3ForCausalLM", R"("no_rope_layers":[0,1])"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no_rope_layers")));
}

TEST(ModelSpecHfTest, GranitesMultipliersAreRead) {
  const auto spec = SpecOf("GraniteForCausalLM", R"("embedding_multiplier":12,"residual_multiplier":0.22,)"
                                                 R"("attention_multiplier":0.0078125,"logits_scaling":16)");
  ASSERT_OK(spec);
  EXPECT_FLOAT_EQ(spec->embedding_scale, 12);
  EXPECT_FLOAT_EQ(spec->residual_scale, 0.22f);
  EXPECT_FLOAT_EQ(spec->logit_scale, 1 / 16.0f);
  EXPECT_FLOAT_EQ(spec->layer[3].attention.scale, 0.0078125f);
}

TEST(ModelSpecHfTest, Gemma2CapsUnlessItsFolderSaysNot) {
  const auto by_default = SpecOf("Gemma2ForCausalLM", R"("sliding_window":64)");
  const auto without = SpecOf("Gemma2ForCausalLM", R"("final_logit_softcapping":null,"attn_logit_softcapping":20)");
  ASSERT_OK(by_default);
  ASSERT_OK(without);
  EXPECT_EQ(by_default->logit_cap, 30);
  EXPECT_EQ(by_default->layer[0].attention.soft_cap, 50);
  EXPECT_EQ(without->logit_cap, 0);
  EXPECT_EQ(without->layer[0].attention.soft_cap, 20);
  for (int32_t l = 0; l < 12; ++l) EXPECT_EQ(by_default->layer[l].attention.window, l % 2 == 0 ? 64 : 0) << l;
}

// What Gemma 3 4B's folder says, and no more.
TEST(ModelSpecHfTest, TheTextPartOfAMultimodalGemma3HasItsDefaults) {
  const auto read = [](const std::string& type) {
    const auto config = HfConfig::Parse(
        absl::StrCat(
            R"({"architectures":["Gemma3ForConditionalGeneration"],"text_config":{"hidden_size":2560,)",
            R"("intermediate_size":10240,"model_type":")", type, R"(","num_hidden_layers":34,)",
            R"("rope_scaling":{"factor":8.0,"rope_type":"linear"},"sliding_window":1024},"vision_config":{}})"),
        "test/config.json");
    return config.ok() ? ReadModelSpec(*config, "digest") : config.status();
  };
  const auto spec = read("gemma3_text");
  ASSERT_OK(spec);
  EXPECT_EQ(spec->architecture, "gemma3");
  EXPECT_EQ(spec->heads, 8);
  EXPECT_EQ(spec->kv_heads, 4);
  EXPECT_EQ(spec->head_dim, 256);
  EXPECT_EQ(spec->context, 131072);
  EXPECT_EQ(spec->vocab, 262208);
  EXPECT_TRUE(spec->tied_head);
  EXPECT_EQ(spec->layer[4].attention.window, 1024);
  EXPECT_EQ(spec->layer[5].attention.window, 0);
  EXPECT_THAT(read("gemma4_text"), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("gemma4_text")));
}

TEST(ModelSpecHfTest, WhatIsNotBuiltInIsNamed) {
  const std::pair<const char*, const char*> kOthers[] = {
      {R"("rope_scaling":{"rope_type":"dynamic","factor":4})", "dynamic"},
      {R"("partial_rotary_factor":0.5)", "partial_rotary_factor"},
      {R"("hidden_act":"relu2")", "relu2"},
      {R"("head_dim":12)", "12"},
      {R"("final_logit_softcapping":30.0)", "final_logit_softcapping"},
  };
  for (const auto& [more, named] : kOthers) {
    EXPECT_THAT(SpecOf("Qwen2ForCausalLM", more), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(named))) << more;
  }
  EXPECT_THAT(SpecOf("Llama4ForConditionalGeneration"),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("Llama4ForConditionalGeneration")));
  EXPECT_THAT(SpecOf("MambaForCausalLM"), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("MambaForCausalLM")));
}

}  // namespace
}  // namespace interlace
