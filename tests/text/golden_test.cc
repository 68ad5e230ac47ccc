// The tokenizer and the chat template against Hugging Face's libraries, token for token.
#include <gtest/gtest.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/checkpoint/gguf_writer.h"
#include "tests/status_matchers.h"
#include "tests/test_model.h"
#include "text/chat_template.h"
#include "text/pretokenizer.h"
#include "text/tokenizer.h"

namespace interlace {
namespace {

using Ids = std::vector<int32_t>;

nlohmann::json ReadJson(const std::string& name) {
  std::ifstream file("tests/golden/tokenizer/" + name);
  EXPECT_TRUE(file.is_open()) << name;
  return nlohmann::json::parse(file);
}

class TokenizerGoldenTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    reference = new nlohmann::json(ReadJson("reference.json"));
    auto opened = GgufFile::Open(TestModelPath());
    ASSERT_OK(opened);
    file = opened->release();
    auto loaded = Tokenizer::Load(*file);
    ASSERT_OK(loaded);
    tokenizer = loaded->release();
  }
  static void TearDownTestSuite() {
    delete tokenizer;
    delete file;
    delete reference;
  }
  static const nlohmann::json* reference;
  static const GgufFile* file;
  static const Tokenizer* tokenizer;
};
const nlohmann::json* TokenizerGoldenTest::reference = nullptr;
const GgufFile* TokenizerGoldenTest::file = nullptr;
const Tokenizer* TokenizerGoldenTest::tokenizer = nullptr;

TEST_F(TokenizerGoldenTest, Texts) {
  const nlohmann::json& texts = reference->at("texts");
  ASSERT_GT(texts.size(), 200u);
  for (const nlohmann::json& entry : texts) {
    const std::string text = entry.at("text");
    const Ids ids = entry.at("ids"), plain = entry.contains("plain") ? entry.at("plain") : entry.at("ids");
    EXPECT_EQ(tokenizer->Encode(text, true), ids) << testing::PrintToString(text);
    EXPECT_EQ(tokenizer->Encode(text, false), plain) << testing::PrintToString(text);
  }
}

// The same vocabulary under the other pretokenizers.
TEST_F(TokenizerGoldenTest, Variants) {
  const size_t count = reference->at("variant_texts");
  auto types = file->Integers("tokenizer.ggml.token_type");
  ASSERT_OK(types);
  for (const auto& [name, wanted] : reference->at("variants").items()) {
    const std::string bytes = GgufWriter()
                                  .Text("tokenizer.ggml.model", "gpt2")
                                  .Text("tokenizer.ggml.pre", name)
                                  .Texts("tokenizer.ggml.tokens", *file->Texts("tokenizer.ggml.tokens"))
                                  .Integers("tokenizer.ggml.token_type", GgufWriter::kI64, *types)
                                  .Texts("tokenizer.ggml.merges", *file->Texts("tokenizer.ggml.merges"))
                                  .Build();
    auto parsed = GgufFile::Parse(AsBytes(bytes), name);
    ASSERT_OK(parsed);
    auto variant = Tokenizer::Load(**parsed);
    ASSERT_OK(variant);
    ASSERT_EQ(wanted.size(), count);
    for (size_t i = 0; i < count; ++i) {
      const std::string text = reference->at("texts").at(i).at("text");
      EXPECT_EQ((*variant)->Encode(text, true), wanted.at(i).get<Ids>())
          << name << ": " << testing::PrintToString(text);
    }
  }
}

TEST_F(TokenizerGoldenTest, Chats) {
  const nlohmann::json chats = ReadJson("chats.json");
  const nlohmann::json& wanted = reference->at("chats");
  ASSERT_EQ(chats.size(), 20u);
  ASSERT_EQ(wanted.size(), chats.size());
  auto chat_template = ChatTemplate::Load(*file);
  ASSERT_OK(chat_template);
  for (size_t i = 0; i < chats.size(); ++i) {
    std::vector<ChatMessage> messages;
    for (const nlohmann::json& message : chats[i].at("messages")) {
      messages.push_back({message.at("role"), message.at("content")});
    }
    auto rendered = chat_template->Render(messages);
    ASSERT_OK(rendered);
    EXPECT_EQ(*rendered, wanted[i].at("rendered").get<std::string>());
    auto ids = chat_template->Encode(messages, *tokenizer);
    ASSERT_OK(ids);
    EXPECT_EQ(*ids, wanted[i].at("ids").get<Ids>()) << "chat " << i;
  }
}

std::string Utf8Of(uint32_t c) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3f)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0 | c >> 6), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xe0 | c >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | c >> 18), tail(12), tail(6), tail(0)};
}

// Whether the regex library knows a code point: its Unicode may be older than the reference's.
bool Assigned(const std::string& character) {
  static pcre2_code* const unassigned = [] {
    int error;
    PCRE2_SIZE at;
    return pcre2_compile(reinterpret_cast<PCRE2_SPTR>("^\\p{Cn}$"), PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error, &at,
                         nullptr);
  }();
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
  const int found =
      pcre2_match(unassigned, reinterpret_cast<PCRE2_SPTR>(character.data()), character.size(), 0, 0, match, nullptr);
  pcre2_match_data_free(match);
  return found < 0;
}

// What every code point is to the patterns, found out from how it joins with neighbours.
TEST_F(TokenizerGoldenTest, Characters) {
  auto gpt2 = Pretokenizer::Make("gpt-2"), smollm = Pretokenizer::Make("smollm"),
       by_default = Pretokenizer::Make("default");
  ASSERT_OK(gpt2);
  ASSERT_OK(smollm);
  ASSERT_OK(by_default);
  std::map<std::string, std::vector<bool>> wanted;
  for (const auto& [name, bounds] : reference->at("characters").items()) {
    std::vector<bool>& members = wanted[name];
    members.resize(0x110000);
    for (size_t i = 0; i < bounds.size(); i += 2) {
      for (size_t c = bounds.at(i); c <= bounds.at(i + 1); ++c) members[c] = true;
    }
  }
  const auto pieces = [](const auto& pretokenizer, const std::string& text) {
    return (*pretokenizer)->Split(text).size();
  };
  std::map<std::string, std::vector<uint32_t>> differing;
  size_t assigned = 0;
  for (uint32_t c = 0; c < 0x110000; c = c == 0x3ffff ? 0xe0000 : c == 0xe0fff ? 0x10ff00 : c + 1) {
    if (c >= 0xd800 && c < 0xe000) continue;
    const std::string text = Utf8Of(c);
    if (!Assigned(text)) continue;
    ++assigned;
    const auto check = [&](const char* name, bool is) {
      if (wanted[name][c] != is) differing[name].push_back(c);
    };
    const bool letter = pieces(gpt2, "x" + text) == 1, number = pieces(gpt2, "1" + text) == 1;
    check("letter", letter);
    check("number", number);
    check("space", !letter && !number && pieces(gpt2, "!" + text) == 2);
    check("digit", pieces(smollm, text + text) == 2);
    if (c >= 0x80) check("punctuation", pieces(by_default, "!" + text) == 1);
  }
  EXPECT_GT(assigned, 140000u);
  for (const auto& [name, codes] : differing) {
    ADD_FAILURE() << name << " differs at " << codes.size() << ": " << testing::PrintToString(codes);
  }
}

}  // namespace
}  // namespace interlace
