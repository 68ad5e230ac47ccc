#include "worker/output_masks.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// The coordinator has compiled the same constraint before, within its own patience.
constexpr absl::Duration kCompilePatience = absl::Seconds(10);
// A grammar that is ambiguous in many ways gets slower with each token. Everyone waits for the slowest mask.
constexpr absl::Duration kSlowestMask = absl::Seconds(5);

void SetBits(const std::vector<int32_t>& tokens, std::vector<uint32_t>* bits) {
  for (const int32_t t : tokens) (*bits)[t / 32] |= uint32_t{1} << (t % 32);
}

void KeepAllowed(const Sampling& sampling, std::vector<uint32_t>* bits) {
  std::vector<uint32_t> allowed(bits->size());
  SetBits(sampling.allowed_tokens, &allowed);
  if (sampling.constraint) SetBits(sampling.constraint->end_tokens, &allowed);
  for (size_t i = 0; i < allowed.size(); ++i) (*bits)[i] &= allowed[i];
}

bool HasOthers(std::vector<uint32_t> bits, const std::vector<int32_t>& tokens) {
  for (const int32_t t : tokens) bits[t / 32] &= ~(uint32_t{1} << (t % 32));
  return std::any_of(bits.begin(), bits.end(), [](uint32_t word) { return word != 0; });
}

// Rows of the head may be more or fewer than pieces of the tokenizer.
absl::StatusOr<Vocabulary> OfRows(const OutputMasks::MakeVocabulary& make, int32_t vocab) {
  if (make == nullptr) return absl::UnimplementedError("this rank knows no vocabulary");
  ASSIGN_OR_RETURN(Vocabulary vocabulary, make());
  if (static_cast<int32_t>(vocabulary.pieces.size()) > vocab) vocabulary.pieces.resize(vocab);
  std::erase_if(vocabulary.end_tokens, [vocab](int32_t token) { return token >= vocab; });
  return vocabulary;
}

}  // namespace

OutputMasks::OutputMasks(MakeVocabulary make_vocabulary, int32_t vocab, Clock& clock)
    : vocab_(vocab),
      clock_(clock),
      grammars_([make = std::move(make_vocabulary), vocab] { return OfRows(make, vocab); }, clock),
      thread_("masks") {}

void OutputMasks::Prepare(const StepPlan& plan) {
  for (const PlanSequence& s : plan.sequences) {
    if (s.opening && s.opening->sampling.constraint) grammars_.Begin(s.opening->sampling.constraint);
  }
}

void OutputMasks::Begin(std::vector<MaskAsk> asks) {
  asks_ = std::move(asks);
  masks_.assign(asks_.size(), RowMask());
  if (asks_.empty()) return;
  made_ = std::make_unique<absl::Notification>();
  thread_.Post([this] {
    for (size_t i = 0; i < asks_.size(); ++i) Fill(asks_[i], &masks_[i]);
    made_->Notify();
  });
}

void OutputMasks::Await() {
  if (made_ != nullptr) made_->WaitForNotification();
  made_.reset();
}

const RowMask* OutputMasks::Find(size_t sequence, int32_t draft) const {
  const auto before = [](const MaskAsk& ask, std::pair<size_t, int32_t> at) {
    return std::pair(ask.sequence, ask.draft) < at;
  };
  const auto it = std::lower_bound(asks_.begin(), asks_.end(), std::pair(sequence, draft), before);
  if (it == asks_.end() || it->sequence != sequence || it->draft != draft) return nullptr;
  return &masks_[it - asks_.begin()];
}

void OutputMasks::Fill(const MaskAsk& ask, RowMask* mask) {
  const Sampling& sampling = *ask.sampling;
  std::vector<uint32_t> bits(MaskWords(vocab_), ~uint32_t{0});
  if (sampling.constraint) {
    const absl::Time begin = clock_.Now();
    const absl::StatusOr<bool> restricted = FillFromGrammar(ask, absl::MakeSpan(bits));
    mask->status = restricted.status();
    if (!restricted.ok() || !*restricted) return;
    if (clock_.Now() - begin > kSlowestMask) {
      mask->status = absl::ResourceExhaustedError(absl::StrCat(
          "the constraint: what may follow ", ask.output.size(), " tokens takes longer than ",
          absl::FormatDuration(kSlowestMask), " to find out; write it with fewer ways to read the same text"));
      return;
    }
  }
  if (!sampling.allowed_tokens.empty()) KeepAllowed(sampling, &bits);
  if (static_cast<int32_t>(ask.output.size()) < sampling.min_tokens) {
    mask->must_end = !HasOthers(bits, sampling.end_tokens);
  }
  mask->bits = std::move(bits);
}

absl::StatusOr<TokenMatcher*> OutputMasks::MatcherOf(const MaskAsk& ask) {
  Following& following = following_[ask.request];
  if (following.attempt != ask.attempt) following = {ask.attempt, std::nullopt};
  if (!following.matcher) {
    const Constraint& constraint = *ask.sampling->constraint;
    ASSIGN_OR_RETURN(const Grammar grammar, grammars_.Begin(ask.sampling->constraint)->Await(kCompilePatience));
    ASSIGN_OR_RETURN(TokenMatcher matcher, TokenMatcher::Make(grammar, constraint.end_tokens));
    following.matcher.emplace(std::move(matcher));
  }
  return &*following.matcher;
}

absl::StatusOr<bool> OutputMasks::FillFromGrammar(const MaskAsk& ask, absl::Span<uint32_t> bits) {
  ASSIGN_OR_RETURN(TokenMatcher* const matcher, MatcherOf(ask));
  const bool taken = matcher->Follow(ask.output);
  // Behind the end, or behind a guess that the grammar does not take: nobody will look at the row's token.
  if (matcher->ended() || (!taken && ask.draft > 0)) return false;
  if (!taken) return absl::InternalError("the constraint: the output so far is not what it allows");
  RETURN_IF_ERROR(matcher->FillMask(bits));
  return true;
}

}  // namespace interlace
