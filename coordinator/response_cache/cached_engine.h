// CachedEngine: an Engine that answers with what earlier requests were answered, where that is safe.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "coordinator/engine.h"
#include "coordinator/response_cache/answer_key.h"
#include "coordinator/response_cache/response_cache.h"

namespace interlace {

// Looks at greedy requests for one choice, without tools, scores or a resumed answer; all others pass through. The very
// same request gets the answer that is kept. Else, if `semantic`, the engine is asked for the mean of the prompt's last
// hidden states, as /v1/embeddings does, whose KV then serves the request itself; and by that embedding the answer to a
// prompt like it may be found. What the model answers is kept on its way to the sink, if it ends well.
//
// An answer that is kept comes to the sink at once, as one OnTokens, on the thread of Submit or on this class's own. So
// does an error that Submit would have returned, had no embedding been asked for before.
//
// Between the gates and the replicas. Owned by main; any thread. The traps: `engine` outlives it and may end requests
// after it is gone, so what they need is shared with their sinks; no series of the scheduler tells of what is answered
// here but those of targets.
class CachedEngine final : public Engine {
 public:
  struct Options {
    bool semantic = false;
    std::string model_digest;
    ResponseCache::Options cache;
  };
  CachedEngine(Options options, Engine& engine, Clock& clock, std::unique_ptr<Entropy> entropy, Metrics& metrics);
  ~CachedEngine() override;

  absl::Status Submit(Request request) override;
  void Cancel(RequestId id) override;
  void Stop(RequestId id) override { engine_.Stop(id); }
  void HandOver(RequestId id, absl::Status why) override { engine_.HandOver(id, std::move(why)); }
  absl::Status DrainReplica(int32_t replica, bool drains) override { return engine_.DrainReplica(replica, drains); }
  // Of the last requests that were answered here, too.
  absl::StatusOr<Explanation> Explain(absl::string_view name) override;
  absl::StatusOr<ReplicaSnapshot> Snapshot() override { return engine_.Snapshot(); }
  EngineLoad Load() override { return engine_.Load(); }

  CacheCounts counts() const { return shared_->cache.counts(); }

 private:
  class EmbeddingSink;
  class RecordingSink;
  enum class Bypass : uint8_t { kSampled, kChoices, kScores, kTools, kResumed, kBounded, kAsked };
  static constexpr size_t kMostTold = 256;
  // Of a request whose embedding is asked for.
  struct Asked {
    Request request;
    AnswerKey key;
    std::vector<float> embedding;  // empty: there is none
    int32_t cached = 0;            // tokens of the prompt whose KV was there
  };
  // Of an answer on its way.
  struct Expected {
    AnswerKey key;
    bool keep = false;
    bool embedded = false;  // `cached` is what counts, since the KV of the embedding serves the request
    std::vector<float> embedding;
    CacheFound trial;
    int32_t cached = 0;
  };
  // What sinks use; they may outlive the engine.
  struct Shared {
    Shared(ResponseCache::Options options, std::unique_ptr<Entropy> entropy, Metrics* metrics)
        : cache(options, std::move(entropy), metrics) {}
    ResponseCache cache;
    absl::Mutex mutex;
    bool closed = false;                          // protected by mutex, as all below
    std::deque<absl::AnyInvocable<void()>> work;  // for the thread
    absl::flat_hash_map<RequestId, bool> asking;  // requests before the model has them; true: cancelled
    // False: the engine is gone.
    bool Post(absl::AnyInvocable<void()> job);
  };

  static std::optional<Bypass> WhyNot(const Request& request);
  // Submits it, and keeps what comes of it.
  absl::Status SubmitRecorded(Request request, Expected expected);
  absl::Status AskForEmbedding(Asked asked);
  void OnEmbedding(Asked asked);
  // False: it is too late for that.
  bool Serve(const Request& request, const KeptAnswer& answer, const CacheHit& hit);
  void Tell(const Request& request, const RequestEnd& end, const CacheHit& hit);
  void Forget(absl::string_view name);
  void Run();

  const Options options_;
  Engine& engine_;
  Clock& clock_;
  Metrics& metrics_;
  const std::shared_ptr<Shared> shared_;
  absl::Mutex told_mutex_;
  std::deque<Explanation> told_;  // protected by told_mutex_; of requests that were answered here

  Thread thread_;  // what waits for embeddings, and keeps answers by them
};

}  // namespace interlace
