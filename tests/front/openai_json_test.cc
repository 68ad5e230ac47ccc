#include "coordinator/front/openai_json.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/json_text.h"
#include "coordinator/front/openai_reply.h"
#include "coordinator/front/tokenize_json.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

constexpr char kChat[] =
    R"({"model":"m","messages":[{"role":"system","content":"s","name":"x"},{"role":"user","content":
    [{"type":"text","text":"a"},{"type":"text","text":"b"}]}],"max_tokens":9,"max_completion_tokens":5,"temperature":0.5,
    "top_p":0.9,"top_k":3,"seed":-1,"stop":["x","y"],"stop_token_ids":[1,2],"ignore_eos":true,"stream":true,
    "stream_options":{"include_usage":true,"continuous_usage_stats":true},"user":"u","n":2,"request_id":"r",
    "logprobs":false,"logit_bias":{},"tools":[],"response_format":{"type":"text"},"presence_penalty":0.0,
    "frequency_penalty":0,"cache_salt":"t","deadline_ms":1500,"some_future_field":{"a":1}})";
constexpr char kCompletion[] =
    R"({"model":"m","prompt":["a","b"],"max_tokens":16.0,"temperature":0,"stop":"end","echo":false,"best_of":1,
    "suffix":null,"logprobs":null,"stream":false})";

TEST(ParseTest, ReadsAChat) {
  const absl::StatusOr<ApiRequest> request = ParseChat(kChat);
  ASSERT_OK(request);
  EXPECT_EQ(request->protocol, Protocol::kChat);
  EXPECT_TRUE(request->stream && request->include_usage && request->continuous_usage);
  const GenerationSpec& spec = request->spec;
  EXPECT_EQ(std::get<ChatInput>(spec.prompts.at(0)).messages,
            R"([{"role":"system","content":"s","name":"x"},{"role":"user","content":"ab"}])");
  EXPECT_EQ(spec.max_tokens, 5);
  EXPECT_EQ(spec.temperature, 0.5);
  EXPECT_EQ(spec.top_k, 3);
  EXPECT_EQ(spec.seed, ~uint64_t{0});
  EXPECT_EQ(spec.stop, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(spec.stop_token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_TRUE(spec.ignore_eos);
  EXPECT_EQ(spec.n, 2);
  EXPECT_EQ(spec.name, "r");
  EXPECT_EQ(spec.salt, "t");
  EXPECT_EQ(spec.targets.deadline_ms, 1500);
}

TEST(ParseTest, ScoresOfPrompts) {
  const auto parse = [](const char* fields) {
    return ParseCompletion(absl::StrCat("{\"prompt\":\"a\",", fields, "}"));
  };
  const absl::StatusOr<ApiRequest> echo = parse(R"("echo":true,"logprobs":2,"max_tokens":0)");
  ASSERT_OK(echo);
  EXPECT_TRUE(echo->echo_logprobs && echo->show_logprobs);
  EXPECT_EQ(echo->spec.prompt_logprobs, 2);
  EXPECT_EQ(echo->spec.max_tokens, 0);
  EXPECT_FALSE(echo->prompt_logprobs);
  const absl::StatusOr<ApiRequest> both = parse(R"("echo":true,"logprobs":2,"prompt_logprobs":5)");
  ASSERT_OK(both);
  EXPECT_EQ(both->spec.prompt_logprobs, 5);
  EXPECT_EQ(both->prompt_logprobs, 5);
  const absl::StatusOr<ApiRequest> bare = parse(R"("prompt_logprobs":0)");
  ASSERT_OK(bare);
  EXPECT_EQ(bare->spec.prompt_logprobs, 0);
  EXPECT_FALSE(bare->echo_logprobs || bare->show_logprobs);
  EXPECT_FALSE(parse(R"("echo":true)")->spec.prompt_logprobs);
  EXPECT_EQ(ToApiError(parse(R"("prompt_logprobs":0,"stream":true)").status()).param, "prompt_logprobs");
  EXPECT_EQ(ToApiError(parse(R"("suffix":"x","echo":true)").status()).param, "suffix");
  EXPECT_EQ(parse(R"("suffix":"x")")->spec.suffix, "x");
}

TEST(ParseTest, ReadsEachFormOfAPrompt) {
  const auto prompts = [](const std::string& prompt) {
    return ParseCompletion("{\"prompt\":" + prompt + "}").value().spec.prompts;
  };
  const auto text = [](const Prompt& prompt) { return std::get<std::string>(prompt); };
  const auto ids = [](const Prompt& prompt) { return std::get<std::vector<int32_t>>(prompt); };
  EXPECT_EQ(prompts(R"("a")").size(), 1u);
  EXPECT_EQ(text(prompts(R"(["a","b"])").at(1)), "b");
  EXPECT_EQ(prompts("[1,2]").size(), 1u);
  EXPECT_EQ(ids(prompts("[1,2]").at(0)), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(ids(prompts("[[1],[2,3]]").at(1)), (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(ParseCompletion(kCompletion)->spec.max_tokens, 16);
  for (const char* bad :
       {"[]", "{}", "1", "[1,\"a\"]", "[\"a\",[1]]", "[[1],\"a\"]", "[-1]", "[1.5]", "[4294967296]"}) {
    const absl::Status status = ParseCompletion(absl::StrCat("{\"prompt\":", bad, "}")).status();
    EXPECT_EQ(ToApiError(status).param, "prompt") << bad;
  }
}

TEST(ParseTest, RefusesByNameWhatItCannotHonour) {
  const std::pair<const char*, const char*> cases[] = {{"logprobs", "true"},
                                                       {"logprobs", "21"},
                                                       {"logprobs", "-1"},
                                                       {"logit_bias", "{\"x\": 1}"},
                                                       {"logit_bias", "{\"5\": \"1\"}"},
                                                       {"logit_bias", "[5]"},
                                                       {"bad_words", "[1]"},
                                                       {"min_tokens", "0.5"},
                                                       {"tools", "[{\"type\": \"function\"}]"},
                                                       {"tool_choice", "\"required\""},
                                                       {"response_format", "{\"type\": \"odd\"}"},
                                                       {"guided_choice", "[1]"},
                                                       {"structured_outputs", "{\"whitespace_pattern\": \"a\"}"},
                                                       {"repeat_penalty", "1.1"},
                                                       {"mirostat", "2"},
                                                       {"dry_multiplier", "0.8"},
                                                       {"allowed_token_ids", "[-1]"},
                                                       {"prompt_logprobs", "21"},
                                                       {"prompt_logprobs", "-1"},
                                                       {"best_of", "17"},
                                                       {"best_of", "0"},
                                                       {"best_of", "\"2\""},
                                                       {"suffix", "5"},
                                                       {"n", "17"}};
  for (const auto& [field, value] : cases) {
    const absl::Status status =
        ParseCompletion(absl::StrCat("{\"prompt\": \"a\", \"", field, "\": ", value, "}")).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_EQ(ToApiError(status).param, field);
    EXPECT_OK(ParseCompletion(absl::StrCat("{\"prompt\": \"a\", \"", field, "\": null}"))) << field;
  }
}

// Every field of both doors, and what no request may crash on.
TEST(ParseTest, AnyFieldMayHoldAnything) {
  const std::string deep = std::string(50000, '[') + std::string(50000, ']');
  const std::string nested = std::string(60, '[') + std::string(60, ']');
  const char* const kNumbers[] = {"n",
                                  "seed",
                                  "max_tokens",
                                  "max_completion_tokens",
                                  "top_k",
                                  "min_tokens",
                                  "deadline_ms",
                                  "priority",
                                  "temperature",
                                  "top_p",
                                  "min_p",
                                  "repetition_penalty",
                                  "presence_penalty",
                                  "typical_p",
                                  "logprobs",
                                  "frequency_penalty",
                                  "top_logprobs",
                                  "prompt_logprobs",
                                  "stop_token_ids"};
  const char* const kOthers[] = {"model",          "request_id", "cache_salt", "stream",
                                 "stream_options", "ignore_eos", "stop",       "slo",
                                 "fairness_id",    "bad_words",  "logit_bias", "prompt",
                                 "messages",       "tools",      "suffix",     "add_generation_prompt"};
  const auto ask = [](bool chat, const std::string& field, const std::string& value) {
    const bool prompt = field == "prompt" || field == "messages";
    const std::string rest = prompt ? "" : R"("prompt":"a","messages":[{"role":"user","content":"a"}],)";
    const std::string body = "{" + rest + "\"" + field + "\":" + value + "}";
    return chat ? ParseChat(body).status() : ParseCompletion(body).status();
  };
  for (const bool chat : {false, true}) {
    const auto used = [chat](const std::string& field) {
      return chat ? field != "prompt"
                  : field != "messages" && field != "top_logprobs" && field != "add_generation_prompt";
    };
    for (const char* field : kNumbers) {
      for (const std::string& value : {deep, std::string("1e400"), std::string("-1e400")}) {
        EXPECT_EQ(ask(chat, field, value).code(), absl::StatusCode::kInvalidArgument) << field;
      }
      EXPECT_EQ(ToApiError(ask(chat, field, "1e400")).param, field);
      if (!used(field)) continue;
      for (const std::string& value : {nested, std::string("{\"a\":[[]]}"), std::string("\"1\"")}) {
        EXPECT_EQ(ToApiError(ask(chat, field, value)).param, field) << value;
      }
    }
    for (const char* field :
         {"n", "seed", "max_tokens", "max_completion_tokens", "top_k", "min_tokens", "deadline_ms", "priority"}) {
      for (const char* value :
           {"9223372036854775808", "18446744073709551616", "-9223372036854775809", "1e300", "1e18"}) {
        const absl::Status status = ask(chat, field, value);
        EXPECT_EQ(ToApiError(status).param, field) << value;
        EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("out of range"))) << value;
      }
    }
    for (const char* field : kOthers) {
      EXPECT_EQ(ask(chat, field, deep).code(), absl::StatusCode::kInvalidArgument) << field;
      EXPECT_EQ(ToApiError(ask(chat, field, "-1e400")).param, field);
      if (!used(field)) continue;
      for (const std::string& value : {nested, std::string("7"), std::string("[{\"a\":[[]]}]")}) {
        EXPECT_EQ(ask(chat, field, value).code(), absl::StatusCode::kInvalidArgument) << field << " " << value;
      }
    }
  }
  EXPECT_THAT(ParseDetokenize("{\"tokens\":" + deep + "}"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("deeper")));
  EXPECT_THAT(ParseTokenize("{\"prompt\":" + deep + "}"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("deeper")));
  EXPECT_THAT(ParseCompletion("{\"prompt\":\"a\","),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("byte 15")));
}

// Against a parser that keeps count, over random JSON whose strings are full of brackets, quotes and backslashes.
TEST(ParseTest, DepthIsExact) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(11);
  const std::function<Json(int)> value = [&](int levels) -> Json {
    if (levels == 0 || entropy->Next() % 4 == 0) {
      std::string text;
      for (int n = entropy->Next() % 6; n > 0; --n) text += "[]{}\"\\,x"[entropy->Next() % 8];
      return text;
    }
    Json out = entropy->Next() % 2 ? Json::array() : Json::object();
    for (int n = 1 + entropy->Next() % 3; n > 0; --n) {
      if (out.is_array()) {
        out.push_back(value(levels - 1));
      } else {
        out[std::string(1 + entropy->Next() % 3, "[}\"\\"[entropy->Next() % 4])] = value(levels - 1);
      }
    }
    return out;
  };
  const std::function<int(const Json&)> depth = [&](const Json& json) {
    if (!json.is_structured()) return 0;
    int most = 0;
    for (const Json& item : json) most = std::max(most, depth(item));
    return 1 + most;
  };
  for (int round = 0; round < 2000; ++round) {
    const Json json = value(8);
    const std::string text = json.dump();
    EXPECT_FALSE(NestsDeeper(text, depth(json))) << text;
    EXPECT_TRUE(depth(json) == 0 || NestsDeeper(text, depth(json) - 1)) << text;
  }
}

TEST(ParseTest, ReadsSampling) {
  const std::string fields = R"("min_p":0.1,"typical_p":0.8,"repetition_penalty":1.1,"presence_penalty":-0.5,
      "frequency_penalty":0.25,"logit_bias":{"5":-100,"17":3.5},"bad_words":["a","b c"],"min_tokens":4)";
  const absl::StatusOr<ApiRequest> completion = ParseCompletion("{\"prompt\":\"a\",\"logprobs\":3," + fields + "}");
  ASSERT_OK(completion);
  const GenerationSpec& spec = completion->spec;
  EXPECT_EQ(spec.min_p, 0.1);
  EXPECT_EQ(spec.typical_p, 0.8);
  EXPECT_EQ(spec.repetition_penalty, 1.1);
  EXPECT_EQ(spec.presence_penalty, -0.5);
  EXPECT_EQ(spec.frequency_penalty, 0.25);
  EXPECT_EQ(spec.min_tokens, 4);
  EXPECT_EQ(spec.logprobs, 3);
  EXPECT_EQ(spec.bad_words, (std::vector<std::string>{"a", "b c"}));
  ASSERT_EQ(spec.logit_bias.size(), 2u);
  for (const auto& [token, bias] : spec.logit_bias) EXPECT_EQ(bias, token == 5 ? -100 : 3.5);
  const auto chat = [](const std::string& more) {
    return ParseChat(R"({"messages":[{"role":"user","content":"a"}])" + more + "}");
  };
  EXPECT_FALSE(chat("")->spec.logprobs.has_value());
  EXPECT_FALSE(chat(",\"logprobs\":false,\"top_logprobs\":0")->spec.logprobs.has_value());
  EXPECT_EQ(chat(",\"logprobs\":true")->spec.logprobs, 0);
  EXPECT_EQ(chat(",\"logprobs\":true,\"top_logprobs\":5")->spec.logprobs, 5);
  EXPECT_EQ(ToApiError(chat(",\"top_logprobs\":5").status()).param, "top_logprobs");
  EXPECT_EQ(ToApiError(chat(",\"logprobs\":1").status()).param, "logprobs");
}

TEST(ParseTest, RefusesWrongTypesByName) {
  for (const char* field : {"max_tokens",
                            "temperature",
                            "top_p",
                            "top_k",
                            "seed",
                            "stream",
                            "stop",
                            "stop_token_ids",
                            "n",
                            "min_p",
                            "typical_p",
                            "repetition_penalty",
                            "presence_penalty",
                            "frequency_penalty",
                            "logit_bias",
                            "bad_words",
                            "min_tokens",
                            "logprobs",
                            "model",
                            "request_id",
                            "stream_options",
                            "ignore_eos"}) {
    const absl::Status status = ParseCompletion(absl::StrCat("{\"prompt\": \"a\", \"", field, "\": [{}]}")).status();
    EXPECT_EQ(ToApiError(status).param, field) << status;
  }
}

// A value of any kind.
Json RandomValue(Entropy& entropy, int depth) {
  switch (entropy.Next() % (depth > 0 ? 14 : 12)) {
    case 0:
      return nullptr;
    case 1:
      return true;
    case 2:
      return -1;
    case 3:
      return std::numeric_limits<uint64_t>::max();
    case 4:
      return std::numeric_limits<int64_t>::min();
    case 5:
      return 1e308;
    case 6:
      return 0.5;
    case 7:
      return "";
    case 8:
      return std::string(entropy.Next() % 300, 'x');
    case 9:
      return Json::array();
    case 10:
      return Json::object();
    case 11:
      return static_cast<int64_t>(entropy.Next() % 40);
    case 12:
      return Json::array({RandomValue(entropy, depth - 1), RandomValue(entropy, depth - 1)});
    default:
      return Json{{"type", RandomValue(entropy, depth - 1)}, {"text", RandomValue(entropy, depth - 1)}};
  }
}

void ExpectAnswered(const std::string& body) {
  for (const absl::Status& status : {ParseChat(body).status(), ParseCompletion(body).status(),
                                     ParseTokenize(body).status(), ParseDetokenize(body).status()}) {
    if (status.ok()) continue;
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << body;
    ASSERT_FALSE(Json::parse(ErrorBody(ToApiError(status)))["error"]["message"].empty());
  }
}

TEST(ParseTest, NoMemberOfAnyKindBreaksIt) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(3);
  for (int round = 0; round < 6000; ++round) {
    Json json = Json::parse(round % 2 ? kChat : kCompletion);
    for (int changes = 1 + entropy->Next() % 3; changes > 0; --changes) {
      auto member = json.begin();
      std::advance(member, entropy->Next() % json.size());
      *member = RandomValue(*entropy, 2);
    }
    ExpectAnswered(json.dump());
  }
}

TEST(ParseTest, NoBytesBreakIt) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(4);
  for (int round = 0; round < 6000; ++round) {
    std::string body = round % 2 ? kChat : kCompletion;
    for (int changes = 1 + entropy->Next() % 4; changes > 0; --changes) {
      const size_t at = entropy->Next() % body.size();
      switch (entropy->Next() % 3) {
        case 0:
          body[at] = static_cast<char>(entropy->Next());
          break;
        case 1:
          body.erase(at, 1 + entropy->Next() % 8);
          break;
        default:
          body.insert(at, 1, static_cast<char>(entropy->Next()));
          break;
      }
      if (body.empty()) body = "{";
    }
    ExpectAnswered(body);
  }
  ExpectAnswered("");
  ExpectAnswered(std::string(1 << 20, '['));
  ExpectAnswered("{\"prompt\":" + std::string(200000, '[') + std::string(200000, ']') + "}");
  ExpectAnswered("{\"temperature\":1e999,\"prompt\":\"\xff\"}");
}

TEST(ReplyTest, ChunksAreByteExact) {
  const ReplyHead chat{Protocol::kChat, "r", "m", 7};
  const Usage usage{3, 2};
  const std::string head = R"({"id":"chatcmpl-r","object":"chat.completion.chunk","created":7,"model":"m",)";
  EXPECT_EQ(RoleChunk(chat, 0, nullptr),
            head + R"("choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]})");
  EXPECT_EQ(DeltaChunk(chat, 1, {.text = "a\"\n"}, nullptr),
            head + R"("choices":[{"index":1,"delta":{"content":"a\"\n"},"finish_reason":null}]})");
  EXPECT_EQ(FinishChunk(chat, 0, {.finish = FinishReason::kLength}, &usage),
            head + R"("choices":[{"index":0,"delta":{},"finish_reason":"length"}],"usage":{"prompt_tokens":3,)"
                   R"("completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":0}}})");
  EXPECT_EQ(UsageChunk(chat, usage),
            head + R"("choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,)"
                   R"("prompt_tokens_details":{"cached_tokens":0}}})");
  const ReplyHead text{Protocol::kCompletion, "r", "m", 7};
  EXPECT_EQ(DeltaChunk(text, 0, {.text = "é"}, nullptr),
            R"({"id":"cmpl-r","object":"text_completion","created":7,"model":"m",)"
            R"("choices":[{"index":0,"text":"é","finish_reason":null}]})");
  EXPECT_EQ(SseEvent("[DONE]"), "data: [DONE]\n\n");
}

TEST(ReplyTest, LogprobsHaveOpenAisForm) {
  ReplyToken token{{"é", -0.5f}, {{"\xf0\x9f", -0.25f}, {"é", -0.5f}}, 3};
  const std::vector<ReplyToken> tokens = {token};
  EXPECT_THAT(DeltaChunk({Protocol::kChat, "r", "m", 7}, 0, {.text = "é"}, nullptr, &tokens),
              HasSubstr(R"("logprobs":{"content":[{"token":"é","logprob":-0.5,"bytes":[195,169],"top_logprobs":[)"
                        R"({"token":"�","logprob":-0.25,"bytes":[240,159]},)"
                        R"({"token":"é","logprob":-0.5,"bytes":[195,169]}]}],"refusal":null})"));
  EXPECT_THAT(DeltaChunk({Protocol::kCompletion, "r", "m", 7}, 0, {.text = "é"}, nullptr, &tokens),
              HasSubstr(R"("logprobs":{"text_offset":[3],"token_logprobs":[-0.5],"tokens":["é"],)"
                        R"("top_logprobs":[{"bytes:\\xf0\\x9f":-0.25,"é":-0.5}]})"));
  const ReplyChoice with{"é", tokens, FinishReason::kStop, 1};
  const ReplyChoice without{"é", std::nullopt, FinishReason::kStop, 1};
  const ReplyChoice choices[] = {with, without};
  const Json json = Json::parse(WholeAnswer({Protocol::kChat, "r", "m", 7}, choices, {1, 2}));
  EXPECT_EQ(json["choices"][0]["logprobs"]["content"][0]["token"], "é");
  EXPECT_TRUE(json["choices"][1]["logprobs"].is_null());
}

TEST(ReplyTest, StatusesMapAsClientsExpect) {
  const std::pair<absl::Status, int> cases[] = {
      {absl::InvalidArgumentError(""), 400}, {absl::NotFoundError(""), 404},
      {absl::AlreadyExistsError(""), 409},   {absl::ResourceExhaustedError(""), 429},
      {absl::InternalError(""), 500},        {absl::DataLossError(""), 500},
      {absl::UnimplementedError(""), 501},   {absl::UnavailableError(""), 503},
      {absl::DeadlineExceededError(""), 504}};
  for (const auto& [status, http] : cases) EXPECT_EQ(ToApiError(status).http, http) << status;
  EXPECT_EQ(ErrorBody(ToApiError(BadField("n", "no"))),
            R"({"error":{"message":"n: no","type":"invalid_request_error","param":"n","code":null}})");
}

}  // namespace
}  // namespace interlace
