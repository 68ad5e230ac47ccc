// tokenizer.model and tekken.json files against SentencePiece and Mistral's library, id for id
// (tests/golden/make_tokenizer_models.py).
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "tests/status_matchers.h"
#include "text/tokenizer.h"

namespace interlace {
namespace {

using Json = nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string ReadText(const std::string& name) {
  std::ifstream file("tests/golden/tokenizer/tiny/" + name, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << name;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string HashOf(const std::vector<int32_t>& ids) {
  uint64_t hash = 0xcbf29ce484222325;
  for (int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      hash = (hash ^ (static_cast<uint32_t>(id) >> shift & 0xff)) * 0x100000001b3;
    }
  }
  return absl::StrFormat("%016x", hash);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadModel(const std::string& model, const std::string& config = "") {
  TokenizerFiles files{.name = "tiny"};
  files.tokenizer_model = model;
  files.tokenizer_config_json = config;
  return Tokenizer::Load(files);
}
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTekkenJson(const std::string& json) {
  TokenizerFiles files{.name = "tiny"};
  files.tekken_json = json;
  return Tokenizer::Load(files);
}

TEST(TokenizerModelsTest, IdsEqualTheLibraries) {
  const Json expected = Json::parse(ReadText("models.json")), texts = Json::parse(ReadText("expected.json"))["texts"];
  ASSERT_GE(texts.size(), 500u);
  ASSERT_EQ(expected.at("ids").size(), 6u);
  for (const auto& [name, wanted] : expected.at("ids").items()) {
    const auto tokenizer =
        name == "tekken" ? LoadTekkenJson(ReadText("tekken.json")) : LoadModel(ReadText(name + ".model"));
    ASSERT_OK(tokenizer) << name;
    for (size_t i = 0; i < texts.size(); ++i) {
      const std::string text = texts[i];
      const std::vector<int32_t> ids = (*tokenizer)->Encode(text, /*special=*/false);
      EXPECT_EQ(ids.size(), wanted.at(i).at(0).get<size_t>()) << name << ": " << testing::PrintToString(text);
      EXPECT_EQ(HashOf(ids), wanted.at(i).at(1).get<std::string>()) << name << ": " << testing::PrintToString(text);
      if (name == "tekken") {
        EXPECT_EQ((*tokenizer)->Decode(ids), text);
      }
    }
  }
}

TEST(TokenizerModelsTest, TekkenHasItsSpecialTokensInFront) {
  const auto tokenizer = LoadTekkenJson(ReadText("tekken.json"));
  ASSERT_OK(tokenizer);
  EXPECT_EQ((*tokenizer)->bos(), 1);
  EXPECT_EQ((*tokenizer)->eos(), 2);
  EXPECT_TRUE((*tokenizer)->add_bos());
  EXPECT_EQ((*tokenizer)->Encode("[INST]a[/INST]", true).front(), 3);
  EXPECT_EQ((*tokenizer)->Encode("[INST]a[/INST]", true).back(), 4);
  for (int32_t id : (*tokenizer)->Encode("[INST]a[/INST]<SPECIAL_22>", false)) EXPECT_GE(id, 24);
  EXPECT_EQ((*tokenizer)->Piece(22, true), "<SPECIAL_22>");
  EXPECT_EQ((*tokenizer)->Piece(22), "");
  EXPECT_EQ((*tokenizer)->Piece(24 + 'A'), "A");
}

TEST(TokenizerModelsTest, AddedTokensOfTheConfigurationAreFound) {
  const std::string model = ReadText("sp-bpe.model");
  const auto plain = LoadModel(model);
  ASSERT_OK(plain);
  const int32_t size = (*plain)->vocab_size();
  const std::string config = absl::StrReplaceAll(
      R"({"bos_token":"<s>","eos_token":{"content":"<|end|>"},"add_eos_token":true,"added_tokens_decoder":{
         "N":{"content":"<|end|>","special":true},"M":{"content":"<tool>","special":false},"0":{"content":"<unk>"}}})",
      {{"N", std::to_string(size)}, {"M", std::to_string(size + 2)}});
  const auto with = LoadModel(model, config);
  ASSERT_OK(with);
  EXPECT_EQ((*with)->vocab_size(), size + 3);
  EXPECT_EQ((*with)->eos(), size);
  EXPECT_TRUE((*with)->add_eos());
  EXPECT_EQ((*with)->Encode("<|end|>", true), std::vector<int32_t>{size});
  EXPECT_GT((*with)->Encode("<|end|>", false).size(), 1u);
  EXPECT_EQ((*with)->Encode("<tool>", false), std::vector<int32_t>{size + 2});
  EXPECT_EQ((*with)->Encode("plain text", false), (*plain)->Encode("plain text", false));
  for (const char* broken : {"[]", R"({"eos_token":"nothing"})", R"({"added_tokens_decoder":{"x":{"content":"a"}}})",
                             R"({"added_tokens_decoder":{"99999999":{"content":"a"}}})",
                             R"({"added_tokens_decoder":{"5":{}}})", R"({"add_bos_token":1})"}) {
    EXPECT_THAT(LoadModel(model, broken),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tokenizer_config.json")))
        << broken;
  }
}

TEST(TokenizerModelsTest, AFolderWithoutAnyNamesWhatItLacks) {
  EXPECT_THAT(Tokenizer::Load(TokenizerFiles{.name = "tiny"}),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("tiny"), HasSubstr("tekken.json"), HasSubstr("tokenizer.model"))));
}

// Whatever the bytes, loading answers, and what loads encodes.
TEST(TokenizerModelsTest, DamagedFilesNeverCrash) {
  const std::string model = ReadText("sp-unigram-bytes.model"), tekken = ReadText("tekken.json");
  int loaded = 0, refused = 0;
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    std::mt19937 random(seed);
    for (const bool is_tekken : {false, true}) {
      if (is_tekken && seed > 30) continue;  // its merges take a while
      std::string bytes = is_tekken ? tekken : model;
      for (int i = 0; i < 3; ++i) {
        const size_t at = seed % 2 == 0 ? random() % 300 : random() % bytes.size();
        if (seed % 3 == 0) bytes.resize(bytes.size() - random() % 50);
        if (at < bytes.size()) bytes[at] = static_cast<char>(random());
      }
      const auto tokenizer = is_tekken ? LoadTekkenJson(bytes) : LoadModel(bytes);
      tokenizer.ok() ? ++loaded : ++refused;
      if (tokenizer.ok()) (void)(*tokenizer)->Encode("Some text, 1 2 3\n", true);
    }
  }
  EXPECT_GT(loaded, 3);
  EXPECT_GT(refused, 10);
}

}  // namespace
}  // namespace interlace
