// Requests put to an Engine, and what their clients saw.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "coordinator/engine.h"
#include "tests/kernels/random_tensor.h"
#include "tests/status_matchers.h"

namespace interlace {

// Only a request that hangs waits this long.
inline constexpr absl::Duration kStreamPatience = absl::Seconds(60);

struct Ask {
  std::vector<int32_t> prompt;
  int32_t max_tokens = 1;
  Sampling sampling;
  int32_t prompt_logprobs = -1;
  bool pooled = false;  // max_tokens is 0
  std::shared_ptr<const ServedAdapter> adapter = nullptr;
  Fidelity fidelity = {};
};

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<std::vector<TokenScore>> scores;  // of each token, if the request asks
  absl::Status status;
  Explanation explanation;
  std::vector<int32_t> ranks;             // of the prompt's tokens from 1 on, if the request asks
  std::vector<TokenScore> prompt_scores;  // likewise
  std::vector<float> pooled;
};

// One client. Thread: OnTokens and OnEnd on the scheduler's, the rest on the test's.
class WaitingSink final : public TokenSink {
 public:
  void OnTokens(absl::Span<const int32_t> tokens) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_FALSE(ended_);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  }
  void OnScoredToken(int32_t token, absl::Span<const TokenScore> scores) override {
    OnTokens({&token, 1});
    absl::MutexLock lock(&mutex_);
    scores_.emplace_back(scores.begin(), scores.end());
  }
  void OnPromptScores(const PromptScores& scores) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_EQ(scores.first, 1 + static_cast<int32_t>(ranks_.size()));
    ranks_.insert(ranks_.end(), scores.ranks.begin(), scores.ranks.end());
    prompt_scores_.insert(prompt_scores_.end(), scores.scores.begin(), scores.scores.end());
  }
  void OnPooled(absl::Span<const float> mean) override {
    absl::MutexLock lock(&mutex_);
    pooled_.assign(mean.begin(), mean.end());
  }
  void OnEnd(const RequestEnd& end) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_FALSE(ended_);
    ended_ = true;
    status_ = end.status;
  }
  // False: it hangs.
  bool WaitForTokens(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return ended_ || tokens_.size() >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&enough), kStreamPatience);
  }
  bool WaitForEnd() {
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&ended_), kStreamPatience);
  }
  Answer Take() {
    absl::MutexLock lock(&mutex_);
    return {tokens_, scores_, status_, {}, ranks_, prompt_scores_, pooled_};
  }

 private:
  absl::Mutex mutex_;
  std::vector<int32_t> tokens_;
  std::vector<std::vector<TokenScore>> scores_;
  std::vector<int32_t> ranks_;
  std::vector<TokenScore> prompt_scores_;
  std::vector<float> pooled_;
  absl::Status status_;
  bool ended_ = false;
};

// Requests to one engine. Thread: the test's.
class Clients {
 public:
  Clients(Engine& engine, Clock& clock) : engine_(engine), clock_(clock) {}

  // The index of the request.
  size_t Submit(const Ask& ask) {
    auto sink = std::make_shared<WaitingSink>();
    const size_t index = sinks_.size();
    sinks_.push_back(sink);
    Request request{.id = RequestId{index + 1}, .name = absl::StrCat("r", index)};
    request.prompt = ask.prompt;
    request.sampling = ask.sampling;
    request.max_tokens = ask.max_tokens;
    request.prompt_logprobs = ask.prompt_logprobs;
    request.pooled = ask.pooled;
    request.adapter = ask.adapter;
    request.fidelity = ask.fidelity;
    request.fidelity.nonce = 1000 + index;
    request.arrival = clock_.Now();
    request.deadline = request.arrival + absl::Minutes(10);
    request.sink = sink;
    refusals_.push_back(engine_.Submit(std::move(request)));
    return index;
  }
  void Cancel(size_t index) { engine_.Cancel(RequestId{index + 1}); }
  void Stop(size_t index) { engine_.Stop(RequestId{index + 1}); }
  void WaitForTokens(size_t index, size_t count) {
    if (!refusals_[index].ok()) return;
    EXPECT_TRUE(sinks_[index]->WaitForTokens(count)) << "request " << index << " hangs";
  }
  Answer Finish(size_t index) {
    if (!refusals_[index].ok()) return {{}, {}, refusals_[index], {}, {}, {}, {}};
    EXPECT_TRUE(sinks_[index]->WaitForEnd()) << "request " << index << " hangs: " << Stories();
    Answer answer = sinks_[index]->Take();
    if (absl::StatusOr<Explanation> explanation = engine_.Explain(absl::StrCat("r", index)); explanation.ok()) {
      answer.explanation = *std::move(explanation);
    }
    return answer;
  }

  // All at once, or one after another.
  std::vector<Answer> Run(const std::vector<Ask>& asks, bool together) {
    std::vector<Answer> answers;
    const size_t first = sinks_.size();
    for (const Ask& ask : asks) {
      const size_t index = Submit(ask);
      if (!together) answers.push_back(Finish(index));
    }
    while (answers.size() < asks.size()) answers.push_back(Finish(first + answers.size()));
    return answers;
  }

 private:
  std::string Stories() {
    std::string all;
    for (size_t i = 0; i < sinks_.size(); ++i) absl::StrAppend(&all, "\nr", i, ": ", Story(i));
    return all;
  }
  std::string Story(size_t index) {
    const absl::StatusOr<Explanation> e = engine_.Explain(absl::StrCat("r", index));
    if (!e.ok()) return e.status().ToString();
    return absl::StrCat(e->state, ", ", e->end.completion_tokens, " tokens, ", e->steps, " steps, ", e->recomputes,
                        " recomputes, ", e->preemptions, " preemptions\n", absl::StrJoin(e->Texts(), "\n"));
  }

  Engine& engine_;
  Clock& clock_;
  std::vector<std::shared_ptr<WaitingSink>> sinks_;
  std::vector<absl::Status> refusals_;
};

// Every step of sampling, so mild that streams do not repeat themselves; at temperature 0 or 0.9.
inline Sampling RandomSampling(int32_t vocab, Random& random, bool greedy) {
  const auto token = [&] { return static_cast<int32_t>(random.Below(vocab)); };
  Sampling sampling{.temperature = greedy ? 0 : 0.9f, .top_k = 60, .top_p = 0.95f, .seed = random.Next()};
  sampling.min_p = 0.01f;
  sampling.typical_p = 0.95f;
  sampling.repetition_penalty = 1.2f;
  sampling.presence_penalty = 0.4f;
  sampling.frequency_penalty = 0.3f;
  sampling.logprobs = 3;
  sampling.min_tokens = 5;
  sampling.end_tokens = {token(), token()};
  for (int i = 0; i < 8; ++i) sampling.logit_bias.push_back({token(), random.Uniform(-3, 3)});
  for (int i = 0; i < 40; ++i) sampling.bad_words.push_back({token()});
  for (int i = 0; i < 200; ++i) sampling.bad_words.push_back({token(), token()});
  return sampling;
}

// Prompts of `shortest` to `longest` tokens below `vocab`. Of four requests one is greedy, one samples with top_p, the
// other two use every step of sampling.
inline std::vector<Ask> RandomAsks(int count, int32_t shortest, int32_t longest, int32_t max_tokens, int32_t vocab,
                                   uint64_t seed) {
  Random random(seed);
  std::vector<Ask> asks(count);
  for (int i = 0; i < count; ++i) {
    asks[i].prompt.resize(random.Between(shortest, longest));
    for (int32_t& token : asks[i].prompt) token = static_cast<int32_t>(random.Below(vocab));
    asks[i].max_tokens = max_tokens;
    if (i % 2 == 1) asks[i].sampling = {.temperature = 0.8f, .top_k = 0, .top_p = 0.95f, .seed = random.Next()};
    Random detail(seed + i);
    if (i % 4 >= 2) asks[i].sampling = RandomSampling(vocab, detail, i % 4 == 2);
  }
  return asks;
}

inline void ExpectSameStreams(const std::vector<Answer>& want, const std::vector<Answer>& got,
                              const std::string& what) {
  ASSERT_EQ(want.size(), got.size());
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_OK(got[i].status) << what << ", request " << i << "\n" << absl::StrJoin(got[i].explanation.Texts(), "\n");
    ASSERT_EQ(want[i].tokens, got[i].tokens) << what << ", request " << i;
    ASSERT_EQ(want[i].scores, got[i].scores) << what << ", request " << i;
    ASSERT_EQ(want[i].ranks, got[i].ranks) << what << ", request " << i;
    ASSERT_EQ(want[i].prompt_scores, got[i].prompt_scores) << what << ", request " << i;
    ASSERT_EQ(want[i].pooled, got[i].pooled) << what << ", request " << i;
  }
}

// A request that failed may have delivered less, never anything else.
inline void ExpectPrefix(const Answer& want, const Answer& got, const std::string& what) {
  ASSERT_LE(got.tokens.size(), want.tokens.size()) << what;
  const std::vector<int32_t> head(want.tokens.begin(), want.tokens.begin() + static_cast<ptrdiff_t>(got.tokens.size()));
  EXPECT_EQ(head, got.tokens) << what;
}

}  // namespace interlace
