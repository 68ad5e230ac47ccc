#include "coordinator/skip_index/skip_index.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace interlace {
namespace {

constexpr double kFewKeys = 8;          // fewer do not say what keys of a scope have in common
constexpr double kManyKeys = 1024;      // after which the older half of them fades
constexpr float kLeastLikeness = 0.2F;  // below it a plan is not even tried
constexpr int64_t kNodeBytes = 192;     // of tables and trees, by entry
constexpr int64_t kScopeBytes = 512;    // likewise by scope, without its keys and their sum

}  // namespace

// ---- scopes

SkipIndex::Partition& SkipIndex::PartitionOf(const SkipScope& scope) {
  auto it = partitions_.find(scope);
  if (it == partitions_.end()) {
    if (partitions_.size() >= kMostScopes) ForgetOneScope();
    it = partitions_.emplace(scope, std::make_unique<Partition>(options_.width)).first;
  }
  it->second->used = ++turn_;
  return *it->second;
}

// The one that was used the longest ago, of those without entries if there are any.
void SkipIndex::ForgetOneScope() {
  const auto older = [](const auto& a, const auto& b) {
    return std::pair(a.second->keys.size() > 0, a.second->used) < std::pair(b.second->keys.size() > 0, b.second->used);
  };
  const auto oldest = std::min_element(partitions_.begin(), partitions_.end(), older);
  const SkipScope scope = oldest->first;
  std::vector<uint64_t> ids;
  for (const auto& [id, held] : entries_) {
    if (held->entry.scope == scope) ids.push_back(id);
  }
  for (const uint64_t id : ids) Drop(id);
  changes_.erase(partitions_.at(scope)->changed);
  partitions_.erase(scope);
}

void SkipIndex::NoteKey(Partition& partition, absl::Span<const float> key) {
  if (partition.seen >= kManyKeys) {
    for (double& x : partition.sum) x /= 2;
    partition.seen /= 2;
  }
  for (size_t i = 0; i < key.size(); ++i) partition.sum[i] += key[i];
  partition.seen += 1;
}

// The mean cosine of two keys of the scope: of n keys of length 1 with sum S, (|S|^2 - n) / (n (n - 1)).
std::optional<double> SkipIndex::Common(const Partition& partition) {
  if (partition.seen < kFewKeys) return std::nullopt;
  double square = 0;
  for (const double x : partition.sum) square += x * x;
  return std::clamp((square - partition.seen) / (partition.seen * (partition.seen - 1)), -0.5, 0.999);
}

std::optional<float> SkipIndex::Likeness(const SkipScope& scope, float similarity) const {
  const auto it = partitions_.find(scope);
  const std::optional<double> common = it == partitions_.end() ? std::nullopt : Common(*it->second);
  if (!common) return std::nullopt;
  return static_cast<float>(std::clamp((similarity - *common) / (1 - *common), 0.0, 1.0));
}

std::optional<std::pair<SkipPlan, Acceptance>> SkipIndex::StaticOf(const SkipScope& scope) const {
  const auto it = partitions_.find(scope);
  return it == partitions_.end() ? std::nullopt : it->second->best;
}

void SkipIndex::SetStatic(const SkipScope& scope, const SkipPlan& plan, const Acceptance& acceptance) {
  CHECK(Fits(plan, options_.layers));
  Partition& partition = PartitionOf(scope);
  partition.best.emplace(plan, acceptance);
  Number(&partition.changed, {Change::Kind::kScope, 0, scope});
}

// ---- entries

SkipFound SkipIndex::Lookup(const SkipScope& scope, absl::Span<const float> key, const PassCosts& costs, double loss,
                            double draw) {
  ++counts_.lookups;
  Partition& partition = PartitionOf(scope);
  NoteKey(partition, key);
  SkipFound trial;
  for (const Neighbour& near : partition.keys.Nearest(key, kNearest)) {
    Held& held = *entries_.at(near.id);
    SkipEntry& entry = held.entry;
    const bool gains = PlanLoss(costs, entry.plan, entry.acceptance.Lower()) < 1 &&
                       PlanLoss(costs, entry.plan, entry.acceptance.mean()) < loss;
    const std::optional<float> likeness = Likeness(scope, near.similarity);
    if (!gains || !likeness || *likeness < kLeastLikeness) continue;
    SkipFound found{SkipFound::Kind::kHit, near.id, entry.plan, near.similarity, *likeness, entry.acceptance.mean()};
    if (draw >= entry.threshold.TrialChance(*likeness)) {
      ++entry.hits;
      ++counts_.hits;
      entry.reach = std::min(entry.reach, near.similarity);
      return found;
    }
    found.kind = SkipFound::Kind::kTrial;
    if (trial.kind == SkipFound::Kind::kNone) trial = found;
  }
  if (trial.kind == SkipFound::Kind::kTrial) ++counts_.trials;
  counts_.saved_by_a_mib += ghosts_.Meet(scope, key);
  return trial;
}

uint64_t SkipIndex::Insert(const SkipScope& scope, absl::Span<const float> key, const SkipPlan& plan,
                           const Acceptance& acceptance) {
  CHECK(Fits(plan, options_.layers) && key.size() == static_cast<size_t>(options_.width));
  SkipEntry entry{.id = next_entry_, .scope = scope, .plan = plan, .acceptance = acceptance};
  ++counts_.insertions;
  return PutEntry(entry, key) ? entry.id : 0;
}

bool SkipIndex::PutEntry(SkipEntry entry, absl::Span<const float> key) {
  const uint64_t id = entry.id;
  if (Has(id)) Drop(id);
  next_entry_ = std::max(next_entry_, id + 1);
  Partition& partition = PartitionOf(entry.scope);
  key_bytes_ -= partition.keys.bytes();
  partition.keys.Put(id, key);
  key_bytes_ += partition.keys.bytes();
  Held& held = *entries_.emplace(id, std::make_unique<Held>()).first->second;
  held.entry = std::move(entry);
  Rank(id, held);
  Number(&held.changed, {Change::Kind::kEntry, id, {}});
  Evict();
  return Has(id);
}

void SkipIndex::Note(uint64_t id, const SkipUse& use) {
  const auto it = entries_.find(id);
  if (it == entries_.end()) return;
  Held& held = *it->second;
  SkipEntry& entry = held.entry;
  entry.acceptance.Note(use.tried, use.right);
  if (use.hit) entry.saved_seconds += use.seconds;
  if (use.hit) counts_.saved_seconds += use.seconds;
  if (use.good) entry.threshold.Note({use.likeness, *use.good});
  if (use.hit && use.good == false) {
    ++entry.false_hits;
    ++counts_.false_hits;
  }
  const auto uses = static_cast<double>(entry.threshold.samples().size());
  if (uses >= HitThreshold::kLeast && Acceptance(uses, entry.threshold.good()).Upper() < 0.5) {
    ++counts_.demotions;
    return Drop(id);
  }
  Rank(id, held);
  Number(&held.changed, {Change::Kind::kEntry, id, {}});
}

// Its worth is what it saved by its bytes, over that of what went last: so what is not used any more goes some time. A
// new one is worth what a hit saves on average.
void SkipIndex::Rank(uint64_t id, Held& held) {
  order_.erase({held.worth, id});
  const auto hits = static_cast<double>(held.entry.hits);
  const double mean = counts_.hits > 0 ? counts_.saved_seconds / static_cast<double>(counts_.hits) : 1;
  const double saved = hits > 0 ? std::max(0.0, held.entry.saved_seconds) * hits : std::max(0.0, mean);
  held.worth = age_ + saved / static_cast<double>(BytesOfEntry());
  order_.insert({held.worth, id});
}

void SkipIndex::Evict() {
  while (bytes() > options_.most_bytes && !order_.empty()) {
    const auto [worth, id] = *order_.begin();
    const SkipEntry& entry = entries_.at(id)->entry;
    age_ = std::max(age_, worth);
    if (entry.hits > 0 && entry.saved_seconds > 0) {
      const absl::Span<const float> key = partitions_.at(entry.scope)->keys.KeyOf(id);
      ghosts_.Add({entry.scope,
                   {key.begin(), key.end()},
                   entry.reach,
                   entry.saved_seconds / static_cast<double>(entry.hits),
                   BytesOfEntry()});
    }
    ++counts_.evictions;
    Drop(id);
  }
}

void SkipIndex::Remove(uint64_t id) {
  if (Has(id)) Drop(id);
}

void SkipIndex::Drop(uint64_t id) {
  const auto it = entries_.find(id);
  Held& held = *it->second;
  Partition& partition = *partitions_.at(held.entry.scope);
  key_bytes_ -= partition.keys.bytes();
  partition.keys.Remove(id);
  key_bytes_ += partition.keys.bytes();
  order_.erase({held.worth, id});
  Number(&held.changed, {Change::Kind::kRemoved, id, {}});
  removals_.push_back(held.changed);
  entries_.erase(it);
  if (removals_.size() <= kMostRemovals) return;
  forgotten_ = removals_.front();
  changes_.erase(forgotten_);
  removals_.pop_front();
}

void SkipIndex::Clear() {
  partitions_.clear();
  entries_.clear();
  order_.clear();
  changes_.clear();
  removals_.clear();
  ghosts_.Clear();
  age_ = 0;
  key_bytes_ = 0;
  forgotten_ = next_change_++;  // whoever has anything of it must take everything anew
}

// ---- what others get

void SkipIndex::Number(uint64_t* last, Change change) {
  changes_.erase(*last);
  *last = next_change_++;
  changes_.emplace(*last, change);
}

SkipEntryRecord SkipIndex::EntryRecord(uint64_t id) const {
  const SkipEntry& entry = entries_.at(id)->entry;
  const absl::Span<const float> key = partitions_.at(entry.scope)->keys.KeyOf(id);
  return {entry, {key.begin(), key.end()}};
}

SkipScopeRecord SkipIndex::ScopeRecord(const SkipScope& scope) const {
  const Partition& partition = *partitions_.at(scope);
  return {scope, partition.seen, {partition.sum.begin(), partition.sum.end()}, partition.best};
}

SkipRecords SkipIndex::Changes(SkipCursor since, size_t most) const {
  SkipRecords records;
  const uint64_t last = next_change_ - 1;
  records.whole = since.whole == 0 || since.whole < forgotten_ || since.whole > last || since.change > last;
  records.until = records.whole ? SkipCursor{0, std::max<uint64_t>(last, 1)} : since;
  const size_t key = static_cast<size_t>(options_.width) * sizeof(float);
  size_t bytes = 0;
  for (auto it = changes_.upper_bound(records.until.change); it != changes_.end(); ++it) {
    if (bytes >= most) {
      records.more = true;
      return records;
    }
    const auto& [number, change] = *it;
    records.until.change = number;
    switch (change.kind) {
      case Change::Kind::kEntry:
        records.entries.push_back(EntryRecord(change.entry));
        bytes += key + sizeof(SkipEntry);
        break;
      case Change::Kind::kScope:
        records.scopes.push_back(ScopeRecord(change.scope));
        bytes += key + sizeof(SkipScopeRecord);
        break;
      case Change::Kind::kRemoved:
        if (!records.whole) records.removed.push_back(change.entry);
        bytes += sizeof change.entry;
        break;
    }
  }
  records.until = {last, std::max<uint64_t>(last, 1)};
  return records;
}

absl::Status SkipIndex::Check(const SkipRecords& records) const {
  const auto width = static_cast<size_t>(options_.width);
  for (const SkipEntryRecord& record : records.entries) {
    if (record.key.size() != width || !Fits(record.entry.plan, options_.layers) || record.entry.id == 0) {
      return absl::InvalidArgumentError(absl::StrCat("entry ", record.entry.id, " has a key of ", record.key.size(),
                                                     " numbers, or a plan for other layers than ", options_.layers));
    }
  }
  for (const SkipScopeRecord& record : records.scopes) {
    if (record.sum.size() != width || (record.best && !Fits(record.best->first, options_.layers))) {
      return absl::InvalidArgumentError("a scope has a sum of another width, or a plan for other layers");
    }
  }
  return absl::OkStatus();
}

absl::Status SkipIndex::Take(const SkipRecords& records) {
  if (absl::Status status = Check(records); !status.ok()) return status;
  if (records.whole) Clear();
  for (const uint64_t id : records.removed) Remove(id);
  for (const SkipScopeRecord& record : records.scopes) {
    Partition& partition = PartitionOf(record.scope);
    partition.seen = record.seen;
    partition.sum.assign(record.sum.begin(), record.sum.end());
    partition.best = record.best;
    Number(&partition.changed, {Change::Kind::kScope, 0, record.scope});
  }
  for (const SkipEntryRecord& record : records.entries) PutEntry(record.entry, record.key);
  return absl::OkStatus();
}

// ---- counts

int64_t SkipIndex::BytesOfEntry() const {
  return static_cast<int64_t>(sizeof(Held)) + kNodeBytes + options_.width * int64_t{sizeof(float)};
}

int64_t SkipIndex::bytes() const {
  const int64_t entry = static_cast<int64_t>(sizeof(Held)) + kNodeBytes;
  const int64_t scope = kScopeBytes + options_.width * int64_t{sizeof(double)};
  return key_bytes_ + entry * static_cast<int64_t>(entries_.size()) + scope * static_cast<int64_t>(partitions_.size()) +
         ghosts_.bytes();
}

SkipCounts SkipIndex::counts() const {
  SkipCounts counts = counts_;
  counts.entries = static_cast<int64_t>(entries_.size());
  counts.scopes = static_cast<int64_t>(partitions_.size());
  counts.bytes = bytes();
  return counts;
}

std::optional<SkipEntry> SkipIndex::EntryOf(uint64_t entry) const {
  const auto it = entries_.find(entry);
  return it == entries_.end() ? std::nullopt : std::optional(it->second->entry);
}

}  // namespace interlace
