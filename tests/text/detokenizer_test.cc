#include <gtest/gtest.h>

#include <random>

#include "tests/text/small_tokenizer.h"
#include "text/tokenizer.h"

namespace interlace {
namespace {

constexpr const char* kReplacement = "\xef\xbf\xbd";

std::string Whole(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  Detokenizer detokenizer(tokenizer);
  std::string text;
  for (int32_t id : ids) text += detokenizer.Push(id);
  return text + detokenizer.Flush();
}

// Ids of single bytes: every split of a text into tokens is a grouping of these.
std::vector<int32_t> ByteIds(const std::string& text) {
  std::vector<int32_t> ids;
  for (char byte : text) ids.push_back(static_cast<unsigned char>(byte));
  return ids;
}

TEST(DetokenizerTest, HoldsACodePointUntilItIsWhole) {
  const SmallTokenizer small;
  Detokenizer detokenizer(*small.tokenizer);
  EXPECT_EQ(detokenizer.Push('h'), "h");
  EXPECT_EQ(detokenizer.Push(0xf0), "");
  EXPECT_EQ(detokenizer.Push(0x9f), "");
  EXPECT_EQ(detokenizer.Push(0x98), "");
  EXPECT_EQ(detokenizer.Push(0x80), "😀");
  EXPECT_EQ(detokenizer.Flush(), "");
  EXPECT_EQ(detokenizer.Push(0xe4), "");
  EXPECT_EQ(detokenizer.Flush(), kReplacement);
  EXPECT_EQ(detokenizer.Push('x'), "x");
}

TEST(DetokenizerTest, BrokenBytesComeOutOnceEach) {
  const SmallTokenizer small;
  const std::string r = kReplacement;
  EXPECT_EQ(Whole(*small.tokenizer, ByteIds("a\xff"
                                            "b")),
            "a" + r + "b");
  EXPECT_EQ(Whole(*small.tokenizer, ByteIds("\xe4\xb8"
                                            "b")),
            r + "b");                                                      // the longest possible start is one part
  EXPECT_EQ(Whole(*small.tokenizer, ByteIds("\xed\xa0\x80")), r + r + r);  // a surrogate
  EXPECT_EQ(Whole(*small.tokenizer, ByteIds("\xc0\xaf\xf4\x90\x80\x80")), r + r + r + r + r + r);
  EXPECT_EQ(Whole(*small.tokenizer, ByteIds("\xf0\x9f\x98\xe4\xb8\xad")), r + "中");
}

TEST(DetokenizerTest, ControlTokensAreSilent) {
  const SmallTokenizer small;
  Detokenizer detokenizer(*small.tokenizer);
  EXPECT_EQ(detokenizer.Push(0xe4), "");
  EXPECT_EQ(detokenizer.Push(*small.tokenizer->Find("<|im_end|>")), "");
  EXPECT_EQ(detokenizer.Push(0xb8), "");
  EXPECT_EQ(detokenizer.Push(0xad), "中");
}

// Any tokens at all: what comes out is UTF-8, and equals the whole text wherever that is UTF-8.
TEST(DetokenizerTest, StreamsEqualTheWhole) {
  const SmallTokenizer small;
  std::mt19937 random(5);
  const char* characters[] = {"a", "é", "ß", "中", "文", "😀", "\U0010ffff", "\n", "\u0301", "\ud7ff", "\u0080"};
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int i = random() % 12; i >= 0; --i) text += characters[random() % std::size(characters)];
    for (const std::vector<int32_t>& ids : {ByteIds(text), small.tokenizer->Encode(text, false)}) {
      ASSERT_EQ(Whole(*small.tokenizer, ids), text);
      Detokenizer detokenizer(*small.tokenizer);
      std::string streamed;
      for (size_t i = 0; i < ids.size(); ++i) {
        streamed += detokenizer.Push(ids[i]);
        const std::string so_far = small.tokenizer->Decode(absl::MakeSpan(ids).first(i + 1));
        ASSERT_EQ(so_far.substr(0, streamed.size()), streamed);
        ASSERT_LE(so_far.size() - streamed.size(), 3u);  // never more held than the start of one code point
      }
    }
  }
}

}  // namespace
}  // namespace interlace
