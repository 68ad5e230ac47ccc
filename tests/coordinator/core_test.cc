// The parts under the scheduler: shape, budget, directory of blocks, admission, policies.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/admission.h"
#include "coordinator/block_directory.h"
#include "coordinator/kv_budget.h"
#include "coordinator/kv_fan_out.h"
#include "coordinator/policy/policy.h"
#include "coordinator/replica_shape.h"
#include "coordinator/sequence_state.h"
#include "tests/coordinator/fake_replica.h"
#include "tests/coordinator/kv_picture.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// ---- ReplicaShape

TEST(ReplicaShapeTest, CountsExtentsByStage) {
  const ReplicaShape shape = ShapeOf(MakeRanks(/*layers=*/5, /*stages=*/2, 16, /*slots=*/40, /*frames=*/20));
  EXPECT_EQ(shape.Slots(3, shape.all), (KvAmounts{{6, 0}, {9, 0}}));  // layers 0-1 and 2-4
  EXPECT_EQ(shape.Frames(2, LayerSet::Range(1, 3)), (KvAmounts{{0, 2}, {0, 2}}));
  EXPECT_EQ(shape.Total(), (KvAmounts{{40, 20}, {40, 20}}));
  EXPECT_EQ(shape.BlocksFor(16), 1);
  EXPECT_EQ(shape.BlocksFor(17), 2);
  EXPECT_FALSE(Covers({{6, 0}, {9, 0}}, {{7, 0}, {0, 0}}));
  EXPECT_FALSE(Covers({{6, 0}, {9, 0}}, {{0, 0}, {0, 1}}));
  EXPECT_TRUE(Covers({{6, 0}, {9, 0}}, {{6, 0}, {9, 0}}));
}

TEST(ReplicaShapeTest, GroupsLayersByTheirWindow) {
  std::vector<RankInfo> ranks = MakeRanks(4, 1, 16, 40, 0);
  ranks[0].windows = {0, 64, 32, 64};
  ranks[0].step_tokens = 100;
  const ReplicaShape shape = ShapeOf(ranks);
  EXPECT_EQ(shape.unbounded, LayerSet::Range(0, 1));
  ASSERT_EQ(shape.windows.size(), 2u);
  for (const WindowGroup& group : shape.windows) EXPECT_EQ(group.layers.size(), group.tokens == 64 ? 2 : 1);
  const WindowGroup group{64, {}};
  EXPECT_EQ(shape.FirstSeen(group, 63), 0);
  EXPECT_EQ(shape.FirstSeen(group, 78), 0);  // positions 15-78
  EXPECT_EQ(shape.FirstSeen(group, 79), 1);
  EXPECT_EQ(shape.step_tokens, 100);
}

// ---- KvBudget

TEST(KvBudgetTest, TakesAllOrNothing) {
  KvBudget budget({{10, 5}, {10, 5}});
  EXPECT_TRUE(budget.Try({{10, 5}, {4, 0}}));
  EXPECT_FALSE(budget.Try({{1, 0}, {1, 0}}));
  EXPECT_FALSE(budget.Try({{0, 1}, {1, 0}}));
  EXPECT_EQ(budget.taken(), (KvAmounts{{10, 5}, {4, 0}}));
  budget.Give({{1, 0}, {0, 0}});
  EXPECT_EQ(budget.Free(), (KvAmounts{{1, 0}, {6, 5}}));
  EXPECT_TRUE(budget.Try({{1, 0}, {1, 0}}));
}

TEST(KvBudgetTest, TheLargestRingInFlightCounts) {
  KvBudget budget({{10, 0}});
  EXPECT_TRUE(budget.TryRing(PlanId{1}, {{4, 0}}));
  EXPECT_TRUE(budget.TryRing(PlanId{2}, {{6, 0}}));
  EXPECT_EQ(budget.RingOf(0), 6) << "plans run one after another";
  EXPECT_TRUE(budget.Try({{4, 0}}));
  EXPECT_FALSE(budget.Try({{1, 0}}));
  EXPECT_FALSE(budget.TryRing(PlanId{1}, {{7, 0}}));
  EXPECT_EQ(budget.RingOf(0), 6) << "a refusal changes nothing";
  budget.EndRing(PlanId{2});
  EXPECT_EQ(budget.RingOf(0), 4);
  EXPECT_EQ(budget.Free(), (KvAmounts{{2, 0}}));
  budget.EndRing(PlanId{2});  // ended already
  budget.EndRing(PlanId{1});
  EXPECT_EQ(budget.RingOf(0), 0);
}

TEST(KvBudgetTest, TheFloorIsSetAsideWithoutAPlan) {
  KvBudget budget({{10, 0}});
  budget.SetFloor({{5, 0}});
  EXPECT_EQ(budget.Free(), (KvAmounts{{5, 0}}));
  EXPECT_TRUE(budget.Try({{5, 0}}));
  EXPECT_TRUE(budget.TryRing(PlanId{1}, {{5, 0}})) << "what is set aside is for rings";
  budget.EndRing(PlanId{1});
  EXPECT_EQ(budget.RingOf(0), 5);
}

// ---- BlockDirectory

class BlockDirectoryTest : public testing::Test {
 protected:
  // Two layers; the second sees 8 positions, blocks have 8.
  const ReplicaShape shape_ = ShapeOf(MakeRanks(2, 1, 8, 100, 100, /*window=*/8));
  BlockDirectory directory_{shape_};
  SequenceState sequence_ = OfBlocks(4);  // whose blocks these are
  static constexpr LayerSet kFirst = LayerSet::Range(0, 1), kSecond = LayerSet::Range(1, 2),
                            kBoth = LayerSet::Range(0, 2);

  static SequenceState OfBlocks(uint64_t blocks) {
    SequenceState sequence{Request{}};
    sequence.tokens.resize(blocks * 8);
    for (uint64_t b = 0; b < blocks; ++b) sequence.ids.push_back({1, b});
    return sequence;
  }
  BlockEntry& Block(int32_t index, const LayerSet& device, const LayerSet& host) {
    BlockEntry& entry = directory_.Ensure(sequence_, index);
    directory_.SetPlaces(entry, device, host);
    return entry;
  }
  static std::vector<int32_t> Indices(const std::list<BlockEntry*>& list) {
    std::vector<int32_t> indices;
    for (const BlockEntry* entry : list) indices.push_back(entry->index);
    return indices;
  }
};

TEST_F(BlockDirectoryTest, WhatNobodyUsesIsIdleInTheOrderOfLeaving) {
  SequenceState user{Request{}};
  user.seen_from = {0};
  for (int32_t b = 0; b < 3; ++b) directory_.AddUser(Block(b, {}, {}), &user);
  for (int32_t b = 0; b < 3; ++b) Block(b, kBoth, {});
  EXPECT_TRUE(directory_.idle_on_device().empty());
  EXPECT_EQ(directory_.idle_room(), (KvAmounts{{0, 0}}));
  for (int32_t b : {2, 0, 1}) directory_.RemoveUser(Block(b, kBoth, {}), &user);
  EXPECT_THAT(Indices(directory_.idle_on_device()), ElementsAre(2, 0, 1));
  EXPECT_EQ(directory_.idle_room(), (KvAmounts{{6, 0}}));
  directory_.AddUser(Block(0, kBoth, {}), &user);
  EXPECT_THAT(Indices(directory_.idle_on_device()), ElementsAre(2, 1));
  directory_.RemoveUser(Block(0, kBoth, {}), &user);
  EXPECT_THAT(Indices(directory_.idle_on_device()), ElementsAre(2, 1, 0)) << "used last, evicted last";
}

TEST_F(BlockDirectoryTest, WhatLiesBehindEveryWindowIsIdleInItsLayers) {
  SequenceState near{Request{}}, far{Request{}};
  near.seen_from = {0};
  far.seen_from = {3};
  BlockEntry& entry = Block(1, kBoth, {});
  directory_.AddUser(entry, &far);
  EXPECT_EQ(directory_.EvictableDevice(entry), kSecond);
  directory_.AddUser(entry, &near);
  EXPECT_EQ(directory_.EvictableDevice(entry), LayerSet()) << "the nearer one still sees it";
  near.seen_from = {2};
  directory_.FindIdle(entry);
  EXPECT_EQ(directory_.EvictableDevice(entry), kSecond);
  EXPECT_EQ(directory_.idle_room(), (KvAmounts{{1, 0}}));
}

TEST_F(BlockDirectoryTest, HeldBlocksMayLeaveTheDeviceAndNotTheHost) {
  BlockEntry& entry = Block(0, kFirst, kSecond);
  EXPECT_EQ(directory_.idle_room(), (KvAmounts{{1, 1}}));
  directory_.SetHolds(entry, 1);
  EXPECT_EQ(directory_.EvictableDevice(entry), kFirst);
  EXPECT_EQ(directory_.EvictableHost(entry), LayerSet());
  EXPECT_EQ(directory_.idle_room(), (KvAmounts{{1, 0}}));
  directory_.SetHolds(entry, 0);
  EXPECT_EQ(directory_.EvictableHost(entry), kSecond);
}

TEST_F(BlockDirectoryTest, AFrameBesideASlotMayGoThoughTheBlockIsInUse) {
  SequenceState user{Request{}};
  user.seen_from = {0};
  BlockEntry& entry = Block(0, kFirst, kBoth);
  directory_.AddUser(entry, &user);
  EXPECT_EQ(directory_.EvictableHost(entry), kFirst);
  EXPECT_THAT(Indices(directory_.idle_on_host()), ElementsAre(0));
}

TEST_F(BlockDirectoryTest, ErasedBlocksAreUnknown) {
  BlockEntry& entry = Block(0, kBoth, {});
  EXPECT_DEATH(directory_.Erase(entry), "");
  directory_.SetPlaces(entry, {}, {});
  EXPECT_TRUE(directory_.idle_on_device().empty());
  directory_.Erase(entry);
  EXPECT_EQ(directory_.Find({1, 0}), nullptr);
  EXPECT_EQ(directory_.size(), 0u);
}

// ---- KvFanOut

TEST(KvFanOut, TellsEachOfThemAll) {
  const ReplicaShape shape = ShapeOf(MakeRanks(2, 1, 8, 100, 100));
  KvPicture first, second;
  KvFanOut both({&first, &second});
  {
    BlockDirectory directory(shape, &both);
    SequenceState sequence{Request{}};
    sequence.tokens.resize(16);
    sequence.ids = {{1, 0}, {1, 1}};
    sequence.request.salt = "tenant";
    for (int32_t b = 0; b < 2; ++b) directory.SetPlaces(directory.Ensure(sequence, b), shape.all, {});
    BlockEntry& entry = *directory.Find({1, 1});
    directory.SetPlaces(entry, LayerSet::Range(0, 1), LayerSet::Range(1, 2));
    for (const KvPicture* picture : {&first, &second}) {
      picture->ExpectSame(&directory, shape.all);
      EXPECT_EQ(picture->blocks.at({1, 1}).salt, "tenant");
      EXPECT_EQ(picture->blocks.at({1, 1}).parent, (BlockId{1, 0}));
    }
    directory.SetPlaces(entry, LayerSet::Range(0, 1), {});
    directory.SetPlaces(entry, {}, {});
    directory.Erase(entry);
    for (const KvPicture* picture : {&first, &second}) picture->ExpectSame(&directory, shape.all);
  }
  both.OnCleared();
  for (const KvPicture* picture : {&first, &second}) {
    EXPECT_TRUE(picture->blocks.empty());
    EXPECT_EQ(picture->moved, 1);
    EXPECT_EQ(picture->removed, 1);
  }
}

// ---- Admission

class AdmissionTest : public testing::Test {
 protected:
  static Request Ask(int32_t prompt, int32_t max_tokens, bool given = true) {
    Request request;
    request.prompt.assign(prompt, 1);
    request.max_tokens = max_tokens;
    request.max_tokens_given = given;
    return request;
  }
  absl::Status Try(Request request, int32_t waiting = 0) {
    const absl::Status status = Admit(shape_, limits_, {waiting, turnover_}, &request);
    max_tokens_ = request.max_tokens;
    return status;
  }
  ReplicaShape shape_ = ShapeOf(MakeRanks(2, 1, 8, /*slots=*/16, /*frames=*/0));  // 8 blocks of 8 tokens
  AdmissionLimits limits_{.context = 100, .max_waiting = 3, .placement = {.fixed_keep = -1, .chunk_tokens = 32}};
  absl::Duration turnover_;
  int32_t max_tokens_ = 0;  // after the last Try
};

TEST_F(AdmissionTest, AQueueIsAsLongAsItsTime) {
  limits_.max_waiting = 1000;
  limits_.max_queue_time = absl::Seconds(10);
  EXPECT_OK(Try(Ask(1, 1), 999));  // nothing is known of how long they take
  turnover_ = absl::Milliseconds(100);
  EXPECT_OK(Try(Ask(1, 1), 100));
  EXPECT_THAT(Try(Ask(1, 1), 101), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("about 10 s")));
  // Who asks again when the queue is said to have room is taken, and not before.
  for (int32_t waiting = 0; waiting < 1500; waiting += 7) {
    const QueueAhead now{waiting, turnover_};
    const auto started = static_cast<int32_t>(absl::ToDoubleSeconds(now.Room(limits_)) / 0.1 + 0.5);
    EXPECT_OK(Try(Ask(1, 1), waiting - started)) << waiting;
    if (started > 0) {
      EXPECT_FALSE(Try(Ask(1, 1), waiting - started + 1).ok()) << waiting;
    }
  }
}

TEST_F(AdmissionTest, FieldsThatAreWrongAreNamed) {
  EXPECT_THAT(Try(Ask(0, 1)), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("empty")));
  EXPECT_THAT(Try(Ask(1, -1)), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("max_tokens=-1")));
  EXPECT_THAT(Try(Ask(100, 1)),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("100"), HasSubstr("context"))));
  EXPECT_THAT(Try(Ask(1, 1), 3), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("sched.max_waiting=3")));
  EXPECT_OK(Try(Ask(1, 1), 2));
}

TEST_F(AdmissionTest, TokensOutsideTheVocabularyAreRefusedWithTheirPlace) {
  for (int32_t token : {-1, kVocab, 2000000000}) {
    Request request = Ask(5, 1);
    request.prompt[3] = token;
    EXPECT_THAT(Try(request), StatusIs(absl::StatusCode::kInvalidArgument,
                                       AllOf(HasSubstr(absl::StrCat("token 3 of the prompt is ", token)),
                                             HasSubstr(absl::StrCat("vocabulary of ", kVocab)))));
  }
  Request last = Ask(5, 1);
  last.prompt[3] = kVocab - 1;
  EXPECT_OK(Try(last));
}

TEST_F(AdmissionTest, WhatWasAskedForIsNotLoweredForMemory) {
  EXPECT_OK(Try(Ask(60, 4)));
  EXPECT_THAT(Try(Ask(60, 5)),
              StatusIs(absl::StatusCode::kFailedPrecondition, AllOf(HasSubstr("never"), HasSubstr("kv.device_bytes"))));
  EXPECT_THAT(Try(Ask(65, 5, /*given=*/false)), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("never")));
}

TEST_F(AdmissionTest, TheContextIsTheMostThatAnybodyGets) {
  shape_ = ShapeOf(MakeRanks(2, 1, 8, 1000, 1000));
  EXPECT_OK(Try(Ask(60, 1000000)));
  EXPECT_EQ(max_tokens_, 40);
}

// Over shapes of all kinds: the default is what fits, and not a token less.
TEST_F(AdmissionTest, ADefaultIsTheLargestThatFits) {
  const auto entropy = MakeSeededEntropy(5);
  int lowered = 0;
  for (int round = 0; round < 500; ++round) {
    const int32_t layers = Draw(*entropy, 1, 8), stages = Draw(*entropy, 1, std::min(3, layers));
    const int32_t window = Chance(*entropy, 30) ? Draw(*entropy, 1, 40) : 0;
    shape_ = ShapeOf(MakeRanks(layers, stages, 8, Draw(*entropy, 10, 200),
                               Chance(*entropy, 50) ? Draw(*entropy, 0, 200) : 0, window));
    limits_.context = Draw(*entropy, 20, 300);
    limits_.placement.fixed_keep = Chance(*entropy, 50) ? -1 : Draw(*entropy, 0, layers);
    const int32_t prompt = Draw(*entropy, 1, limits_.context - 1);
    const auto fits = [&](int32_t tokens) {
      return KvPlacement::CheckCanRun(shape_, limits_.placement, prompt + tokens).ok();
    };
    const absl::Status status = Try(Ask(prompt, limits_.context, /*given=*/false));
    ASSERT_EQ(status.ok(), fits(1)) << status;
    if (!status.ok()) continue;
    EXPECT_TRUE(fits(max_tokens_));
    EXPECT_TRUE(max_tokens_ == limits_.context - prompt || !fits(max_tokens_ + 1)) << max_tokens_;
    lowered += max_tokens_ < limits_.context - prompt ? 1 : 0;
  }
  EXPECT_GT(lowered, 50);
}

// ---- policies

TEST(PolicyTest, UnknownNamesListTheKnown) {
  EXPECT_THAT(FindPolicy("lifo"), StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("lifo"), HasSubstr("fcfs"))));
}

}  // namespace
}  // namespace interlace
