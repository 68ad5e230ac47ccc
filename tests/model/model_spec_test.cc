#include "model/model_spec.h"

#include <cmath>

#include "tests/model/tiny_gguf.h"
#include "tests/status_matchers.h"
#include "tests/test_model.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<ModelSpec> SpecAfter(std::function<void(GgufWriter&)> edit) {
  const std::string bytes = TinyGgufBytes({.edit = std::move(edit)});
  const auto file =
      GgufFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), "tiny");
  if (!file.ok()) return absl::InternalError(absl::StrCat("the edit broke the file itself: ", file.status().message()));
  return ReadModelSpec(**file);
}

TEST(ModelSpecTest, ReadsTheTinyModel) {
  const auto spec = SpecAfter([](GgufWriter&) {});
  ASSERT_OK(spec);
  EXPECT_EQ(spec->architecture, "llama");
  EXPECT_EQ(spec->digest.size(), 32u);
  EXPECT_EQ(spec->layers, 3);
  EXPECT_EQ(spec->width, 64);
  EXPECT_EQ(spec->heads, 4);
  EXPECT_EQ(spec->kv_heads, 2);
  EXPECT_EQ(spec->head_dim, 16);
  EXPECT_EQ(spec->feed_forward, 96);
  EXPECT_EQ(spec->context, 2048);
  EXPECT_EQ(spec->vocab, static_cast<int32_t>(MakeTinyVocabulary().tokens.size()));
  EXPECT_FALSE(spec->tied_head);
  EXPECT_FLOAT_EQ(spec->norm_epsilon, 1e-5f);
  EXPECT_EQ(spec->pairs, RopePairs::kAdjacent);
  ASSERT_EQ(spec->ropes.size(), 1u);
  ASSERT_EQ(spec->ropes[0].frequencies.size(), 8u);
  for (int i = 0; i < 8; ++i) EXPECT_FLOAT_EQ(spec->ropes[0].frequencies[i], std::pow(10000.0, -i / 8.0));
}

TEST(ModelSpecTest, ReadsTheRealModel) {
  const auto file = GgufFile::Open(TestModelPath());
  ASSERT_OK(file);
  const auto spec = ReadModelSpec(**file);
  ASSERT_OK(spec);
  EXPECT_EQ(spec->layers, 30);
  EXPECT_EQ(spec->width, 576);
  EXPECT_EQ(spec->heads, 9);
  EXPECT_EQ(spec->kv_heads, 3);
  EXPECT_EQ(spec->head_dim, 64);
  EXPECT_EQ(spec->feed_forward, 1536);
  EXPECT_EQ(spec->context, 8192);
  EXPECT_EQ(spec->vocab, 49152);
  EXPECT_TRUE(spec->tied_head);
  EXPECT_FLOAT_EQ(spec->ropes[0].frequencies[1], std::pow(100000.0, -1 / 32.0));
}

TEST(ModelSpecTest, DefaultsAreThoseOfTheFormat) {
  const auto spec = SpecAfter([](GgufWriter& gguf) {
    gguf.Remove("llama.attention.head_count_kv");
    gguf.Remove("llama.attention.key_length");
    gguf.Remove("llama.rope.freq_base");
    gguf.Remove("llama.rope.dimension_count");
  });
  ASSERT_OK(spec);
  EXPECT_EQ(spec->kv_heads, 4);
  EXPECT_EQ(spec->head_dim, 16);
  EXPECT_FLOAT_EQ(spec->ropes[0].frequencies[4], 0.01f);
}

TEST(ModelSpecTest, AMissingFieldIsNamed) {
  for (const char* key :
       {"general.architecture", "llama.block_count", "llama.embedding_length", "llama.feed_forward_length",
        "llama.attention.head_count", "llama.context_length", "llama.attention.layer_norm_rms_epsilon"}) {
    EXPECT_THAT(SpecAfter([&](GgufWriter& gguf) { gguf.Remove(key); }),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(key)));
  }
}

TEST(ModelSpecTest, AFieldOutOfRangeIsNamed) {
  const std::pair<const char*, uint32_t> kBroken[] = {{"llama.block_count", 0},
                                                      {"llama.block_count", 1u << 31},
                                                      {"llama.embedding_length", 0},
                                                      {"llama.embedding_length", 65},
                                                      {"llama.feed_forward_length", 0},
                                                      {"llama.attention.head_count", 0},
                                                      {"llama.attention.head_count", 5},
                                                      {"llama.attention.head_count_kv", 0},
                                                      {"llama.attention.head_count_kv", 3},
                                                      {"llama.attention.head_count_kv", 9},
                                                      {"llama.attention.key_length", 0},
                                                      {"llama.context_length", 0},
                                                      {"llama.rope.dimension_count", 99},
                                                      {"llama.vocab_size", 7}};
  for (const auto& [key, value] : kBroken) {
    const auto spec = SpecAfter([&](GgufWriter& gguf) { gguf.SetInteger(key, value); });
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument) << key << "=" << value << spec.status();
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr("tiny")) << key;
  }
  for (float value : {0.0f, -1.0f, 2.0f, NAN, INFINITY}) {
    EXPECT_THAT(SpecAfter([&](GgufWriter& gguf) { gguf.SetReal("llama.attention.layer_norm_rms_epsilon", value); }),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layer_norm_rms_epsilon")));
  }
  for (float value : {0.0f, -10000.0f, NAN, INFINITY}) {
    EXPECT_THAT(SpecAfter([&](GgufWriter& gguf) { gguf.SetReal("llama.rope.freq_base", value); }),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("freq_base")));
  }
}

TEST(ModelSpecTest, WhatIsNotBuiltInIsRefusedByName) {
  EXPECT_THAT(SpecAfter([](GgufWriter& gguf) { gguf.SetText("general.architecture", "mamba"); }),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("mamba")));
  EXPECT_THAT(SpecAfter([](GgufWriter& gguf) { gguf.SetText("llama.rope.scaling.type", "longrope"); }),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("longrope")));
  EXPECT_THAT(SpecAfter([](GgufWriter& gguf) { gguf.SetInteger("llama.attention.key_length", 12); }),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("12")));
  EXPECT_THAT(SpecAfter([](GgufWriter& gguf) { gguf.SetInteger("llama.attention.value_length", 8); }),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("value_length")));
  EXPECT_THAT(SpecAfter([](GgufWriter& gguf) { gguf.SetInteger("llama.rope.dimension_count", 8); }),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("dimension_count")));
}

TEST(ModelSpecTest, BrokenRopeFactorsAreNamed) {
  const auto with_factors = [](uint32_t type, std::vector<float> factors) {
    return SpecAfter([=](GgufWriter& gguf) {
      const auto count = static_cast<int64_t>(factors.size());
      gguf.tensors.push_back({"rope_freqs.weight", type, {count}, Quantise(GgufType{type}, factors)});
    });
  };
  EXPECT_OK(with_factors(0, std::vector<float>(8, 2.0f)));
  for (const auto& broken : {with_factors(0, std::vector<float>(7, 2.0f)), with_factors(1, std::vector<float>(8, 2.0f)),
                             with_factors(0, {1, 1, 1, 0, 1, 1, 1, 1}), with_factors(0, {1, 1, 1, NAN, 1, 1, 1, 1}),
                             with_factors(0, {1, 1, 1, -2, 1, 1, 1, 1})}) {
    EXPECT_THAT(broken, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rope_freqs.weight")));
  }
}

}  // namespace
}  // namespace interlace
