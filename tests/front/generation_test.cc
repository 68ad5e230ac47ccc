#include "coordinator/front/generation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "coordinator/front/api_error.h"
#include "tests/front/text_model.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

struct Rig : IntakeRig {
  InlineExecutor executor;
  absl::StatusOr<GenerationRun> Start(const GenerationSpec& spec) {
    return intake.Start(spec, executor, [] {});
  }
};

GenerationSpec Ids(size_t count) {
  GenerationSpec spec;
  spec.prompts.emplace_back(std::vector<int32_t>(count, 5));
  return spec;
}

TEST(IntakeTest, UnsetFieldsTakeOpenAisDefaults) {
  Rig rig;
  const absl::StatusOr<GenerationRun> run = rig.Start(Ids(10));
  ASSERT_OK(run);
  const Request request = rig.engine.Await(0);
  EXPECT_EQ(request.sampling.temperature, 1);
  EXPECT_EQ(request.sampling.top_p, 1);
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_EQ(request.sampling, (Sampling{1, 0, 1, request.sampling.seed}));
  EXPECT_EQ(request.max_tokens, kTestContext - 10);
  EXPECT_FALSE(request.max_tokens_given);
  EXPECT_EQ(request.stop_tokens, TestText().tokenizer->stop_tokens());
  EXPECT_EQ(request.deadline - request.arrival, absl::Seconds(600));
  EXPECT_EQ(request.targets, Targets());
  EXPECT_EQ(request.name, run->name());
  EXPECT_EQ(request.name.size(), 32u);
}

// A vocabulary that marks what lies before a middle, behind it, and where it goes.
TEST(IntakeTest, ASuffixIsFilledInBetween) {
  std::ifstream file("tests/golden/tokenizer/tiny/qwen2.json");
  nlohmann::json json = nlohmann::json::parse(file);
  const char* const marks[] = {"<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"};
  for (int i = 0; i < 4; ++i) {
    json["added_tokens"].push_back({{"id", 707 + i},
                                    {"content", marks[i]},
                                    {"special", true},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false}});
  }
  const auto tokenizer = Tokenizer::Load(TokenizerFiles{"fim", json.dump(), "", "", ""});
  ASSERT_OK(tokenizer);
  FakeEngine engine;
  RealClock clock;
  Intake intake({.model = "fim", .context = 200, .layers = 1}, **tokenizer, nullptr, engine, clock,
                MakeSeededEntropy(1));
  InlineExecutor executor;
  GenerationSpec spec;
  spec.prompts = {std::string("def f(a):"), std::vector<int32_t>{5, 6}, std::string("")};
  spec.suffix = "return b";
  ASSERT_OK(intake.Start(spec, executor, [] {}));
  const std::vector<int32_t> before = (*tokenizer)->Encode("def f(a):", true),
                             behind = (*tokenizer)->Encode("return b", true);
  const auto filled = [&](std::vector<int32_t> ids) {
    ids.insert(ids.begin(), 707);
    ids.push_back(709);
    ids.insert(ids.end(), behind.begin(), behind.end());
    ids.push_back(708);
    return ids;
  };
  EXPECT_EQ(engine.Await(0).prompt, filled(before));
  EXPECT_EQ(engine.Await(1).prompt, filled({5, 6}));
  EXPECT_EQ(engine.Await(2).prompt, filled({}));
  EXPECT_THAT(engine.Await(0).stop_tokens, ::testing::IsSupersetOf({707, 708, 709, 710}));
}

TEST(IntakeTest, GivenFieldsReachTheEngine) {
  Rig rig;
  GenerationSpec spec = Ids(10);
  spec.name = "mine";
  spec.temperature = 0;
  spec.top_p = 0.5;
  spec.top_k = 7;
  spec.seed = 42;
  spec.max_tokens = 3;
  spec.ignore_eos = true;
  spec.stop_token_ids = {11};
  spec.deadline = absl::Hours(2);  // longer than the default, which is for requests that name none
  spec.salt = "tenant";
  const absl::StatusOr<GenerationRun> run = rig.Start(spec);
  ASSERT_OK(run);
  const Request request = rig.engine.Await(0);
  EXPECT_EQ(request.name, "mine");
  EXPECT_EQ(request.sampling, (Sampling{0, 7, 0.5f, 42}));
  EXPECT_EQ(request.max_tokens, 3);
  EXPECT_TRUE(request.max_tokens_given);
  EXPECT_EQ(request.stop_tokens, std::vector<int32_t>{11});
  EXPECT_EQ(request.deadline - request.arrival, absl::Hours(2));
  EXPECT_EQ(request.salt, "tenant");
}

TEST(IntakeTest, SamplingReachesTheEngine) {
  Rig rig;
  GenerationSpec spec = Ids(10);
  spec.min_p = 0.1;
  spec.typical_p = 0.9;
  spec.repetition_penalty = 1.5;
  spec.presence_penalty = -2;
  spec.frequency_penalty = 2;
  spec.logit_bias = {{7, -100}, {9, 1.5}};
  spec.bad_words = {"cat", " hat stand"};
  spec.min_tokens = 3;
  spec.stop_token_ids = {11};
  spec.logprobs = 20;
  const absl::StatusOr<GenerationRun> run = rig.Start(spec);
  ASSERT_OK(run);
  const Request request = rig.engine.Await(0);
  const Sampling& sampling = request.sampling;
  EXPECT_EQ(sampling.min_p, 0.1f);
  EXPECT_EQ(sampling.typical_p, 0.9f);
  EXPECT_EQ(sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(sampling.presence_penalty, -2);
  EXPECT_EQ(sampling.frequency_penalty, 2);
  EXPECT_EQ(sampling.logit_bias, (std::vector<LogitBias>{{7, -100}, {9, 1.5f}}));
  EXPECT_EQ(sampling.logprobs, 20);
  EXPECT_EQ(sampling.min_tokens, 3);
  EXPECT_EQ(sampling.end_tokens, request.stop_tokens);  // all that would end it, stop_token_ids too
  EXPECT_EQ(std::count(sampling.end_tokens.begin(), sampling.end_tokens.end(), 11), 1);
  // Each word without and with a leading space.
  const Tokenizer& tokenizer = *TestText().tokenizer;
  EXPECT_EQ(sampling.bad_words, (std::vector<std::vector<int32_t>>{
                                    tokenizer.Encode("cat", false), tokenizer.Encode(" cat", false),
                                    tokenizer.Encode("hat stand", false), tokenizer.Encode(" hat stand", false)}));
}

TEST(IntakeTest, AnAnswerThatGoesOnReachesTheEngineWithWhatTheClientHas) {
  Rig rig;
  const std::vector<int32_t> whole = TestText().tokenizer->Encode("one two three four", false);
  GenerationSpec spec = Ids(10);
  spec.temperature = 0;
  spec.max_tokens = 20;
  spec.resume = ResumePoint{{whole.begin(), whole.begin() + 2}, 4};  // "one two", of which "one " has come
  const absl::StatusOr<GenerationRun> run = rig.Start(spec);
  ASSERT_OK(run);
  const Request request = rig.engine.Await(0);
  EXPECT_EQ(request.had, spec.resume->ids);
  EXPECT_EQ(request.prompt.size(), 10u);
  EXPECT_EQ(request.max_tokens, 20);
  for (size_t i = 2; i < whole.size(); ++i) request.sink->OnTokens({whole[i]});
  std::string text;
  std::vector<int32_t> shown;
  int32_t tokens = 0;
  while (std::optional<TextEvent> event = run->streams()[0]->Take()) {
    text += event->text;
    for (const ShownToken& token : event->shown) shown.push_back(token.token);
    tokens = event->completion_tokens;
  }
  EXPECT_EQ(text, "two three four");
  EXPECT_EQ(shown, std::vector<int32_t>(whole.begin() + 2, whole.end()));
  EXPECT_EQ(tokens, static_cast<int32_t>(whole.size()));
  EXPECT_EQ(run->streams()[0]->taken(), tokens - 2);  // what is paid for
}

TEST(IntakeTest, ChatIsRenderedByTheModelsTemplateAndItsControlTokensCannotBeForged) {
  Rig rig;
  GenerationSpec spec;
  const std::vector<ChatMessage> messages = {{"user", "<|im_end|>"}};
  spec.prompts.emplace_back(messages);
  const absl::StatusOr<GenerationRun> run = rig.Start(spec);
  ASSERT_OK(run);
  const Request request = rig.engine.Await(0);
  EXPECT_EQ(request.prompt, *TestText().chat_template->Encode(messages, *TestText().tokenizer));
  const int32_t end = *TestText().tokenizer->Find("<|im_end|>");
  EXPECT_EQ(std::count(request.prompt.begin(), request.prompt.end(), end), 2);  // the system's and the user's turn
}

TEST(IntakeTest, ChoicesAreSeededApartAndNamedApart) {
  Rig rig;
  GenerationSpec spec = Ids(4);
  spec.prompts.emplace_back(std::string("two"));
  spec.n = 2;
  spec.seed = 100;
  spec.name = "r";
  const absl::StatusOr<GenerationRun> run = rig.Start(spec);
  ASSERT_OK(run);
  EXPECT_EQ(run->streams().size(), 4u);
  EXPECT_EQ(run->prompt_tokens(), 4 + static_cast<int>(TestText().tokenizer->Encode("two", false).size()));
  for (size_t i = 0; i < 4; ++i) {
    const Request request = rig.engine.Await(i);
    EXPECT_EQ(request.sampling.seed, 100 + i % 2);
    EXPECT_EQ(request.name, i == 0 ? "r" : absl::StrCat("r-", i));
    EXPECT_EQ(request.follows, i > 0) << "a drain lets later choices of what runs in";
  }
}

TEST(IntakeTest, WhatDoesNotFitTheContextIsRefusedWithTheCounts) {
  Rig rig;
  absl::Status status = rig.Start(Ids(kTestContext)).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2048")));
  EXPECT_EQ(ToApiError(status).code, "context_length_exceeded");
  GenerationSpec spec = Ids(2000);
  spec.max_tokens = 100;
  status = rig.Start(spec).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("leaves 48 of the 100")));
  EXPECT_EQ(ToApiError(status).code, "context_length_exceeded");
  EXPECT_EQ(ToApiError(status).param, "max_tokens");
  spec.max_tokens = 48;
  EXPECT_OK(rig.Start(spec));
  EXPECT_OK(rig.Start(Ids(kTestContext - 1)));
}

TEST(IntakeTest, BadValuesAreRefusedByName) {
  struct Case {
    const char* field;
    std::function<void(GenerationSpec&)> spoil;
  };
  const Case cases[] = {
      {"temperature", [](GenerationSpec& s) { s.temperature = -0.1; }},
      {"temperature", [](GenerationSpec& s) { s.temperature = std::nan(""); }},
      {"temperature", [](GenerationSpec& s) { s.temperature = HUGE_VAL; }},
      {"resume",
       [](GenerationSpec& s) {
         s.resume = ResumePoint{{5}, 1};
       }},
      {"resume",
       [](GenerationSpec& s) {
         s.resume = ResumePoint{{5}, 1}, s.seed = 1, s.n = 2;
       }},
      {"resume",
       [](GenerationSpec& s) {
         s.resume = ResumePoint{{5}, 1}, s.seed = 1, s.prompt_logprobs = 0;
       }},
      {"resume",
       [](GenerationSpec& s) {
         s.resume = ResumePoint{{5}, 1}, s.seed = 1, s.echo = true;
       }},
      {"resume.text_bytes",
       [](GenerationSpec& s) {
         s.resume = ResumePoint{{5}, -1}, s.seed = 1;
       }},
      {"resume.ids",
       [](GenerationSpec& s) {
         s.resume = ResumePoint{{5, 49152}, 1}, s.seed = 1;
       }},
      {"resume.ids",
       [](GenerationSpec& s) {
         s.resume = ResumePoint{{5, 6}, 1}, s.seed = 1, s.max_tokens = 1;
       }},
      {"top_p", [](GenerationSpec& s) { s.top_p = 0; }},
      {"top_p", [](GenerationSpec& s) { s.top_p = 1.01; }},
      {"top_k", [](GenerationSpec& s) { s.top_k = -2; }},
      {"min_p", [](GenerationSpec& s) { s.min_p = 1.1; }},
      {"min_p", [](GenerationSpec& s) { s.min_p = -0.1; }},
      {"typical_p", [](GenerationSpec& s) { s.typical_p = 0; }},
      {"typical_p", [](GenerationSpec& s) { s.typical_p = 1e-60; }},
      {"repetition_penalty", [](GenerationSpec& s) { s.repetition_penalty = 0; }},
      {"repetition_penalty", [](GenerationSpec& s) { s.repetition_penalty = std::nan(""); }},
      {"presence_penalty", [](GenerationSpec& s) { s.presence_penalty = 2.1; }},
      {"frequency_penalty", [](GenerationSpec& s) { s.frequency_penalty = -2.1; }},
      {"logit_bias",
       [](GenerationSpec& s) {
         s.logit_bias = {{5, 100.5}};
       }},
      {"logit_bias",
       [](GenerationSpec& s) {
         s.logit_bias = {{5, std::nan("")}};
       }},
      {"logit_bias",
       [](GenerationSpec& s) {
         s.logit_bias = {{49152, 1}};
       }},
      {"logit_bias",
       [](GenerationSpec& s) {
         s.logit_bias = {{-1, 1}};
       }},
      {"logit_bias",
       [](GenerationSpec& s) {
         s.logit_bias = {{5, 1}, {5, 2}};
       }},
      {"logit_bias",
       [](GenerationSpec& s) {
         for (int i = 0; i < 301; ++i) s.logit_bias.emplace_back(i, 1);
       }},
      {"bad_words",
       [](GenerationSpec& s) {
         s.bad_words = {"a", " "};
       }},
      {"bad_words", [](GenerationSpec& s) { s.bad_words.assign(257, "x"); }},
      {"min_tokens", [](GenerationSpec& s) { s.min_tokens = -1; }},
      {"min_tokens",
       [](GenerationSpec& s) {
         s.max_tokens = 4;
         s.min_tokens = 5;
       }},
      {"top_logprobs", [](GenerationSpec& s) { s.logprobs = 21; }},
      {"top_logprobs", [](GenerationSpec& s) { s.logprobs = -1; }},
      {"max_tokens", [](GenerationSpec& s) { s.max_tokens = 0; }},
      {"n", [](GenerationSpec& s) { s.n = 0; }},
      {"n", [](GenerationSpec& s) { s.n = 17; }},
      {"stop", [](GenerationSpec& s) { s.stop = {""}; }},
      {"stop", [](GenerationSpec& s) { s.stop.assign(17, "x"); }},
      {"stop_token_ids", [](GenerationSpec& s) { s.stop_token_ids = {-1}; }},
      {"request_id", [](GenerationSpec& s) { s.name = "a\r\nset-cookie: x"; }},
      {"cache_salt", [](GenerationSpec& s) { s.salt = "a/b"; }},
      {"prompt", [](GenerationSpec& s) { s.prompts = {std::vector<int32_t>{1 << 30}}; }},
      {"prompt", [](GenerationSpec& s) { s.prompts = {std::vector<int32_t>{}}; }},
      {"prompt", [](GenerationSpec& s) { s.prompts = {std::string()}; }},
      {"prompt", [](GenerationSpec& s) { s.prompts.clear(); }},
      {"messages",
       [](GenerationSpec& s) {
         s.prompts = {std::vector<ChatMessage>{{"wizard", "x"}}};
       }},
  };
  for (const Case& c : cases) {
    Rig rig;
    GenerationSpec spec = Ids(4);
    c.spoil(spec);
    const absl::Status status = rig.Start(spec).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.field;
    EXPECT_EQ(ToApiError(status).param, c.field) << status;
    EXPECT_EQ(rig.engine.submitted(), 0u);
  }
}

// An intake with options of its own on the engine of a rig.
std::unique_ptr<Intake> MakeIntake(Rig& rig, Intake::Options options) {
  options.model = "tiny";
  options.context = kTestContext;
  return std::make_unique<Intake>(options, *TestText().tokenizer, TestText().chat_template.get(), rig.engine, rig.clock,
                                  MakeSeededEntropy(7));
}

TEST(IntakeTest, TheModelsDefaultsFillWhatTheRequestLeavesOpen) {
  Rig rig;
  const auto intake =
      MakeIntake(rig, {.sampling = {.temperature = 0.6, .top_p = 0.95, .repetition_penalty = 1.1, .top_k = 20}});
  GenerationSpec spec = Ids(4);
  spec.top_p = 0.5;
  ASSERT_OK(intake->Start(spec, rig.executor, [] {}));
  const Sampling sampling = rig.engine.Await(0).sampling;
  EXPECT_EQ(sampling.temperature, 0.6f);
  EXPECT_EQ(sampling.top_p, 0.5f);
  EXPECT_EQ(sampling.top_k, 20);
  EXPECT_EQ(sampling.repetition_penalty, 1.1f);
  const auto greedy = MakeIntake(rig, {.sampling = {.do_sample = false}});
  ASSERT_OK(greedy->Start(Ids(4), rig.executor, [] {}));
  EXPECT_EQ(rig.engine.Await(1).sampling.temperature, 0);
}

TEST(IntakeTest, MaxTokensAreTheRequestsThenTheServersThenTheEndpoints) {
  Rig rig;
  GenerationSpec spec = Ids(4);
  spec.usual_max_tokens = 16;
  ASSERT_OK(rig.Start(spec));
  EXPECT_EQ(rig.engine.Await(0).max_tokens, 16);
  EXPECT_FALSE(rig.engine.Await(0).max_tokens_given);
  ASSERT_OK(MakeIntake(rig, {.default_max_tokens = 99})->Start(spec, rig.executor, [] {}));
  EXPECT_EQ(rig.engine.Await(1).max_tokens, 99);
  spec.max_tokens = 7;
  ASSERT_OK(rig.Start(spec));
  EXPECT_EQ(rig.engine.Await(2).max_tokens, 7);
}

TEST(IntakeTest, ControlTokensOfATextAreReadWhereTheFormSaysSo) {
  Rig rig;
  const std::string text = "<|im_start|>user\nhi<|im_end|>";
  const int32_t end = *TestText().tokenizer->Find("<|im_end|>");
  for (const bool parse : {false, true}) {
    const absl::StatusOr<std::vector<int32_t>> ids = rig.intake.Encode(text, {.parse_special = parse});
    ASSERT_OK(ids);
    EXPECT_EQ(std::count(ids->begin(), ids->end(), end), parse ? 1 : 0);
  }
}

TEST(IntakeTest, TheLastTokensOfAPromptStay) {
  Rig rig;
  GenerationSpec spec;
  spec.prompts.emplace_back(std::vector<int32_t>{1, 2, 3, 4, 5});
  spec.truncate_prompt_tokens = 2;
  ASSERT_OK(rig.Start(spec));
  EXPECT_EQ(rig.engine.Await(0).prompt, (std::vector<int32_t>{4, 5}));
  spec = Ids(3 * kTestContext);
  spec.max_tokens = 48;
  spec.truncate_prompt_tokens = -1;
  ASSERT_OK(rig.Start(spec));
  EXPECT_EQ(rig.engine.Await(1).prompt.size(), static_cast<size_t>(kTestContext - 48));
  spec.truncate_prompt_tokens = 0;
  EXPECT_EQ(ToApiError(rig.Start(spec).status()).param, "truncate_prompt_tokens");
}

GenerationSpec Prompts(size_t count) {
  GenerationSpec spec;
  for (size_t i = 0; i < count; ++i) spec.prompts.emplace_back(std::vector<int32_t>{static_cast<int32_t>(i + 1)});
  return spec;
}

TEST(IntakeTest, HundredsOfPromptsReachTheEngineAsOthersEnd) {
  Rig rig;
  absl::StatusOr<GenerationRun> run = rig.Start(Prompts(500));
  ASSERT_OK(run);
  EXPECT_EQ(run->streams().size(), 500u);
  const size_t at_once = rig.engine.submitted();
  EXPECT_LT(at_once, 100u);
  for (size_t ended = 0; ended < 500; ++ended) {
    EXPECT_EQ(rig.engine.submitted(), std::min<size_t>(500, at_once + ended));
    ASSERT_OK(rig.intake.NoteEnd(*run));
  }
  for (int32_t i = 0; i < 500; ++i) EXPECT_EQ(rig.engine.Await(i).prompt, std::vector<int32_t>{i + 1});
}

TEST(IntakeTest, AFullQueueIsWaitedOutWhileOthersOfTheRunAreThere) {
  Rig rig;
  absl::StatusOr<GenerationRun> run = rig.Start(Prompts(200));
  ASSERT_OK(run);
  const size_t first = rig.engine.submitted();
  rig.engine.Refuse(absl::ResourceExhaustedError("full"));
  EXPECT_OK(rig.intake.NoteEnd(*run));
  EXPECT_EQ(rig.engine.submitted(), first);
  rig.engine.Refuse(absl::OkStatus());
  EXPECT_OK(rig.intake.NoteEnd(*run));
  EXPECT_EQ(rig.engine.submitted(), first + 2);
  rig.engine.Refuse(absl::UnavailableError("draining"));
  EXPECT_EQ(rig.intake.NoteEnd(*run).code(), absl::StatusCode::kUnavailable);
}

TEST(IntakeTest, MoreChoicesThanTheSettingAllowsAreRefused) {
  Rig rig;
  EXPECT_EQ(ToApiError(rig.Start(Prompts(1025)).status()).param, "prompt");
  GenerationSpec spec = Prompts(600);
  spec.n = 2;
  EXPECT_EQ(ToApiError(rig.Start(spec).status()).param, "n");
  EXPECT_EQ(rig.engine.submitted(), 0u);
}

TEST(IntakeTest, ATemplateOfTheRequestNeedsTheSetting) {
  Rig rig;
  ChatInput chat;
  chat.messages = R"([{"role":"user","content":"hi"}])";
  const PromptForm form{.chat_template = "{{ messages[0].content }}!"};
  EXPECT_EQ(ToApiError(rig.intake.Encode(chat, form).status()).param, "chat_template");
  const auto open = MakeIntake(rig, {.request_templates = true});
  EXPECT_EQ(*open->Encode(chat, form), TestText().tokenizer->Encode("hi!", false));
  EXPECT_EQ(ToApiError(open->Encode(chat, {.chat_template = "{% if %}"}).status()).param, "chat_template");
  EXPECT_EQ(ToApiError(open->Encode(chat, {.chat_template = "{# nothing #}"}).status()).param, "messages");
}

TEST(IntakeTest, TheLastMessageIsGoneOnWith) {
  Rig rig;
  ChatInput chat;
  chat.messages = R"([{"role":"user","content":"hi"},{"role":"assistant","content":"The sky is "}])";
  chat.add_generation_prompt = false;
  chat.continue_final_message = true;
  const absl::StatusOr<std::vector<int32_t>> ids = rig.intake.Encode(chat);
  ASSERT_OK(ids);
  EXPECT_THAT(TestText().tokenizer->Decode(*ids, true), ::testing::EndsWith("<|im_start|>assistant\nThe sky is "));
}

TEST(IntakeTest, LettersOfTheTemplateAreNotTheLastMessage) {
  Rig rig;
  ChatInput chat;
  chat.messages = R"([{"role":"user","content":"say im"},{"role":"assistant","content":"im"}])";  // as in <|im_end|>
  chat.add_generation_prompt = false;
  chat.continue_final_message = true;
  const absl::StatusOr<std::vector<int32_t>> ids = rig.intake.Encode(chat);
  ASSERT_OK(ids);
  EXPECT_THAT(TestText().tokenizer->Decode(*ids, true), ::testing::EndsWith("<|im_start|>assistant\nim"));
}

TEST(IntakeTest, AnEchoIsWhatIsLeftOfThePrompt) {
  Rig rig;
  GenerationSpec spec;
  spec.prompts.emplace_back("one two three four");
  spec.echo = true;
  EXPECT_EQ(rig.Start(spec)->echo(0), "one two three four");
  spec.truncate_prompt_tokens = 2;
  EXPECT_EQ(rig.Start(spec)->echo(0), " three four");
}

TEST(IntakeTest, OfALongTextItsTailIsReadForItsLastTokens) {
  Rig rig;
  GenerationSpec spec;
  std::string text;
  while (text.size() < 1000000) absl::StrAppend(&text, "one two ", text.size(), " three ");
  spec.prompts.emplace_back(text);
  spec.truncate_prompt_tokens = 100;
  ASSERT_OK(rig.Start(spec));
  const std::vector<int32_t> all = TestText().tokenizer->Encode(text, false);
  EXPECT_EQ(rig.engine.Await(0).prompt, std::vector<int32_t>(all.end() - 100, all.end()));
}

TEST(IntakeTest, TheLeastTokensFitWhatThePromptLeaves) {
  Rig rig;
  GenerationSpec spec = Ids(10);
  spec.usual_max_tokens = 16;
  spec.min_tokens = 40;
  ASSERT_OK(rig.Start(spec));
  EXPECT_EQ(rig.engine.Await(0).max_tokens, 40) << "a default is no wish";
  for (const int64_t most : {int64_t{kTestContext} - 9, int64_t{1} << 31, int64_t{1} << 62}) {
    spec.min_tokens = most;
    const ApiError error = ToApiError(rig.Start(spec).status());
    EXPECT_EQ(error.http, 400) << most;
    EXPECT_EQ(error.param, "min_tokens") << most;
  }
  spec.min_tokens = kTestContext - 10;
  ASSERT_OK(rig.Start(spec));
  EXPECT_EQ(rig.engine.Await(1).max_tokens, kTestContext - 10);
}

TEST(IntakeTest, TwoRequestsUnderWayNeverHaveOneName) {
  Rig rig;
  GenerationSpec spec = Ids(10);
  spec.name = "mine";
  {
    const absl::StatusOr<GenerationRun> first = rig.Start(spec);
    ASSERT_OK(first);
    const ApiError error = ToApiError(rig.Start(spec).status());
    EXPECT_EQ(error.http, 409);
    EXPECT_EQ(error.code, "duplicate_request_id");
    EXPECT_TRUE(error.retry);
    spec.name_is_shared = true;  // as of a proxy, which names all requests of a trace alike
    const absl::StatusOr<GenerationRun> second = rig.Start(spec), third = rig.Start(spec);
    ASSERT_OK(second);
    ASSERT_OK(third);
    EXPECT_THAT(second->name(), ::testing::StartsWith("mine-"));
    EXPECT_NE(second->name(), third->name());
    EXPECT_EQ(rig.engine.Await(1).name, second->name());
    spec.name_is_shared = false;
  }
  EXPECT_OK(rig.Start(spec)) << "the first has ended";
}

TEST(IntakeTest, WhatNobodyWaitsForIsNotRead) {
  Rig rig;
  GenerationSpec spec = Ids(10);
  const auto left = std::make_shared<std::atomic<bool>>(false);
  spec.left = left;
  ASSERT_OK(rig.Start(spec));
  left->store(true);
  EXPECT_EQ(rig.Start(spec).status().code(), absl::StatusCode::kCancelled);
  spec.left = nullptr;
  spec.arrival = rig.clock.Now() - absl::Seconds(3);
  spec.targets.deadline_ms = 2000;
  EXPECT_EQ(rig.Start(spec).status().code(), absl::StatusCode::kDeadlineExceeded) << "it waited for longer";
  spec.targets.deadline_ms = 200000;
  ASSERT_OK(rig.Start(spec));
  EXPECT_EQ(rig.engine.Await(1).arrival, *spec.arrival);
}

TEST(IntakeTest, ATextThatIsFarTooLongIsRefusedByItsField) {
  Rig rig;
  std::string text;
  while (text.size() < 2000000) text += "one two three ";
  GenerationSpec spec;
  spec.prompts = {std::string("a"), text};
  ApiError error = ToApiError(rig.Start(spec).status());
  EXPECT_EQ(error.param, "prompt");
  EXPECT_EQ(error.code, "context_length_exceeded");
  spec.prompts = {std::vector<ChatMessage>{{"user", text}}};
  error = ToApiError(rig.Start(spec).status());
  EXPECT_EQ(error.param, "messages");
  EXPECT_EQ(error.code, "context_length_exceeded");
  EXPECT_EQ(rig.engine.submitted(), 0u);
}

TEST(IntakeTest, AnotherModelIsNotFound) {
  Rig rig;
  GenerationSpec spec = Ids(4);
  spec.model = "gpt-4";
  EXPECT_THAT(rig.Start(spec), StatusIs(absl::StatusCode::kNotFound, HasSubstr("tiny")));
}

TEST(IntakeTest, WhatCanNeverRunIsTheClientsErrorOthersKeepTheirCode) {
  Rig rig;
  rig.engine.Refuse(absl::FailedPreconditionError("the request never fits: raise kv.device_bytes"));
  EXPECT_THAT(rig.Start(Ids(4)), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv.device_bytes")));
  EXPECT_EQ(ToApiError(rig.Start(Ids(4)).status()).code, "kv_capacity_exceeded");
  // A reason counts, not the words of a message.
  rig.engine.Refuse(absl::ResourceExhaustedError("256 requests are waiting, yours can never be the next"));
  EXPECT_THAT(rig.Start(Ids(4)), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("waiting")));
  rig.engine.Refuse(absl::UnavailableError("draining"));
  EXPECT_THAT(rig.Start(Ids(4)), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("draining")));
}

TEST(IntakeTest, ARunThatDiesCancelsItsRequests) {
  Rig rig;
  GenerationSpec spec = Ids(4);
  spec.n = 3;
  { ASSERT_OK(rig.Start(spec)); }
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(rig.engine.cancelled(rig.engine.Await(i).id));
}

TEST(IntakeTest, RequestsAreExplainedByTheIdInTheAnswer) {
  Rig rig;
  Explanation explanation;
  explanation.name = "abc";
  rig.engine.SetExplanation(explanation);
  for (const char* name : {"abc", "chatcmpl-abc", "cmpl-abc"}) EXPECT_OK(rig.intake.Explain(name)) << name;
  EXPECT_THAT(rig.intake.Explain("cmpl-x"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("no such request")));
}

}  // namespace
}  // namespace interlace
