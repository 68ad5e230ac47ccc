// How long running streams may be kept waiting, and what a step may therefore hold; LayerKV's rules. Pure functions.
#pragma once

#include <cstdint>
#include <utility>

#include "coordinator/policy/step_view.h"

namespace interlace {

// What a request without targets is held to where requests are compared: nobody waits without end.
inline constexpr absl::Duration kNominalTtft = absl::Seconds(2);
inline constexpr absl::Duration kNominalGap = absl::Seconds(4);

// Share of TPOT that steps aim at: streams that join make the later ones longer, and a stream that has used all of its
// time can win nothing back with its last token.
inline constexpr double kPaceAim = 0.98;

// When the sequence's next token is due: the first by its TTFT; a later one so that the mean time per token stays
// within TPOT, and no later than the largest gap after the one before. The deadline bounds all. Nominal targets where
// it has none.
absl::Time Due(const SequenceView& sequence);

// How long the sequence may produce nothing from `begins` on, when what is in flight of it has come, so that after
// `future` further tokens at `per_token` each its mean time per token is kPaceAim of TPOT, and no gap is larger than
// its target:
//   min(aim TPOT (N_past + N_future) - (T_past + T_future), last token + largest gap - begins - per_token)
// where N counts the tokens after the first. LayerKV, arXiv 2410.00428, equations 1 and 2, where the aim is 1 and the
// step begins at once. Infinite without targets.
absl::Duration AllowedPause(const SequenceView& sequence, absl::Time begins, int32_t future, absl::Duration per_token);

// Of the streams that decode.
struct StreamPace {
  StepWork work;           // a step that holds a token of each
  absl::Duration allowed;  // the longest step that makes none of them late; infinite if none has targets
};
// Two passes over those that run: a policy asks once a step.
StreamPace PaceOf(const StepView& view);

// Rows for prompts beside the streams that decode, so that the step stays within what these allow; not less than one
// block, so that prompts get on however late the streams are.
int32_t PromptRows(const StepView& view, const StreamPace& pace);

// Rows of a prompt, from position `start` on and at most `most`, that take as long to compute as the link needs for
// `bytes`, what the prompt's own layers on the host are read for: with fewer the step is no shorter, and the next one
// reads it all again. Zero while the link's rate is not known.
int32_t RowsThatHide(const CostModel& cost, int32_t start, int32_t most, int64_t bytes);

// Bytes that the link brings from the host while the streams that decode are computed: reading so many costs no time.
// Unlimited while the link's rate is not known.
int64_t StreamBytes(const StepView& view, const StreamPace& pace);

// What a step of the sequence reads from the host: its sealed blocks in the layers of `layers` that it does not keep.
int64_t StreamedBytes(const SequenceView& sequence, int32_t layers, int64_t block_bytes);

// Of `bytes`, what the streams that decode do not read from the host already; 0 where `bytes` is unlimited.
int64_t BytesLeft(const StepView& view, int64_t bytes);

// Which streams read from the host first, lower first: those that are about to be late, least slack first; then the
// oldest. By slack alone, a stream that has got ahead of its pace would leave for each one that begins, and all would
// end late.
std::pair<bool, absl::Time> ReadingOrder(const SequenceView& sequence, absl::Time now);

}  // namespace interlace
