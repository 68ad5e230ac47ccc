// GrammarStore: constraints compiled once, on a thread of its own.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/executor.h"
#include "constraint/grammar.h"

namespace interlace {

// A grammar that is being compiled, or is. Shared by who waits for it and the store; any thread.
class PendingGrammar {
 public:
  // What became of it; DeadlineExceeded if that is not known after `patience`.
  absl::StatusOr<Grammar> Await(absl::Duration patience) const;
  // How long compiling took. Requires: Await has answered.
  absl::Duration took() const;

 private:
  friend class GrammarStore;
  bool done() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return result_.has_value(); }
  void Set(absl::StatusOr<Grammar> result, absl::Duration took);

  mutable absl::Mutex mutex_;
  std::optional<absl::StatusOr<Grammar>> result_ ABSL_GUARDED_BY(mutex_);
  absl::Duration took_ ABSL_GUARDED_BY(mutex_);
};

// The grammars that were asked for last stay. Owned by Intake, which compiles to find out what it refuses, and by the
// ModelRunner of the rank that samples; any thread. The trap: constraints are compiled one after another, so only those
// that CheckConstraint found good, or that a coordinator did, may be asked for.
class GrammarStore {
 public:
  using MakeVocabulary = absl::AnyInvocable<absl::StatusOr<Vocabulary>()>;
  // `make_vocabulary` runs on the store's thread, once, when the first constraint comes.
  GrammarStore(MakeVocabulary make_vocabulary, Clock& clock);

  // Never waits. Who asks for the same constraint gets the same grammar.
  std::shared_ptr<const PendingGrammar> Begin(const SharedConstraint& constraint);

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<PendingGrammar> grammar;
  };
  // On the store's thread.
  void Compile(const SharedConstraint& constraint, PendingGrammar& into);
  // Drops what was asked for longest ago, while there is too much.
  void Trim();

  Clock& clock_;
  MakeVocabulary make_vocabulary_;  // thread: the store's, as is compiler_
  std::optional<absl::StatusOr<std::unique_ptr<GrammarCompiler>>> compiler_;
  absl::Mutex mutex_;
  std::list<Entry> entries_ ABSL_GUARDED_BY(mutex_);  // what was asked for last is first
  absl::flat_hash_map<std::string, std::list<Entry>::iterator> by_key_ ABSL_GUARDED_BY(mutex_);
  ThreadExecutor thread_;  // last: it uses what stands above
};

}  // namespace interlace
