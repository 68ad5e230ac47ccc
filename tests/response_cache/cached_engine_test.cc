// The engine that answers with what was answered before, over a scripted one.
#include "coordinator/response_cache/cached_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "absl/synchronization/mutex.h"
#include "tests/front/fake_engine.h"
#include "tests/skip_index/key_cloud.h"

namespace interlace {
namespace {

using ::testing::ElementsAre;

// What a door would see. Any thread.
class DoorSink final : public TokenSink {
 public:
  void OnCached(int32_t tokens) override {
    absl::MutexLock lock(&mutex_);
    cached = tokens;
  }
  void OnCacheHit(const CacheHit& hit) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_TRUE(this->tokens.empty() && !end.has_value());
    this->hit = hit;
  }
  void OnTokens(absl::Span<const int32_t> more) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_FALSE(end.has_value());
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
  void OnEnd(const RequestEnd& e) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_FALSE(end.has_value());
    end = e;
  }
  // Waits give up after 20 s, which only a broken test sees.
  void Await() {
    absl::MutexLock lock(&mutex_);
    const auto ended = [this] { return end.has_value(); };
    ASSERT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&ended), absl::Seconds(20)));
  }

  std::vector<int32_t> tokens;
  int32_t cached = -1;
  std::optional<CacheHit> hit;
  std::optional<RequestEnd> end;

 private:
  absl::Mutex mutex_;
};

// Answers at once, on the caller's thread: a prompt's embedding and its answer follow from its first token.
class PromptEngine final : public Engine {
 public:
  absl::Status Submit(Request request) override {
    if (!refusal.ok() && !request.pooled) return refusal;
    EXPECT_EQ(request.caching, nullptr);
    if (request.pooled) {
      request.sink->OnCached(1);
      request.sink->OnPooled(Embed(request));
      request.sink->OnEnd({});
      return absl::OkStatus();
    }
    {
      absl::MutexLock lock(&mutex_);
      ++runs_;
      hints_ += request.hint != nullptr;
    }
    request.sink->OnCached(static_cast<int32_t>(request.prompt.size()));
    RequestEnd end{.reason = FinishReason::kStop,
                   .prompt_tokens = static_cast<int32_t>(request.prompt.size()),
                   .completion_tokens = 3,
                   .cached_tokens = static_cast<int32_t>(request.prompt.size()),
                   .end_token = 0};
    end.timing = {absl::Milliseconds(1), absl::Milliseconds(2), absl::Milliseconds(31)};
    const int32_t word = request.prompt[0];
    for (const int32_t token : {word, 2 * word, 3 * word}) request.sink->OnTokens({&token, 1});
    request.sink->OnEnd(end);
    return absl::OkStatus();
  }
  void Cancel(RequestId) override {}
  void Stop(RequestId) override {}
  absl::StatusOr<Explanation> Explain(absl::string_view) override { return absl::NotFoundError("none"); }
  absl::StatusOr<ReplicaSnapshot> Snapshot() override { return ReplicaSnapshot{}; }
  EngineLoad Load() override { return {}; }
  int runs() {
    absl::MutexLock lock(&mutex_);
    return runs_;
  }
  int hints() {
    absl::MutexLock lock(&mutex_);
    return hints_;
  }
  absl::Status refusal;

 private:
  static std::vector<float> Embed(const Request& request) {
    const auto meaning = MakeSeededEntropy(static_cast<uint64_t>(request.prompt[0]));
    const auto phrase = MakeSeededEntropy(static_cast<uint64_t>(request.prompt.back()));
    std::vector<float> key = Near(*phrase, RandomKey(*meaning, 16), 0.1);
    for (float& x : key) x *= 40;  // hidden states have any length
    return key;
  }
  absl::Mutex mutex_;
  int runs_ = 0, hints_ = 0;
};

template <typename Below>
struct Rig {
  explicit Rig(bool semantic, ResponseCache::Options options = {})
      : cached({.semantic = semantic, .model_digest = "model", .cache = options}, engine, clock, MakeSeededEntropy(1),
               metrics) {}
  Request Ask(std::vector<int32_t> prompt) {
    Request request;
    request.id = RequestId{++asked};
    request.name = "request-" + std::to_string(asked);
    request.prompt = std::move(prompt);
    request.max_tokens = 8;
    request.arrival = clock.Now();
    request.deadline = clock.Now() + absl::Seconds(60);
    request.caching = std::make_shared<const CacheTerms>(CacheTerms{.shape = "chat"});
    request.sink = std::make_shared<DoorSink>();
    return request;
  }
  std::shared_ptr<DoorSink> Run(Request request) {
    auto sink = std::static_pointer_cast<DoorSink>(request.sink);
    const absl::Status submitted = cached.Submit(std::move(request));
    EXPECT_TRUE(submitted.ok()) << submitted;
    sink->Await();
    return sink;
  }
  double Count(const std::string& name, const std::string& label) {
    const std::string text = metrics.Text();
    for (size_t at = text.find(name + "{"); at != std::string::npos; at = text.find(name + "{", at + 1)) {
      const std::string line = text.substr(at, text.find('\n', at) - at);
      if (line.find(label) != std::string::npos) return std::stod(line.substr(line.rfind(' ')));
    }
    return 0;
  }

  ManualClock clock;
  Metrics metrics{"tiny"};
  Below engine;
  uint64_t asked = 0;
  CachedEngine cached;
};

TEST(CachedEngineTest, AHitIsTheStreamThatWasRecorded) {
  Rig<PromptEngine> rig(/*semantic=*/false);
  const auto first = rig.Run(rig.Ask({5, 1}));
  const auto again = rig.Run(rig.Ask({5, 1}));
  EXPECT_EQ(rig.engine.runs(), 1);
  EXPECT_FALSE(first->hit.has_value());
  ASSERT_TRUE(again->hit.has_value());
  EXPECT_TRUE(again->hit->exact);
  EXPECT_THAT(again->tokens, ElementsAre(5, 10, 15));
  EXPECT_EQ(again->tokens, first->tokens);
  EXPECT_TRUE(again->end->status.ok());
  EXPECT_EQ(again->end->reason, first->end->reason);
  EXPECT_EQ(again->end->end_token, first->end->end_token);
  EXPECT_EQ(again->end->prompt_tokens, 2);
  EXPECT_EQ(again->end->completion_tokens, first->end->completion_tokens);
  EXPECT_EQ(again->end->cached_tokens, 2);
  EXPECT_EQ(again->cached, 2);
  EXPECT_NEAR(rig.cached.counts().saved_seconds, 0.030, 1e-9);  // without the time in the queue
}

TEST(CachedEngineTest, ExplainSaysWhereAnAnswerCameFrom) {
  Rig<PromptEngine> rig(/*semantic=*/false);
  rig.Run(rig.Ask({5, 1}));
  Request again = rig.Ask({5, 1});
  again.targets.tenant = "";
  const std::string name = again.name;
  rig.Run(std::move(again));
  const absl::StatusOr<Explanation> explanation = rig.cached.Explain(name);
  ASSERT_TRUE(explanation.ok());
  EXPECT_EQ(explanation->state, "finished");
  EXPECT_THAT(explanation->Texts(), ElementsAre("answered with what an earlier request was answered: exact"));
  EXPECT_EQ(explanation->spent.Sum(), explanation->end.timing.total);
  EXPECT_TRUE(absl::IsNotFound(rig.cached.Explain("request-1").status()));  // the engine's to say
  Request other = rig.Ask({6, 1});
  other.name = name;
  rig.Run(std::move(other));
  EXPECT_TRUE(absl::IsNotFound(rig.cached.Explain(name).status()));  // the name is another's now
}

TEST(CachedEngineTest, NobodyElseGetsIt) {
  Rig<PromptEngine> rig(/*semantic=*/false);
  rig.Run(rig.Ask({5, 1}));
  Request tenant = rig.Ask({5, 1}), salt = rig.Ask({5, 1}), shape = rig.Ask({5, 1}), prompt = rig.Ask({5, 2});
  tenant.targets.tenant = "other";
  salt.salt = "other";
  shape.caching = std::make_shared<const CacheTerms>(CacheTerms{.shape = "other"});
  for (const Request& request : {tenant, salt, shape, prompt}) EXPECT_FALSE(rig.Run(request)->hit.has_value());
  EXPECT_EQ(rig.engine.runs(), 5);
}

TEST(CachedEngineTest, WhatIsNotGreedyAndPlainPassesThroughAndIsCounted) {
  Rig<PromptEngine> rig(/*semantic=*/true);
  Request plain = rig.Ask({5, 1});
  plain.caching = std::make_shared<const CacheTerms>(CacheTerms{.shape = "chat"});
  const std::vector<std::pair<std::string, std::function<void(Request&)>>> changes = {
      {"sampled", [](Request& r) { r.sampling.temperature = 0.1F; }},
      {"choices", [](Request& r) { r.choices = 2; }},
      {"choices", [](Request& r) { r.choices = 0; }},
      {"scores", [](Request& r) { r.sampling.logprobs = 0; }},
      {"scores", [](Request& r) { r.prompt_logprobs = 0; }},
      {"tools", [](Request& r) { r.caching = std::make_shared<const CacheTerms>(CacheTerms{.tools = true}); }},
      {"resumed", [](Request& r) { r.had = {5}; }},
      {"asked",
       [](Request& r) { r.caching = std::make_shared<const CacheTerms>(CacheTerms{.look_up = false, .keep = false}); }},
  };
  FakeEngine held;
  CachedEngine cached({.semantic = true, .model_digest = "model"}, held, rig.clock, MakeSeededEntropy(1), rig.metrics);
  std::map<std::string, double> expected;
  for (size_t i = 0; i < changes.size(); ++i) {
    Request request = plain;
    changes[i].second(request);
    const std::shared_ptr<TokenSink> sink = request.sink;
    ASSERT_TRUE(cached.Submit(std::move(request)).ok());
    EXPECT_EQ(held.Await(i).sink, sink) << changes[i].first;  // nothing in between
    EXPECT_FALSE(held.Await(i).pooled);
    ++expected[changes[i].first];
  }
  for (const auto& [cause, count] : expected) {
    EXPECT_EQ(rig.Count("interlace_response_cache_bypassed_total", "cause=\"" + cause + "\""), count) << cause;
  }
  EXPECT_EQ(cached.counts().misses, 0);
}

TEST(CachedEngineTest, ARequestMayRefuseToBeServedOrKept) {
  Rig<PromptEngine> rig(/*semantic=*/false);
  const auto terms = [](bool look_up, bool keep) {
    return std::make_shared<const CacheTerms>(CacheTerms{.shape = "chat", .look_up = look_up, .keep = keep});
  };
  Request unkept = rig.Ask({5, 1}), fresh = rig.Ask({5, 1});
  unkept.caching = terms(true, false);
  fresh.caching = terms(false, true);
  rig.Run(unkept);
  EXPECT_EQ(rig.cached.counts().entries, 0);
  rig.Run(rig.Ask({5, 1}));
  EXPECT_FALSE(rig.Run(fresh)->hit.has_value());
  EXPECT_EQ(rig.engine.runs(), 3);
  EXPECT_TRUE(rig.Run(rig.Ask({5, 1}))->hit.has_value());
}

TEST(CachedEngineTest, AnAnswerThatDidNotEndWellIsNotKept) {
  Rig<FakeEngine> rig(/*semantic=*/false);
  const auto end = [&](size_t index, absl::Status status, FinishReason reason, bool given) {
    Request request = rig.Ask({5, 1});
    request.max_tokens_given = given;
    auto sink = std::static_pointer_cast<DoorSink>(request.sink);
    ASSERT_TRUE(rig.cached.Submit(std::move(request)).ok());
    const Request below = rig.engine.Await(index);
    const int32_t token = 9;
    below.sink->OnTokens({&token, 1});
    below.sink->OnEnd(EndOf(below, 1, reason, status));
    sink->Await();
    EXPECT_FALSE(sink->hit.has_value());
    EXPECT_EQ(sink->end->status, status);
  };
  end(0, absl::CancelledError(""), FinishReason::kStop, true);
  end(1, absl::DeadlineExceededError(""), FinishReason::kStop, true);
  end(2, absl::UnavailableError(""), FinishReason::kStop, true);
  end(3, absl::OkStatus(), FinishReason::kLength, /*given=*/false);  // where the replica's room ended, or the context
  EXPECT_EQ(rig.cached.counts().entries, 0);
  end(4, absl::OkStatus(), FinishReason::kLength, /*given=*/true);
  EXPECT_EQ(rig.cached.counts().entries, 1);
}

TEST(CachedEngineTest, WhoseDeadlineHasPassedIsTheEnginesToEnd) {
  Rig<FakeEngine> rig(/*semantic=*/false);
  ASSERT_TRUE(rig.cached.Submit(rig.Ask({5, 1})).ok());
  const Request first = rig.engine.Await(0);
  first.sink->OnEnd(EndOf(first, 0));
  Request late = rig.Ask({5, 1});
  late.deadline = rig.clock.Now();
  ASSERT_TRUE(rig.cached.Submit(std::move(late)).ok());
  EXPECT_EQ(rig.engine.Await(1).id, RequestId{2});
}

TEST(CachedEngineTest, ARefusalIsTheEngines) {
  Rig<FakeEngine> rig(/*semantic=*/true);
  rig.engine.Refuse(absl::ResourceExhaustedError("the queue is full"));
  EXPECT_TRUE(absl::IsResourceExhausted(rig.cached.Submit(rig.Ask({5, 1}))));
}

// ---- by embedding

TEST(CachedEngineTest, PromptsThatMeanTheSameAreServedOnceThatIsKnown) {
  Rig<PromptEngine> rig(/*semantic=*/true, {.error = 0.1});
  int hits = 0, wrong = 0, before_first = 0;
  for (int32_t i = 0; i < 1200; ++i) {
    const int32_t meaning = 5 + i % 4;
    const auto sink = rig.Run(rig.Ask({meaning, 1000 + i}));
    hits += sink->hit.has_value();
    before_first += hits == 0;
    wrong += sink->tokens != std::vector<int32_t>{meaning, 2 * meaning, 3 * meaning};
    if (!sink->hit) {
      EXPECT_EQ(sink->cached, 1);  // what the embedding found; the rest was computed for this very request
      EXPECT_EQ(sink->end->cached_tokens, 1);
      continue;
    }
    EXPECT_FALSE(sink->hit->exact);
    EXPECT_GT(sink->hit->similarity, 0.5F);
  }
  EXPECT_GE(before_first, static_cast<int>(AnswerRule::kLeast));
  EXPECT_GT(hits, 600);
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(rig.engine.runs(), 1200 - hits);
  EXPECT_EQ(rig.cached.counts().semantic, hits);
  EXPECT_EQ(rig.engine.hints(), rig.cached.counts().trials);  // each trial is told what it may say
  EXPECT_LE(rig.cached.counts().different, 8);                // before it is known what any two prompts have in common
  EXPECT_TRUE(rig.Run(rig.Ask({5, 1000}))->hit->exact);       // asked the model then, and is known since
}

TEST(CachedEngineTest, CancelledWhileItsEmbeddingIsMadeItEndsSo) {
  Rig<FakeEngine> rig(/*semantic=*/true);
  Request request = rig.Ask({5, 1});
  auto sink = std::static_pointer_cast<DoorSink>(request.sink);
  const RequestId id = request.id;
  ASSERT_TRUE(rig.cached.Submit(std::move(request)).ok());
  const Request embedding = rig.engine.Await(0);
  EXPECT_TRUE(embedding.pooled);
  EXPECT_EQ(embedding.max_tokens, 0);
  EXPECT_NE(embedding.id, id);
  rig.cached.Cancel(id);
  EXPECT_TRUE(rig.engine.AwaitCancel(embedding.id));
  embedding.sink->OnEnd({.status = absl::CancelledError("")});
  sink->Await();
  EXPECT_TRUE(absl::IsCancelled(sink->end->status));
  EXPECT_EQ(rig.engine.submitted(), 1u);
}

TEST(CachedEngineTest, CancelledLaterTheModelStops) {
  Rig<FakeEngine> rig(/*semantic=*/true);
  Request request = rig.Ask({5, 1});
  const RequestId id = request.id;
  ASSERT_TRUE(rig.cached.Submit(std::move(request)).ok());
  const Request embedding = rig.engine.Await(0);
  embedding.sink->OnPooled(std::vector<float>{1, 0});
  embedding.sink->OnEnd({});
  EXPECT_EQ(rig.engine.Await(1).id, id);
  rig.cached.Cancel(id);
  EXPECT_TRUE(rig.engine.AwaitCancel(id));
}

TEST(CachedEngineTest, WithoutAnEmbeddingTheModelIsAskedAllTheSame) {
  Rig<FakeEngine> rig(/*semantic=*/true);
  for (size_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(rig.cached.Submit(rig.Ask({5, static_cast<int32_t>(i)})).ok());
    const Request embedding = rig.engine.Await(2 * i);
    if (i == 1) embedding.sink->OnPooled(std::vector<float>{0, 0});  // of no direction
    embedding.sink->OnEnd({.status = i == 0 ? absl::UnavailableError("") : absl::OkStatus()});
    EXPECT_FALSE(rig.engine.Await(2 * i + 1).pooled);
  }
}

TEST(CachedEngineTest, ARefusalBehindTheEmbeddingComesToTheSink) {
  Rig<PromptEngine> rig(/*semantic=*/true);
  rig.engine.refusal = absl::ResourceExhaustedError("the queue is full");
  EXPECT_TRUE(absl::IsResourceExhausted(rig.Run(rig.Ask({5, 1}))->end->status));
}

TEST(CachedEngineTest, WhatIsUnderWayWhenItDiesEnds) {
  ManualClock clock;
  Metrics metrics("tiny");
  FakeEngine engine;
  auto cached = std::make_unique<CachedEngine>(CachedEngine::Options{.semantic = true}, engine, clock,
                                               MakeSeededEntropy(1), metrics);
  Request request;
  request.id = RequestId{1};
  request.prompt = {1};
  request.max_tokens = 1;
  request.deadline = absl::InfiniteFuture();
  request.caching = std::make_shared<const CacheTerms>();
  auto sink = std::make_shared<DoorSink>();
  request.sink = sink;
  ASSERT_TRUE(cached->Submit(std::move(request)).ok());
  const Request embedding = engine.Await(0);
  cached.reset();
  embedding.sink->OnEnd({});
  sink->Await();
  EXPECT_TRUE(absl::IsCancelled(sink->end->status));
}

}  // namespace
}  // namespace interlace
