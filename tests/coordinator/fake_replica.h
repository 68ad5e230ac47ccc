// FakeReplica: scripted ranks in this thread, and the stream that a request must get, known without them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "coordinator/scheduler.h"

namespace interlace {

inline constexpr int32_t kVocab = 97;

// What the KV of a position depends on: all tokens up to it.
inline uint64_t ContentOf(absl::Span<const int32_t> tokens) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (int32_t token : tokens) hash = (hash ^ static_cast<uint32_t>(token)) * 0x100000001b3ULL;
  return hash;
}
// The model: the next token is a hash of all tokens so far.
inline int32_t NextToken(absl::Span<const int32_t> tokens) {
  return static_cast<int32_t>((ContentOf(tokens) >> 20) % kVocab);
}

// What the model holds of `target` behind `before`: the token, then `top` others; and its rank.
inline std::vector<TokenScore> ScoresOf(absl::Span<const int32_t> before, int32_t target, int32_t top) {
  std::vector<TokenScore> scores;
  for (int32_t k = 0; k <= top; ++k) {
    const uint64_t hash = ContentOf(before) ^ (static_cast<uint64_t>(target) * 977 + static_cast<uint64_t>(k));
    scores.push_back({k == 0 ? target : (target + k) % kVocab, -static_cast<float>(hash % 4096) / 64});
  }
  return scores;
}
inline int32_t RankOf(absl::Span<const int32_t> before, int32_t target) {
  return 1 + static_cast<int32_t>((ContentOf(before) ^ static_cast<uint64_t>(target)) % kVocab);
}
// The mean of the hidden states of all positions.
inline float PooledOf(absl::Span<const int32_t> tokens) { return static_cast<float>(ContentOf(tokens) % 65536); }

// The key of a prompt's positions from `first` on: how many of their tokens are of each class.
inline std::vector<float> KeyOf(absl::Span<const int32_t> tokens, int32_t first) {
  std::vector<float> key(8);
  for (const int32_t token : tokens.subspan(first)) key[static_cast<size_t>(token) % key.size()] += 1;
  return key;
}

// Uniform in [low, high].
inline int32_t Draw(Entropy& entropy, int32_t low, int32_t high) {
  return low + static_cast<int32_t>(entropy.Next() % static_cast<uint64_t>(high - low + 1));
}
inline bool Chance(Entropy& entropy, int32_t percent) { return Draw(entropy, 0, 99) < percent; }

// Ranks of one replica. Each keeps what its KV depends on, block by block and layer by layer, so that a block that is
// adopted for other tokens, read where it does not lie, or counted on after it was dropped fails the test. Each counts
// the slots and frames that it needs. Thread: the test's.
class FakeReplica final : public PlanChannel {
 public:
  explicit FakeReplica(Entropy& entropy) : entropy_(entropy) {}

  int32_t loss_permille = 0;   // of a sequence, on a stage, in a step
  int32_t fetch_percent = 90;  // of fetches that succeed
  int64_t row_us = 0;          // microseconds that a row of a step takes, as the ranks say
  int32_t late_probes = 0;     // find half of what the tier has: the rest is on its way there
  bool mute = false;           // executes nothing and answers nothing
  int32_t vocab = kVocab;      // what the ranks take

  // A new epoch: the ranks forget every request, and all KV but what the tiers below hold.
  void Start(Epoch epoch, std::vector<RankInfo> ranks) {
    Stop();
    epoch_ = epoch;
    for (RankInfo& rank : ranks) {
      const int32_t stage = Value(rank.stage);
      ranks_.push_back(Rank{.info = std::move(rank), .below = &(*below_)[stage]});
    }
    formed_ = true;
  }
  // Their tier is that of the other's ranks, too. Before the first start.
  void ShareTier(const FakeReplica& other) { below_ = other.below_; }
  void Stop() {
    formed_ = false;
    mute = false;
    ranks_.clear();
    lost_.clear();
    unanswered_.clear();
  }

  void Send(const StepPlan& plan) override {
    ASSERT_TRUE(formed_) << "a plan for a replica that is not formed: " << plan.ToString();
    ASSERT_EQ(plan.epoch, epoch_);
    ASSERT_FALSE(plan.empty());
    plans_.push_back(plan);
    CheckPlan(plan);
    planned_tokens_ += plan.tokens();
    unanswered_[plan.id] = {static_cast<int32_t>(ranks_.size()), plan};
    EXPECT_LE(unanswered_.size(), ranks_.size() + 1) << "more plans in flight than stages and one";
    for (Rank& rank : ranks_) rank.queue.push_back(plan);
  }
  void Reset(const absl::Status& why) override {
    resets_.push_back(why);
    Stop();
  }

  // One rank executes a plan or one answer arrives, by chance; empty: nothing arrived.
  std::optional<StepResult> Turn() {
    if (mute) return std::nullopt;
    std::vector<std::pair<size_t, bool>> choices;  // stage, whether its answer arrives
    for (size_t s = 0; s < ranks_.size(); ++s) {
      if (!ranks_[s].queue.empty() && InputArrived(s, ranks_[s].queue.front())) {
        choices.emplace_back(s, false);
      }
      if (!ranks_[s].answers.empty() || !ranks_[s].fetched.empty()) choices.emplace_back(s, true);
    }
    if (choices.empty()) return std::nullopt;
    const auto [stage, arrives] = choices[entropy_.Next() % choices.size()];
    Rank& rank = ranks_[stage];
    if (!arrives) {
      rank.answers.push_back(Execute(stage, rank.queue.front()));
      rank.queue.pop_front();
      return std::nullopt;
    }
    StepResult result{.epoch = epoch_, .stage = StageId{static_cast<int32_t>(stage)}};
    if (!rank.answers.empty() && (rank.fetched.empty() || Chance(entropy_, 60))) {
      result = std::move(rank.answers.front());
      rank.answers.pop_front();
      auto it = unanswered_.find(result.plan);
      if (--it->second.first == 0) unanswered_.erase(it);
    }
    if (!rank.fetched.empty() && (result.plan == PlanId{} || Chance(entropy_, 50))) {
      result.fetched = std::exchange(rank.fetched, {});
    }
    return result;
  }

  bool formed() const { return formed_; }
  bool busy() const {
    return !unanswered_.empty() ||
           std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return !rank.fetched.empty(); });
  }
  const std::vector<StepPlan>& plans() const { return plans_; }
  const std::vector<absl::Status>& resets() const { return resets_; }
  int64_t losses() const { return losses_; }      // by chance
  int64_t reported() const { return reported_; }  // and those that follow from them
  int64_t lost_tokens() const { return lost_tokens_; }
  int64_t planned_tokens() const { return planned_tokens_; }
  int64_t own_samples() const { return own_samples_; }    // steps with the token that the ranks sampled last
  int64_t own_drafts() const { return own_drafts_; }      // guesses that the ranks made
  int64_t model_drafts() const { return model_drafts_; }  // likewise, those by draft models
  int64_t keys() const { return keys_; }                  // of prompts that they gave
  int64_t adopted_blocks() const { return adopted_blocks_; }
  int64_t fetched_blocks() const { return fetched_blocks_; }
  size_t known(size_t stage) const { return ranks_[stage].known.size(); }
  size_t stages() const { return ranks_.size(); }
  // Whether the block lies in these layers, on the device alone if `on_device`. A block that a rank has lost is said to
  // lie everywhere: the scheduler may not have heard of it.
  bool Holds(const BlockId& id, const LayerSet& layers, bool on_device) const {
    return damaged_.count(id) > 0 || std::all_of(ranks_.begin(), ranks_.end(), [&](const Rank& rank) {
             auto it = rank.pool.find(id);
             const Places places = it == rank.pool.end() ? Places() : it->second;
             return (places.device | places.host).Contains(layers & rank.layers()) &&
                    (!on_device || places.device.Contains(places.host));
           });
  }
  // Blocks that lie on a stage's device or host.
  size_t pooled(size_t stage) const { return ranks_[stage].pool.size(); }

 private:
  struct Places {
    uint64_t content = 0;
    LayerSet device, host;
  };
  struct Known {
    uint32_t attempt = 0;
    std::vector<int32_t> tokens;  // of the positions whose KV is here
    std::vector<BlockId> sealed;
    std::map<int32_t, BlockId> names;  // of blocks that are not whole yet
    LayerSet kept;
    int32_t pooled_to = 0;
    int32_t keyed_to = -1;  // -1: no key was asked for
    std::string adapter;
    PlanId sampled_in{};       // the plan in which it last was to sample
    int32_t last_sample = -1;  // on the last stage
    bool lost = false;
    std::vector<int32_t> read;  // by the draft model
  };
  struct Rank {
    RankInfo info;
    std::map<BlockId, uint64_t>* below;
    std::deque<StepPlan> queue = {};
    std::deque<StepResult> answers = {};
    std::vector<FetchAnswer> fetched = {};
    PlanId executed{};
    std::map<RequestId, Known> known = {};
    std::map<BlockId, Places> pool = {};

    LayerSet layers() const { return LayerSet::Range(info.layer_begin, info.layer_end); }
  };

  // A stage waits for the activations of the one before; the first waits for the tokens with which streams go on.
  bool InputArrived(size_t stage, const StepPlan& plan) const {
    if (stage > 0) return ranks_[stage - 1].executed >= plan.id;
    return std::all_of(plan.sequences.begin(), plan.sequences.end(), [&](const PlanSequence& s) {
      const auto known = ranks_[0].known.find(s.request);
      return s.tokens[0] != kLastSample || known == ranks_[0].known.end() || known->second.lost ||
             known->second.sampled_in <= ranks_.back().executed;
    });
  }

  // KV is a function of the tokens so far and of the adapter.
  static uint64_t ContentOf(const Known& kv, size_t end) {
    uint64_t hash = interlace::ContentOf(absl::MakeConstSpan(kv.tokens).first(end));
    for (const char c : kv.adapter) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
    return hash;
  }

  // Rows that pass over the same sublayers stand side by side, and of these rows of one adapter.
  void CheckAdapters(const StepPlan& plan) {
    std::vector<std::string> adapters;
    for (const PlanSequence& s : plan.sequences) {
      const auto known = ranks_[0].known.find(s.request);
      if (known == ranks_[0].known.end()) continue;
      const std::string skips = s.skip ? s.skip->attention.Encode() + "," + s.skip->feed_forward.Encode() : "";
      const std::string adapter = absl::StrCat(skips, ";", known->second.adapter);
      if (adapters.empty() || adapters.back() != adapter) adapters.push_back(adapter);
    }
    EXPECT_EQ(std::set<std::string>(adapters.begin(), adapters.end()).size(), adapters.size()) << plan.ToString();
  }

  void CheckPlan(const StepPlan& plan) {
    std::set<RequestId> seen;
    for (const PlanSequence& s : plan.sequences) {
      EXPECT_TRUE(seen.insert(s.request).second) << "twice in a plan: " << plan.ToString();
      EXPECT_FALSE(s.tokens.empty());
      EXPECT_TRUE(!s.opening || s.kept) << "a sequence begins without its kept layers: " << plan.ToString();
      if (s.opening) adopted_blocks_ += static_cast<int64_t>(s.opening->adopted.size());
    }
  }

  StepResult Execute(size_t stage, const StepPlan& plan) {
    Rank& rank = ranks_[stage];
    StepResult result{.epoch = plan.epoch, .plan = plan.id, .stage = StageId{static_cast<int32_t>(stage)}};
    for (const Release& release : plan.releases) {
      auto it = rank.known.find(release.request);
      if (it == rank.known.end()) {
        ADD_FAILURE() << "released, yet never known: " << plan.ToString();
        continue;
      }
      if (it->second.lost) NeverSealed(it->second, release.names);
      Name(it->second, release.names);
      if (!it->second.lost) Seal(rank, it->second);
      rank.known.erase(it);
    }
    for (const SequenceChange& change : plan.changes) {
      auto it = rank.known.find(change.request);
      if (it == rank.known.end()) continue;
      if (change.kept) it->second.kept = *change.kept;
      Name(it->second, change.names);
      if (!it->second.lost) Seal(rank, it->second);
    }
    for (const BlockMove& move : plan.moves) Move(rank, move, plan);
    std::set<RequestId> running;
    for (const PlanSequence& s : plan.sequences) {
      if (Open(rank, stage, plan, s, &result)) running.insert(s.request);
    }
    if (stage == 0) CheckAdapters(plan);
    CheckRoom(rank, plan, running);
    draft_rows_ = kDraftRows;
    for (const PlanSequence& s : plan.sequences) {
      if (running.count(s.request) > 0) Compute(rank, stage, plan, s, &result);
    }
    for (const Probe& probe : plan.probes) {
      int32_t held = 0;
      while (held < static_cast<int32_t>(probe.blocks.size()) && rank.below->count(probe.blocks[held]) > 0) ++held;
      if (late_probes > 0) {
        --late_probes;
        held /= 2;
      }
      result.probed.push_back({probe.request, held});
    }
    rank.executed = plan.id;
    if (stage + 1 == ranks_.size()) lost_.erase(plan.id);
    result.slots_used = rank.info.device_slots;
    result.run_us = row_us * plan.tokens();
    return result;
  }

  void Move(Rank& rank, const BlockMove& move, const StepPlan& plan) {
    const LayerSet layers = move.layers & rank.layers();
    if (layers.empty()) return;
    if (move.kind == MoveKind::kFetchDevice || move.kind == MoveKind::kFetchHost) {
      auto held = rank.below->find(move.block);
      FetchAnswer answer{move.block, {}, layers};
      if (held != rank.below->end() && Chance(entropy_, fetch_percent)) {
        Places& places = rank.pool[move.block];
        places.content = held->second;
        (move.kind == MoveKind::kFetchDevice ? places.device : places.host) |= layers;
        std::swap(answer.arrived, answer.failed);
        ++fetched_blocks_;
      } else {
        lost_tokens_ += rank.info.block_tokens;
      }
      rank.fetched.push_back(answer);
      return;
    }
    auto it = rank.pool.find(move.block);
    if (it == rank.pool.end()) return;  // lost before; ranks skip it
    Places& places = it->second;
    if (move.kind == MoveKind::kCopyOut) places.host |= layers & places.device;
    if (move.kind == MoveKind::kCopyIn) places.device |= layers & places.host;
    if (move.kind == MoveKind::kDropDevice) places.device -= layers;
    if (move.kind == MoveKind::kDropHost) places.host -= layers;
    if ((places.device | places.host).empty()) rank.pool.erase(it);
    static_cast<void>(plan);
  }

  static void Name(Known& kv, const std::optional<SealedNames>& names) {
    if (!names) return;
    for (size_t i = 0; i < names->ids.size(); ++i) {
      const auto block = names->first + static_cast<int32_t>(i);
      EXPECT_GE(block, static_cast<int32_t>(kv.sealed.size())) << "a sealed block is named again";
      kv.names[block] = names->ids[i];
    }
  }

  void NeverSealed(const Known& kv, const std::optional<SealedNames>& names) {
    for (const auto& [block, id] : kv.names) damaged_.insert(id);
    if (names) damaged_.insert(names->ids.begin(), names->ids.end());
  }

  // Blocks that have a name and are whole leave the tail.
  void Seal(Rank& rank, Known& kv) {
    const int32_t block_tokens = rank.info.block_tokens;
    while (true) {
      const auto block = static_cast<int32_t>(kv.sealed.size());
      auto name = kv.names.find(block);
      const size_t end = static_cast<size_t>(block + 1) * block_tokens;
      if (name == kv.names.end() || kv.tokens.size() < end) return;
      const uint64_t content = ContentOf(kv, end);
      Places& places = rank.pool[name->second];
      if ((places.device | places.host).empty()) places.content = content;
      EXPECT_EQ(places.content, content) << "one name for two contents";
      const LayerSet kept = kv.kept & rank.layers();
      places.host |= (rank.layers() - kept) - places.device - places.host;
      places.device |= kept;
      (*rank.below)[name->second] = content;
      kv.sealed.push_back(name->second);
      kv.names.erase(name);
    }
  }

  // False if the sequence's step counts for nothing here.
  bool Open(Rank& rank, size_t stage, const StepPlan& plan, const PlanSequence& s, StepResult* result) {
    const int32_t block_tokens = rank.info.block_tokens;
    if (s.opening) {
      EXPECT_EQ(rank.known.count(s.request), 0u) << "a new attempt before the former was released: " << plan.ToString();
      Known& kv = rank.known[s.request];
      kv.attempt = s.attempt;
      kv.sealed = s.opening->adopted;
      kv.tokens = s.opening->prefix;
      kv.adapter = s.opening->adapter;
      EXPECT_EQ(kv.tokens.size(), kv.sealed.size() * static_cast<size_t>(block_tokens));
      EXPECT_EQ(s.start, static_cast<int32_t>(kv.tokens.size()));
    }
    auto it = rank.known.find(s.request);
    if (it == rank.known.end() || it->second.attempt != s.attempt) {
      ADD_FAILURE() << "a sequence that was never opened: " << plan.ToString();
      return false;
    }
    Known& kv = it->second;
    if (s.kept) kv.kept = *s.kept;
    const bool told = lost_[plan.id].count(s.request) > 0;
    if (told || (!kv.lost && s.tokens[0] == kLastSample && LastOf(s).lost)) {
      kv.lost = true;
      lost_[plan.id].insert(s.request);
    }
    if (kv.lost) {  // said before; what it was to seal is not there either
      NeverSealed(kv, s.names);
      kv.names.clear();
      kv.tokens.resize(kv.sealed.size() * static_cast<size_t>(block_tokens));
      return false;
    }
    EXPECT_LE(s.start, static_cast<int32_t>(kv.tokens.size())) << "never computed here: " << plan.ToString();
    EXPECT_GE(s.start, static_cast<int32_t>(kv.sealed.size()) * block_tokens) << "cut into a sealed block";
    kv.tokens.resize(s.start);
    for (size_t i = 0; i < s.tokens.size(); ++i) {
      if (s.rank_drafts() && s.tokens[i] == kOwnDraft) {
        EXPECT_TRUE(!s.model_drafts || (!s.own_drafts && !rank.info.draft_model.empty())) << plan.ToString();
        EXPECT_EQ(ranks_.size(), 1u) << "a rank that holds a part of the model is to guess: " << plan.ToString();
        own_drafts_ += 1;
        kv.tokens.push_back(Chance(entropy_, 60) ? NextToken(kv.tokens) : Draw(entropy_, 0, kVocab - 1));
        continue;
      }
      const bool own = i == 0 && s.tokens[0] == kLastSample;
      own_samples_ += own && stage == 0 ? 1 : 0;
      EXPECT_TRUE(s.tokens[i] >= 0 || (own && LastOf(s).last_sample >= 0)) << plan.ToString();
      kv.tokens.push_back(own ? LastOf(s).last_sample : s.tokens[i]);
    }
    if (s.sample) kv.sampled_in = plan.id;
    Name(kv, s.names);
    for (size_t b = 0; b < kv.sealed.size(); ++b) {
      auto block = rank.pool.find(kv.sealed[b]);
      LayerSet missing = Seen(rank, s.start, static_cast<int32_t>(b));
      if (block != rank.pool.end()) missing -= block->second.device | block->second.host;
      if (missing.empty() && block == rank.pool.end()) continue;  // behind every window of the stage
      if (missing.empty()) {
        const size_t end = (b + 1) * static_cast<size_t>(block_tokens);
        EXPECT_EQ(block->second.content, ContentOf(kv, end))
            << "another's KV in block " << b << ": " << plan.ToString();
        continue;
      }
      EXPECT_TRUE(damaged_.count(kv.sealed[b]) > 0)
          << "block " << b << " of request " << Value(s.request) << " lies nowhere on stage " << stage << " in layers "
          << missing.ToString() << ": " << plan.ToString();
      Report(rank, stage, plan, s, kv, static_cast<int32_t>(b), LossCause::kMissing, result);
      return false;
    }
    return true;
  }

  // The sequence on the stage that samples, which has not begun the present step of it when an earlier stage asks.
  const Known& LastOf(const PlanSequence& s) const { return ranks_.back().known.at(s.request); }

  LayerSet Seen(const Rank& rank, int32_t start, int32_t block) const {
    LayerSet seen;
    for (int32_t l = rank.info.layer_begin; l < rank.info.layer_end; ++l) {
      const int32_t window = rank.info.windows[l];
      const int32_t first = window > 0 ? std::max(0, start + 1 - window) / rank.info.block_tokens : 0;
      if (block >= first) seen.Add(LayerId{l});
    }
    return seen;
  }

  void Report(Rank& rank, size_t stage, const StepPlan& plan, const PlanSequence& s, Known& kv, int32_t block,
              LossCause cause, StepResult* result) {
    kv.lost = true;
    ++reported_;
    NeverSealed(kv, s.names);
    lost_[plan.id].insert(s.request);
    kv.names.clear();
    lost_tokens_ += static_cast<int64_t>(kv.tokens.size()) - int64_t{block} * rank.info.block_tokens +
                    2 * static_cast<int64_t>(s.tokens.size());
    kv.tokens.resize(kv.sealed.size() * static_cast<size_t>(rank.info.block_tokens));  // its tail is free
    result->lost.push_back({s.request, s.attempt, LayerId{rank.info.layer_begin}, block, cause, "scripted"});
    static_cast<void>(stage);
  }

  void Compute(Rank& rank, size_t stage, const StepPlan& plan, const PlanSequence& s, StepResult* result) {
    Known& kv = rank.known.at(s.request);
    if (Draw(entropy_, 0, 999) < loss_permille) {
      ++losses_;
      const int32_t last = static_cast<int32_t>(kv.tokens.size() - 1) / rank.info.block_tokens;
      const int32_t block = Draw(entropy_, 0, last);
      if (block < static_cast<int32_t>(kv.sealed.size())) {
        damaged_.insert(kv.sealed[block]);
        rank.pool.erase(kv.sealed[block]);
      }
      return Report(rank, stage, plan, s, kv, block, static_cast<LossCause>(Draw(entropy_, 0, 2)), result);
    }
    if (s.pool != Pooling::kNone) {
      EXPECT_EQ(kv.pooled_to, s.start) << "rows before it were not pooled: " << plan.ToString();
      kv.pooled_to = static_cast<int32_t>(kv.tokens.size());
    }
    if (s.key) AnswerKey(rank, s, kv, result);
    if (s.model_drafts) Draft(s, kv, result);
    if (stage + 1 == ranks_.size()) AnswerAsks(s, kv, result);
    if (stage + 1 == ranks_.size() && s.sample) {
      const auto known = static_cast<int32_t>(kv.tokens.size()) - s.drafts;
      for (int32_t d = 0; d <= s.drafts; ++d) {
        // What follows a wrong guess of its own is not said.
        if (d > 0 && s.rank_drafts() && kv.tokens[known + d - 1] != kv.last_sample) break;
        const int32_t token = NextToken(absl::MakeConstSpan(kv.tokens).first(known + d));
        result->sampled.push_back({s.request, s.attempt, s.sample_index + d, token, {}});
        kv.last_sample = token;
      }
    }
    Seal(rank, kv);
  }

  // Who is to guess finds the rows that the draft model must read first. Now and then it makes fewer guesses, forgets
  // what it has read, or has no room.
  void Draft(const PlanSequence& s, Known& kv, StepResult* result) {
    const auto same = std::mismatch(kv.read.begin(), kv.read.end(), kv.tokens.begin(), kv.tokens.begin() + s.start);
    kv.read.erase(same.first, kv.read.end());
    const int32_t missing = s.start + 1 - static_cast<int32_t>(kv.read.size());
    const int32_t reads = s.drafts > 0 ? missing : std::min(missing, 16);
    if (s.drafts > 0) draft_rows_ -= reads;
    EXPECT_GE(draft_rows_, 0) << "it is to guess behind what it cannot read in one step";
    int32_t made = s.drafts;
    if (Chance(entropy_, 15)) made = Draw(entropy_, 0, made);
    const bool room = !Chance(entropy_, 10);
    if (!room) made = 0;
    if (room) {
      const auto end = kv.read.size() + static_cast<size_t>(reads) + static_cast<size_t>(std::max(0, made - 1));
      kv.read.assign(kv.tokens.begin(), kv.tokens.begin() + static_cast<int64_t>(end));
    }
    model_drafts_ += made;
    if (made == s.drafts && made > 0) return;
    result->drafted.push_back({s.request, s.attempt, made, static_cast<int32_t>(kv.read.size()), room});
  }

  void AnswerKey(const Rank& rank, const PlanSequence& s, Known& kv, StepResult* result) {
    const KeyAsk& ask = *s.key;
    EXPECT_TRUE(s.start <= ask.first || kv.keyed_to == s.start) << "rows before it are not in the key's sum";
    EXPECT_LT(ask.first, static_cast<int32_t>(kv.tokens.size()));
    EXPECT_EQ(s.drafts, 0);
    EXPECT_LT(Value(ask.layer), rank.info.layers);
    kv.keyed_to = static_cast<int32_t>(kv.tokens.size());
    if (!ask.give || !rank.layers().Has(ask.layer)) return;
    result->keys.push_back({s.request, s.attempt, KeyOf(kv.tokens, ask.first)});
    ++keys_;
  }

  // What the plan asks of the prompt besides its KV.
  static void AnswerAsks(const PlanSequence& s, const Known& kv, StepResult* result) {
    const absl::Span<const int32_t> tokens = kv.tokens;
    if (s.pool == Pooling::kGive) result->pooled.push_back({s.request, s.attempt, {PooledOf(tokens)}});
    if (!s.score) return;
    EXPECT_LE(s.score->first + s.score->targets.size(), s.tokens.size());
    PromptScores& scores = result->scored.emplace_back();
    scores = {s.request, s.attempt, s.start + s.score->first + 1, s.score->top, {}, {}};
    for (size_t i = 0; i < s.score->targets.size(); ++i) {
      const auto before = tokens.first(static_cast<size_t>(scores.first) + i);
      const int32_t target = s.score->targets[i];
      EXPECT_TRUE(before.size() >= tokens.size() || target == tokens[before.size()]) << "another token is scored";
      scores.ranks.push_back(RankOf(before, target));
      const std::vector<TokenScore> of = ScoresOf(before, target, s.score->top);
      scores.scores.insert(scores.scores.end(), of.begin(), of.end());
    }
  }

  // Slots and frames at the fullest moment of the step.
  void CheckRoom(const Rank& rank, const StepPlan& plan, const std::set<RequestId>& running) {
    int64_t slots = 0, frames = 0;
    std::map<BlockId, LayerSet> sealing;  // by this plan
    for (const auto& [id, places] : rank.pool) {
      slots += (places.device & rank.layers()).size();
      frames += (places.host & rank.layers()).size();
    }
    for (const auto& [request, kv] : rank.known) {
      const int32_t all =
          (static_cast<int32_t>(kv.tokens.size()) + rank.info.block_tokens - 1) / rank.info.block_tokens;
      const int32_t unsealed = all - static_cast<int32_t>(kv.sealed.size());
      const LayerSet kept = kv.kept & rank.layers();
      int32_t unnamed = unsealed;
      for (const auto& [block, id] : kv.names) {
        if (running.count(request) == 0 ||
            (block + 1) * rank.info.block_tokens > static_cast<int32_t>(kv.tokens.size())) {
          continue;
        }
        --unnamed;
        sealing[id] |= rank.layers() - kept;
      }
      slots += int64_t{unsealed} * kept.size() + int64_t{std::max(0, unnamed)} * (rank.layers() - kept).size();
    }
    for (const auto& [id, streamed] : sealing) {
      auto it = rank.pool.find(id);
      frames += (streamed - (it == rank.pool.end() ? LayerSet() : it->second.device | it->second.host)).size();
    }
    int64_t ring = 0;
    for (int32_t l = rank.info.layer_begin; l < rank.info.layer_end; ++l) {
      std::set<BlockId> passing;
      int64_t tails = 0;
      for (const PlanSequence& s : plan.sequences) {
        if (running.count(s.request) == 0) continue;
        const Known& kv = rank.known.at(s.request);
        for (size_t b = 0; b < kv.sealed.size(); ++b) {
          auto it = rank.pool.find(kv.sealed[b]);
          if (it == rank.pool.end() || it->second.device.Has(LayerId{l})) continue;
          if (Seen(rank, s.start, static_cast<int32_t>(b)).Has(LayerId{l})) passing.insert(kv.sealed[b]);
        }
        if (!kv.kept.Has(LayerId{l})) tails += static_cast<int64_t>(kv.names.size());
      }
      ring = std::max(ring, static_cast<int64_t>(passing.size()) + tails);
    }
    EXPECT_LE(slots + ring, rank.info.device_slots)
        << "slots of stage " << Value(rank.info.stage) << ", " << ring << " of them a ring: " << plan.ToString();
    EXPECT_LE(frames, rank.info.host_frames) << "frames of stage " << Value(rank.info.stage) << ": " << plan.ToString();
  }

  Entropy& entropy_;
  bool formed_ = false;
  Epoch epoch_{};
  std::vector<Rank> ranks_;
  using Tier = std::map<int32_t, std::map<BlockId, uint64_t>>;  // by stage
  std::shared_ptr<Tier> below_ = std::make_shared<Tier>();      // outlives epochs
  std::set<BlockId> damaged_;                                   // that some rank lost
  std::map<PlanId, std::set<RequestId>> lost_;                  // by an earlier stage
  std::map<PlanId, std::pair<int32_t, StepPlan>> unanswered_;   // answers missing
  std::vector<StepPlan> plans_;
  std::vector<absl::Status> resets_;
  int64_t losses_ = 0, reported_ = 0, lost_tokens_ = 0, planned_tokens_ = 0, adopted_blocks_ = 0, fetched_blocks_ = 0;
  int64_t own_samples_ = 0, own_drafts_ = 0, model_drafts_ = 0, keys_ = 0;
  int32_t draft_rows_ = 0;  // that the draft model may yet read in the step
};

// What a request's client sees. Fails the test when the contract of TokenSink is broken.
class WatchedSink final : public TokenSink {
 public:
  void OnTokens(absl::Span<const int32_t> tokens) override {
    EXPECT_FALSE(end) << "tokens after the end";
    delivered.insert(delivered.end(), tokens.begin(), tokens.end());
  }
  void OnPromptScores(const PromptScores& scores) override {
    EXPECT_FALSE(end) << "scores after the end";
    EXPECT_TRUE(delivered.empty()) << "scores of the prompt after a token";
    EXPECT_EQ(scores.first, 1 + static_cast<int32_t>(ranks.size())) << "a token of the prompt twice, or never";
    ranks.insert(ranks.end(), scores.ranks.begin(), scores.ranks.end());
    this->scores.insert(this->scores.end(), scores.scores.begin(), scores.scores.end());
  }
  void OnPooled(absl::Span<const float> mean) override {
    EXPECT_FALSE(end) << "pooled after the end";
    EXPECT_TRUE(pooled.empty()) << "pooled twice";
    pooled.assign(mean.begin(), mean.end());
  }
  void OnEnd(const RequestEnd& e) override {
    EXPECT_FALSE(end) << "ended twice";
    end = e;
  }
  std::vector<int32_t> ranks;  // of the prompt's tokens from 1 on
  std::vector<TokenScore> scores;
  std::vector<float> pooled;
  std::vector<int32_t> delivered;
  std::optional<RequestEnd> end;
};

// Ranks that split `layers` evenly. `window`: of every second layer; 0: none has one.
inline std::vector<RankInfo> MakeRanks(int32_t layers, int32_t stages, int32_t block_tokens, int32_t slots,
                                       int32_t frames, int32_t window = 0, bool tiers = false) {
  std::vector<RankInfo> ranks;
  for (int32_t s = 0; s < stages; ++s) {
    RankInfo rank{.stage = StageId{s}, .stages = stages, .incarnation = 1, .model_digest = "digest"};
    rank.numerics = "test";
    rank.dtype = "F32";
    rank.layers = layers;
    rank.layer_begin = layers * s / stages;
    rank.layer_end = layers * (s + 1) / stages;
    for (int32_t l = 0; l < layers; ++l) rank.windows.push_back(l % 2 == 1 ? window : 0);
    rank.vocab = kVocab;
    rank.kv_heads = 1;
    rank.head_dim = 1;
    rank.heads = {0, 1};
    rank.block_tokens = block_tokens;
    rank.device_slots = slots;
    rank.host_frames = frames;
    rank.slot_bytes = 1024;
    rank.step_tokens = 4096;
    if (tiers) rank.tiers = {"rocksdb"};
    ranks.push_back(std::move(rank));
  }
  return ranks;
}

}  // namespace interlace
