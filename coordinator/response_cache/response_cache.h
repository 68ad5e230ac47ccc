// ResponseCache: answers of earlier requests, by their prompts, and when one may serve a prompt like its own.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/entropy.h"
#include "common/metrics.h"
#include "coordinator/request.h"
#include "coordinator/response_cache/answer_key.h"
#include "coordinator/response_cache/answer_rule.h"
#include "coordinator/skip_index/neighbours.h"

namespace interlace {

struct KeptAnswer {
  std::vector<int32_t> tokens;
  FinishReason reason = FinishReason::kStop;
  int32_t end_token = -1;         // as in RequestEnd
  int32_t completion_tokens = 0;  // likewise
  double seconds = 0;             // that making it took
};
// What a client sees of them is the same. One that a door ended at a stop string has, by chance, more tokens than that.
bool SameAnswer(const KeptAnswer& a, const KeptAnswer& b);

// What a look-up by embedding says.
struct CacheFound {
  enum class Kind : uint8_t {
    kNone,   // nobody like it is known
    kTrial,  // the answer may suit; the model must be asked, and its answer compared
    kHit,    // it suits, as far as can be known
  };
  Kind kind = Kind::kNone;
  uint64_t entry = 0;
  float similarity = 0;  // of the embeddings, cosine
  float likeness = -1;   // 0: as any two prompts of the scope, 1: the same; below 0: too few were seen to say
  std::shared_ptr<const KeptAnswer> answer;
};

struct CacheCounts {
  int64_t entries = 0, bytes = 0;  // now
  int64_t exact = 0, semantic = 0, trials = 0, misses = 0;
  int64_t equal = 0, different = 0;
  int64_t evicted = 0, expired = 0;
  double saved_seconds = 0;
};

// Bounded in bytes and age. What goes first is what saved least by its bytes, ageing with what went before it
// (GreedyDual-Size-Frequency: Cherkasova, HP Labs, 1998). An entry is one answer, with all prompts that are known to
// have it, and the embedding of the first of them.
//
// Owned by CachedEngine; any thread. The trap: a removal may build a graph of many keys anew (Neighbours), so look-ups
// and insertions by embedding are nothing for the scheduler's thread.
class ResponseCache {
 public:
  struct Options {
    int64_t most_bytes = int64_t{64} << 20;
    absl::Duration ttl = absl::Hours(1);
    double error = 0.01;  // bound of the share of requests that get a wrong answer
  };
  // `metrics` may be null; it outlives the cache.
  ResponseCache(Options options, std::unique_ptr<Entropy> entropy, Metrics* metrics);
  ~ResponseCache();

  // The answer to the very same request; null: it is not known.
  std::shared_ptr<const KeptAnswer> Exact(const AnswerKey& key, absl::Time now);
  // That of the prompt whose embedding is nearest, if it is at most `most` tokens long. Requires: length 1.
  CacheFound Nearest(const AnswerKey& key, absl::Span<const float> embedding, int32_t most, absl::Time now);
  // Neither was there, and the model is asked without a look at those.
  void NoteMiss();
  // The model's answer to a prompt for which Nearest gave a trial. True: it is the entry's, which the prompt has from
  // now on too, if `keep`. False: it is another one, or the entry is gone.
  bool Compare(const AnswerKey& key, const CacheFound& trial, const KeptAnswer& answer, bool keep);
  // A new entry; in place of what the very same request had. `embedding`: of length 1, or empty: it serves exact
  // look-ups alone. One that would take a quarter of the memory is not kept.
  void Keep(const AnswerKey& key, absl::Span<const float> embedding, KeptAnswer answer, absl::Time now);

  CacheCounts counts() const;
  // Of the entry, for tests and figures; -1: it is gone, or knows too little.
  double ThresholdOf(uint64_t entry) const;

 private:
  struct Series;
  struct Partition;  // the entries of a scope that have embeddings
  struct Entry {
    SkipScope scope;
    std::vector<SkipScope> prompts;  // that have the answer; the first made it
    std::shared_ptr<const KeptAnswer> answer;
    AnswerRule rule;
    absl::Time until;
    int64_t hits = 0;
    int64_t bytes = 0;
    double worth = 0;
    bool embedded = false;
  };
  static constexpr size_t kMostPrompts = 32;  // of an entry
  // All with mutex_ held.
  void Expire(absl::Time now);
  void Drop(uint64_t id);
  void Rank(uint64_t id, Entry& entry);
  void Weigh(Entry& entry);
  void CountHit(uint64_t id, Entry& entry);
  void Publish();

  const Options options_;
  const std::unique_ptr<Entropy> entropy_;
  const std::unique_ptr<Series> series_;  // null: nobody counts

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<uint64_t, Entry> entries_;
  absl::flat_hash_map<SkipScope, uint64_t> prompts_;  // to entries
  absl::flat_hash_map<SkipScope, std::unique_ptr<Partition>> partitions_;
  absl::btree_set<std::pair<double, uint64_t>> order_;      // worth, entry: who goes first
  absl::btree_set<std::pair<absl::Time, uint64_t>> dates_;  // until when, entry
  double age_ = 0;                                          // the worth of what was evicted last
  int64_t bytes_ = 0;
  uint64_t next_ = 1;
  CacheCounts counts_, published_;
};

}  // namespace interlace
