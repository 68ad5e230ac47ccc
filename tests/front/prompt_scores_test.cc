// What clients ask of a prompt: its scores, by OpenAI's echo and by vLLM's field, and its embedding.
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "tests/front/http_rig.h"

namespace interlace {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

Json JsonOf(const HttpAnswer& answer) {
  Json json = Json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(json.is_discarded()) << answer.status << " " << answer.body;
  return json;
}

// The objects of a stream of server-sent events.
std::vector<Json> EventsOf(const std::string& body) {
  std::vector<Json> events;
  for (size_t at = 0; (at = body.find("data: {", at)) != std::string::npos; ++at) {
    events.push_back(Json::parse(body.substr(at + 6, body.find('\n', at) - at - 6)));
  }
  return events;
}

// Each token of the prompt behind the first has -0.5 times its position and that position as its rank; others follow.
void Score(const Request& request) {
  const auto prompt = static_cast<int32_t>(request.prompt.size());
  for (int32_t first = 1; first < prompt; first += 2) {  // in parts
    PromptScores part{request.id, 1, first, request.prompt_logprobs, {}, {}};
    for (int32_t i = first; i < std::min(prompt, first + 2); ++i) {
      part.ranks.push_back(i);
      part.scores.push_back({request.prompt[i], -0.5f * static_cast<float>(i)});
      for (int32_t k = 0; k < request.prompt_logprobs; ++k)
        part.scores.push_back({40 + k, -0.25f - static_cast<float>(k)});
    }
    request.sink->OnPromptScores(part);
  }
}

TEST(PromptScoresTest, EchoHasTheScoresOfThePromptBeforeThoseOfTheAnswer) {
  for (const bool stream : {false, true}) {
    HttpRig rig;
    HttpClient client(rig.port());
    client.Post(
        "/v1/completions",
        Json{{"prompt", "wörld one two"}, {"echo", true}, {"logprobs", 1}, {"max_tokens", 1}, {"stream", stream}}
            .dump());
    const Request request = rig.engine.Await(0);
    EXPECT_EQ(request.prompt_logprobs, 1);
    Score(request);
    const int32_t token = TestText().tokenizer->Encode(" three", false).at(0);
    request.sink->OnScoredToken(token, {{token, -3}, {41, -1}});
    request.sink->OnEnd(EndOf(request, 1, FinishReason::kLength));
    const HttpAnswer answer = client.Read();
    ASSERT_EQ(answer.status, 200) << answer.body;
    Json text = "", logprobs = Json::object();
    const auto take = [&](const Json& choice) {
      text = text.get<std::string>() + choice["text"].get<std::string>();
      if (!choice.contains("logprobs") || choice["logprobs"].is_null()) return;
      for (const auto& [name, list] : choice["logprobs"].items()) {
        for (const Json& item : list) logprobs[name].push_back(item);
      }
    };
    if (stream) {
      for (const Json& event : EventsOf(answer.body)) take(event["choices"][0]);
    } else {
      take(JsonOf(answer)["choices"][0]);
    }
    EXPECT_EQ(text, "wörld one two three");
    const size_t prompt = request.prompt.size();
    ASSERT_EQ(logprobs["tokens"].size(), prompt + 1);
    ASSERT_EQ(logprobs["token_logprobs"].size(), prompt + 1);
    EXPECT_TRUE(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
    for (size_t i = 1; i < prompt; ++i) {
      EXPECT_EQ(logprobs["token_logprobs"][i], -0.5 * static_cast<double>(i));
      EXPECT_EQ(logprobs["top_logprobs"][i].size(), 2u);  // its own, and the most likely
      EXPECT_EQ(logprobs["top_logprobs"][i][logprobs["tokens"][i].get<std::string>()], -0.5 * static_cast<double>(i));
    }
    EXPECT_EQ(logprobs["token_logprobs"][prompt], -3);
    EXPECT_EQ(logprobs["text_offset"][0], 0);
    EXPECT_EQ(logprobs["text_offset"][prompt], 13);  // code points of the prompt
    EXPECT_EQ(logprobs["tokens"][prompt], " three");
    std::string joined;
    for (size_t i = 0; i + 1 < prompt; ++i) {
      EXPECT_LE(logprobs["text_offset"][i], logprobs["text_offset"][i + 1]);
    }
  }
}

// lm_eval asks so: what ended the answer is a token too, or one of the prompt's would be taken for it.
TEST(PromptScoresTest, TheTokenThatEndsTheAnswerIsAmongTheLogprobs) {
  for (const bool chat : {false, true}) {
    for (const bool stream : {false, true}) {
      HttpRig rig;
      HttpClient client(rig.port());
      Json body = chat ? Json{{"messages", {{{"role", "user"}, {"content", "a"}}}}, {"logprobs", true}}
                       : Json{{"prompt", {5, 6, 7}}, {"echo", true}, {"logprobs", 0}};
      body["stream"] = stream;
      client.Post(chat ? "/v1/chat/completions" : "/v1/completions", body.dump());
      const Request request = rig.engine.Await(0);
      Score(request);
      RequestEnd end = EndOf(request, 0);
      end.end_token = TestText().tokenizer->eos();
      end.end_scores = {{end.end_token, -0.125f}};
      request.sink->OnEnd(end);
      const HttpAnswer answer = client.Read();
      std::vector<double> scores;
      std::string text;
      for (const Json& event : stream ? EventsOf(answer.body) : std::vector<Json>{JsonOf(answer)}) {
        const Json& choice = event["choices"][0];
        if (!choice.contains("logprobs") || choice["logprobs"].is_null()) continue;
        if (chat) {
          for (const Json& token : choice["logprobs"]["content"]) scores.push_back(token["logprob"]);
        } else {
          for (const Json& score : choice["logprobs"]["token_logprobs"])
            scores.push_back(score.is_null() ? 9 : score.get<double>());
          text += choice["text"];
        }
      }
      EXPECT_EQ(scores, chat ? std::vector<double>({-0.125}) : std::vector<double>({9, -0.5, -1, -0.125}));
      EXPECT_EQ(text, chat ? "" : TestText().tokenizer->Decode({5, 6, 7}, true));
    }
  }
}

TEST(PromptScoresTest, WithoutAnAnswer) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/v1/completions", R"({"prompt":[[5,6,7],[8]],"echo":true,"logprobs":3,"max_tokens":0})");
  for (size_t i = 0; i < 2; ++i) {
    const Request request = rig.engine.Await(i);
    EXPECT_EQ(request.max_tokens, 0);
    Score(request);
    request.sink->OnEnd(EndOf(request, 0, FinishReason::kLength));
  }
  const Json json = JsonOf(client.Read());
  const Json& choice = json["choices"][0];
  EXPECT_EQ(choice["text"], TestText().tokenizer->Decode({5, 6, 7}, true));
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(choice["logprobs"]["token_logprobs"], Json({nullptr, -0.5, -1.0}));
  EXPECT_EQ(json["choices"][1]["logprobs"]["token_logprobs"], Json::array({nullptr}));
  EXPECT_EQ(json["usage"]["completion_tokens"], 0);
  for (const char* body : {R"({"prompt":"a","max_tokens":0})", R"({"prompt":"a","max_tokens":-1,"echo":true})"}) {
    client.Post("/v1/completions", body);
    EXPECT_EQ(JsonOf(client.Read())["error"]["param"], "max_tokens");
  }
}

TEST(PromptScoresTest, AListOfItsOwnAsVllmWritesIt) {
  HttpRig rig;
  HttpClient client(rig.port());
  for (const bool chat : {false, true}) {
    Json body = chat ? Json{{"messages", {{{"role", "user"}, {"content", "a"}}}}} : Json{{"prompt", {5, 6, 40, 7}}};
    body["prompt_logprobs"] = 1;
    client.Post(chat ? "/v1/chat/completions" : "/v1/completions", body.dump());
    const Request request = rig.engine.Await(chat ? 1 : 0);
    Score(request);
    rig.Say(request, "x");
    request.sink->OnEnd(EndOf(request, 1, FinishReason::kLength));
    const Json json = JsonOf(client.Read());
    const Json& list = chat ? json["prompt_logprobs"] : json["choices"][0]["prompt_logprobs"];
    ASSERT_EQ(list.size(), request.prompt.size());
    EXPECT_TRUE(list[0].is_null());
    const Json own = list[1][absl::StrCat(request.prompt[1])];
    EXPECT_EQ(own["logprob"], -0.5);
    EXPECT_EQ(own["rank"], 1);
    EXPECT_EQ(own["decoded_token"], TestText().tokenizer->Piece(request.prompt[1], true));
    EXPECT_EQ(list[1]["40"]["rank"], 1);
    EXPECT_TRUE(chat || list[2].size() == 1u);  // it is the most likely itself
    EXPECT_TRUE(json["choices"][0]["logprobs"].is_null());
  }
}

TEST(PromptScoresTest, ASuffixNeedsAVocabularyThatMarksOne) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/v1/completions", R"({"prompt":"a","suffix":"b"})");
  const Json error = JsonOf(client.Read())["error"];
  EXPECT_EQ(error["param"], "suffix");
  EXPECT_THAT(error["message"], HasSubstr("<|fim_prefix|>"));
  EXPECT_EQ(rig.engine.submitted(), 0u);
}

TEST(EmbeddingsTest, EachFormOfInput) {
  HttpRig rig;
  HttpClient client(rig.port());
  size_t i = 0;
  for (const Json& input : {Json("Hello"), Json({"Hello", "there"}), Json({5, 6, 7}), Json({{5, 6}, {7}})}) {
    client.Post("/v1/embeddings", Json{{"model", "tiny"}, {"input", input}, {"user", "u"}}.dump());
    const size_t inputs = input.is_string() || input[0].is_number() ? 1 : input.size();
    int32_t tokens = 0;
    for (size_t k = 0; k < inputs; ++k) {
      const Request request = rig.engine.Await(i++);
      EXPECT_TRUE(request.pooled);
      EXPECT_EQ(request.max_tokens, 0);
      tokens += static_cast<int32_t>(request.prompt.size());
      request.sink->OnPooled({3, static_cast<float>(k), -4});
      request.sink->OnEnd(EndOf(request, 0, FinishReason::kLength));
    }
    const Json json = JsonOf(client.Read());
    EXPECT_EQ(json["object"], "list");
    EXPECT_EQ(json["model"], "tiny");
    ASSERT_EQ(json["data"].size(), inputs);
    for (size_t k = 0; k < inputs; ++k) {
      EXPECT_EQ(json["data"][k]["object"], "embedding");
      EXPECT_EQ(json["data"][k]["index"], k);
      const double length = std::sqrt(25.0 + static_cast<double>(k * k));
      EXPECT_NEAR(json["data"][k]["embedding"][0], 3 / length, 1e-6);
      EXPECT_NEAR(json["data"][k]["embedding"][2], -4 / length, 1e-6);
    }
    EXPECT_EQ(json["usage"]["prompt_tokens"], tokens);
    EXPECT_EQ(json["usage"]["total_tokens"], tokens);
  }
}

TEST(EmbeddingsTest, BytesOfF32AndAsTheyAre) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/v1/embeddings", R"({"input":"a","encoding_format":"base64","normalize":false})");
  const std::vector<float> mean = {0.1f, -1e-20f, 3e7f, 0};
  Request request = rig.engine.Await(0);
  request.sink->OnPooled(mean);
  request.sink->OnEnd(EndOf(request, 0, FinishReason::kLength));
  std::string bytes;
  ASSERT_TRUE(absl::Base64Unescape(JsonOf(client.Read())["data"][0]["embedding"].get<std::string>(), &bytes));
  ASSERT_EQ(bytes.size(), mean.size() * sizeof(float));
  EXPECT_EQ(std::memcmp(bytes.data(), mean.data(), bytes.size()), 0);
  client.Post("/v1/embeddings", R"({"input":"a","normalize":false})");
  request = rig.engine.Await(1);
  request.sink->OnPooled(mean);
  request.sink->OnEnd(EndOf(request, 0, FinishReason::kLength));
  const Json decimals = JsonOf(client.Read())["data"][0]["embedding"];
  for (size_t d = 0; d < mean.size(); ++d) EXPECT_EQ(decimals[d].get<float>(), mean[d]);
}

TEST(EmbeddingsTest, WhatIsWrongIsNamed) {
  HttpRig rig;
  HttpClient client(rig.port());
  const std::pair<const char*, const char*> cases[] = {
      {"{}", "input"},
      {R"({"input":""})", "input"},
      {R"({"input":[]})", "input"},
      {R"({"input":[1,"a"]})", "input"},
      {R"({"input":[99999999]})", "input"},
      {R"({"input":"a","dimensions":8})", "dimensions"},
      {R"({"input":"a","encoding_format":"hex"})", "encoding_format"},
      {R"({"input":"a","messages":[{"role":"user","content":"a"}]})", "messages"},
  };
  for (const auto& [body, param] : cases) {
    client.Post("/v1/embeddings", body);
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, 400) << body;
    EXPECT_EQ(JsonOf(answer)["error"]["param"], param) << body;
  }
  client.Post("/v1/embeddings", R"({"input":"a","model":"another"})");
  EXPECT_EQ(client.Read().status, 404);
  EXPECT_EQ(rig.engine.submitted(), 0u);
}

// A request that the engine ends is an error, not an empty vector.
TEST(EmbeddingsTest, AFailureIsAnError) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/v1/embeddings", R"({"input":["a","b"]})");
  const Request first = rig.engine.Await(0), second = rig.engine.Await(1);
  first.sink->OnPooled({1});
  first.sink->OnEnd(EndOf(first, 0, FinishReason::kLength));
  second.sink->OnEnd(EndOf(second, 0, FinishReason::kStop, absl::UnavailableError("gone")));
  EXPECT_EQ(client.Read().status, 503);
}

}  // namespace
}  // namespace interlace
