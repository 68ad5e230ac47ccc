#include "coordinator/response_cache/cached_engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "coordinator/slo_outcome.h"

namespace interlace {
namespace {

constexpr absl::string_view kBypassNames[] = {"sampled", "choices", "scores", "tools", "resumed", "bounded", "asked"};
// Ids of doors count up from 1 and never get there.
constexpr uint64_t kEmbeddingBit = uint64_t{1} << 62;
constexpr size_t kLeadIn = 3;  // tokens of the prompt before a hint, by which a drafter finds its begin

RequestId EmbeddingId(RequestId id) { return RequestId{Value(id) | kEmbeddingBit}; }

Request EmbeddingOf(const Request& request) {
  Request asked;
  asked.id = EmbeddingId(request.id);
  asked.name = request.name + "-embedding";
  asked.pooled = true;
  asked.follows = request.follows;
  asked.prompt = request.prompt;
  asked.arrival = request.arrival;
  asked.deadline = request.deadline;
  asked.targets = request.targets;
  asked.salt = request.salt;
  asked.adapter = request.adapter;
  asked.adapter_lease = request.adapter_lease;
  return asked;
}

}  // namespace

bool CachedEngine::Shared::Post(absl::AnyInvocable<void()> job) {
  absl::MutexLock lock(&mutex);
  if (closed) return false;
  work.push_back(std::move(job));
  return true;
}

// ---- sinks

class CachedEngine::EmbeddingSink final : public TokenSink {
 public:
  EmbeddingSink(CachedEngine& engine, std::shared_ptr<Shared> shared, Asked asked)
      : engine_(engine), shared_(std::move(shared)), asked_(std::move(asked)) {}

  void OnCached(int32_t tokens) override { asked_.cached = tokens; }
  void OnTokens(absl::Span<const int32_t>) override {}
  void OnPooled(absl::Span<const float> mean) override { asked_.embedding.assign(mean.begin(), mean.end()); }
  // Whatever became of it: the model says the same of the request itself.
  void OnEnd(const RequestEnd& end) override {
    if (!end.status.ok()) asked_.embedding.clear();
    const std::shared_ptr<TokenSink> sink = asked_.request.sink;
    const bool taken = shared_->Post(
        [engine = &engine_, asked = std::move(asked_)]() mutable { engine->OnEmbedding(std::move(asked)); });
    if (!taken) sink->OnEnd({.status = absl::CancelledError("the server stops")});
  }

 private:
  CachedEngine& engine_;  // not to be touched but by its thread
  const std::shared_ptr<Shared> shared_;
  Asked asked_;
};

class CachedEngine::RecordingSink final : public TokenSink {
 public:
  RecordingSink(std::shared_ptr<Shared> shared, Clock& clock, Expected expected, const Request& request)
      : shared_(std::move(shared)),
        clock_(clock),
        expected_(std::move(expected)),
        bounded_(request.max_tokens_given),
        sink_(request.sink) {}

  void OnCached(int32_t tokens) override { sink_->OnCached(Cached(tokens)); }
  void OnFidelity(const FidelityReport& so_far) override { sink_->OnFidelity(so_far); }
  void OnTokens(absl::Span<const int32_t> tokens) override {
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    sink_->OnTokens(tokens);
  }
  void OnEnd(const RequestEnd& end) override {
    // An answer that ended where the replica or the context did is no answer to a prompt of another length.
    if (end.status.ok() && (bounded_ || end.reason == FinishReason::kStop)) {
      Note({std::move(tokens_), end.reason, end.end_token, end.completion_tokens,
            absl::ToDoubleSeconds(std::max(absl::ZeroDuration(), end.timing.total - end.timing.queue))});
    }
    RequestEnd told = end;
    told.cached_tokens = Cached(end.cached_tokens);
    sink_->OnEnd(told);
  }

 private:
  int32_t Cached(int32_t tokens) const { return expected_.embedded ? std::min(tokens, expected_.cached) : tokens; }
  void Note(KeptAnswer answer) {
    if (!expected_.embedded) {
      if (expected_.keep) shared_->cache.Keep(expected_.key, {}, std::move(answer), clock_.Now());
      return;
    }
    shared_->Post([cache = &shared_->cache, expected = std::move(expected_), answer = std::move(answer),
                   now = clock_.Now()]() mutable {
      const bool tried = expected.trial.kind == CacheFound::Kind::kTrial;
      if (tried && cache->Compare(expected.key, expected.trial, answer, expected.keep)) return;
      if (expected.keep) cache->Keep(expected.key, expected.embedding, std::move(answer), now);
    });
  }

  const std::shared_ptr<Shared> shared_;
  Clock& clock_;
  Expected expected_;
  const bool bounded_;
  const std::shared_ptr<TokenSink> sink_;
  std::vector<int32_t> tokens_;
};

// ---- the engine

CachedEngine::CachedEngine(Options options, Engine& engine, Clock& clock, std::unique_ptr<Entropy> entropy,
                           Metrics& metrics)
    : options_(std::move(options)),
      engine_(engine),
      clock_(clock),
      metrics_(metrics),
      shared_(std::make_shared<Shared>(options_.cache, std::move(entropy), &metrics)),
      thread_("response-cache", [this] { Run(); }) {}

CachedEngine::~CachedEngine() {
  {
    absl::MutexLock lock(&shared_->mutex);
    shared_->closed = true;
  }
  thread_.Join();
}

// What is left at the end runs all the same: the engine lives, and ends what it gets.
void CachedEngine::Run() {
  for (;;) {
    absl::AnyInvocable<void()> job;
    {
      absl::MutexLock lock(&shared_->mutex);
      const auto due = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return shared_->closed || !shared_->work.empty(); };
      shared_->mutex.Await(absl::Condition(&due));
      if (shared_->work.empty()) return;
      job = std::move(shared_->work.front());
      shared_->work.pop_front();
    }
    job();
  }
}

std::optional<CachedEngine::Bypass> CachedEngine::WhyNot(const Request& request) {
  if (request.sampling.temperature > 0) return Bypass::kSampled;
  if (request.choices != 1) return Bypass::kChoices;
  if (request.sampling.logprobs >= 0 || request.prompt_logprobs >= 0) return Bypass::kScores;
  if (request.caching->tools) return Bypass::kTools;
  if (!request.had.empty() || request.resumed != nullptr) return Bypass::kResumed;
  if (request.fidelity.mode == FidelityMode::kBounded) return Bypass::kBounded;
  if (!request.caching->look_up && !request.caching->keep) return Bypass::kAsked;
  return std::nullopt;
}

absl::Status CachedEngine::Submit(Request request) {
  Forget(request.name);
  if (request.caching == nullptr || request.pooled || request.max_tokens == 0)
    return engine_.Submit(std::move(request));
  if (const std::optional<Bypass> why = WhyNot(request)) {
    const std::string cause(kBypassNames[static_cast<size_t>(*why)]);
    metrics_.Add("interlace_response_cache_bypassed_total", 1, {{"cause", cause}});
    return engine_.Submit(std::move(request));
  }
  const std::shared_ptr<const CacheTerms> terms = request.caching;
  const AnswerKey key = KeyOf(request, options_.model_digest);
  if (terms->look_up) {
    const std::shared_ptr<const KeptAnswer> answer = shared_->cache.Exact(key, clock_.Now());
    if (answer != nullptr && Serve(request, *answer, {.exact = true})) return absl::OkStatus();
  }
  if (terms->look_up && options_.semantic) {
    // Whom the engine does not take for its embedding it does not take at all, or it says why.
    if (AskForEmbedding({request, key, {}, 0}).ok()) return absl::OkStatus();
  }
  shared_->cache.NoteMiss();
  return SubmitRecorded(std::move(request), {.key = key, .keep = terms->keep});
}

absl::Status CachedEngine::SubmitRecorded(Request request, Expected expected) {
  request.caching.reset();
  request.sink = std::make_shared<RecordingSink>(shared_, clock_, std::move(expected), request);
  return engine_.Submit(std::move(request));
}

absl::Status CachedEngine::AskForEmbedding(Asked asked) {
  const RequestId id = asked.request.id;
  Request request = EmbeddingOf(asked.request);
  request.sink = std::make_shared<EmbeddingSink>(*this, shared_, std::move(asked));
  {
    absl::MutexLock lock(&shared_->mutex);
    shared_->asking[id] = false;
  }
  const absl::Status submitted = engine_.Submit(std::move(request));
  bool cancelled_meanwhile = false;  // before the engine knew it
  {
    absl::MutexLock lock(&shared_->mutex);
    const auto found = shared_->asking.find(id);
    cancelled_meanwhile = found != shared_->asking.end() && found->second;
    if (!submitted.ok() && found != shared_->asking.end()) shared_->asking.erase(found);
  }
  if (submitted.ok() && cancelled_meanwhile) engine_.Cancel(EmbeddingId(id));
  return submitted;
}

// The entry in `asking` stays until the engine has the request, so that no Cancel is lost.
void CachedEngine::OnEmbedding(Asked asked) {
  const RequestId id = asked.request.id;
  const std::shared_ptr<TokenSink> sink = asked.request.sink;
  const auto cancelled = [&](bool leave) {
    absl::MutexLock lock(&shared_->mutex);
    const auto found = shared_->asking.find(id);
    const bool was = found != shared_->asking.end() && found->second;
    if (leave) shared_->asking.erase(id);
    return was;
  };
  const auto end = [&](absl::Status status) {
    cancelled(/*leave=*/true);
    sink->OnEnd({.status = std::move(status), .prompt_tokens = static_cast<int32_t>(asked.request.prompt.size())});
  };
  if (cancelled(/*leave=*/false)) return end(absl::CancelledError("the client is gone"));
  Expected expected{.key = asked.key, .keep = asked.request.caching->keep, .cached = asked.cached};
  expected.embedded = Normalise(&asked.embedding);
  if (expected.embedded) {
    const std::shared_ptr<const KeptAnswer> same = shared_->cache.Exact(asked.key, clock_.Now());
    CacheHit hit{.exact = same != nullptr};
    std::shared_ptr<const KeptAnswer> answer = same;
    if (answer == nullptr) {
      expected.trial = shared_->cache.Nearest(asked.key, asked.embedding, asked.request.max_tokens, clock_.Now());
      hit.similarity = expected.trial.similarity;
      if (expected.trial.kind == CacheFound::Kind::kHit) answer = expected.trial.answer;
    }
    if (answer != nullptr && Serve(asked.request, *answer, hit)) {
      cancelled(/*leave=*/true);
      return;
    }
  } else {
    shared_->cache.NoteMiss();
  }
  if (expected.trial.kind == CacheFound::Kind::kTrial) {
    const std::vector<int32_t>& prompt = asked.request.prompt;
    std::vector<int32_t> hint(prompt.end() - static_cast<ptrdiff_t>(std::min(kLeadIn, prompt.size())), prompt.end());
    hint.insert(hint.end(), expected.trial.answer->tokens.begin(), expected.trial.answer->tokens.end());
    asked.request.hint = std::make_shared<const std::vector<int32_t>>(std::move(hint));
  }
  expected.embedding = std::move(asked.embedding);
  const absl::Status submitted = SubmitRecorded(std::move(asked.request), std::move(expected));
  if (!submitted.ok()) {
    cancelled(/*leave=*/true);
    sink->OnEnd({.status = submitted});
    return;
  }
  if (cancelled(/*leave=*/true)) engine_.Cancel(id);
}

void CachedEngine::Cancel(RequestId id) {
  bool asking = false;
  {
    absl::MutexLock lock(&shared_->mutex);
    const auto found = shared_->asking.find(id);
    asking = found != shared_->asking.end();
    if (asking) found->second = true;
  }
  if (asking) engine_.Cancel(EmbeddingId(id));
  engine_.Cancel(id);
}

// ---- answers that are kept

bool CachedEngine::Serve(const Request& request, const KeptAnswer& answer, const CacheHit& hit) {
  const absl::Time now = clock_.Now();
  if (now >= request.deadline) return false;
  RequestEnd end{.reason = answer.reason,
                 .prompt_tokens = static_cast<int32_t>(request.prompt.size()),
                 .completion_tokens = answer.completion_tokens,
                 .cached_tokens = static_cast<int32_t>(request.prompt.size()),
                 .end_token = answer.end_token};
  end.timing.total = std::max(absl::ZeroDuration(), now - request.arrival);
  if (!answer.tokens.empty()) end.timing.first_token = end.timing.total;
  end.met = OutcomeOf(request, end);
  CountOutcome(end, metrics_);
  Tell(request, end, hit);
  request.sink->OnCacheHit(hit);
  request.sink->OnCached(end.cached_tokens);
  if (!answer.tokens.empty()) request.sink->OnTokens(answer.tokens);
  request.sink->OnEnd(end);
  return true;
}

void CachedEngine::Tell(const Request& request, const RequestEnd& end, const CacheHit& hit) {
  Explanation explanation;
  explanation.name = request.name;
  explanation.state = "finished";
  explanation.end = end;
  explanation.targets = request.targets;
  explanation.deadline = request.deadline - request.arrival;
  explanation.spent[Spending::kQueued] = end.timing.total;
  std::string how = hit.exact ? "exact" : absl::StrFormat("semantic, similarity %.4f", hit.similarity);
  explanation.Add({.kind = DecisionKind::kFromCache, .at = end.timing.total, .detail = std::move(how)});
  absl::MutexLock lock(&told_mutex_);
  if (told_.size() == kMostTold) told_.pop_front();
  told_.push_back(std::move(explanation));
}

// A name may come again once its request has ended.
void CachedEngine::Forget(absl::string_view name) {
  absl::MutexLock lock(&told_mutex_);
  const auto named = [&](const Explanation& explanation) { return explanation.name == name; };
  told_.erase(std::remove_if(told_.begin(), told_.end(), named), told_.end());
}

absl::StatusOr<Explanation> CachedEngine::Explain(absl::string_view name) {
  {
    absl::MutexLock lock(&told_mutex_);
    const auto named = [&](const Explanation& explanation) { return explanation.name == name; };
    const auto found = std::find_if(told_.begin(), told_.end(), named);
    if (found != told_.end()) return *found;
  }
  return engine_.Explain(name);
}

}  // namespace interlace
