#include "coordinator/response_cache/response_cache.h"

#include <algorithm>
#include <optional>

#include "common/check.h"

namespace interlace {
namespace {

constexpr double kFewKeys = 8;          // fewer do not say what embeddings of a scope have in common
constexpr double kManyKeys = 1024;      // after which the older half of them fades
constexpr float kLeastLikeness = 0.2F;  // below it prompts have nothing to do with each other
constexpr int64_t kEntryBytes = 1280;   // of its rule, tables and trees, by entry
constexpr int64_t kPromptBytes = 64;    // likewise by prompt
constexpr int64_t kScopeBytes = 512;    // likewise by scope

}  // namespace

bool SameAnswer(const KeptAnswer& a, const KeptAnswer& b) {
  if (a.reason != b.reason || (a.end_token < 0) != (b.end_token < 0)) return false;
  const bool stopped = a.reason == FinishReason::kStop && a.end_token < 0;
  const size_t common = std::min(a.tokens.size(), b.tokens.size());
  if (!stopped && a.tokens.size() != b.tokens.size()) return false;
  return std::equal(a.tokens.begin(), a.tokens.begin() + static_cast<ptrdiff_t>(common), b.tokens.begin());
}

struct ResponseCache::Partition {
  explicit Partition(size_t width) : keys(static_cast<int32_t>(width)), sum(width) {}

  void Note(absl::Span<const float> key) {
    if (seen >= kManyKeys) {
      for (double& x : sum) x /= 2;
      seen /= 2;
    }
    for (size_t i = 0; i < key.size(); ++i) sum[i] += key[i];
    seen += 1;
  }
  // Beyond the mean cosine of two keys of the scope: of n keys of length 1 with sum S, (|S|^2 - n) / (n (n - 1)).
  float Likeness(float similarity) const {
    if (seen < kFewKeys) return -1;
    double square = 0;
    for (const double x : sum) square += x * x;
    const double common = std::clamp((square - seen) / (seen * (seen - 1)), -0.5, 0.999);
    return static_cast<float>(std::clamp((similarity - common) / (1 - common), 0.0, 1.0));
  }
  int64_t bytes() const { return kScopeBytes + keys.bytes() + static_cast<int64_t>(sum.size() * sizeof(double)); }

  Neighbours keys;
  std::vector<double> sum;  // of the embeddings of prompts
  double seen = 0;          // so many, the older ones fading
};

struct ResponseCache::Series {
  explicit Series(Metrics& all)
      : exact(all.counter("interlace_response_cache_lookups_total", {{"result", "exact"}})),
        semantic(all.counter("interlace_response_cache_lookups_total", {{"result", "semantic"}})),
        explored(all.counter("interlace_response_cache_lookups_total", {{"result", "explored"}})),
        miss(all.counter("interlace_response_cache_lookups_total", {{"result", "miss"}})),
        equal(all.counter("interlace_response_cache_compared_total", {{"result", "equal"}})),
        different(all.counter("interlace_response_cache_compared_total", {{"result", "different"}})),
        room(all.counter("interlace_response_cache_removed_total", {{"cause", "room"}})),
        aged(all.counter("interlace_response_cache_removed_total", {{"cause", "age"}})),
        saved(all.counter("interlace_response_cache_saved_seconds_total")),
        entries(all.gauge("interlace_response_cache_entries")),
        bytes(all.gauge("interlace_response_cache_bytes")) {}
  Metrics::Counter exact, semantic, explored, miss, equal, different, room, aged, saved;
  Metrics::Gauge entries, bytes;
};

ResponseCache::ResponseCache(Options options, std::unique_ptr<Entropy> entropy, Metrics* metrics)
    : options_(options),
      entropy_(std::move(entropy)),
      series_(metrics == nullptr ? nullptr : std::make_unique<Series>(*metrics)) {
  absl::MutexLock lock(&mutex_);
  Publish();
}

ResponseCache::~ResponseCache() = default;

void ResponseCache::Publish() {
  counts_.entries = static_cast<int64_t>(entries_.size());
  counts_.bytes = bytes_;
  const CacheCounts before = std::exchange(published_, counts_);
  if (series_ == nullptr) return;
  const auto more = [](auto a, auto b) { return static_cast<double>(b - a); };
  series_->exact.Add(more(before.exact, counts_.exact));
  series_->semantic.Add(more(before.semantic, counts_.semantic));
  series_->explored.Add(more(before.trials, counts_.trials));
  series_->miss.Add(more(before.misses, counts_.misses));
  series_->equal.Add(more(before.equal, counts_.equal));
  series_->different.Add(more(before.different, counts_.different));
  series_->room.Add(more(before.evicted, counts_.evicted));
  series_->aged.Add(more(before.expired, counts_.expired));
  series_->saved.Add(more(before.saved_seconds, counts_.saved_seconds));
  series_->entries.Set(static_cast<double>(counts_.entries));
  series_->bytes.Set(static_cast<double>(counts_.bytes));
}

// ---- entries

// Its own bytes; those of its embedding are its partition's.
void ResponseCache::Weigh(Entry& entry) {
  bytes_ -= entry.bytes;
  entry.bytes = kEntryBytes + static_cast<int64_t>(entry.prompts.size()) * kPromptBytes +
                static_cast<int64_t>(entry.answer->tokens.size() * sizeof(int32_t));
  bytes_ += entry.bytes;
}

void ResponseCache::Rank(uint64_t id, Entry& entry) {
  order_.erase({entry.worth, id});
  const double saves = entry.answer->seconds * static_cast<double>(1 + entry.hits);
  entry.worth = age_ + saves / static_cast<double>(entry.bytes);
  order_.insert({entry.worth, id});
}

void ResponseCache::CountHit(uint64_t id, Entry& entry) {
  ++entry.hits;
  counts_.saved_seconds += entry.answer->seconds;
  Rank(id, entry);
}

void ResponseCache::Drop(uint64_t id) {
  const auto it = entries_.find(id);
  Entry& entry = it->second;
  for (const SkipScope& prompt : entry.prompts) prompts_.erase(prompt);
  if (entry.embedded) {
    Partition& partition = *partitions_.at(entry.scope);
    bytes_ -= partition.bytes();
    partition.keys.Remove(id);
    if (partition.keys.size() == 0) {
      partitions_.erase(entry.scope);
    } else {
      bytes_ += partition.bytes();
    }
  }
  bytes_ -= entry.bytes;
  order_.erase({entry.worth, id});
  dates_.erase({entry.until, id});
  entries_.erase(it);
}

void ResponseCache::Expire(absl::Time now) {
  while (!dates_.empty() && dates_.begin()->first <= now) {
    Drop(dates_.begin()->second);
    ++counts_.expired;
  }
}

// ---- look-ups

std::shared_ptr<const KeptAnswer> ResponseCache::Exact(const AnswerKey& key, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  Expire(now);
  const auto found = prompts_.find(key.prompt);
  if (found == prompts_.end()) {
    Publish();
    return nullptr;
  }
  Entry& entry = entries_.at(found->second);
  CountHit(found->second, entry);
  ++counts_.exact;
  Publish();
  return entry.answer;
}

CacheFound ResponseCache::Nearest(const AnswerKey& key, absl::Span<const float> embedding, int32_t most,
                                  absl::Time now) {
  absl::MutexLock lock(&mutex_);
  Expire(now);
  CacheFound found;
  const auto it = partitions_.find(key.scope);
  if (it != partitions_.end() && it->second->sum.size() == embedding.size()) {
    Partition& partition = *it->second;
    partition.Note(embedding);
    const Neighbour near = partition.keys.Nearest(embedding, 1).at(0);
    Entry& entry = entries_.at(near.id);
    const float likeness = partition.Likeness(near.similarity);
    const bool alike = likeness < 0 || likeness >= kLeastLikeness;
    if (alike && entry.answer->tokens.size() <= static_cast<size_t>(most)) {
      found = {CacheFound::Kind::kTrial, near.id, near.similarity, likeness, entry.answer};
      const double draw = static_cast<double>(entropy_->Next() >> 11) * 0x1p-53;
      if (likeness >= 0 && draw >= entry.rule.TrialChance(likeness, options_.error)) {
        found.kind = CacheFound::Kind::kHit;
        CountHit(near.id, entry);
      }
    }
  }
  counts_.semantic += found.kind == CacheFound::Kind::kHit;
  counts_.trials += found.kind == CacheFound::Kind::kTrial;
  counts_.misses += found.kind == CacheFound::Kind::kNone;
  Publish();
  return found;
}

void ResponseCache::NoteMiss() {
  absl::MutexLock lock(&mutex_);
  ++counts_.misses;
  Publish();
}

// ---- what the model answered

bool ResponseCache::Compare(const AnswerKey& key, const CacheFound& trial, const KeptAnswer& answer, bool keep) {
  CHECK(trial.kind == CacheFound::Kind::kTrial);
  absl::MutexLock lock(&mutex_);
  const bool same = SameAnswer(*trial.answer, answer);
  ++(same ? counts_.equal : counts_.different);
  const auto it = entries_.find(trial.entry);
  if (it != entries_.end()) {
    Entry& entry = it->second;
    if (trial.likeness >= 0) entry.rule.Note(trial.likeness, same);
    if (same && keep && entry.prompts.size() < kMostPrompts && prompts_.emplace(key.prompt, trial.entry).second) {
      entry.prompts.push_back(key.prompt);
    }
    Weigh(entry);
    Rank(trial.entry, entry);
  }
  Publish();
  return same && it != entries_.end();
}

void ResponseCache::Keep(const AnswerKey& key, absl::Span<const float> embedding, KeptAnswer answer, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  Expire(now);
  const int64_t tokens = static_cast<int64_t>(answer.tokens.size() * sizeof(int32_t));
  if (kEntryBytes + tokens + static_cast<int64_t>(embedding.size() * sizeof(float)) > options_.most_bytes / 4) return;
  const auto former = prompts_.find(key.prompt);
  if (former != prompts_.end()) Drop(former->second);
  const uint64_t id = next_++;
  Entry& entry = entries_[id];
  entry = {.scope = key.scope,
           .prompts = {key.prompt},
           .answer = std::make_shared<const KeptAnswer>(std::move(answer)),
           .until = now + options_.ttl};
  prompts_[key.prompt] = id;
  dates_.insert({entry.until, id});
  if (!embedding.empty()) {
    std::unique_ptr<Partition>& partition = partitions_[key.scope];
    if (partition == nullptr) {
      partition = std::make_unique<Partition>(embedding.size());
      partition->Note(embedding);
    } else {
      bytes_ -= partition->bytes();
    }
    entry.embedded = partition->sum.size() == embedding.size();
    if (entry.embedded) partition->keys.Put(id, embedding);
    bytes_ += partition->bytes();
  }
  Weigh(entry);
  Rank(id, entry);
  while (bytes_ > options_.most_bytes && !order_.empty()) {
    age_ = order_.begin()->first;
    Drop(order_.begin()->second);
    ++counts_.evicted;
  }
  Publish();
}

CacheCounts ResponseCache::counts() const {
  absl::MutexLock lock(&mutex_);
  return counts_;
}

double ResponseCache::ThresholdOf(uint64_t id) const {
  absl::MutexLock lock(&mutex_);
  const auto it = entries_.find(id);
  if (it == entries_.end() || it->second.rule.seen() < AnswerRule::kLeast) return -1;
  return it->second.rule.threshold();
}

}  // namespace interlace
