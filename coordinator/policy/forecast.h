// When requests that wait would have their first tokens, if all goes well from now on. Pure functions.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "coordinator/policy/step_view.h"

namespace interlace {

// Prompts that are computed before a first token comes: those that come earlier in the order, and its own.
struct PromptsAhead {
  StepWork work;
  int32_t longest = 0;  // rows of the longest; the chunks of one prompt are computed one after another

  // Positions [from, to) of one prompt.
  PromptsAhead& Add(int32_t from, int32_t to) {
    work.Add(from, to - from);
    longest = std::max(longest, to - from);
    return *this;
  }
};

// What steps hold from now on.
struct StepRoom {
  absl::Duration under_way;  // until the steps are over that are planned already
  StepWork beside;           // the streams that decode: each step holds a token of each
  int32_t prompt_rows = 0;   // of all prompts
  int32_t chunk_tokens = 0;  // of one prompt
};

// How long until these prompts are computed. Optimistic: every step is full, rows and products are spread evenly over
// the steps, and nobody waits for room.
//   steps = max(ceil(rows / prompt_rows), ceil(longest / chunk)),  time = under way + steps x T(beside + work / steps)
absl::Duration TimeOfPrompts(const CostModel& cost, const StepRoom& room, const PromptsAhead& prompts);

// When room for KV comes, in whole blocks of all layers. Optimistic: nobody new starts, answers are as short as nine in
// ten of late are not, and streams decode without prompts beside them.
class RoomAhead {
 public:
  explicit RoomAhead(const StepView& view);
  // How long until so many are free; infinite: not even when all who run have ended.
  absl::Duration Until(int64_t blocks) const;

 private:
  static constexpr int32_t kSpans = 256, kTokens = 16;  // the future, in spans of so many tokens
  int64_t free_;
  absl::Duration span_;
  std::array<int64_t, kSpans> freed_{};  // in each of them; in the last, whenever comes after
};

// How long those who wait must wait for room, asked in the order in which they are served. Who starts early needs none
// to start with, and room for all its layers later; who may not, since as many are parked as may be, starts when the
// first of these has its room, or when there is room for itself beside all of them.
class RoomQueue {
 public:
  RoomQueue(const StepView& view, const StepDraft& draft);
  absl::Duration Wait(const SequenceView& next) const;
  // It is served before those who are asked about from now on.
  void Take(const SequenceView& next);

 private:
  int64_t BlocksOf(const SequenceView& s) const { return (s.known + block_tokens_ - 1) / block_tokens_; }
  bool StartsWhole(const SequenceView& s) const { return ahead_.Until(all_ + BlocksOf(s)) <= absl::ZeroDuration(); }

  const RoomAhead ahead_;
  const int32_t block_tokens_;
  const bool early_;              // some start with less than all layers
  const bool resumes_whole_;      // and need room for all before they go on
  int32_t starts_;                // so many may
  std::vector<int64_t> parked_;   // blocks that each who was before lacks, in order
  size_t resumed_ = 0;            // of these, so many must have got them before the next one starts
  int64_t all_ = 0, before_ = 0;  // blocks of all of them, and of the first `resumed_`
};

// How far forecasts of one kind were off of late, so that one that is just in time is not believed.
class ForecastError {
 public:
  // What was forecast to come after `needs` came after `took`.
  void Observe(absl::Duration needs, absl::Duration took);
  // Nine in ten of the last ones took no longer than this times their forecast; 1 to 2, and 1 while few are known.
  double factor() const { return factor_; }
  // Five in ten; likewise.
  double usual() const { return usual_; }

 private:
  static constexpr int64_t kKept = 64, kFewest = 8;
  std::array<float, kKept> ratios_{};  // took over needs, in the order in which they came
  int64_t seen_ = 0;
  double factor_ = 1, usual_ = 1;
};

// What a request will miss even so.
enum class Miss : uint8_t { kNone, kTtft, kDeadline };
absl::string_view MissName(Miss miss);  // "predicted_ttft_miss"

struct Forecast {
  Miss miss = Miss::kNone;
  absl::Duration needs;   // until the first token, or until the end, from now on
  absl::Duration left;    // until the target, from now on
  absl::Duration target;  // from its arrival on
  bool hopeless = false;  // with the replica to itself from its arrival on, it would have missed it too
};
// Of a request that waits and has had no token. `found`: positions of its prompt whose KV is there. `prompts`: those
// before it and its own. `wait`: until it has room. Its answer is as short as nine in ten answers of late are not. It
// misses what `margin` times the forecast misses. A miss is only called one if the cost model has seen enough.
struct Ahead {
  StepRoom steps;
  PromptsAhead prompts;
  absl::Duration wait;
};
Forecast Predict(const StepView& view, const Ahead& ahead, const SequenceView& sequence, int32_t found,
                 double margin = 1);

}  // namespace interlace
