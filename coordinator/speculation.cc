#include "coordinator/speculation.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace interlace {
namespace {

constexpr std::pair<Drafter, DraftOffer DraftStream::*> kOffers[] = {{Drafter::kNgram, &DraftStream::ngram},
                                                                     {Drafter::kSelf, &DraftStream::self},
                                                                     {Drafter::kModel, &DraftStream::model}};

}  // namespace

std::optional<Speculate> ParseSpeculate(absl::string_view text) {
  if (text == "off") return Speculate::kOff;
  if (text == "ngram") return Speculate::kNgram;
  if (text == "self") return Speculate::kSelf;
  if (text == "draft-model") return Speculate::kModel;
  if (text == "auto") return Speculate::kAuto;
  return std::nullopt;
}

absl::string_view DrafterName(Drafter drafter) {
  constexpr absl::string_view kNames[kDrafters] = {"", "ngram", "self", "draft-model"};
  return kNames[static_cast<size_t>(drafter)];
}

void DraftRate::NoteChain(int32_t drafts, int32_t right) {
  for (int32_t i = 0; i < right; ++i) Note(true);
  if (right < drafts) Note(false);
}

double TokensOfStep(double rate, int32_t depth) {
  if (rate >= 1) return depth + 1;
  return (1 - std::pow(rate, depth + 1)) / (1 - rate);
}

DraftDecision DecideDrafts(const DraftView& view) {
  DraftDecision decision;
  decision.choices.resize(view.streams.size());
  const auto count = static_cast<double>(view.streams.size());
  if (view.streams.empty() || !view.cost->known()) return decision;
  StepWork plain;
  for (const DraftStream& stream : view.streams) plain.Add(stream.position, 1);
  const double computes = absl::ToDoubleSeconds(view.cost->Expect(plain));
  const double transfer = absl::ToDoubleSeconds(view.transfer);
  const double step = std::max(computes, transfer);
  const double spare = (step - computes) / count;  // computing that each stream may add for nothing
  double tokens = 0, added = 0;
  for (size_t i = 0; i < view.streams.size(); ++i) {
    const DraftStream& stream = view.streams[i];
    double best = 0, best_tokens = 1, best_added = 0;
    const auto consider = [&](Drafter drafter, const DraftOffer& offer, int32_t depth) {
      StepWork with = plain;
      with.rows += depth;
      with.context += depth;
      with.products += int64_t{depth} * (stream.position + 1) + int64_t{depth} * (depth + 1) / 2;
      double more = absl::ToDoubleSeconds(view.cost->Expect(with)) - computes;
      const double gained = TokensOfStep(*offer.rate, depth);
      more += depth * offer.pass * computes / count;
      more += absl::ToDoubleSeconds(offer.first) * gained / std::max(1, stream.left);
      const double value = (gained - 1) * step / count - std::max(0.0, more - spare);
      if (value <= best) return;
      best = value;
      best_tokens = gained;
      best_added = more;
      decision.choices[i] = {drafter, depth};
    };
    for (const auto& [drafter, member] : kOffers) {
      const DraftOffer& offer = stream.*member;
      if (!offer.rate || (drafter != Drafter::kNgram && *offer.rate < kLeastRate)) continue;
      for (int32_t depth = 1; depth <= stream.most; ++depth) consider(drafter, offer, depth);
    }
    tokens += best_tokens;
    added += best_added;
  }
  const double with = std::max(computes + added, transfer) * view.draft_pace;
  if (with <= 0) return decision;
  decision.gain = tokens / count * step * view.plain_pace / with;
  decision.drafts = decision.gain >= (view.drafting ? kDraftsEnd : kDraftsBegin);
  if (!decision.drafts) decision.choices.assign(view.streams.size(), DraftChoice());
  return decision;
}

}  // namespace interlace
