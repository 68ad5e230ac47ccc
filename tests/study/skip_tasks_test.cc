// Tests with right answers: what files say, what is made, what counts as right, and what a tiny model answers.
#include "cli/skip_tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cli/skip_accuracy.h"
#include "cli/skip_profile.h"
#include "tests/status_matchers.h"
#include "tests/study/quiet_test.h"
#include "tests/worker/tiny_file.h"
#include "text/model_text.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

TEST(SkipTasksTest, FinalNumbers) {
  const std::pair<const char*, const char*> cases[] = {{"so he has 3 + 4 = 7 left.\n#### 18", "18"},
                                                       {"It is 12, no, 1,234.50.", "1234.5"},
                                                       {"$70,000", "70000"},
                                                       {"#### -5\nQuestion: 7", "-5"},
                                                       {"5 - 3 = 2.00", "2"},
                                                       {"a 3-4", "4"},
                                                       {"#### \nsix", ""},
                                                       {"no number", ""},
                                                       {"1.2.3", "3"}};
  for (const auto& [text, number] : cases) EXPECT_EQ(FinalNumber(text).value_or(""), number) << text;
}

TEST(SkipTasksTest, WhatIsSaidBehindTheAnswerDoesNotCount) {
  const SkipTestItem item{"", {}, 0, "18"};
  const auto kind = SkipTestKind::kSums;
  EXPECT_TRUE(IsRight(kind, item, " 9 * 2 = 18\n#### 18\n\nQuestion: What is 7?"));
  EXPECT_TRUE(IsRight(kind, item, " It is 18.0."));
  EXPECT_FALSE(IsRight(kind, item, " It is 17.\n\nQuestion: and 18?"));
  EXPECT_FALSE(IsRight(kind, item, " nobody knows"));
  EXPECT_TRUE(IsAnswered(kind, "9\n#### 18\n"));
  EXPECT_FALSE(IsAnswered(kind, "9\n#### 1"));
  EXPECT_TRUE(IsAnswered(kind, "so.\n\n"));
}

TEST(SkipTasksTest, ANeedleIsTheWholeNumber) {
  const SkipTestItem item{"", {}, 0, "48213"};
  const auto kind = SkipTestKind::kNeedles;
  EXPECT_TRUE(IsRight(kind, item, " 48213. The"));
  EXPECT_TRUE(IsRight(kind, item, "48213"));
  EXPECT_FALSE(IsRight(kind, item, " 482130"));
  EXPECT_FALSE(IsRight(kind, item, " it is 48213"));
  EXPECT_FALSE(IsAnswered(kind, " 48213"));
  EXPECT_TRUE(IsAnswered(kind, " 48213."));
}

std::string Sums(int count) {
  std::string content;
  for (int i = 0; i < count; ++i) {
    absl::StrAppend(&content, "{\"question\": \"What is ", i, "+1?\", \"answer\": \"It is <<", i, "+1=", i + 1, ">>",
                    i + 1, ".\\n#### ", i + 1, "\"}\n\n");
  }
  return content;
}

TEST(SkipTasksTest, SumsAreAskedBehindWorkedOnes) {
  const auto test = SumsOf("a.jsonl", Sums(8), 4, 2);
  ASSERT_OK(test);
  ASSERT_EQ(test->items.size(), 4u);
  ASSERT_EQ(test->calibration.size(), 2u);
  EXPECT_THAT(test->calibration[0], HasSubstr("What is 2+1?"));
  EXPECT_EQ(test->items[0].expected, "5");
  EXPECT_EQ(test->items[0].prompt,
            "Question: What is 0+1?\nAnswer: It is 1.\n#### 1\n\nQuestion: What is 1+1?\nAnswer: It is 2.\n#### 2\n\n"
            "Question: What is 4+1?\nAnswer:");
}

constexpr char kQuestion[] = R"({"question": "The sky is", "choices": ["blue", "loud"], "answer": 0})";

TEST(SkipTasksTest, ErrorsNameFileAndLine) {
  const auto refused = [](const absl::Status& status, const std::string& what) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a.jsonl:3 ")));
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(what)));
  };
  const std::string before = absl::StrCat(kQuestion, "\n\n");
  const std::pair<const char*, const char*> bad[] = {
      {"[1]", "JSON"},
      {"\xff", "JSON"},
      {R"({"choices": ["a", "b"], "answer": 0})", "question"},
      {R"({"question": "a", "choices": ["a"], "answer": 0})", "two choices"},
      {R"({"question": "a", "choices": "a", "answer": 0})", "two choices"},
      {R"({"question": "a", "choices": ["a", 5], "answer": 0})", "5"},
      {R"({"question": "a", "choices": ["a", "b"], "answer": 2})", "2"},
      {R"({"question": "a", "choices": ["a", "b"], "answer": -1})", "-1"},
      {R"({"question": "a", "choices": ["a", "b"], "answer": "b"})", "b"},
      {R"({"question": "a", "choices": ["a", "b"]})", "null"}};
  for (const auto& [line, what] : bad) refused(ChoicesOf("a.jsonl", before + line, 9).status(), what);
  const std::string sum = R"({"question": "2+2?", "answer": "#### 4"})";
  refused(SumsOf("a.jsonl", sum + "\n\n{\"question\": \"2+2?\"}", 4, 1).status(), "answer");
  refused(SumsOf("a.jsonl", sum + "\n\n{\"question\": \"2+2?\", \"answer\": \"four\"}", 4, 1).status(), "number");
  EXPECT_THAT(SumsOf("a.jsonl", Sums(6), 4, 1).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a.jsonl has 6 questions, and 7 are needed")));
  EXPECT_THAT(ChoicesOf("a.jsonl", kQuestion, 4).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a.jsonl has 1")));
}

TEST(SkipTasksTest, WhatIsTypedWrongIsNamed) {
  for (const char* bad :
       {"maths=a.jsonl", "gsm8k", "needle=a.txt", "choice:x=a.txt", "choice:0=a.txt", "choice:=a.txt"}) {
    EXPECT_THAT(ReadTest(bad, {}).status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(bad)));
  }
  EXPECT_THAT(ReadTest("gsm8k=/no/such/file", {}).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such/file")));
  const auto needles = ReadTest("needle:7", {});
  ASSERT_OK(needles);
  EXPECT_EQ(needles->items.size(), 7u);
}

// Paragraphs of which each ends in a word of its own.
std::string Paragraphs(int count) {
  std::string content;
  for (int i = 0; i < count; ++i) {
    for (int w = 0; w < 40; ++w) absl::StrAppend(&content, " w", w);
    absl::StrAppend(&content, " then came ending", std::string(1, static_cast<char>('a' + i % 26)),
                    std::string(1, static_cast<char>('a' + i / 26)), " . \n");
  }
  return content;
}

TEST(SkipTasksTest, ClozesComeFromTheSecondHalfAndHaveOneRightChoice) {
  const auto test = ClozesOf("a.txt", Paragraphs(60), 10, 3), again = ClozesOf("a.txt", Paragraphs(60), 10, 3);
  ASSERT_OK(test);
  ASSERT_OK(again);
  ASSERT_EQ(test->items.size(), 10u);
  EXPECT_EQ(test->chance, 0.25);
  std::set<int32_t> answers;
  for (size_t i = 0; i < test->items.size(); ++i) {
    const SkipTestItem& item = test->items[i];
    EXPECT_EQ(item.choices, again->items[i].choices);
    EXPECT_EQ(std::set<std::string>(item.choices.begin(), item.choices.end()).size(), 4u);
    EXPECT_TRUE(absl::EndsWith(item.prompt, "w39 then came")) << item.prompt;
    for (const std::string& choice : item.choices) {
      const int index = choice[6] - 'a' + 26 * (choice[7] - 'a');
      EXPECT_GE(index, 29) << "a word of the first half";
    }
    answers.insert(item.answer);
  }
  EXPECT_GT(answers.size(), 1u) << "the right choice always stands at the same place";
  EXPECT_THAT(ClozesOf("a.txt", Paragraphs(60), 100, 3).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a.txt has 29")));
}

TEST(SkipTasksTest, NeedlesAreToldOnceBeforeTheyAreAskedFor) {
  const SkipTestSet test = MakeNeedles(12, 60, 1);
  ASSERT_EQ(test.items.size(), 12u);
  std::set<size_t> places;
  for (const SkipTestItem& item : test.items) {
    const size_t at = item.prompt.find(item.expected);
    ASSERT_NE(at, std::string::npos);
    EXPECT_EQ(item.prompt.find(item.expected, at + 1), std::string::npos);
    EXPECT_TRUE(absl::EndsWith(item.prompt, " is"));
    EXPECT_GE(std::count(item.prompt.begin(), item.prompt.end(), ' '), 60);
    places.insert(at);
  }
  EXPECT_GT(places.size(), 4u) << "numbers always stand at the same place";
}

class SkipAccuracyTest : public QuietTest {
 protected:
  SkipAccuracyTest() : text_(*LoadModelText(file_.path())) {
    model_ = *SkipModel::Open(OneThreadConfig(file_.path(), 16), 512);
  }
  // The tokens that the whole model gives behind a prompt.
  std::string Said(const std::string& prompt, size_t count) {
    WayRunner runner(*model_);
    const std::vector<int32_t> tokens = text_.tokenizer->EncodePrompt(prompt);
    runner.Prepare(absl::MakeConstSpan(tokens).first(tokens.size() - 1));
    const auto said = runner.Decode(
        static_cast<int32_t>(tokens.size()) - 1, tokens.back(), {.method = "whole"},
        [&](absl::Span<const int32_t> out) { return out.size() == count; }, nullptr);
    EXPECT_OK(said.status());
    return text_.tokenizer->Decode(*said);
  }
  SkipQuality Measure(SkipTestSet set) {
    const auto test = TokenTestOf(std::move(set), *text_.tokenizer, 64, 512);
    EXPECT_OK(test.status());
    const std::vector<SkipText> texts = {{"chat", text_.tokenizer->EncodePrompt("One day a fox went out to see.")}};
    const StudyProgress quiet = [](const std::string&, int32_t, int32_t) {};
    auto result = ProfileTexts(*model_, texts, {.rows = 4}, quiet);
    EXPECT_OK(result.status());
    SkipAccuracyOptions options;
    options.ways = {.shares = {0.001}, .truncations = {0.4}, .looks = {0.5}, .leads = {1}};
    options.own = true;
    options.rows = 4;
    EXPECT_OK(MeasureAccuracy(*model_, *text_.tokenizer, texts, *test, options, quiet, &*result));
    return result->quality;
  }

  TinyFile file_{{.layers = 5}};
  ModelText text_;
  std::unique_ptr<SkipModel> model_;
};

TEST_F(SkipAccuracyTest, EveryWayThatIsTheWholeModelAnswersAsItDoes) {
  // What the model itself goes on with is right by making, anything else is wrong by making.
  SkipTestSet set{.kind = SkipTestKind::kNeedles, .name = "needle", .outputs = 4};
  set.calibration = {"A text that plans are made from, long enough."};
  for (int i = 0; i < 6; ++i) {
    SkipTestItem item{absl::StrCat("The number ", i, " is told here and is"), {}, 0, ""};
    item.expected = i % 2 == 0 ? Said(item.prompt, 1) : "never said";
    item.expected.erase(0, item.expected.find_first_not_of(' '));
    ASSERT_FALSE(item.expected.empty());
    set.items.push_back(std::move(item));
  }
  const SkipQuality quality = Measure(set);
  ASSERT_EQ(quality.test_samples.size(), 1 + 5 + 1 + 1u);
  for (const TestSample& sample : quality.test_samples) {
    ASSERT_EQ(sample.right.size(), 6u);
    if (sample.method == "truncation") continue;
    for (int i = 0; i < 6; ++i) EXPECT_EQ(sample.right[i], i % 2 == 0) << sample.method << ", item " << i;
  }
  EXPECT_EQ(quality.test_samples[0].method, "whole");
  EXPECT_EQ(WholeTest(quality, "needle")->right, 3);
}

TEST_F(SkipAccuracyTest, TheLikeliestChoiceIsWhatTheModelGoesOnWith) {
  SkipTestSet set{.kind = SkipTestKind::kChoices, .name = "choice"};
  set.calibration = {"A text that plans are made from, long enough."};
  // Sums of log probabilities by hand: one run of prompt and choice each.
  std::vector<bool> expected;
  for (int i = 0; i < 6; ++i) {
    set.items.push_back(
        {absl::StrCat("It was day ", i, " and"), {"the fox of it", "the fox of an", "the fox was"}, i % 3, ""});
    const SkipTestItem& item = set.items.back();
    double most = -1e300;
    int32_t best = -1;
    for (int32_t c = 0; c < 3; ++c) {
      const std::vector<int32_t> prompt = text_.tokenizer->EncodePrompt(item.prompt);
      const std::vector<int32_t> all = text_.tokenizer->EncodePrompt(item.prompt + " " + item.choices[c]);
      ASSERT_TRUE(std::equal(prompt.begin(), prompt.end(), all.begin()));
      model_->Run(0, all, SkipPlan());
      double likely = 0;
      for (size_t t = prompt.size(); t < all.size(); ++t) {
        const auto row = static_cast<int32_t>(t) - 1;
        const auto logits = model_->Logits({&row, 1});
        ASSERT_OK(logits);
        double sum = 0;
        for (const float logit : *logits) sum += std::exp(static_cast<double>(logit));
        likely += (*logits)[all[t]] - std::log(sum);
      }
      if (likely > most) best = c;
      most = std::max(most, likely);
    }
    expected.push_back(best == item.answer);
  }
  const SkipQuality quality = Measure(set);
  for (const TestSample& sample : quality.test_samples) {
    if (sample.method == "truncation") continue;
    EXPECT_EQ(sample.right, expected) << sample.method;
  }
  EXPECT_THAT(std::set<bool>(expected.begin(), expected.end()).size(), 2u) << "the case is too easy, or too hard";
}

TEST_F(SkipAccuracyTest, WhatDoesNotFitIsRefused) {
  SkipTestSet set{.kind = SkipTestKind::kChoices, .name = "choice"};
  set.items = {{std::string(300, 'x'), {"a", "b"}, 0, ""}};
  EXPECT_THAT(TokenTestOf(set, *text_.tokenizer, 64, 128).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("context 128")));
  set.items = {{"It is", {std::string(400, 'x'), "b"}, 0, ""}};
  EXPECT_THAT(TokenTestOf(set, *text_.tokenizer, 64, 1024).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a choice has")));
}

}  // namespace
}  // namespace interlace
