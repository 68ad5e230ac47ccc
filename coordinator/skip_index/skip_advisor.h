// SkipAdvisor: which skip plan a stream drafts by, and what is learned from how it went.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "common/entropy.h"
#include "coordinator/skip_index/plan_loss.h"
#include "coordinator/skip_index/plan_search.h"
#include "coordinator/skip_index/skip_advice.h"
#include "coordinator/skip_index/skip_index.h"
#include "coordinator/skip_index/skip_scope.h"

namespace interlace {

// The facade of the folder. It hits where the index knows a plan for prompts like this one, tries plans where that
// costs little, and falls back to the scope's static plan. The scope's own search comes first; then prompts that are
// like each other get one of their own, and its best plan becomes an entry if it beats the static one on them.
//
// Trials are bounded: what they lost, against what the static plan gains, stays below `explore` of the time that
// streams take, so speculation with it is never slower than that much.
//
// One for all replicas. Owned by main; any thread; a call takes as long as a look-up, and nothing else happens under
// its lock. The trap: nothing that it says changes a token, so what it is told is believed; nobody may rely on more.
class SkipAdvisor {
 public:
  struct Options {
    std::string model_digest;
    int32_t layers = 0;  // of the model
    int64_t most_bytes = int64_t{64} << 20;
    double explore = 0.02;  // share of the time of streams that trials may cost
  };
  static constexpr double kTrialTokens = PlanSearch::kTrial;  // judged guesses after which a trial's stream asks again
  static constexpr double kJudged = 16;                       // guesses by which a plan's acceptance counts as known
  static constexpr size_t kMostSearches = 8;                  // of a scope at once, besides its own
  static constexpr size_t kMostStates = 64;                   // scopes that search at once

  SkipAdvisor(const Options& options, std::unique_ptr<Entropy> entropy);

  // `key`: of the stream's prompt, of any length; empty: there is none. `costs.layers` is the model's.
  SkipAdvice Advise(const SkipScope& scope, absl::Span<const float> key, const PassCosts& costs);
  void Learn(const SkipAdvice& advice, const SkipOutcome& outcome);

  // ---- what outlives a process, and what other coordinators get
  struct Exported {
    std::string bytes;  // for Import; empty: there is nothing yet
    SkipCursor until;   // what to ask for next
    bool more = false;  // there is more already
  };
  // What changed since, some MiB at most. Cursors are this advisor's own: of another one, everything is asked for.
  Exported Export(SkipCursor since) const;
  // FailedPrecondition: of another model, width or number of layers. DataLoss: it is damaged. Nothing is taken then.
  absl::Status Import(absl::string_view bytes);
  // Everything, for a file; and back. Refused as by Import; the index is empty then, and it is counted.
  std::string Save() const;
  absl::Status Load(absl::string_view bytes);

  SkipCounts counts() const;

 private:
  struct Nearby {
    uint64_t id = 0;
    std::vector<float> key;  // of the prompt with which it began
    uint64_t used = 0;
    bool empty_handed = false;  // it ended, and the static plan was as good
    PlanSearch search;
  };
  struct State {
    PlanSearch whole;
    std::vector<Nearby> nearby;
    double gain = 0;  // seconds that static plans save in a second
    uint64_t used = 0;
    int32_t learned = 0;
  };
  // All with mutex_ held.
  bool TakeWidth(size_t width);
  State& StateOf(const SkipScope& scope, const PassCosts& costs);
  Nearby* NearbyOf(const SkipScope& scope, State& state, const std::vector<float>& key, const PassCosts& costs);
  bool MayExplore();
  void Advance(const SkipScope& scope, State& state, uint64_t search);
  void LearnEntry(const SkipAdvice& advice, const SkipOutcome& outcome, const State& state);
  void Account(const SkipAdvice& advice, const SkipOutcome& outcome, State& state);
  absl::StatusOr<bool> ImportLocked(absl::string_view bytes);
  SkipCounts CountsLocked() const;
  double Uniform() { return static_cast<double>(entropy_->Next() >> 11) * 0x1p-53; }

  const Options options_;
  const std::unique_ptr<Entropy> entropy_;

  mutable absl::Mutex mutex_;
  std::unique_ptr<SkipIndex> index_;  // made with the first key, or by what is taken over
  bool keyed_ = false;                // the width is that of a rank's keys, and not what a file says
  absl::flat_hash_map<SkipScope, std::unique_ptr<State>> states_;
  uint64_t turn_ = 0, next_search_ = 1;
  double seconds_ = 0, lost_ = 0;  // by trials, against static plans
  double dearest_ = 0;             // what the dearest trial of late lost
  int64_t refused_ = 0;            // files, and keys of another width
};

}  // namespace interlace
