#include "constraint/grammar_store.h"

#include <vector>

#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

constexpr size_t kMostGrammars = 128;
constexpr size_t kMostBytes = size_t{256} << 20;  // with the masks that were made of them

std::string KeyOf(const Constraint& constraint) {
  return absl::StrCat(static_cast<int>(constraint.kind), constraint.compact ? "c" : "", ":", constraint.text);
}

}  // namespace

absl::StatusOr<Grammar> PendingGrammar::Await(absl::Duration patience) const {
  absl::MutexLock lock(&mutex_);
  if (mutex_.AwaitWithTimeout(absl::Condition(this, &PendingGrammar::done), patience)) return *result_;
  return absl::DeadlineExceededError(absl::StrCat("compiling it takes longer than ", absl::FormatDuration(patience)));
}

absl::Duration PendingGrammar::took() const {
  absl::MutexLock lock(&mutex_);
  return took_;
}

void PendingGrammar::Set(absl::StatusOr<Grammar> result, absl::Duration took) {
  absl::MutexLock lock(&mutex_);
  result_ = std::move(result);
  took_ = took;
}

GrammarStore::GrammarStore(MakeVocabulary make_vocabulary, Clock& clock)
    : clock_(clock), make_vocabulary_(std::move(make_vocabulary)), thread_("grammars") {}

std::shared_ptr<const PendingGrammar> GrammarStore::Begin(const SharedConstraint& constraint) {
  const std::string key = KeyOf(*constraint);
  std::shared_ptr<PendingGrammar> fresh;
  {
    absl::MutexLock lock(&mutex_);
    if (const auto known = by_key_.find(key); known != by_key_.end()) {
      entries_.splice(entries_.begin(), entries_, known->second);
      return known->second->grammar;
    }
    fresh = std::make_shared<PendingGrammar>();
    entries_.push_front({key, fresh});
    by_key_[key] = entries_.begin();
  }
  thread_.Post([this, constraint, fresh] {
    Compile(constraint, *fresh);
    Trim();
  });
  return fresh;
}

void GrammarStore::Compile(const SharedConstraint& constraint, PendingGrammar& into) {
  const absl::Time begin = clock_.Now();
  if (!compiler_) {
    absl::StatusOr<Vocabulary> vocabulary = make_vocabulary_();
    if (vocabulary.ok()) {
      compiler_ = GrammarCompiler::Make(*vocabulary);
    } else {
      compiler_ = vocabulary.status();
    }
  }
  absl::StatusOr<Grammar> grammar =
      compiler_->ok() ? (**compiler_)->Compile(*constraint) : absl::StatusOr<Grammar>(compiler_->status());
  into.Set(std::move(grammar), clock_.Now() - begin);
}

void GrammarStore::Trim() {
  std::vector<Entry> entries;
  {
    absl::MutexLock lock(&mutex_);
    entries.assign(entries_.begin(), entries_.end());
  }
  size_t bytes = 0, count = 0;
  std::erase_if(entries, [&](const Entry& entry) {
    const absl::StatusOr<Grammar> grammar = entry.grammar->Await(absl::ZeroDuration());
    bytes += entry.key.size() + (grammar.ok() ? grammar->bytes() : 0);
    const bool pending = absl::IsDeadlineExceeded(grammar.status());
    return (++count <= kMostGrammars && bytes <= kMostBytes) || count == 1 || pending;
  });
  absl::MutexLock lock(&mutex_);
  for (const Entry& entry : entries) {
    const auto known = by_key_.find(entry.key);
    if (known == by_key_.end() || known->second->grammar != entry.grammar) continue;
    entries_.erase(known->second);
    by_key_.erase(known);
  }
}

}  // namespace interlace
