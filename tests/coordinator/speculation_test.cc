// Whether, by what and how deep streams guess: the decision is the best of all that can be made, begins with a gain and
// ends without one.
#include "coordinator/speculation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "common/entropy.h"

namespace interlace {
namespace {

constexpr absl::Duration kStep = absl::Milliseconds(5), kRow = absl::Microseconds(100);

CostModel LearnedModel() {
  CostModel cost;
  for (int i = 0; i < 400; ++i) {
    const int32_t rows = 1 + i % 12;
    cost.Observe(StepWork().Add(500, rows), kStep + rows * kRow);
  }
  return cost;
}

DraftView ViewOf(const CostModel& cost, absl::Span<const DraftStream> streams) {
  DraftView view{.cost = &cost, .streams = streams};
  return view;
}

TEST(SpeculationTest, TokensOfAStepAreTheMeanOfTheChain) {
  const auto entropy = MakeSeededEntropy(3);
  for (const double rate : {0.0, 0.3, 0.8, 1.0}) {
    for (const int32_t depth : {0, 1, 4}) {
      double sum = 0;
      constexpr int kDraws = 200000;
      for (int i = 0; i < kDraws; ++i) {
        int32_t tokens = 1;
        while (tokens <= depth && static_cast<double>(entropy->Next() >> 11) * 0x1p-53 < rate) ++tokens;
        sum += tokens;
      }
      EXPECT_NEAR(TokensOfStep(rate, depth), sum / kDraws, 0.02) << rate << " " << depth;
    }
  }
}

TEST(SpeculationTest, GuessesThatAreRightAreMadeAndOthersAreNot) {
  const CostModel cost = LearnedModel();
  const DraftStream sure{.position = 500, .most = 6, .ngram = {0.95}},
      wild{.position = 500, .most = 6, .ngram = {0.02}};
  const DraftDecision right = DecideDrafts(ViewOf(cost, {&sure, 1}));
  EXPECT_TRUE(right.drafts);
  EXPECT_EQ(right.choices[0], (DraftChoice{Drafter::kNgram, 6}));
  EXPECT_GT(right.gain, 3);
  const DraftDecision wrong = DecideDrafts(ViewOf(cost, {&wild, 1}));
  EXPECT_FALSE(wrong.drafts);
  EXPECT_EQ(wrong.choices[0], DraftChoice());
}

TEST(SpeculationTest, NothingIsPromisedByAModelThatKnowsNothing) {
  const CostModel cost;
  const DraftStream sure{.position = 5, .most = 6, .ngram = {1.0}};
  EXPECT_FALSE(DecideDrafts(ViewOf(cost, {&sure, 1})).drafts);
  EXPECT_FALSE(DecideDrafts(ViewOf(LearnedModel(), {})).drafts);
}

// A pass that takes as long as a step gains nothing while the device computes, and costs nothing while it waits for
// the link.
TEST(SpeculationTest, PassesAreFreeWhileTheLinkWorks) {
  const CostModel cost = LearnedModel();
  const DraftStream stream{.position = 500, .most = 8, .self = {0.5, 1}};
  DraftView view = ViewOf(cost, {&stream, 1});
  EXPECT_FALSE(DecideDrafts(view).drafts);
  view.transfer = absl::Milliseconds(25);
  const DraftDecision free = DecideDrafts(view);
  EXPECT_TRUE(free.drafts);
  EXPECT_EQ(free.choices[0].drafter, Drafter::kSelf);
  EXPECT_GE(free.choices[0].depth, 3);
  EXPECT_NEAR(free.gain, TokensOfStep(0.5, free.choices[0].depth), 0.3);
}

TEST(SpeculationTest, PassesThatAreHardlyEverRightAreNotMadeThoughTheLinkHidesThem) {
  const CostModel cost = LearnedModel();
  const DraftStream stream{.position = 500, .most = 8, .self = {0.1, 0.3}};
  DraftView view = ViewOf(cost, {&stream, 1});
  view.transfer = absl::Milliseconds(40);
  view.drafting = true;
  EXPECT_FALSE(DecideDrafts(view).drafts);
}

TEST(SpeculationTest, ADrafterThatPromisesMoreIsTaken) {
  const CostModel cost = LearnedModel();
  const DraftStream both{.position = 500, .most = 4, .ngram = {0.6}, .self = {0.9, 0.05}};
  EXPECT_EQ(DecideDrafts(ViewOf(cost, {&both, 1})).choices[0].drafter, Drafter::kSelf);
}

// Of two that a rank makes the one whose guesses are worth more than they take.
TEST(SpeculationTest, ADraftModelIsTakenWhereItPays) {
  const CostModel cost = LearnedModel();
  DraftStream stream{.position = 500, .most = 4, .left = 200, .self = {0.5, 0.3}, .model = {0.8, 0.1}};
  EXPECT_EQ(DecideDrafts(ViewOf(cost, {&stream, 1})).choices[0].drafter, Drafter::kModel);
  stream.model.pass = 1.5;
  EXPECT_NE(DecideDrafts(ViewOf(cost, {&stream, 1})).choices[0].drafter, Drafter::kModel);
}

// What it must read first is spread over what the stream may yet say: a short answer is not worth it.
TEST(SpeculationTest, WhatIsReadFirstIsWorthItForLongAnswersAlone) {
  const CostModel cost = LearnedModel();
  DraftStream stream{.position = 500, .most = 4, .left = 400, .model = {0.8, 0.1, absl::Milliseconds(400)}};
  EXPECT_TRUE(DecideDrafts(ViewOf(cost, {&stream, 1})).drafts);
  stream.left = 20;
  EXPECT_FALSE(DecideDrafts(ViewOf(cost, {&stream, 1})).drafts);
  stream.model.first = absl::ZeroDuration();
  EXPECT_TRUE(DecideDrafts(ViewOf(cost, {&stream, 1})).drafts);
}

// What steps really take counts: slow ones with guesses end them. Between the two bounds it stays as it is.
TEST(SpeculationTest, SlowStepsWithGuessesEndThem) {
  const CostModel cost = LearnedModel();
  const DraftStream stream{.position = 500, .most = 1, .ngram = {0.5}};
  DraftView view = ViewOf(cost, {&stream, 1});
  const double gain = DecideDrafts(view).gain;
  ASSERT_GT(gain, 1.2);
  view.draft_pace = gain / 1.03;  // leaves 1.03
  EXPECT_FALSE(DecideDrafts(view).drafts);
  view.drafting = true;
  EXPECT_TRUE(DecideDrafts(view).drafts);
  view.draft_pace = gain;
  EXPECT_FALSE(DecideDrafts(view).drafts);
}

// Over random views: what is chosen is allowed, promises a gain, and is as deep as is best for a stream alone.
TEST(SpeculationTest, RandomViews) {
  const CostModel cost = LearnedModel();
  const auto entropy = MakeSeededEntropy(11);
  const auto share = [&] { return static_cast<double>(entropy->Next() % 1001) / 1000; };
  int drafts = 0;
  for (int i = 0; i < 3000; ++i) {
    std::vector<DraftStream> streams(1 + entropy->Next() % 8);
    for (DraftStream& s : streams) {
      s.position = static_cast<int32_t>(entropy->Next() % 2000);
      s.most = static_cast<int32_t>(entropy->Next() % 9);
      s.left = 1 + static_cast<int32_t>(entropy->Next() % 500);
      if (entropy->Next() % 2 == 0) s.ngram.rate = share();
      for (DraftOffer* of_rank : {&s.self, &s.model}) {
        if (entropy->Next() % 2 == 0) of_rank->rate = share();
        of_rank->pass = 2 * share();
      }
      if (entropy->Next() % 2 == 0) s.model.first = absl::Milliseconds(static_cast<int64_t>(entropy->Next() % 2000));
    }
    DraftView view = ViewOf(cost, streams);
    view.transfer = absl::Milliseconds(static_cast<int64_t>(entropy->Next() % 40));
    view.draft_pace = 0.9 + share() / 2;
    view.drafting = entropy->Next() % 2 == 0;
    const DraftDecision decision = DecideDrafts(view);
    ASSERT_EQ(decision.choices.size(), streams.size());
    ASSERT_EQ(decision, DecideDrafts(view));
    drafts += decision.drafts ? 1 : 0;
    for (size_t s = 0; s < streams.size(); ++s) {
      const DraftChoice& choice = decision.choices[s];
      ASSERT_LE(choice.depth, streams[s].most);
      ASSERT_EQ(choice.depth > 0, choice.drafter != Drafter::kNone);
      ASSERT_TRUE(decision.drafts || choice == DraftChoice());
      ASSERT_TRUE(choice.drafter != Drafter::kNgram || streams[s].ngram.rate);
      ASSERT_TRUE(choice.drafter != Drafter::kSelf || streams[s].self.rate >= kLeastRate);
      ASSERT_TRUE(choice.drafter != Drafter::kModel || streams[s].model.rate >= kLeastRate);
    }
    ASSERT_EQ(decision.drafts, decision.gain >= (view.drafting ? kDraftsEnd : kDraftsBegin));
  }
  EXPECT_GT(drafts, 500);
  EXPECT_LT(drafts, 2800);
}

TEST(SpeculationTest, ARateFollowsWhatWasRightAndForgets) {
  DraftRate untried(0.8);
  for (int i = 0; i < 5; ++i) untried.NoteChain(4, 0);
  EXPECT_LT(untried.value(), 0.35) << "what begins as a hope is given up soon";
  DraftRate rate(0);
  for (int i = 0; i < 200; ++i) rate.NoteChain(4, i % 2 == 0 ? 4 : 0);  // 4 right ones for each wrong one
  EXPECT_NEAR(rate.value(), 0.8, 0.1);
  for (int i = 0; i < 100; ++i) rate.NoteChain(4, 0);
  EXPECT_LT(rate.value(), 0.01);
  for (int i = 0; i < 50000; ++i) rate.Forget(0.8);
  EXPECT_NEAR(rate.value(), 0.8, 0.01);
}

}  // namespace
}  // namespace interlace
