// StepPlan and StepResult: what the scheduler tells the ranks, and what they answer. Values: printable, comparable,
// replayable. A rank needs nothing else to execute a step.
//
// Plans carry changes, not state: what a plan does not mention stays as the plans before it left it. Ranks execute
// plans in the order of their ids, so the scheduler may count on the effect of a plan as soon as it has sent it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/boxed.h"
#include "common/ids.h"
#include "kvstore/block_id.h"
#include "kvstore/layer_set.h"
#include "proto/plan/sampling.h"
#include "proto/plan/skip_plan.h"

namespace interlace {

// In PlanSequence::tokens: the token that this sequence sampled last, which the scheduler does not know yet.
inline constexpr int32_t kLastSample = -1;
// Likewise: a guess that the rank makes itself (PlanSequence::own_drafts, model_drafts).
inline constexpr int32_t kOwnDraft = -2;
// The most rows that a rank's draft model computes in the first of a step's passes, of all sequences together: what it
// has not read of them yet, and the newest token of each.
inline constexpr int32_t kDraftRows = 256;

// How a sequence (one attempt of a request) begins on the ranks.
struct Opening {
  Sampling sampling;
  std::vector<BlockId> adopted;  // sealed blocks of positions [0, adopted.size() * block_tokens), in order
  std::vector<int32_t> prefix;   // the tokens of these positions
  std::string adapter;           // digest of the LoRA adapter that adds to its rows; empty: none does
  friend bool operator==(const Opening&, const Opening&) = default;
};

// Names for the blocks first, first + 1, .. of a sequence. A block is sealed once it has a name and all its positions
// are computed: from then on it is shared, immutable, and the sequence merely holds it.
struct SealedNames {
  int32_t first = 0;
  std::vector<BlockId> ids;
  friend bool operator==(const SealedNames&, const SealedNames&) = default;
};

// What the model held of tokens of a prompt: the logits of the rows first, first + 1, .. of the sequence's rows in the
// step score `targets`, the tokens that follow them. So tokens 5, 9, 7 with first = 0 and targets 9, 7, 4 are scored 9
// after 5, 7 after 9 and 4, which the next plan computes, after 7.
struct ScoreAsk {
  int32_t first = 0;
  int32_t top = 0;  // and so many of the most likely
  std::vector<int32_t> targets;
  friend bool operator==(const ScoreAsk&, const ScoreAsk&) = default;
};

// What becomes of the last hidden states of a sequence's rows, all of them from position 0 on.
enum class Pooling : uint8_t {
  kNone,
  kAdd,   // they are added to the sum of those before them
  kGive,  // and the mean is answered
};

// What becomes of the hidden states of a prompt behind one layer: from position `first` of the prompt on those of the
// rows of this step are added to the sum of the steps before (the plan whose `start` is at most `first` begins it), and
// with `give` the mean is answered. A key says what a prompt is about: prompts that are alike have keys that are.
struct KeyAsk {
  LayerId layer{};
  int32_t first = 0;
  bool give = false;
  friend bool operator==(const KeyAsk&, const KeyAsk&) = default;
};

// Streams have one or a few tokens in a plan: they need no memory of their own.
using PlanTokens = absl::InlinedVector<int32_t, 4>;

// One request's share of a step: the ranks compute positions start .. start + tokens.size() - 1. There is no prefill
// and no decode: a position catches up with its tokens. `start` is where the sequence's former plan ended, or lower but
// not below its first unsealed block: what lies from there on is forgotten first (drafts that were not accepted).
struct PlanSequence {
  RequestId request{};
  uint32_t attempt = 0;  // of the request; results of older attempts are dropped
  int32_t start = 0;
  PlanTokens tokens;    // known ones, or kLastSample as the first
  int32_t drafts = 0;   // the last so many tokens are guesses
  bool sample = false;  // the last 1 + drafts positions' logits choose tokens
  Pooling pool = Pooling::kNone;
  int32_t sample_index = 0;  // of the first of them in the output
  Boxed<Opening> opening;    // in the attempt's first plan
  Boxed<LayerSet> kept;      // layers whose sealed blocks stay on the device from now on; in the first plan, and where
                             // it changes. Blocks sealed in other layers go to the host.
  Boxed<SealedNames> names;  // may name blocks that this very step fills
  Boxed<ScoreAsk> score;
  // The rank makes the guesses: before the step it computes `drafts` rows one after another, each by the sublayers that
  // this plan does not pass over and whose KV is on the device, and takes what they sample. `tokens` are one known
  // token and `drafts` times kOwnDraft; of what the step samples, the result has what counts alone.
  Boxed<SkipPlan> own_drafts;
  // Likewise, but the guesses are those of the rank's draft model, which first reads what it has not seen of the
  // sequence, as far as kDraftRows allows. `drafts` may be 0: it only reads. StepResult::drafted says where it made
  // fewer guesses; the others are tokens as good as any. Not with own_drafts.
  bool model_drafts = false;
  Boxed<KeyAsk> key;
  // What the sequence's rows of this step pass over, and no draft (fidelity `bounded`): their hidden states stay what
  // they are there. Of an attention that is passed over K and V are made all the same, of what enters it, so that a
  // later step which runs it finds all positions. Null: the rows go through every sublayer.
  Boxed<SkipPlan> skip;
  // Of what the step samples, the result has what counts alone, since the rank alone knows the guesses.
  bool rank_drafts() const { return own_drafts.has_value() || model_drafts; }
  friend bool operator==(const PlanSequence&, const PlanSequence&) = default;
};

// A sequence that does not run in this plan and changes all the same.
struct SequenceChange {
  RequestId request{};
  std::optional<LayerSet> kept;
  std::optional<SealedNames> names;
  friend bool operator==(const SequenceChange&, const SequenceChange&) = default;
};

// The ranks forget the sequence; its unsealed tail is gone, blocks that have a name stay.
struct Release {
  RequestId request{};
  std::optional<SealedNames> names;
  friend bool operator==(const Release&, const Release&) = default;
};

enum class MoveKind : uint8_t {
  kCopyOut,      // device -> host frame; the device keeps it
  kCopyIn,       // host frame -> device; the host keeps it
  kDropDevice,   // the slot is free for what follows in the plan, after copies of it under way
  kDropHost,     // the frame likewise
  kFetchHost,    // from the tiers below -> host frame; answered by StepResult::fetched
  kFetchDevice,  // from the tiers below -> device; answered by StepResult::fetched
};
absl::string_view MoveKindName(MoveKind kind);

// Moves one sealed block in some layers. A rank takes those of its own layers and does nothing in the others.
struct BlockMove {
  BlockId block;
  MoveKind kind{};
  LayerSet layers;
  int32_t slack_ms = 0;  // of a fetch: until the request that wants it is late; what has less is read first
  friend bool operator==(const BlockMove&, const BlockMove&) = default;
};

// How many of these blocks, from the first on, do the tiers below hold in all layers of the rank?
struct Probe {
  RequestId request{};
  std::vector<BlockId> blocks;
  friend bool operator==(const Probe&, const Probe&) = default;
};

// The parts take effect in the order in which they stand here.
struct StepPlan {
  Epoch epoch{};
  PlanId id{};
  std::vector<Release> releases;
  std::vector<SequenceChange> changes;
  std::vector<BlockMove> moves;  // one after another
  std::vector<PlanSequence> sequences;
  std::vector<Probe> probes;
  // Where the ranks of a stage divide the rows of the step (sequence parallel): of all its rows, sequence after
  // sequence, rank r of each stage computes those from row_cuts[r - 1] on, the first from 0 on, up to row_cuts[r], the
  // last up to the end; ranks behind it compute none. Each gives the others the K and V of its rows, so that all hold
  // all KV. With 100 rows, {60} is rows 0 to 59 on rank 0, 60 to 99 on rank 1. Empty: every rank computes all rows,
  // and nothing is exchanged.
  std::vector<int32_t> row_cuts;
  int32_t row_ranks() const { return 1 + static_cast<int32_t>(row_cuts.size()); }  // that divide the rows
  int32_t tokens() const;
  bool skips() const;  // some of its rows pass sublayers over
  bool empty() const;
  std::string ToString() const;
  friend bool operator==(const StepPlan&, const StepPlan&) = default;
};

struct SampledToken {
  RequestId request{};
  uint32_t attempt = 0;
  int32_t index = 0;
  int32_t token = -1;              // -1: the logits held no finite value
  std::vector<TokenScore> scores;  // of the token itself, then of the most likely; empty if the request asks for none
  friend bool operator==(const SampledToken&, const SampledToken&) = default;
};

// What the model held of the tokens at positions first, first + 1, .. of a request's prompt.
struct PromptScores {
  RequestId request{};
  uint32_t attempt = 0;
  int32_t first = 0;
  int32_t top = 0;
  std::vector<int32_t> ranks;      // of each token, 1: the most likely; 0: the row's logits held no finite value
  std::vector<TokenScore> scores;  // [ranks.size(), 1 + top] of the token itself, then of the most likely; beyond the
                                   // finite logits of a row: token -1
  int32_t size() const { return static_cast<int32_t>(ranks.size()); }
  absl::Span<const TokenScore> of(int32_t i) const {
    return absl::MakeConstSpan(scores).subspan(i * (1 + top), 1 + top);
  }
  friend bool operator==(const PromptScores&, const PromptScores&) = default;
};

// The mean of the last hidden states, behind the final norm, of all positions of a request's prompt.
struct PooledHidden {
  RequestId request{};
  uint32_t attempt = 0;
  std::vector<float> mean;  // [width]
  friend bool operator==(const PooledHidden&, const PooledHidden&) = default;
};

// The mean of the hidden states behind the layer that was asked for (KeyAsk).
struct PromptKey {
  RequestId request{};
  uint32_t attempt = 0;
  std::vector<float> mean;  // [width]
  friend bool operator==(const PromptKey&, const PromptKey&) = default;
};

// What a rank's draft model did for a sequence (PlanSequence::model_drafts), where it made fewer guesses than the plan
// asked for, or was to read alone.
struct ModelDrafted {
  RequestId request{};
  uint32_t attempt = 0;
  int32_t drafts = 0;  // guesses that it made
  int32_t seen = 0;    // positions, from 0 on, that it has read
  bool room = true;    // false: no KV of the sequence finds room beside the others', or it is too long for the model
  friend bool operator==(const ModelDrafted&, const ModelDrafted&) = default;
};

enum class LossCause : uint8_t { kMissing, kCorrupt, kNoSlot, kRefused };
absl::string_view LossCauseName(LossCause cause);

// A sequence's step that counts for nothing on this stage: it needed a block of a layer and could not have it, or
// (kRefused) the plan asked of it what the rank cannot do. Plans in flight with the same attempt are lost too, and need
// not be reported.
struct LostSequence {
  RequestId request{};
  uint32_t attempt = 0;
  LayerId layer{};
  int32_t block = 0;  // of the sequence
  LossCause cause{};
  std::string detail;
  friend bool operator==(const LostSequence&, const LostSequence&) = default;
};

// What one layer of one request moved in a step; nothing is reported where nothing moved.
struct LayerTraffic {
  RequestId request{};
  LayerId layer{};
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  int64_t stall_us = 0;
  friend bool operator==(const LayerTraffic&, const LayerTraffic&) = default;
};

struct ProbeAnswer {
  RequestId request{};
  int32_t blocks = 0;
  friend bool operator==(const ProbeAnswer&, const ProbeAnswer&) = default;
};

// What became of fetching one block into layers of the rank: it lies where its move said in `arrived`, and nowhere in
// `failed`.
struct FetchAnswer {
  BlockId block;
  LayerSet arrived;
  LayerSet failed;
  friend bool operator==(const FetchAnswer&, const FetchAnswer&) = default;
};

struct TierUse {
  int64_t blocks = 0;
  int64_t bytes = 0;
  int64_t capacity_bytes = 0;
  friend bool operator==(const TierUse&, const TierUse&) = default;
};

struct StepResult {
  Epoch epoch{};
  PlanId plan{};  // 0: of no plan; a rank reports what came true meanwhile
  StageId stage{};
  int32_t stage_rank = 0;             // of those that share the stage's layers
  absl::Status status;                // not OK: the rank cannot go on
  std::vector<SampledToken> sampled;  // last stage only, where all ranks say the same; of one sequence, ascending
  std::vector<PromptScores> scored;   // last stage only; of a sequence once
  std::vector<PooledHidden> pooled;   // likewise
  std::vector<PromptKey> keys;        // of the stage that has the layer, where all ranks say the same
  std::vector<ModelDrafted> drafted;
  std::vector<LostSequence> lost;  // each sequence once on this stage
  std::vector<LayerTraffic> traffic;
  std::vector<ProbeAnswer> probed;   // of this plan or earlier ones
  std::vector<FetchAnswer> fetched;  // likewise
  int32_t slots_used = 0;            // of the device, after the step, with what is read for the next
  int32_t frames_used = 0;           // of the host
  std::vector<TierUse> tiers;        // below the host; empty: as in the last result
  int64_t run_us = 0;
  int64_t stall_us = 0;        // of run_us, waiting for KV
  int64_t draft_us = 0;        // of run_us, making guesses of its own
  int64_t exchange_us = 0;     // of run_us, giving rows to the others that divide them, and waiting for theirs
  int64_t gap_us = 0;          // from the end of the rank's step before; 0: it is the first of the epoch
  int64_t transfer_in_us = 0;  // time since the last result during which a copy to the device was under way
  int64_t transfer_out_us = 0;
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  int32_t corrupt = 0;
  int32_t missing = 0;
  std::string ToString() const;
  friend bool operator==(const StepResult&, const StepResult&) = default;
};

// What a rank says of itself when it registers.
struct RankInfo {
  int32_t replica = 0;  // of which it is part
  StageId stage{};
  int32_t stages = 1;
  int32_t tensor_rank = 0;
  int32_t tensor_ranks = 1;  // that share the layers of a stage: each has some of the heads and columns
  int32_t sequence_rank = 0;
  int32_t sequence_ranks = 1;  // likewise, each with all of its layers: they divide the rows of steps
  uint64_t incarnation = 0;    // drawn when the process starts
  std::string model_digest;
  std::vector<std::string> adapters;  // digests of the LoRA adapters that it has, in their order, each once
  std::string numerics;               // backend and op table, "cpu/avx512bf16"
  std::string dtype;                  // of the KV
  int32_t layers = 0;                 // of the model
  int32_t layer_begin = 0;
  int32_t layer_end = 0;
  std::vector<int32_t> windows;  // [layers]; 0: attends to all positions
  int32_t vocab = 0;             // rows of the head
  int32_t kv_heads = 0;          // of the model
  int32_t head_dim = 0;
  HeadRange heads;  // of this rank
  int32_t block_tokens = 0;
  int32_t device_slots = 0;
  int32_t host_frames = 0;
  int64_t slot_bytes = 0;
  int32_t step_tokens = 0;  // rows of the largest step it takes
  int32_t threads = 0;      // that compute
  std::string draft_model;  // digest of the model that guesses for it (engine.draft_model); empty: it has none
  double draft_share = 0;   // what a step of that one reads, over what a step of the model reads
  std::string transport_address;
  std::string collective_address;  // for the others of its stage; empty: there are none
  std::vector<std::string> tiers;  // below the host
  // Ranks share a stage in one of these two ways, so one of each pair is 0, or 1.
  int32_t stage_rank() const { return tensor_rank + sequence_rank; }
  int32_t stage_ranks() const { return tensor_ranks * sequence_ranks; }
  // Its place among the ranks of its replica: stage by stage.
  int32_t index() const { return Value(stage) * stage_ranks() + stage_rank(); }
  friend bool operator==(const RankInfo&, const RankInfo&) = default;
};

}  // namespace interlace
