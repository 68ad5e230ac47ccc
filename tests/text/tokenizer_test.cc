#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/checkpoint/gguf_writer.h"
#include "tests/status_matchers.h"
#include "tests/test_model.h"
#include "tests/text/small_tokenizer.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

absl::Status LoadStatus(const GgufWriter& writer) {
  const std::string bytes = writer.Build();
  auto file = GgufFile::Parse(AsBytes(bytes), "test.gguf");
  if (!file.ok()) return file.status();
  return Tokenizer::Load(**file).status();
}

std::unique_ptr<Tokenizer> TestModelTokenizer() {
  auto file = GgufFile::Open(TestModelPath());
  EXPECT_OK(file);
  auto tokenizer = Tokenizer::Load(**file);
  EXPECT_OK(tokenizer);
  return *std::move(tokenizer);
}

std::string RandomUnicode(std::mt19937& random) {
  std::string text;
  for (int i = random() % 40; i >= 0; --i) {
    const uint32_t limits[] = {0x80, 0x800, 0x10000, 0x110000};
    const uint32_t c = random() % limits[random() % 4];
    if (c >= 0xd800 && c < 0xe000) continue;
    const auto tail = [&](int shift) { text += static_cast<char>(0x80 | (c >> shift & 0x3f)); };
    if (c < 0x80) {
      text += static_cast<char>(c);
    } else if (c < 0x800) {
      text += static_cast<char>(0xc0 | c >> 6);
      tail(0);
    } else if (c < 0x10000) {
      text += static_cast<char>(0xe0 | c >> 12);
      tail(6), tail(0);
    } else {
      text += static_cast<char>(0xf0 | c >> 18);
      tail(12), tail(6), tail(0);
    }
  }
  return text;
}

TEST(TokenizerTest, IdsBeyondTheVocabularyAreEmptyPieces) {
  const SmallTokenizer small;
  const Tokenizer& tokenizer = *small.tokenizer;
  for (const int32_t id : {tokenizer.vocab_size(), tokenizer.vocab_size() + 271, INT32_MAX, -1, INT32_MIN}) {
    for (const bool special : {false, true}) EXPECT_EQ(tokenizer.Piece(id, special), "") << id;
    EXPECT_EQ(tokenizer.Decode({'h', id, 'i'}), "hi");
  }
}

TEST(TokenizerTest, DecodeUndoesEncode) {
  std::mt19937 random(11);
  for (const char* pre : {"smollm", "llama-bpe", "gpt-2", "default"}) {
    const SmallTokenizer small(pre);
    for (int round = 0; round < 1500; ++round) {
      std::string text = RandomUnicode(random);
      if (round % 2 == 0) {
        text.assign(random() % 80, ' ');
        for (char& byte : text) byte = static_cast<char>(random());
      }
      ASSERT_EQ(small.tokenizer->Decode(small.tokenizer->Encode(text, false)), text);
      ASSERT_EQ(small.tokenizer->Decode(small.tokenizer->Encode(text, true), true), text);
    }
  }
}

// SmolLM2 has no token for 21 bytes, which ordinary text never has; they alone are lost.
TEST(TokenizerTest, DecodeUndoesEncodeOfTheTestModelButForBytesItLacks) {
  const auto tokenizer = TestModelTokenizer();
  std::string lacks;
  for (int byte = 0; byte < 256; ++byte) {
    if (tokenizer->Encode(std::string(1, static_cast<char>(byte)), false).empty()) lacks += static_cast<char>(byte);
  }
  EXPECT_EQ(lacks, "\x04\x06\x13\x14\x16\x1d\xc0\xc1\xf1\xf2\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff");
  std::mt19937 random(12);
  for (int round = 0; round < 4000; ++round) {
    std::string text = RandomUnicode(random);
    if (round % 2 == 0) {
      text.assign(random() % 80, ' ');
      for (char& byte : text) byte = static_cast<char>(random());
    }
    const std::vector<int32_t> ids = tokenizer->Encode(text, false);
    for (int32_t id : ids) ASSERT_FALSE(tokenizer->Piece(id).empty()) << "a control token from plain text";
    std::string kept;
    for (char byte : text) {
      if (lacks.find(byte) == std::string::npos) kept += byte;
    }
    ASSERT_EQ(tokenizer->Decode(ids), kept);
  }
}

TEST(TokenizerTest, ControlTokensComeFromTextOnlyWhenAsked) {
  const SmallTokenizer small;
  const Tokenizer& t = *small.tokenizer;
  const int32_t end = *t.Find("<|im_end|>"), tool = *t.Find("<tool>");
  EXPECT_THAT(t.Encode("x<|im_end|>y", true), ElementsAre('x', end, 'y'));
  EXPECT_THAT(t.Encode("x<|im_end|>y", false), Not(Contains(end)));
  EXPECT_THAT(t.Encode("<|im_<|im_end|>", true), ElementsAre('<', '|', 'i', 'm', '_', end));
  // What the maker of a model defined splits plain text too.
  EXPECT_THAT(t.Encode("<tool>", false), ElementsAre(tool));
  EXPECT_EQ(t.Decode({'x', end, tool}), "x<tool>");
  EXPECT_EQ(t.Decode({'x', end, tool}, true), "x<|im_end|><tool>");
  EXPECT_EQ(t.Piece(end), "");
  EXPECT_THAT(t.Find("<|absent|>"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("<|absent|>")));
}

TEST(TokenizerTest, TheLongestSpecialTokenWins) {
  SmallVocabulary vocabulary;
  vocabulary.Add("<<", 4);
  vocabulary.Add("<<<<", 4);
  const std::string bytes = vocabulary.Writer().Build();
  auto file = GgufFile::Parse(AsBytes(bytes), "test");
  ASSERT_OK(file);
  auto t = Tokenizer::Load(**file);
  ASSERT_OK(t);
  const int32_t two = *(*t)->Find("<<"), four = *(*t)->Find("<<<<");
  EXPECT_THAT((*t)->Encode("<<<<<<<", false), ElementsAre(four, two, '<'));
}

TEST(TokenizerTest, KnowsWhatEndsATurn) {
  const SmallTokenizer small;
  const Tokenizer& t = *small.tokenizer;
  EXPECT_EQ(t.eos(), *t.Find("<|im_end|>"));
  EXPECT_EQ(t.bos(), -1);
  EXPECT_FALSE(t.add_bos());
  EXPECT_THAT(t.stop_tokens(), ElementsAre(*t.Find("<|im_end|>"), *t.Find("<|eot_id|>"), *t.Find("<|endoftext|>")));
  const auto model = TestModelTokenizer();
  EXPECT_EQ(model->vocab_size(), 49152);
  EXPECT_EQ(model->bos(), 1);
  EXPECT_EQ(model->eos(), 2);
  EXPECT_THAT(model->stop_tokens(), ElementsAre(2, 0));
}

TEST(TokenizerTest, RefusesBrokenVocabularies) {
  const auto invalid = [](const char* field) {
    return StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("test.gguf"), HasSubstr(field)));
  };
  EXPECT_OK(LoadStatus(SmallVocabulary().Writer()));
  EXPECT_THAT(LoadStatus(SmallVocabulary().Writer("falcon")),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("falcon")));
  EXPECT_THAT(LoadStatus(GgufWriter().Text("tokenizer.ggml.model", "rwkv")),
              StatusIs(absl::StatusCode::kUnimplemented, AllOf(HasSubstr("rwkv"), HasSubstr("llama"))));
  EXPECT_THAT(LoadStatus(GgufWriter()), StatusIs(absl::StatusCode::kNotFound, HasSubstr("tokenizer.ggml.model")));
  SmallVocabulary vocabulary;
  vocabulary.merges.push_back("nospace");
  EXPECT_THAT(LoadStatus(vocabulary.Writer()), invalid("tokenizer.ggml.merges[5]"));
  vocabulary.merges.back() = "x y";  // "xy" is no token
  EXPECT_THAT(LoadStatus(vocabulary.Writer()), invalid("tokenizer.ggml.merges[5]"));
  vocabulary.merges.back() = "\xff\xff x";
  EXPECT_THAT(LoadStatus(vocabulary.Writer()), invalid("tokenizer.ggml.merges[5]"));
  vocabulary = {};
  vocabulary.types.pop_back();
  EXPECT_THAT(LoadStatus(vocabulary.Writer()), invalid("tokenizer.ggml.token_type"));
  vocabulary = {};
  vocabulary.Add("", 3);
  EXPECT_THAT(LoadStatus(vocabulary.Writer()), invalid("tokenizer.ggml.tokens"));
  EXPECT_THAT(LoadStatus(SmallVocabulary().Writer().U32("tokenizer.ggml.bos_token_id", 100000)),
              invalid("tokenizer.ggml.bos_token_id"));
  EXPECT_THAT(LoadStatus(SmallVocabulary().Writer().U32("tokenizer.ggml.add_bos_token", 1)),
              invalid("tokenizer.ggml.add_bos_token"));
}

TEST(TokenizerTest, LongRunsTakeNoQuadraticTime) {
  const auto tokenizer = TestModelTokenizer();
  for (const char* unit : {"a", " ", "\n", "1", "!", "中", "<", "\xe4", "<|im_end|"}) {
    std::string text;
    while (text.size() < 200000) text += unit;
    EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text, true)), text);
  }
}

}  // namespace
}  // namespace interlace
