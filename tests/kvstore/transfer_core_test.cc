#include "kvstore/transfer_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "common/entropy.h"
#include "tests/kvstore/blocks.h"

namespace interlace {
namespace {

SharedBytes BytesOf(const BlockKey& key) { return std::make_shared<const std::string>(KeyText(key)); }
SharedBytes Damaged() { return std::make_shared<const std::string>("damaged"); }

// A world of tiers in virtual time. It answers the core's calls in any order, late, with damage, or not before the end;
// and it checks, at every step, what the core promises.
class World {
 public:
  World(uint64_t seed, int tiers)
      : random_(MakeSeededEntropy(seed)),
        core_({.tiers = tiers,
               .payload_bytes = 10,
               .queue_bytes = kQueueBytes,
               .retry_after = kRetry,
               .most_calls = 2,
               .most_blocks = 3,
               .call_bytes = 1000}),
        tiers_(tiers) {
    for (uint64_t b = 0; b < kBlocks; ++b) {
      for (int32_t layer = 0; layer < kLayers; ++layer) keys_.push_back(Key(seed, layer, b));
    }
    for (Tier& tier : tiers_) {
      for (const BlockKey& key : keys_) {
        if (Chance(3)) tier.held[key] = Chance(8) ? Damaged() : BytesOf(key);
      }
    }
  }

  void Step() {
    now_ += absl::Milliseconds(random_->Next() % 20);
    TransferActions actions;
    switch (random_->Next() % 7) {
      case 0:
        core_.Offer(Offered(AnyKey()), static_cast<uint32_t>(random_->Next()), now_, &actions);
        break;
      case 1:
      case 2: {
        const FetchId id{++last_id_};
        const BlockKey key = AnyKey();
        const absl::Time deadline = now_ + absl::Milliseconds(static_cast<int64_t>(random_->Next() % 300) - 10);
        fetches_[id] = {key, deadline};
        core_.Fetch(id, key, deadline, now_, &actions);
        break;
      }
      case 3: {
        const ProbeId id{++last_id_};
        probes_.insert(id);
        core_.Probe(id, keys_, kLayers, now_, &actions);
        break;
      }
      case 4:
        if (!Chance(20)) break;
        core_.CancelFetches(now_, &actions);
        Do(actions);
        actions.clear();
        EXPECT_TRUE(fetches_.empty()) << fetches_.size() << " fetches go on after they were cancelled";
        EXPECT_EQ(core_.NextDeadline(), absl::InfiniteFuture());
        break;
      default:
        AnswerOne(&actions);
    }
    Do(actions);
    actions.clear();
    core_.OnTime(now_, &actions);
    Do(actions);
    Check();
  }

  void Finish() {
    while (!calls_.empty()) {
      TransferActions actions;
      AnswerOne(&actions);
      Do(actions);
    }
    now_ += absl::Hours(1);
    TransferActions actions;
    core_.OnTime(now_, &actions);
    Do(actions);
    EXPECT_TRUE(fetches_.empty()) << fetches_.size() << " fetches never ended";
    EXPECT_TRUE(probes_.empty());
    EXPECT_EQ(core_.offered_bytes(), 0);
    EXPECT_EQ(core_.NextDeadline(), absl::InfiniteFuture());
    EXPECT_EQ(core_.stats().blocks_fetched, landed_well_);
  }

  void StopAndLeave() {
    TransferActions actions;
    core_.Stop(&actions);
    Do(actions);
    EXPECT_TRUE(fetches_.empty());
    EXPECT_TRUE(probes_.empty());
    const size_t under_way = calls_.size();
    for (size_t i = 0; i < under_way; ++i) {
      actions.clear();
      AnswerOne(&actions);
      EXPECT_TRUE(actions.empty());
    }
  }

 private:
  static constexpr uint64_t kBlocks = 5;
  static constexpr int32_t kLayers = 2;
  static constexpr int64_t kQueueBytes = 400;
  static constexpr absl::Duration kRetry = absl::Milliseconds(100);
  struct Tier {
    std::map<BlockKey, SharedBytes> held;
    absl::Time away_until = absl::InfinitePast();
  };
  struct Open {
    BlockKey key;
    absl::Time deadline;
  };

  bool Chance(uint64_t one_in) { return random_->Next() % one_in == 0; }
  BlockKey AnyKey() { return keys_[random_->Next() % keys_.size()]; }
  StoredBlock Offered(const BlockKey& key) { return {key, 0, BytesOf(key)}; }

  void Do(const TransferActions& actions) {
    for (const TransferAction& action : actions) std::visit([this](const auto& a) { Do(a); }, action);
  }
  void Do(const TierPut& a) { Call(a.tier, a.blocks.size(), a); }
  void Do(const TierGet& a) {
    Call(a.tier, a.keys.size(), a);
    for (const BlockKey& key : a.keys)
      EXPECT_TRUE(asked_.insert(key).second) << "asked twice at once: " << KeyText(key);
  }
  void Do(const TierProbe& a) { Call(a.tier, 1, a); }
  void Do(const TierDrop& a) { tiers_[a.tier].held.erase(a.key); }
  void Do(const Land& a) {
    for (const FetchId fetch : a.fetches) {
      ASSERT_TRUE(fetches_.contains(fetch)) << "a frame is filled whose fetch has ended";
      EXPECT_EQ(fetches_[fetch].key, a.key);
    }
    EXPECT_FALSE(a.fetches.empty());
    const bool right = *a.bytes == *BytesOf(a.key);
    if (right) {
      for (const FetchId fetch : a.fetches) filled_.insert(fetch);
    }
    TransferActions next;
    core_.OnLanded(a.key, right ? absl::OkStatus() : absl::DataLossError("damaged"), now_, &next);
    Do(next);
  }
  void Do(const FetchEnded& a) {
    const auto it = fetches_.find(a.fetch);
    ASSERT_TRUE(it != fetches_.end()) << "a fetch ended twice";
    EXPECT_EQ(a.status.ok(), filled_.contains(a.fetch)) << a.status;
    landed_well_ += a.status.ok();
    if (absl::IsDeadlineExceeded(a.status)) {
      EXPECT_LE(it->second.deadline, now_);
    }
    fetches_.erase(it);
  }
  void Do(const ProbeEnded& a) {
    EXPECT_EQ(probes_.erase(a.probe), 1u);
    EXPECT_GE(a.blocks, 0);
    EXPECT_LE(a.blocks, static_cast<int32_t>(kBlocks));
  }

  template <typename Action>
  void Call(int tier, size_t blocks, const Action& action) {
    EXPECT_GE(blocks, 1u);
    EXPECT_LE(blocks, 3u);
    EXPECT_GE(now_, tiers_[tier].away_until) << "a tier that is away was called";
    calls_.push_back(action);
  }

  void AnswerOne(TransferActions* next) {
    if (calls_.empty()) return;
    const size_t which = random_->Next() % calls_.size();
    const TransferAction call = calls_[which];
    calls_.erase(calls_.begin() + static_cast<ptrdiff_t>(which));
    std::visit([&](const auto& a) { Answer(a, next); }, call);
  }
  template <typename Action>
  void Answer(const Action&, TransferActions*) {}
  absl::Status Trouble(int tier) {
    if (!Chance(12)) return Chance(10) ? absl::ResourceExhaustedError("full") : absl::OkStatus();
    if (now_ >= tiers_[tier].away_until) tiers_[tier].away_until = now_ + kRetry;
    return absl::UnavailableError("away");
  }
  void Answer(const TierPut& a, TransferActions* next) {
    std::vector<absl::Status> statuses;
    for (const StoredBlock& block : a.blocks) {
      statuses.push_back(Trouble(a.tier));
      if (statuses.back().ok()) tiers_[a.tier].held[block.key] = block.bytes;
    }
    core_.OnPutAnswered(a.call, statuses, now_, next);
  }
  void Answer(const TierGet& a, TransferActions* next) {
    std::vector<absl::StatusOr<SharedBytes>> answers;
    for (const BlockKey& key : a.keys) {
      asked_.erase(key);
      const absl::Status trouble = Trouble(a.tier);
      const auto it = tiers_[a.tier].held.find(key);
      if (absl::IsUnavailable(trouble)) {
        answers.push_back(trouble);
      } else if (it == tiers_[a.tier].held.end()) {
        answers.push_back(absl::NotFoundError("not there"));
      } else if (Chance(20)) {
        answers.push_back(absl::DataLossError("the place saw it itself"));
      } else {
        answers.push_back(it->second);
      }
    }
    core_.OnGetAnswered(a.call, std::move(answers), now_, next);
  }
  void Answer(const TierProbe& a, TransferActions* next) {
    std::vector<bool> held;
    for (const BlockKey& key : a.keys) held.push_back(tiers_[a.tier].held.contains(key));
    core_.OnProbeAnswered(a.call, held, now_, next);
  }

  void Check() {
    EXPECT_LE(core_.offered_bytes(), kQueueBytes);
    EXPECT_GE(core_.offered_bytes(), 0);
    for (const auto& [id, open] : fetches_) EXPECT_GT(open.deadline, now_) << "a fetch is open after its deadline";
    EXPECT_GT(core_.NextDeadline(), now_);
  }

  std::unique_ptr<Entropy> random_;
  TransferCore core_;
  std::vector<Tier> tiers_;
  std::vector<BlockKey> keys_;
  absl::Time now_ = absl::UnixEpoch();
  uint64_t last_id_ = 0;
  std::map<FetchId, Open> fetches_;
  std::set<FetchId> filled_;
  std::set<ProbeId> probes_;
  std::set<BlockKey> asked_;
  std::vector<TransferAction> calls_;
  int64_t landed_well_ = 0;
};

TEST(TransferCoreTest, KeepsItsPromisesInAnyOrderOfEvents) {
  for (uint64_t seed = 0; seed < 400; ++seed) {
    World world(seed, static_cast<int>(seed % 4));
    for (int step = 0; step < 300 && !testing::Test::HasFailure(); ++step) world.Step();
    seed % 3 == 0 ? world.StopAndLeave() : world.Finish();
    ASSERT_FALSE(testing::Test::HasFailure()) << "seed " << seed;
  }
}

// ---- One promise each.

template <typename Action>
std::vector<Action> Only(const TransferActions& actions) {
  std::vector<Action> only;
  for (const TransferAction& action : actions) {
    if (const Action* one = std::get_if<Action>(&action)) only.push_back(*one);
  }
  return only;
}

class CoreTest : public testing::Test {
 protected:
  TransferCore Core(int tiers, int most_calls = 4) {
    return TransferCore(
        {.tiers = tiers, .payload_bytes = 100, .queue_bytes = 1000, .most_calls = most_calls, .most_blocks = 1});
  }
  const absl::Time t0 = absl::UnixEpoch();
  const absl::Time later = t0 + absl::Seconds(10);
  TransferActions actions;
};

TEST_F(CoreTest, ReadsByDeadlineNotByArrival) {
  TransferCore core = Core(1, /*most_calls=*/1);
  core.Fetch(FetchId{1}, Key(1, 0, 0), later, t0, &actions);  // asked at once
  core.Fetch(FetchId{2}, Key(1, 0, 1), later + absl::Seconds(3), t0, &actions);
  core.Fetch(FetchId{3}, Key(1, 0, 2), later + absl::Seconds(2), t0, &actions);
  core.Fetch(FetchId{4}, Key(1, 0, 3), later + absl::Seconds(4), t0, &actions);
  core.Fetch(FetchId{5}, Key(1, 0, 3), later + absl::Seconds(1), t0, &actions);  // brings block 3 forward
  std::vector<uint64_t> order;
  for (int i = 0; i < 4; ++i) {
    const auto gets = Only<TierGet>(actions);
    ASSERT_EQ(gets.size(), 1u);
    order.push_back(gets[0].keys[0].block.low);
    actions.clear();
    core.OnGetAnswered(gets[0].call, {absl::NotFoundError("")}, t0, &actions);
  }
  EXPECT_EQ(order, (std::vector<uint64_t>{0, 3, 2, 1}));
}

// However late they must be over: those whose requests are late first come first.
TEST_F(CoreTest, ReadsAsTheyAreDue) {
  TransferCore core = Core(1, /*most_calls=*/1);
  const auto by = [&](int end, int due) { return FetchTimes(later + absl::Seconds(end), t0 + absl::Seconds(due)); };
  core.Fetch(FetchId{1}, Key(1, 0, 0), by(9, 9), t0, &actions);  // asked at once
  core.Fetch(FetchId{2}, Key(1, 0, 1), by(1, 5), t0, &actions);
  core.Fetch(FetchId{3}, Key(1, 0, 2), by(2, -3), t0, &actions);  // late already
  core.Fetch(FetchId{4}, Key(1, 0, 3), by(3, 4), t0, &actions);
  core.Fetch(FetchId{5}, Key(1, 0, 1), by(4, 2), t0, &actions);  // brings block 1 forward
  std::vector<uint64_t> order;
  for (int i = 0; i < 4; ++i) {
    const auto gets = Only<TierGet>(actions);
    ASSERT_EQ(gets.size(), 1u);
    order.push_back(gets[0].keys[0].block.low);
    actions.clear();
    core.OnGetAnswered(gets[0].call, {absl::NotFoundError("")}, t0, &actions);
  }
  EXPECT_EQ(order, (std::vector<uint64_t>{0, 2, 1, 3}));
  // Yet each ends by its own deadline.
  EXPECT_EQ(core.NextDeadline(), absl::InfiniteFuture());
}

TEST_F(CoreTest, OneReadServesAllWhoAskAlsoThoseWhoAskWhileItLands) {
  TransferCore core = Core(1);
  const BlockKey key = Key(1, 0, 0);
  core.Fetch(FetchId{1}, key, later, t0, &actions);
  core.Fetch(FetchId{2}, key, later, t0, &actions);
  const auto gets = Only<TierGet>(actions);
  ASSERT_EQ(gets.size(), 1u);
  actions.clear();
  core.OnGetAnswered(gets[0].call, {BytesOf(key)}, t0, &actions);
  core.Fetch(FetchId{3}, key, later, t0, &actions);
  ASSERT_EQ(Only<Land>(actions).size(), 1u);
  EXPECT_EQ(Only<Land>(actions)[0].fetches, (std::vector<FetchId>{FetchId{1}, FetchId{2}}));
  actions.clear();
  core.OnLanded(key, absl::OkStatus(), t0, &actions);
  EXPECT_EQ(Only<FetchEnded>(actions).size(), 2u);
  ASSERT_EQ(Only<Land>(actions).size(), 1u);
  EXPECT_TRUE(Only<TierGet>(actions).empty());
  actions.clear();
  core.OnLanded(key, absl::OkStatus(), t0, &actions);
  EXPECT_EQ(Only<FetchEnded>(actions)[0].fetch, FetchId{3});
}

// A frame that is being filled is the driver's until it says so; then the fetch ends, whatever the bytes were.
TEST_F(CoreTest, ACancelledFetchEndsAtOnceOrOnceItHasLanded) {
  for (const bool damaged : {false, true}) {
    TransferCore core = Core(2);
    actions.clear();
    core.Fetch(FetchId{1}, Key(1, 0, 0), later, t0, &actions);
    core.Fetch(FetchId{2}, Key(1, 0, 1), later, t0, &actions);
    const TierCall call = Only<TierGet>(actions)[0].call;
    core.OnGetAnswered(call, {BytesOf(Key(1, 0, 0))}, t0, &actions);
    ASSERT_EQ(Only<Land>(actions).size(), 1u);
    actions.clear();
    core.CancelFetches(t0, &actions);
    ASSERT_EQ(Only<FetchEnded>(actions).size(), 1u);
    EXPECT_EQ(Only<FetchEnded>(actions)[0].fetch, FetchId{2});
    EXPECT_EQ(core.NextDeadline(), absl::InfiniteFuture());
    actions.clear();
    core.OnLanded(Key(1, 0, 0), damaged ? absl::DataLossError("damaged") : absl::OkStatus(), t0, &actions);
    ASSERT_EQ(Only<FetchEnded>(actions).size(), 1u);
    EXPECT_EQ(Only<FetchEnded>(actions)[0].fetch, FetchId{1});
    EXPECT_EQ(Only<FetchEnded>(actions)[0].status.ok(), !damaged);
  }
}

TEST_F(CoreTest, ADamagedCopyIsDroppedAndTheNextTierAsked) {
  TransferCore core = Core(2);
  const BlockKey key = Key(1, 0, 0);
  core.Fetch(FetchId{1}, key, later, t0, &actions);
  for (int tier = 0; tier < 2; ++tier) {
    const auto gets = Only<TierGet>(actions);
    ASSERT_EQ(gets.size(), 1u);
    EXPECT_EQ(gets[0].tier, tier);
    actions.clear();
    core.OnGetAnswered(gets[0].call, {Damaged()}, t0, &actions);
    actions.clear();
    core.OnLanded(key, absl::DataLossError("checksum"), t0, &actions);
    ASSERT_EQ(Only<TierDrop>(actions).size(), 1u);
    EXPECT_EQ(Only<TierDrop>(actions)[0].tier, tier);
  }
  ASSERT_EQ(Only<FetchEnded>(actions).size(), 1u);
  EXPECT_TRUE(absl::IsDataLoss(Only<FetchEnded>(actions)[0].status));
  EXPECT_EQ(core.stats().corrupt, 2);
}

TEST_F(CoreTest, ATierThatIsAwayIsLeftAloneAndThenTriedAgain) {
  TransferCore core = Core(2, /*most_calls=*/1);
  core.Fetch(FetchId{1}, Key(1, 0, 0), later, t0, &actions);
  core.Fetch(FetchId{2}, Key(1, 0, 1), later, t0, &actions);  // queued behind the first
  const auto first = Only<TierGet>(actions);
  actions.clear();
  core.OnGetAnswered(first[0].call, {absl::UnavailableError("gone")}, t0, &actions);
  for (const TierGet& get : Only<TierGet>(actions)) EXPECT_EQ(get.tier, 1);
  EXPECT_EQ(Only<TierGet>(actions).size(), 1u);
  EXPECT_FALSE(core.Offer({Key(2, 0, 0), 0, BytesOf(Key(2, 0, 0))}, 0b01, t0, &actions));
  EXPECT_TRUE(core.Offer({Key(2, 0, 0), 0, BytesOf(Key(2, 0, 0))}, 0b11, t0, &actions));
  ASSERT_EQ(Only<TierPut>(actions).size(), 1u);
  EXPECT_EQ(Only<TierPut>(actions)[0].tier, 1);
  actions.clear();
  core.Fetch(FetchId{3}, Key(1, 0, 2), later, t0 + absl::Seconds(1), &actions);
  ASSERT_EQ(Only<TierGet>(actions).size(), 1u);
  EXPECT_EQ(Only<TierGet>(actions)[0].tier, 0);
}

TEST_F(CoreTest, ABlockOnItsWayToATierIsFetchedFromThere) {
  TransferCore core = Core(1);
  const BlockKey key = Key(1, 0, 0);
  ASSERT_TRUE(core.Offer({key, 0, BytesOf(key)}, 1, t0, &actions));
  core.Fetch(FetchId{1}, key, later, t0, &actions);
  EXPECT_TRUE(Only<TierGet>(actions).empty());
  ASSERT_EQ(Only<Land>(actions).size(), 1u);
  EXPECT_EQ(*Only<Land>(actions)[0].bytes, *BytesOf(key));
}

TEST_F(CoreTest, AProbeAnswersTheLongestPrefixHeldInAllLayersByTheTiersTogether) {
  TransferCore core = Core(2);
  std::vector<BlockKey> keys;
  for (uint64_t b = 0; b < 4; ++b) {
    for (int32_t layer = 0; layer < 2; ++layer) keys.push_back(Key(1, layer, b));
  }
  core.Probe(ProbeId{1}, keys, 2, t0, &actions);
  auto probes = Only<TierProbe>(actions);
  ASSERT_EQ(probes.size(), 1u);
  actions.clear();
  core.OnProbeAnswered(probes[0].call, {true, true, true, false, true, true, false, true}, t0, &actions);
  probes = Only<TierProbe>(actions);
  ASSERT_EQ(probes.size(), 1u);
  EXPECT_EQ(probes[0].tier, 1);
  EXPECT_EQ(probes[0].keys, (std::vector<BlockKey>{Key(1, 1, 1), Key(1, 0, 3)}));
  actions.clear();
  core.OnProbeAnswered(probes[0].call, {true, false}, t0, &actions);
  ASSERT_EQ(Only<ProbeEnded>(actions).size(), 1u);
  EXPECT_EQ(Only<ProbeEnded>(actions)[0].blocks, 3);
}

TEST_F(CoreTest, OffersBeyondTheQueueAreRefused) {
  TransferCore core = Core(1);
  int taken = 0;
  for (uint64_t b = 0; b < 100; ++b) {
    taken += core.Offer({Key(1, 0, b), 0, std::make_shared<const std::string>(100, 'x')}, 1, t0, &actions);
  }
  EXPECT_EQ(taken, 10);
  EXPECT_EQ(core.offered_bytes(), 1000);
  EXPECT_EQ(core.stats().refused, 90);
}

}  // namespace
}  // namespace interlace
