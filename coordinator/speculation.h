// Speculation: whether, by which drafter and how deep streams guess ahead; pure arithmetic.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/cost_model.h"

namespace interlace {

// Which drafters may guess: what a stream said before (kNgram), the rank by passes over some sublayers (kSelf) or by a
// second model (kModel), or whichever promises more (kAuto).
enum class Speculate : uint8_t { kOff, kNgram, kSelf, kModel, kAuto };
// "off", "ngram", "self", "draft-model", "auto"; nullopt: something else.
std::optional<Speculate> ParseSpeculate(absl::string_view text);

enum class Drafter : uint8_t { kNone, kNgram, kSelf, kModel };
inline constexpr size_t kDrafters = 4;
// As metrics write it; of kNone: "".
absl::string_view DrafterName(Drafter drafter);

// One stream's guesses for a step.
struct DraftChoice {
  Drafter drafter = Drafter::kNone;
  int32_t depth = 0;  // tokens
  friend bool operator==(const DraftChoice&, const DraftChoice&) = default;
};

// The chance that a guess is right, by the last few dozen of them; the first few move it fast, since each wrong one
// costs.
class DraftRate {
 public:
  explicit DraftRate(double value) : value_(value) {}
  double value() const { return value_; }
  void Note(bool right) {
    value_ += ((right ? 1 : 0) - value_) / weight_;
    weight_ = std::min(weight_ + 1, kMemory);
  }
  // Of a chain of `drafts` guesses the first `right` were: what stands behind a wrong one says nothing.
  void NoteChain(int32_t drafts, int32_t right);
  // Nothing was tried: it drifts towards `value`, so that it is tried again some time. So slowly that the tries which
  // it leads to cost less than a step in a hundred.
  void Forget(double value) { value_ += (value - value_) / kForgetting; }

 private:
  static constexpr double kMemory = 16, kForgetting = 8192;
  double value_;
  double weight_ = 3;  // guesses, the one to come and what `value` was worth at first included
};

// Tokens that a stream gets of a step with `depth` guesses, each right with chance `rate` if those before it were:
// (1 - rate^(depth + 1)) / (1 - rate). Source: Leviathan et al., arXiv 2211.17192.
double TokensOfStep(double rate, int32_t depth);

// What a drafter promises a stream, and what it takes.
struct DraftOffer {
  std::optional<double> rate;  // chance that a guess is right; nullopt: it makes none
  double pass = 0;             // of the rank, for each guess, times a plain step's computing
  absl::Duration first;        // computing before the first guess
};

struct DraftStream {
  int32_t position = 0;  // of its next row
  int32_t most = 0;      // tokens that it may guess
  int32_t left = 1;      // that it may say at all
  DraftOffer ngram, self, model;
};

struct DraftView {
  const CostModel* cost = nullptr;
  absl::Span<const DraftStream> streams;
  absl::Duration transfer;  // of what a step of them reads from the host
  double plain_pace = 1;    // steps take so many times what is expected, without guesses
  double draft_pace = 1;    // and with them: ranks wait for the next plan until the guesses are judged
  bool drafting = false;    // they guess now
};

struct DraftDecision {
  bool drafts = false;               // all streams wait for the judgement of their guesses; else none guesses
  double gain = 1;                   // tokens a second, over those without guesses
  std::vector<DraftChoice> choices;  // of the streams
  friend bool operator==(const DraftDecision&, const DraftDecision&) = default;
};

// What promises the most tokens a second. A plain step takes C, what it computes, or T, what it reads from the host,
// whichever is longer. Guesses make the computing longer: by the rows that verify them and by the passes that make
// them, which costs nothing while T is longer; and by what a drafter must do before its first guess, spread over all
// tokens that the stream may yet say. It begins where it promises a gain of kDraftsBegin and ends below
// kDraftsEnd.
DraftDecision DecideDrafts(const DraftView& view);
inline constexpr double kDraftsBegin = 1.05, kDraftsEnd = 1.01;
// A rank's passes are made where a guess is right this often or more: below, what they take from the cores that copy KV
// as well, which the cost model does not know, is more than they give.
inline constexpr double kLeastRate = 0.125;

}  // namespace interlace
