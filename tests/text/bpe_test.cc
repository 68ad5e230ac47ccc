#include "text/bpe.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace interlace {
namespace {

// A random vocabulary over the letters a to e, and the rule that Bpe speeds up: merge the leftmost pair of the lowest
// rank until none is left.
struct Toy {
  Bpe bpe;
  std::map<std::string, int32_t> ids;
  std::map<std::pair<std::string, std::string>, int> ranks;

  explicit Toy(std::mt19937& random, bool whole_pieces_first = false) {
    std::vector<std::string> tokens;
    const auto add = [&](const std::string& token) {
      if (!ids.emplace(token, static_cast<int32_t>(ids.size())).second) return;
      bpe.AddToken(token, ids[token]);
      tokens.push_back(token);
    };
    for (char letter = 'a'; letter <= 'e'; ++letter) add(std::string(1, letter));
    bpe.set_whole_pieces_first(whole_pieces_first);
    for (int rank = 0; rank < 40; ++rank) {
      const std::string left = tokens[random() % tokens.size()], right = tokens[random() % tokens.size()];
      if (ranks.count({left, right}) > 0) continue;
      add(left + right);
      ranks[{left, right}] = rank;
      EXPECT_TRUE(bpe.AddMerge(left, right, rank));
    }
  }

  std::vector<int32_t> Naive(const std::string& piece) const {
    std::vector<std::string> parts;
    for (char letter : piece) parts.emplace_back(1, letter);
    while (true) {
      int best = -1, best_rank = 0;
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto it = ranks.find({parts[i], parts[i + 1]});
        if (it == ranks.end() || (best >= 0 && it->second >= best_rank)) continue;
        best = static_cast<int>(i);
        best_rank = it->second;
      }
      if (best < 0) break;
      parts[best] += parts[best + 1];
      parts.erase(parts.begin() + best + 1);
    }
    std::vector<int32_t> out;
    for (const std::string& part : parts) out.push_back(ids.at(part));
    return out;
  }
};

TEST(BpeTest, MergesAsTheRuleSays) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const Toy toy(random);
    for (int i = 0; i < 20; ++i) {
      std::string piece(1 + random() % 40, ' ');
      for (char& letter : piece) letter = static_cast<char>('a' + random() % 5);
      std::vector<int32_t> ids;
      toy.bpe.Encode(piece, &ids);
      ASSERT_EQ(ids, toy.Naive(piece)) << piece;
    }
  }
}

TEST(BpeTest, WholePiecesComeFirstWhereAsked) {
  Bpe bpe;
  bpe.AddToken("a", 0);
  bpe.AddToken("b", 1);
  bpe.AddToken("ab", 2);  // no merge makes it
  std::vector<int32_t> ids;
  bpe.Encode("ab", &ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 1}));
  bpe.set_whole_pieces_first(true);
  ids.clear();
  bpe.Encode("ab", &ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{2}));
}

TEST(BpeTest, RefusesMergesOfUnknownTokens) {
  Bpe bpe;
  bpe.AddToken("a", 0);
  bpe.AddToken("b", 1);
  EXPECT_FALSE(bpe.AddMerge("a", "c", 0));
  EXPECT_FALSE(bpe.AddMerge("c", "a", 0));
  EXPECT_FALSE(bpe.AddMerge("a", "b", 0));  // "ab" is no token
}

TEST(BpeTest, LeavesOutBytesThatTheVocabularyCannotSay) {
  Bpe bpe;
  bpe.AddToken("a", 0);
  bpe.AddToken("aa", 1);
  ASSERT_TRUE(bpe.AddMerge("a", "a", 0));
  std::vector<int32_t> ids;
  bpe.Encode("a?a??a?", &ids);  // the neighbours close up, as in transformers
  EXPECT_EQ(ids, (std::vector<int32_t>{1, 0}));
  bpe.Encode("??", &ids);
  bpe.Encode("", &ids);
  EXPECT_EQ(ids.size(), 2u);
}

TEST(BpeTest, LongPiecesTakeNoQuadraticTime) {
  Bpe bpe;
  std::string run = "a";
  bpe.AddToken(run, 0);
  for (int32_t rank = 0; rank < 5; ++rank) {
    bpe.AddToken(run + run, rank + 1);
    ASSERT_TRUE(bpe.AddMerge(run, run, rank));
    run += run;
  }
  std::vector<int32_t> ids;
  bpe.Encode(std::string(1 << 20, 'a'), &ids);  // some 10^12 steps if it were quadratic: the test would time out
  EXPECT_EQ(ids, std::vector<int32_t>((1 << 20) / 32, 5));
}

}  // namespace
}  // namespace interlace
