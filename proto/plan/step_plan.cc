#include "proto/plan/step_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace interlace {
namespace {

template <typename Names>
void AppendNames(const Names& names, std::string* text) {
  if (names) absl::StrAppend(text, " names ", names->first, "+", names->ids.size());
}

template <typename Kept>
void AppendKept(const Kept& kept, std::string* text) {
  if (kept) absl::StrAppend(text, " kept ", kept->ToString());
}

}  // namespace

int32_t StepPlan::tokens() const {
  size_t total = 0;
  for (const PlanSequence& s : sequences) total += s.tokens.size();
  return static_cast<int32_t>(total);
}

bool StepPlan::skips() const {
  return std::any_of(sequences.begin(), sequences.end(), [](const PlanSequence& s) { return s.skip.has_value(); });
}

bool StepPlan::empty() const {
  return releases.empty() && changes.empty() && moves.empty() && sequences.empty() && probes.empty();
}

std::string StepPlan::ToString() const {
  std::string text = absl::StrCat("plan ", Value(id), " epoch ", Value(epoch), ":");
  for (const Release& r : releases) {
    absl::StrAppend(&text, " [release ", Value(r.request));
    AppendNames(r.names, &text);
    text += "]";
  }
  for (const SequenceChange& c : changes) {
    absl::StrAppend(&text, " [change ", Value(c.request));
    AppendKept(c.kept, &text);
    AppendNames(c.names, &text);
    text += "]";
  }
  for (const BlockMove& m : moves) {
    absl::StrAppend(&text, " [", MoveKindName(m.kind), " ", IdText(m.block), " layers ", m.layers.ToString(), "]");
  }
  for (const PlanSequence& s : sequences) {
    absl::StrAppend(&text, " [request ", Value(s.request), ".", s.attempt, " positions ", s.start, "..",
                    s.start + static_cast<int32_t>(s.tokens.size()) - 1);
    if (s.opening) absl::StrAppend(&text, " adopts ", s.opening->adopted.size());
    if (s.opening && !s.opening->adapter.empty()) absl::StrAppend(&text, " adapter ", s.opening->adapter);
    AppendKept(s.kept, &text);
    AppendNames(s.names, &text);
    if (s.sample) absl::StrAppend(&text, " sample ", s.sample_index);
    if (s.own_drafts) absl::StrAppend(&text, " drafts ", s.drafts, " itself");
    if (s.model_drafts) absl::StrAppend(&text, " drafts ", s.drafts, " by the draft model");
    if (s.skip) {
      absl::StrAppend(&text, " skips attention ", s.skip->attention.ToString(), " feed-forward ",
                      s.skip->feed_forward.ToString());
    }
    if (s.score) absl::StrAppend(&text, " score ", s.start + s.score->first + 1, "+", s.score->targets.size());
    if (s.pool != Pooling::kNone) text += s.pool == Pooling::kGive ? " pool, give" : " pool";
    if (s.key) absl::StrAppend(&text, " key of layer ", Value(s.key->layer), " from ", s.key->first);
    if (s.key && s.key->give) text += ", give";
    text += "]";
  }
  for (const Probe& p : probes) absl::StrAppend(&text, " [probe ", Value(p.request), " ", p.blocks.size(), "]");
  if (!row_cuts.empty()) absl::StrAppend(&text, " [rows cut at ", absl::StrJoin(row_cuts, ","), "]");
  return text;
}

std::string StepResult::ToString() const {
  std::string text = absl::StrCat("result of plan ", Value(plan), " stage ", Value(stage), " ", status.ToString());
  for (const SampledToken& s : sampled) absl::StrAppend(&text, " request ", Value(s.request), " token ", s.token);
  for (const LostSequence& l : lost) {
    absl::StrAppend(&text, " request ", Value(l.request), ".", l.attempt, " lost layer ", Value(l.layer), " block ",
                    l.block, " (", LossCauseName(l.cause), ")");
  }
  for (const ProbeAnswer& p : probed) absl::StrAppend(&text, " request ", Value(p.request), " below ", p.blocks);
  for (const FetchAnswer& f : fetched) {
    absl::StrAppend(&text, " fetched ", IdText(f.block), f.failed.empty() ? "" : " but ",
                    f.failed.empty() ? "" : f.failed.ToString());
  }
  return text;
}

absl::string_view MoveKindName(MoveKind kind) {
  constexpr absl::string_view kNames[] = {"copy out",  "copy in",    "drop device",
                                          "drop host", "fetch host", "fetch device"};
  return kNames[static_cast<size_t>(kind)];
}

absl::string_view LossCauseName(LossCause cause) {
  constexpr absl::string_view kNames[] = {"missing", "corrupt", "no slot", "refused"};
  return kNames[static_cast<size_t>(cause)];
}

}  // namespace interlace
