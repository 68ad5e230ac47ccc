// What the front doors hand to the scheduler, and what comes back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/ids.h"
#include "coordinator/fidelity.h"
#include "coordinator/served_adapter.h"
#include "coordinator/targets.h"
#include "coordinator/trace_context.h"
#include "proto/plan/step_plan.h"

namespace interlace {

enum class FinishReason : uint8_t { kStop, kLength };

struct RequestTiming {
  absl::Duration queue;        // arrival to first step
  absl::Duration first_token;  // arrival to first token; zero if none came
  absl::Duration total;
  // As delivered. Zero: fewer than two tokens. The largest gap of a request that did not end well counts the wait for
  // the token that never came.
  absl::Duration tpot = absl::ZeroDuration();         // mean gap between tokens
  absl::Duration largest_gap = absl::ZeroDuration();  // between two tokens
};

// A request that was predicted to miss its target, and was told so at once.
struct Shed {
  std::string reason;          // "predicted_ttft_miss", "predicted_deadline_miss"
  absl::Duration retry_after;  // the same request, sent then, is predicted to have its time
  bool hopeless = false;       // no: with the replica to itself it would miss the target too
};

// What a response cache may do with a request, as its door says; see coordinator/response_cache/cached_engine.h.
struct CacheTerms {
  std::string shape;    // digest of what shapes the answer and the door alone knows; see AnswerShape
  bool look_up = true;  // an answer that is kept may serve it
  bool keep = true;     // its answer may be kept
  bool tools = false;   // it may call tools
};

// The answer of an earlier request serves one.
struct CacheHit {
  bool exact = false;    // their prompts are the same
  float similarity = 1;  // of their prompts' embeddings, cosine
};

struct Request;
struct Resumed;

struct RequestEnd {
  absl::Status status;  // OK: finished for `reason`
  FinishReason reason = FinishReason::kStop;
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t cached_tokens = 0;           // of the prompt; their KV was there already
  int32_t end_token = -1;              // the stop token that ended it, which is not delivered; -1: none did
  std::vector<TokenScore> end_scores;  // of it, if the request asks for logprobs
  RequestTiming timing;
  TargetsMet met;            // as the scheduler saw it
  std::optional<Shed> shed;  // its status is ResourceExhausted then
  FidelityReport fidelity;
};

// Where a request's tokens go. Called on the scheduler's thread, so it must not block or call the scheduler back.
// OnTokens zero or more times, then OnEnd exactly once, then never again. Owned by the front door and the scheduler
// together until OnEnd.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  // That many tokens of the prompt need not be computed, since their KV is there. Before the first token, if at all;
  // what it says counts for a request that its sink ends by a stop string, since OnEnd is not waited for then.
  virtual void OnCached(int32_t tokens) { static_cast<void>(tokens); }
  // What comes is an answer that a response cache kept. Before the first token and the end.
  virtual void OnCacheHit(const CacheHit& hit) { static_cast<void>(hit); }
  // Of a request with a fidelity of its own: what was done up to the tokens that come next. As OnCached, it counts for
  // a request that its sink ends.
  virtual void OnFidelity(const FidelityReport& so_far) { static_cast<void>(so_far); }
  virtual void OnTokens(absl::Span<const int32_t> tokens) = 0;  // newly accepted, in order
  // The same for one token of a request that asks for logprobs: its own score, then those of the most likely.
  virtual void OnScoredToken(int32_t token, absl::Span<const TokenScore> scores) {
    static_cast<void>(scores);
    OnTokens({&token, 1});
  }
  // Of a request with prompt_logprobs: the scores of its prompt's tokens, each once, in the order of their positions
  // from 1 on, all of them before the first token and before an end that is OK.
  virtual void OnPromptScores(const PromptScores& scores) { static_cast<void>(scores); }
  // Of a request that is pooled, once, before its end.
  virtual void OnPooled(absl::Span<const float> mean) { static_cast<void>(mean); }
  virtual void OnEnd(const RequestEnd& end) = 0;
  // In place of OnEnd, of a scheduler that hands requests over (Scheduler::Options::hands_over): it cannot go on with
  // this one, whose tokens so far have been given. `why` is what ends it if nobody else can.
  virtual void OnHandedOver(Request request, const absl::Status& why);
};

// A tokenised request. Immutable once submitted. What each step looks at stands first.
struct Request {
  RequestId id{};
  int32_t max_tokens = 0;            // 0: it ends when its prompt is computed
  bool max_tokens_given = true;      // false: a default, which the engine lowers to what the replica can hold
  std::vector<int32_t> stop_tokens;  // end the request, and are not delivered
  int32_t prompt_logprobs = -1;  // -1: none; N: scores of the prompt's tokens, and of the N most likely in each place
  int32_t choices = 1;           // that are asked for of its prompt; 0: another of them says so
  bool pooled = false;           // the mean of its last hidden states is wanted; max_tokens is 0
  bool follows = false;          // another choice of what its client asked for was taken before: it is no new work
  std::shared_ptr<TokenSink> sink;
  std::string name;             // the client's request id, or one drawn by the front door; what explain asks for
  std::vector<int32_t> prompt;  // not empty
  // The first tokens of the answer, which its client has from a call that broke off: the sink gets those behind them.
  // Tokens are chosen by the seed and their place in the answer, so they are those that would have come.
  std::vector<int32_t> had;
  absl::Time arrival;  // of the scheduler's Clock
  absl::Time deadline;
  Targets targets;
  Fidelity fidelity;
  Sampling sampling;
  std::string salt;
  std::shared_ptr<const ServedAdapter> adapter;  // null: it asks for the model as it is
  std::shared_ptr<const void> adapter_lease;     // while a copy lives, ranks keep the adapter; null: they do anyway
  TraceContext trace;                            // of none, unless spans are exported
  std::string route;                             // of several replicas: why it is on this one
  std::shared_ptr<const Resumed> resumed;        // it comes from another replica, which got that far; null: it begins
  std::shared_ptr<const CacheTerms> caching;     // null: of no response cache
  std::shared_ptr<const std::vector<int32_t>> hint;  // what it may say, to draft from; null: nothing is known
};

// Empty: of none.
inline absl::string_view AdapterDigest(const Request& request) {
  return request.adapter == nullptr ? absl::string_view() : request.adapter->digest;
}

inline void TokenSink::OnHandedOver(Request request, const absl::Status& why) {
  static_cast<void>(request);
  OnEnd({.status = why});
}

}  // namespace interlace
