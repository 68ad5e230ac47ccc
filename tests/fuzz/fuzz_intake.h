// An intake with a vocabulary of bytes and an engine that answers each request at once, for the fuzz targets of the
// doors.
#pragma once

#include <memory>
#include <string>

#include "checkpoint/gguf.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "common/log.h"
#include "coordinator/front/generation.h"
#include "coordinator/front/tool_syntax.h"
#include "tests/text/small_tokenizer.h"

namespace interlace {

// Checks what it is given: no door may let a request through that a rank would have to refuse.
class EchoEngine final : public Engine {
 public:
  explicit EchoEngine(int32_t vocab) : vocab_(vocab) {}
  absl::Status Submit(Request request) override {
    CHECK(!request.prompt.empty() && request.max_tokens >= 0);
    for (int32_t token : request.prompt) CHECK(token >= 0 && token < vocab_);
    for (const LogitBias& bias : request.sampling.logit_bias) CHECK(bias.token >= 0 && bias.token < vocab_);
    CHECK(request.sampling.temperature >= 0 && request.sampling.top_p > 0 && request.sampling.top_k >= 0);
    const auto prompt = static_cast<int32_t>(request.prompt.size());
    if (request.prompt_logprobs >= 0 && prompt > 1) {
      CHECK(request.prompt_logprobs <= kMostLogprobs);
      PromptScores scores{request.id, 1, 1, request.prompt_logprobs, std::vector<int32_t>(prompt - 1, 1), {}};
      scores.scores.assign(size_t{1} * (prompt - 1) * (1 + request.prompt_logprobs), {vocab_ + 7, -1});
      request.sink->OnPromptScores(scores);
    }
    if (request.pooled) request.sink->OnPooled({0.5f, -2});
    RequestEnd end;
    end.prompt_tokens = static_cast<int32_t>(request.prompt.size());
    for (int32_t token : {request.prompt.back(), vocab_ + 7}) {  // models have more rows than tokenizers have pieces
      if (++end.completion_tokens > request.max_tokens) break;
      const TokenScore scores[] = {{token, -1}, {vocab_, -2}};
      if (request.sampling.logprobs >= 0) {
        request.sink->OnScoredToken(token, scores);
      } else {
        request.sink->OnTokens({&token, 1});
      }
    }
    request.sink->OnEnd(end);
    return absl::OkStatus();
  }
  void Cancel(RequestId) override {}
  void Stop(RequestId) override {}
  absl::StatusOr<Explanation> Explain(absl::string_view) override { return absl::NotFoundError("no such request"); }
  absl::StatusOr<ReplicaSnapshot> Snapshot() override { return ReplicaSnapshot{}; }
  EngineLoad Load() override { return {.ranks_ready = 1, .ranks = 1}; }

 private:
  const int32_t vocab_;
};

// Looks at all that a message and a tool may have.
inline constexpr char kFuzzTemplate[] =
    "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ m.reasoning_content }}{{ m.name }}{{ m.tool_call_id }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}{{ c.function.arguments | tojson }}{{ c.id }}"
    "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}";

struct FuzzIntake {
  FuzzIntake() {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
    const std::string bytes = SmallVocabulary().Writer().Build();
    auto file = GgufFile::Parse(AsBytes(bytes), "small");
    CHECK(file.ok());
    auto loaded = Tokenizer::Load(**file);
    CHECK(loaded.ok());
    tokenizer = *std::move(loaded);
    engine = std::make_unique<EchoEngine>(tokenizer->vocab_size());
    auto made = ChatTemplate::Make({.name = "m", .text = kFuzzTemplate});
    CHECK(made.ok());
    chat_template = std::make_unique<ChatTemplate>(*std::move(made));
    auto syntax = FindToolSyntax("hermes", nullptr);
    CHECK(syntax.ok());
    intake = std::make_unique<Intake>(Intake::Options{.model = "m",
                                                      .context = 512,
                                                      .layers = 4,
                                                      .most_choices = 64,
                                                      .tools = *syntax,
                                                      .thinks = true,
                                                      .request_templates = true,
                                                      .traces = true},
                                      *tokenizer, chat_template.get(), *engine, clock, MakeSeededEntropy(1));
  }
  RealClock clock;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;
  std::unique_ptr<EchoEngine> engine;
  std::unique_ptr<Intake> intake;
};

}  // namespace interlace
