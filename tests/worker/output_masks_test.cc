// Masks of rows out of output tokens alone.
#include "worker/output_masks.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/kernels/random_tensor.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kVocab = 100;  // 95 characters, an end token, and rows that no piece belongs to
constexpr int32_t kEnd = 95;

absl::StatusOr<Vocabulary> Letters() {
  Vocabulary vocabulary;
  for (char c = ' '; c <= '~'; ++c) vocabulary.pieces.emplace_back(1, c);
  vocabulary.end_tokens = {kEnd};
  vocabulary.pieces.emplace_back();
  return vocabulary;
}

std::vector<int32_t> Tokens(absl::string_view text) {
  std::vector<int32_t> tokens;
  for (char c : text) tokens.push_back(c - ' ');
  return tokens;
}

Sampling Under(ConstraintKind kind, const std::string& text) {
  Sampling sampling;
  sampling.constraint = Constraint{kind, text, false, {kEnd}};
  return sampling;
}

struct MasksTest : testing::Test {
  // The tokens that row 0 of the only sequence may have, as text; $ for the end token, ? for any.
  std::string Allowed(const Sampling& sampling, const std::string& output, uint32_t attempt = 1, uint64_t request = 1) {
    const std::vector<int32_t> tokens = Tokens(output);
    masks.Begin({{0, 0, RequestId{request}, attempt, &sampling, tokens}});
    masks.Await();
    return Text(masks.Find(0, 0));
  }
  static std::string Text(const RowMask* mask) {
    if (!mask->status.ok()) return std::string(mask->status.message());
    if (mask->bits.empty()) return "?";
    std::string text;
    for (int32_t t = 0; t < kVocab; ++t) {
      if ((mask->bits[t / 32] >> (t % 32) & 1) == 0) continue;
      text += t == kEnd ? '$' : t < kEnd ? static_cast<char>(t + ' ') : '#';
    }
    return text;
  }
  RealClock clock;
  OutputMasks masks{&Letters, kVocab, clock};
};

TEST_F(MasksTest, AreWhatTheGrammarAllows) {
  const Sampling sampling = Under(ConstraintKind::kRegex, "ab?[cd]");
  EXPECT_EQ(Allowed(sampling, ""), "a");
  EXPECT_EQ(Allowed(sampling, "a"), "bcd");
  EXPECT_EQ(Allowed(sampling, "ab"), "cd");
  EXPECT_EQ(Allowed(sampling, "abd"), "$");
  EXPECT_THAT(Allowed(sampling, "x"), HasSubstr("not what it allows"));
  EXPECT_EQ(masks.Find(0, 1), nullptr);
  EXPECT_EQ(masks.Find(1, 0), nullptr);
}

TEST_F(MasksTest, WhatStandsBehindTheEndIsFree) {
  const Sampling sampling = Under(ConstraintKind::kRegex, "a");
  std::vector<int32_t> tokens = {Tokens("a")[0], kEnd};
  for (int more = 0; more < 3; ++more) {
    masks.Begin({{0, 0, RequestId{1}, 1, &sampling, tokens}});
    masks.Await();
    EXPECT_EQ(Text(masks.Find(0, 0)), "?");
    tokens.push_back(more);
  }
}

TEST_F(MasksTest, RowsBehindAGuessThatIsNotTakenAreFree) {
  const Sampling sampling = Under(ConstraintKind::kRegex, "abc|axy");
  const std::vector<int32_t> tokens = Tokens("aby");
  std::vector<MaskAsk> asks;
  for (int32_t d = 0; d <= 2; ++d) {
    asks.push_back({3, d, RequestId{1}, 1, &sampling, absl::MakeConstSpan(tokens).first(1 + d)});
  }
  masks.Begin(asks);
  masks.Await();
  EXPECT_EQ(Text(masks.Find(3, 0)), "bx");
  EXPECT_EQ(Text(masks.Find(3, 1)), "c");
  EXPECT_EQ(Text(masks.Find(3, 2)), "?");
  EXPECT_EQ(Allowed(sampling, "ax"), "y");  // the guesses were wrong
}

TEST_F(MasksTest, AllowedTokensAndConstraintsMeet) {
  Sampling sampling = Under(ConstraintKind::kRegex, "[a-f]*");
  sampling.allowed_tokens = Tokens("bdz");
  EXPECT_EQ(Allowed(sampling, ""), "bd$");
  sampling.constraint = SharedConstraint();
  EXPECT_EQ(Allowed(sampling, "whatever"), "bdz");
}

TEST_F(MasksTest, TheEndComesBeforeMinTokensIfNothingElseMay) {
  Sampling sampling = Under(ConstraintKind::kRegex, "ab*");
  sampling.min_tokens = 5;
  sampling.end_tokens = {kEnd};
  Allowed(sampling, "a");
  EXPECT_FALSE(masks.Find(0, 0)->must_end);
  sampling.constraint = Constraint{ConstraintKind::kRegex, "ab", false, {kEnd}};
  Allowed(sampling, "ab", 1, 2);
  EXPECT_TRUE(masks.Find(0, 0)->must_end);
}

TEST_F(MasksTest, AConstraintThatCannotBeCompiledIsARowsOwnFault) {
  const Sampling broken = Under(ConstraintKind::kRegex, "(a"), good = Under(ConstraintKind::kRegex, "b");
  masks.Begin({{0, 0, RequestId{1}, 1, &broken, {}}, {1, 0, RequestId{2}, 1, &good, {}}});
  masks.Await();
  EXPECT_FALSE(masks.Find(0, 0)->status.ok());
  EXPECT_EQ(Text(masks.Find(1, 0)), "b");
}

TEST_F(MasksTest, ARankWithoutAVocabularySaysSo) {
  OutputMasks none(nullptr, kVocab, clock);
  const Sampling sampling = Under(ConstraintKind::kRegex, "a");
  none.Begin({{0, 0, RequestId{1}, 1, &sampling, {}}});
  none.Await();
  EXPECT_THAT(none.Find(0, 0)->status, StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("vocabulary")));
}

// Steps of many requests, with drafts, attempts that begin anew, outputs that are taken back, and requests that end:
// what a row may have depends on its output alone.
TEST_F(MasksTest, HistoriesChangeNoMask) {
  const Sampling kinds[] = {Under(ConstraintKind::kEbnf, "root ::= \"(\" root \")\" | [a-c]+ | [a-c] \",\" root"),
                            Under(ConstraintKind::kRegex, "(ab|a[cd]+e){1,20}"),
                            Under(ConstraintKind::kJsonSchema, R"({"type":"array","items":{"type":"integer"}})")};
  for (uint64_t seed = 0; seed < 30; ++seed) {
    Random random(seed);
    OutputMasks fresh(&Letters, kVocab, clock);
    struct Stream {
      std::vector<int32_t> output;
      uint32_t attempt = 1;
    };
    std::vector<Stream> streams(3);
    for (int step = 0; step < 25; ++step) {
      std::vector<MaskAsk> asks;
      for (size_t i = 0; i < streams.size(); ++i) {
        Stream& stream = streams[i];
        if (random.Below(6) == 0) stream.output.resize(random.Below(static_cast<int64_t>(stream.output.size()) + 1));
        if (random.Below(8) == 0) ++stream.attempt;
        if (random.Below(10) == 0) masks.Release(RequestId{seed * 10 + i});
        asks.push_back({i, 0, RequestId{seed * 10 + i}, stream.attempt, &kinds[i], stream.output});
      }
      masks.Begin(asks);
      fresh.Reset();
      fresh.Begin(asks);
      masks.Await();
      fresh.Await();
      for (size_t i = 0; i < streams.size(); ++i) {
        const RowMask* mask = masks.Find(i, 0);
        ASSERT_OK(mask->status);
        ASSERT_EQ(mask->bits, fresh.Find(i, 0)->bits) << "seed " << seed << " step " << step;
        if (mask->bits.empty()) {
          streams[i].output.pop_back();
          continue;
        }
        std::vector<int32_t> allowed;
        for (int32_t t = 0; t < kVocab; ++t) {
          if ((mask->bits[t / 32] >> (t % 32) & 1) != 0) allowed.push_back(t);
        }
        ASSERT_FALSE(allowed.empty());
        streams[i].output.push_back(allowed[random.Below(static_cast<int64_t>(allowed.size()))]);
      }
    }
  }
  masks.Reset();
  EXPECT_EQ(masks.followed(), 0u);
}

}  // namespace
}  // namespace interlace
