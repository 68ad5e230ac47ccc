// FakeReplica: scripted ranks in this thread, and the stream that a request must get, known without them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "coordinator/scheduler.h"
#include "kvstore/residency_planner.h"

namespace interlace {

inline constexpr int32_t kVocab = 97;

// The model: the next token is a hash of all tokens so far.
inline int32_t NextToken(absl::Span<const int32_t> tokens) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (int32_t token : tokens) hash = (hash ^ static_cast<uint32_t>(token)) * 0x100000001b3ULL;
  return static_cast<int32_t>((hash >> 20) % kVocab);
}

// Uniform in [low, high].
inline int32_t Draw(Entropy& entropy, int32_t low, int32_t high) {
  return low + static_cast<int32_t>(entropy.Next() % static_cast<uint64_t>(high - low + 1));
}
inline bool Chance(Entropy& entropy, int32_t percent) { return Draw(entropy, 0, 99) < percent; }

// Ranks of one replica. Each keeps the tokens whose KV it holds, so that a position which ought to have been computed
// again and was not changes the next token. Each checks what a real rank would lose KV over. Thread: the test's.
class FakeReplica final : public PlanChannel {
 public:
  explicit FakeReplica(Entropy& entropy) : entropy_(entropy) {}

  int32_t loss_permille = 0;  // of a sequence, on a stage, in a step
  bool mute = false;          // executes nothing and answers nothing

  // A new epoch: the ranks forget every request.
  void Start(Epoch epoch, std::vector<RankInfo> ranks) {
    Stop();
    epoch_ = epoch;
    for (RankInfo& rank : ranks) ranks_.push_back(Rank{.info = std::move(rank), .former = &former_});
    formed_ = true;
  }
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
    plans_.push_back(plan);
    CheckPlan(plan);
    unanswered_[plan.id] = {static_cast<int32_t>(ranks_.size()), plan};
    EXPECT_LE(unanswered_.size(), ranks_.size()) << "more plans in flight than stages";
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
      if (!ranks_[s].queue.empty() && (s == 0 || ranks_[s - 1].executed >= ranks_[s].queue.front().id)) {
        choices.emplace_back(s, false);
      }
      if (!ranks_[s].answers.empty()) choices.emplace_back(s, true);
    }
    if (choices.empty()) return std::nullopt;
    const auto [stage, arrives] = choices[entropy_.Next() % choices.size()];
    Rank& rank = ranks_[stage];
    if (!arrives) {
      rank.answers.push_back(Execute(stage, rank.queue.front()));
      rank.queue.pop_front();
      return std::nullopt;
    }
    StepResult result = std::move(rank.answers.front());
    rank.answers.pop_front();
    auto it = unanswered_.find(result.plan);
    if (--it->second.first == 0) unanswered_.erase(it);
    return result;
  }

  bool formed() const { return formed_; }
  bool busy() const { return !unanswered_.empty(); }
  const std::vector<StepPlan>& plans() const { return plans_; }
  const std::vector<absl::Status>& resets() const { return resets_; }
  int64_t losses() const { return losses_; }
  size_t known(size_t stage) const { return ranks_[stage].known.size(); }
  size_t stages() const { return ranks_.size(); }

 private:
  struct Known {
    uint32_t attempt = 0;
    Generation generation{};
    std::vector<int32_t> tokens;  // of the positions whose KV is here; -1: lost
    int32_t extent = 0;           // positions that may take slots
    int32_t keep = 0;
  };
  using Former = std::map<std::pair<RequestId, StageId>, std::pair<uint32_t, Generation>>;
  struct Rank {
    RankInfo info;
    Former* former;  // attempts and generations seen before, in any epoch
    std::deque<StepPlan> queue;
    std::deque<StepResult> answers;
    PlanId executed{};
    std::map<RequestId, Known> known;
  };

  void CheckPlan(const StepPlan& plan) {
    std::set<RequestId> seen;
    for (const PlanSequence& s : plan.sequences) {
      EXPECT_TRUE(seen.insert(s.request).second) << "twice in a plan: " << plan.ToString();
      EXPECT_FALSE(s.tokens.empty());
      for (const auto& [id, other] : unanswered_) {
        for (const PlanSequence& o : other.second.sequences) {
          EXPECT_NE(o.request, s.request) << "in two plans in flight: " << plan.ToString();
        }
      }
    }
    EXPECT_GT(plan.remaining, absl::ZeroDuration());
    EXPECT_FALSE(plan.sequences.empty() && plan.releases.empty()) << "an empty plan";
  }

  StepResult Execute(size_t stage, const StepPlan& plan) {
    Rank& rank = ranks_[stage];
    StepResult result{.epoch = plan.epoch, .plan = plan.id, .stage = StageId{static_cast<int32_t>(stage)}};
    for (RequestId id : plan.releases) {
      EXPECT_EQ(rank.known.erase(id), 1) << "released, yet never known: " << plan.ToString();
    }
    for (const ResidencyChange& change : plan.residency) {
      auto it = rank.known.find(change.request);
      if (it != rank.known.end()) it->second.keep = change.residency.keep;
    }
    std::set<RequestId> computing;
    for (const PlanSequence& s : plan.sequences) {
      computing.insert(s.request);
      Open(rank, plan, s);
    }
    CheckRoom(rank, computing, plan);
    for (const PlanSequence& s : plan.sequences) {
      Known& kv = rank.known.at(s.request);
      bool lost = lost_[plan.id].count(s.request) > 0;
      if (!lost && Draw(entropy_, 0, 999) < loss_permille) {
        lost = true;
        ++losses_;
        lost_[plan.id].insert(s.request);
        Lose(rank, s, kv, &result);
      }
      if (lost) {
        kv.tokens.resize(s.start);
      } else if (stage + 1 == ranks_.size() && s.sample) {
        result.sampled.push_back({s.request, s.attempt, s.sample_index, NextToken(kv.tokens)});
      }
    }
    rank.executed = plan.id;
    if (stage + 1 == ranks_.size()) lost_.erase(plan.id);
    return result;
  }

  void Lose(Rank& rank, const PlanSequence& s, Known& kv, StepResult* result) {
    const int32_t block_tokens = rank.info.block_tokens;
    const int32_t block = Draw(entropy_, 0, (kv.extent - 1) / block_tokens);
    const auto cause = static_cast<LossCause>(Draw(entropy_, 0, 3));
    const int32_t layer = Draw(entropy_, rank.info.layer_begin, rank.info.layer_end - 1);
    result->lost.push_back({s.request, s.attempt, LayerId{layer}, block, cause, "scripted"});
    const size_t first = static_cast<size_t>(block) * block_tokens;
    for (size_t p = first; p < std::min(first + block_tokens, kv.tokens.size()); ++p) kv.tokens[p] = -1;
  }

  static void Open(Rank& rank, const StepPlan& plan, const PlanSequence& s) {
    auto [it, fresh] = rank.known.try_emplace(s.request);
    Known& kv = it->second;
    if (fresh) {
      auto [former, first] = rank.former->try_emplace({s.request, rank.info.stage}, s.attempt, s.generation);
      if (!first) {
        EXPECT_GT(s.attempt, former->second.first) << "keys of two attempts collide: " << plan.ToString();
        EXPECT_NE(s.generation, former->second.second) << plan.ToString();
        former->second = {s.attempt, s.generation};
      }
      kv.attempt = s.attempt;
      kv.generation = s.generation;
    }
    EXPECT_EQ(kv.attempt, s.attempt) << "a new attempt before the former one was released: " << plan.ToString();
    EXPECT_EQ(kv.generation, s.generation) << plan.ToString();
    EXPECT_LE(s.start, static_cast<int32_t>(kv.tokens.size())) << "never computed here: " << plan.ToString();
    if (s.start < kv.extent) {
      EXPECT_EQ(s.start % rank.info.block_tokens, 0) << "a rollback into a block: " << plan.ToString();
    }
    kv.tokens.resize(s.start);
    kv.tokens.insert(kv.tokens.end(), s.tokens.begin(), s.tokens.end());
    kv.extent = static_cast<int32_t>(kv.tokens.size());
    kv.keep = s.residency.keep;
  }

  // Streamed blocks that the tiers have no room for stay on the device, where everything fits or it does not.
  static void CheckRoom(const Rank& rank, const std::set<RequestId>& computing, const StepPlan& plan) {
    const StageCapacity stage{rank.info.layer_begin, rank.info.layer_end, rank.info.arena_slots};
    const int64_t held = stage.layer_end - stage.layer_begin;
    int64_t needed = 0, streamed = 0, all = 0;
    for (const auto& [id, kv] : rank.known) {
      const int32_t blocks = (kv.extent + rank.info.block_tokens - 1) / rank.info.block_tokens;
      const SequenceDemand demand{blocks, kv.keep, computing.count(id) > 0};
      needed += SlotsNeeded(demand, kv.keep, rank.info.layers, stage);
      const int32_t kept = LayerResidencyPlan{rank.info.layers, kv.keep}.KeptIn(stage.layer_begin, stage.layer_end);
      streamed += (held - kept) * (kv.extent / rank.info.block_tokens);
      all += held * blocks;
    }
    EXPECT_LE(needed, rank.info.arena_slots) << "arena of stage " << Value(rank.info.stage) << ": " << plan.ToString();
    const int64_t below = rank.info.tier_bytes / (rank.info.slot_bytes + 256);
    EXPECT_LE(std::min(needed + std::max<int64_t>(0, streamed - below), all), rank.info.arena_slots)
        << "tiers of stage " << Value(rank.info.stage) << " (" << streamed << " of " << below
        << "): " << plan.ToString();
  }

  Entropy& entropy_;
  bool formed_ = false;
  Epoch epoch_{};
  std::vector<Rank> ranks_;
  std::map<PlanId, std::set<RequestId>> lost_;                 // by an earlier stage
  std::map<PlanId, std::pair<int32_t, StepPlan>> unanswered_;  // answers missing
  std::vector<StepPlan> plans_;
  std::vector<absl::Status> resets_;
  Former former_;
  int64_t losses_ = 0;
};

// What a request's client sees. Fails the test when the contract of TokenSink is broken.
class WatchedSink final : public TokenSink {
 public:
  void OnTokens(absl::Span<const int32_t> tokens) override {
    EXPECT_FALSE(end) << "tokens after the end";
    delivered.insert(delivered.end(), tokens.begin(), tokens.end());
  }
  void OnEnd(const RequestEnd& e) override {
    EXPECT_FALSE(end) << "ended twice";
    end = e;
  }
  std::vector<int32_t> delivered;
  std::optional<RequestEnd> end;
};

// Ranks that split `layers` evenly.
inline std::vector<RankInfo> MakeRanks(int32_t layers, int32_t stages, int32_t block_tokens, int32_t arena_slots,
                                       int64_t tier_slots) {
  std::vector<RankInfo> ranks;
  for (int32_t s = 0; s < stages; ++s) {
    RankInfo rank{.stage = StageId{s}, .stages = stages, .incarnation = 1, .model_digest = "digest", .layers = layers};
    rank.layer_begin = layers * s / stages;
    rank.layer_end = layers * (s + 1) / stages;
    rank.block_tokens = block_tokens;
    rank.arena_slots = arena_slots;
    rank.slot_bytes = 1024;
    rank.tier_bytes = tier_slots * (1024 + 256);
    if (tier_slots > 0) rank.tiers = {"host"};
    ranks.push_back(std::move(rank));
  }
  return ranks;
}

}  // namespace interlace
