// OutputMasks: which tokens may follow what requests with constraints have so far.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/types/span.h"
#include "common/clock.h"
#include "common/executor.h"
#include "constraint/grammar_store.h"
#include "proto/plan/step_plan.h"

namespace interlace {

// One row that samples, of a request that has a constraint or allowed tokens.
struct MaskAsk {
  size_t sequence = 0;  // of the plan
  int32_t draft = 0;    // how many guesses stand before it
  RequestId request{};
  uint32_t attempt = 0;
  const Sampling* sampling = nullptr;
  absl::Span<const int32_t> output;  // the tokens before the row's, guesses included
};

struct RowMask {
  std::vector<uint32_t> bits;  // [(vocab + 31) / 32]; empty: any token, since what comes of the row is dropped
  bool must_end = false;       // end tokens alone are allowed
  absl::Status status;         // not OK: there is no mask, and why
};

// Masks are made on a thread of its own while the layers compute, out of output tokens alone: a matcher is kept for
// each attempt, and moved to the tokens that a row has, forth or back. So drafts that were not accepted, a step that is
// run again and a new attempt need no care. Owned by ModelRunner of the rank that samples; thread: runner.
class OutputMasks {
 public:
  using MakeVocabulary = std::function<absl::StatusOr<Vocabulary>()>;
  OutputMasks(MakeVocabulary make_vocabulary, int32_t vocab, Clock& clock);

  // Compiling of what the plan opens begins; of one that comes later too.
  void Prepare(const StepPlan& plan);
  // Masks begin to be made. What the asks point to stays as it is until Await has returned. Those of one sequence come
  // in the order of their drafts.
  void Begin(std::vector<MaskAsk> asks);
  // All masks that were begun are made.
  void Await();
  // Of the last Begin; null: nothing was asked for that row. After Await.
  const RowMask* Find(size_t sequence, int32_t draft) const;
  void Release(RequestId request) { following_.erase(request); }
  void Reset() { following_.clear(); }
  size_t followed() const { return following_.size(); }

 private:
  struct Following {
    uint32_t attempt = 0;
    std::optional<TokenMatcher> matcher;
  };
  void Fill(const MaskAsk& ask, RowMask* mask);
  absl::StatusOr<TokenMatcher*> MatcherOf(const MaskAsk& ask);
  // Of a row with a constraint. False: any token.
  absl::StatusOr<bool> FillFromGrammar(const MaskAsk& ask, absl::Span<uint32_t> bits);

  const int32_t vocab_;
  Clock& clock_;
  GrammarStore grammars_;
  // Of the runner, but of thread_ between Begin and Await.
  absl::flat_hash_map<RequestId, Following> following_;
  std::vector<MaskAsk> asks_;
  std::vector<RowMask> masks_;  // of asks_
  std::unique_ptr<absl::Notification> made_;
  ThreadExecutor thread_;  // last: it uses what stands above
};

}  // namespace interlace
