// SkipIndex: which skip plan served prompts like this one, and how well.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/skip_index/acceptance.h"
#include "coordinator/skip_index/ghost_list.h"
#include "coordinator/skip_index/hit_threshold.h"
#include "coordinator/skip_index/neighbours.h"
#include "coordinator/skip_index/plan_loss.h"
#include "coordinator/skip_index/skip_records.h"
#include "coordinator/skip_index/skip_scope.h"

namespace interlace {

// What a look-up says.
struct SkipFound {
  enum class Kind : uint8_t {
    kNone,   // nobody like it is known, or its plan would gain nothing
    kTrial,  // the plan may suit, and must be tried before it is counted on
    kHit,    // it suits, as far as can be known
  };
  Kind kind = Kind::kNone;
  uint64_t entry = 0;
  SkipPlan plan;
  float similarity = 0;  // cosine
  float likeness = 0;    // 0: as any two prompts of the scope; 1: the same
  double acceptance = 0;
};

// How one use of an entry's plan went.
struct SkipUse {
  float similarity = 0, likeness = 0;
  bool hit = false;  // it was counted on, not tried
  double tried = 0;  // guesses that were judged
  double right = 0;
  double seconds = 0;        // that it saved, which may be less than none
  std::optional<bool> good;  // the plan did what it was used for; nullopt: too little to tell
};

struct SkipCounts {
  int64_t entries = 0, scopes = 0, bytes = 0;  // now
  int64_t lookups = 0, hits = 0, trials = 0, false_hits = 0, insertions = 0, evictions = 0, demotions = 0;
  int64_t refused = 0;        // files, what other coordinators said, and keys of another width
  double saved_seconds = 0;   // by hits
  double saved_by_a_mib = 0;  // that a further MiB would have saved, by the ghosts of what was evicted
};

// Keys of one width, in scopes that never meet. An entry is a key, a plan, and what was learned of it: how often its
// guesses are right, and how like a prompt must be for that to hold. In bounds by bytes: what goes first is what saved
// least by its bytes, ageing with what went before it (GreedyDual-Size-Frequency: Cherkasova, HP Labs, 1998).
//
// Everything that changes gets a number, so that another coordinator, or a file, can have what changed since one.
//
// A member of SkipAdvisor; thread: one at a time.
class SkipIndex {
 public:
  struct Options {
    std::string model_digest;
    int32_t layers = 0;
    int32_t width = 0;  // of keys
    int64_t most_bytes = int64_t{64} << 20;
  };
  static constexpr size_t kMostScopes = 1024;
  static constexpr int32_t kNearest = 4;         // entries that a look-up considers
  static constexpr size_t kMostRemovals = 4096;  // that are told; who asks for older ones gets everything

  explicit SkipIndex(Options options) : options_(std::move(options)) {}

  // Requires: `key` has the width and length 1; `draw` is uniform in [0, 1). The nearest entry that promises less loss
  // than `loss`. Notes the key: what any two prompts of a scope have in common is learned from all of them.
  SkipFound Lookup(const SkipScope& scope, absl::Span<const float> key, const PassCosts& costs, double loss,
                   double draw);
  // Requires: the plan fits the layers. The entry's name; 0: there is no room for even one.
  uint64_t Insert(const SkipScope& scope, absl::Span<const float> key, const SkipPlan& plan,
                  const Acceptance& acceptance);
  // Of an entry that is gone nothing is noted. One that serves most of its uses badly goes.
  void Note(uint64_t entry, const SkipUse& use);
  // The plan that served all prompts of the scope best; none: nothing is known.
  std::optional<std::pair<SkipPlan, Acceptance>> StaticOf(const SkipScope& scope) const;
  void SetStatic(const SkipScope& scope, const SkipPlan& plan, const Acceptance& acceptance);
  bool Has(uint64_t entry) const { return entries_.contains(entry); }
  void Remove(uint64_t entry);
  void Clear();

  // What changed since, in the order of the changes: up to some `most` bytes, and at least a record.
  SkipRecords Changes(SkipCursor since, size_t most) const;
  // Takes over what another index says. InvalidArgument, and nothing is taken: a key's width, a plan's layers, or a
  // number that cannot be.
  absl::Status Take(const SkipRecords& records);

  const Options& options() const { return options_; }
  SkipCounts counts() const;
  std::optional<SkipEntry> EntryOf(uint64_t entry) const;
  // How like two keys are beyond what any two of the scope are: 1 for the same ones. Nullopt: too few were seen.
  std::optional<float> Likeness(const SkipScope& scope, float similarity) const;

 private:
  struct Partition {
    explicit Partition(int32_t width) : keys(width), sum(static_cast<size_t>(width)) {}
    Neighbours keys;
    std::vector<double> sum;  // of the keys of prompts
    double seen = 0;          // so many, the older ones fading
    std::optional<std::pair<SkipPlan, Acceptance>> best;
    uint64_t changed = 0;  // its number
    uint64_t used = 0;     // in which turn, last
  };
  struct Held {
    SkipEntry entry;
    double worth = 0;      // its place in order_
    uint64_t changed = 0;  // its number
  };
  struct Change {
    enum class Kind : uint8_t { kEntry, kScope, kRemoved };
    Kind kind = Kind::kEntry;
    uint64_t entry = 0;
    SkipScope scope;
  };
  Partition& PartitionOf(const SkipScope& scope);
  void ForgetOneScope();
  static void NoteKey(Partition& partition, absl::Span<const float> key);
  static std::optional<double> Common(const Partition& partition);
  void Rank(uint64_t id, Held& held);
  void Number(uint64_t* last, Change change);
  void Evict();
  void Drop(uint64_t id);
  bool PutEntry(SkipEntry entry, absl::Span<const float> key);
  absl::Status Check(const SkipRecords& records) const;
  int64_t BytesOfEntry() const;
  int64_t bytes() const;
  SkipEntryRecord EntryRecord(uint64_t id) const;
  SkipScopeRecord ScopeRecord(const SkipScope& scope) const;

  const Options options_;
  absl::flat_hash_map<SkipScope, std::unique_ptr<Partition>> partitions_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Held>> entries_;
  absl::btree_set<std::pair<double, uint64_t>> order_;  // worth, entry: who goes first
  absl::btree_map<uint64_t, Change> changes_;           // by number; of an entry or a scope the last one
  std::deque<uint64_t> removals_;                       // numbers, ascending
  GhostList ghosts_;
  double age_ = 0;  // the worth of what was evicted last
  uint64_t next_entry_ = 1;
  uint64_t next_change_ = 1;
  uint64_t forgotten_ = 0;  // removals up to this number are not in changes_ any more
  uint64_t turn_ = 0;       // of uses of scopes
  int64_t key_bytes_ = 0;   // of all partitions
  SkipCounts counts_;
};

}  // namespace interlace
