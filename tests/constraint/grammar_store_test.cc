#include "constraint/grammar_store.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

Vocabulary Letters() {
  Vocabulary vocabulary;
  for (char c = ' '; c <= '~'; ++c) vocabulary.pieces.emplace_back(1, c);
  vocabulary.end_tokens = {static_cast<int32_t>(vocabulary.pieces.size())};
  vocabulary.pieces.emplace_back();
  return vocabulary;
}

SharedConstraint Regex(const std::string& text) { return Constraint{ConstraintKind::kRegex, text, false, {95}}; }

TEST(GrammarStoreTest, CompilesOnceWhatIsAskedForOften) {
  RealClock clock;
  std::atomic<int> made = 0;
  GrammarStore store([&] { return ++made, Letters(); }, clock);
  const auto first = store.Begin(Regex("a+"));
  EXPECT_EQ(store.Begin(Regex("a+")), first);
  EXPECT_NE(store.Begin(Regex("b+")), first);
  EXPECT_NE(store.Begin(Constraint{ConstraintKind::kEbnf, "a+", false, {95}}), first);
  EXPECT_OK(first->Await(absl::Seconds(60)));
  EXPECT_THAT(store.Begin(Regex("(a"))->Await(absl::Seconds(60)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("")));
  EXPECT_EQ(made, 1);
}

TEST(GrammarStoreTest, WhatWasAskedForLastStays) {
  RealClock clock;
  GrammarStore store(&Letters, clock);
  const auto often = store.Begin(Regex("often"));
  const auto once = store.Begin(Regex("once"));
  for (int i = 0; i < 400; ++i) {
    ASSERT_OK(store.Begin(Regex(absl::StrCat("x{", i + 1, "}")))->Await(absl::Seconds(60)));
    ASSERT_EQ(store.Begin(Regex("often")), often);
  }
  EXPECT_NE(store.Begin(Regex("once")), once);
}

TEST(GrammarStoreTest, AVocabularyThatCannotBeReadIsToldToEveryone) {
  RealClock clock;
  GrammarStore store([]() -> absl::StatusOr<Vocabulary> { return absl::NotFoundError("no tokenizer"); }, clock);
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(store.Begin(Regex(absl::StrCat("a", i)))->Await(absl::Seconds(60)),
                StatusIs(absl::StatusCode::kNotFound, HasSubstr("no tokenizer")));
  }
}

TEST(GrammarStoreTest, WhoCannotWaitIsTold) {
  RealClock clock;
  absl::Notification go;
  GrammarStore store([&] { return go.WaitForNotification(), Letters(); }, clock);
  const auto pending = store.Begin(Regex("a"));
  EXPECT_THAT(pending->Await(absl::ZeroDuration()), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("longer")));
  go.Notify();
  EXPECT_OK(pending->Await(absl::Seconds(60)));
}

}  // namespace
}  // namespace interlace
