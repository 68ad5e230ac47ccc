// Limits on the length of a prompt that are told without reading all of it.
#include <gtest/gtest.h>

#include <random>

#include "checkpoint/gguf.h"
#include "common/check.h"
#include "tests/test_model.h"
#include "tests/text/small_tokenizer.h"
#include "text/tokenizer.h"

namespace interlace {
namespace {

const Tokenizer& Trained() {
  static const Tokenizer* tokenizer = [] {
    auto file = GgufFile::Open(TestModelPath());
    CHECK(file.ok());
    auto loaded = Tokenizer::Load(**file);
    CHECK(loaded.ok());
    return loaded->release();
  }();
  return *tokenizer;
}

// Words, digits, white space, control tokens, characters of several bytes, and bytes that no token has.
std::string Text(std::mt19937_64& random, size_t bytes) {
  static constexpr const char* kParts[] = {" the", "word", "\n\n",         "  ",   "        ", "1234",
                                           "漢字", "é",    "<|im_start|>", ", ",   "a b",      "\x01",
                                           "\xff", "'ll",  "----",         "====", "Zebra",    "\t"};
  std::string text;
  const size_t kinds = 1 + random() % std::size(kParts);
  while (text.size() < bytes) {
    const char* part = kParts[random() % kinds];
    for (size_t times = 1 + (random() % 8 == 0 ? random() % 200 : 0); times > 0; --times) text += part;
  }
  return text;
}

TEST(TokenBoundTest, ATextThatIsSaidToBeLongerIs) {
  int said = 0;
  for (uint64_t seed = 0; seed < 120; ++seed) {
    std::mt19937_64 random(seed);
    const std::string text = Text(random, 5000 + random() % 200000);
    const bool special = random() % 2 == 0;
    const size_t tokens = Trained().Encode(text, special).size();
    for (const size_t most :
         {size_t{1}, tokens / 40 + 1, tokens / 10 + 1, tokens / 2 + 1, tokens - 1, tokens, 2 * tokens}) {
      if (!Trained().SurelyLonger(text, {}, special, most)) continue;
      ++said;
      ASSERT_GT(tokens, most) << "seed " << seed;
    }
  }
  EXPECT_GT(said, 100) << "it hardly ever says anything";
}

TEST(TokenBoundTest, WhatIsFarTooLongIsSeen) {
  std::string words, letters;
  while (words.size() < (4 << 20)) words += "one two three ";
  letters.assign(4 << 20, 'a');
  EXPECT_TRUE(Trained().SurelyLonger(words, {}, false, 8192));
  EXPECT_TRUE(Trained().SurelyLonger(letters, {}, false, 8192)) << "one piece: its bytes tell";
  EXPECT_FALSE(Trained().SurelyLonger(words, {}, false, size_t{4} << 20));
  // Bytes that the vocabulary has no token for are left out of the tokens, however many there are.
  for (int byte = 0; byte < 256; ++byte) {
    const std::string one(1, static_cast<char>(byte));
    if (!Trained().Encode(one, false).empty()) continue;
    EXPECT_FALSE(Trained().SurelyLonger(std::string(4 << 20, one[0]), {}, false, 8192)) << byte;
  }
}

TEST(TokenBoundTest, MarkedBytesAreNoControlTokens) {
  std::string text;
  while (text.size() < 100000) text += "<|im_start|>one two ";
  const std::string data(text.size(), 1);
  EXPECT_TRUE(Trained().SurelyLonger(text, data, true, 1000));
}

TEST(TokenBoundTest, TheTailHasTheLastTokens) {
  int cut = 0;
  for (uint64_t seed = 0; seed < 120; ++seed) {
    std::mt19937_64 random(seed);
    const std::string text = Text(random, 1 + random() % 100000);
    const std::vector<int32_t> whole = Trained().Encode(text, false);
    const size_t keep = 1 + random() % 500;
    const size_t from = Trained().TailFor(text, keep);
    cut += from > 0 ? 1 : 0;
    const std::vector<int32_t> tail = Trained().Encode(absl::string_view(text).substr(from), false);
    ASSERT_GE(tail.size(), std::min(keep, whole.size())) << "seed " << seed;
    const size_t count = std::min(keep, whole.size());
    ASSERT_EQ(std::vector<int32_t>(tail.end() - count, tail.end()),
              std::vector<int32_t>(whole.end() - count, whole.end()))
        << "seed " << seed;
  }
  EXPECT_GT(cut, 5);
}

}  // namespace
}  // namespace interlace
