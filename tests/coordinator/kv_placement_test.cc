// KvPlacement: prefixes that are shared, room that is made, layers that leave and come back.
#include "coordinator/kv_placement.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/coordinator/fake_replica.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int32_t kBlockTokens = 8;

class KvPlacementTest : public testing::Test {
 protected:
  // Four layers on one stage, unless the test forms other ranks.
  void Form(int32_t slots, int32_t frames, int32_t window = 0) {
    placement_ = std::make_unique<KvPlacement>(ShapeOf(MakeRanks(4, 1, kBlockTokens, slots, frames, window)), options_);
  }
  // A request of whole blocks; those of one `family` have the same tokens.
  SequenceState& Make(int32_t blocks, uint64_t family) {
    Request request{.id = RequestId{++next_}};
    request.prompt.assign(blocks * kBlockTokens, 1);
    SequenceState& sequence = *all_.emplace_back(std::make_unique<SequenceState>(std::move(request)));
    for (int32_t b = 0; b < blocks; ++b) sequence.ids.push_back({family, static_cast<uint64_t>(b)});
    return sequence;
  }
  bool Start(SequenceState& sequence, int32_t adopted = 0, int32_t fetched = 0, int32_t spare = 0) {
    const bool started = placement_->Start(sequence, adopted, fetched, {.spare = spare});
    if (started) sequence.phase = Phase::kRunning;
    Check();
    return started;
  }
  void Seal(SequenceState& sequence, int32_t count) {
    placement_->Seal(sequence, count, PlanId{++plan_});
    Check();
    placement_->BeginPlan();
  }
  void Release(SequenceState& sequence) {
    placement_->Release(sequence);
    sequence.phase = Phase::kWaiting;
    Check();
  }
  void Park(SequenceState& sequence) {
    placement_->Park(sequence);
    sequence.phase = Phase::kWaiting;
    Check();
  }
  void Check() const {
    std::vector<SequenceState*> all;
    for (const auto& sequence : all_) all.push_back(sequence.get());
    placement_->CheckInvariants(all);
  }
  KvRoom taken() const { return placement_->budget().taken()[0]; }
  KvRoom free() const { return placement_->budget().Free()[0]; }
  const BlockEntry* Find(uint64_t family, uint64_t block) const {
    return placement_->directory().Find({family, block});
  }

  KvPlacement::Options options_{.fixed_keep = -1, .chunk_tokens = 64};
  const LayerSet all_layers_ = LayerSet::Range(0, 4);
  std::unique_ptr<KvPlacement> placement_;
  std::vector<std::unique_ptr<SequenceState>> all_;
  uint64_t next_ = 0, plan_ = 0;
};

TEST_F(KvPlacementTest, SaysWhatCanNeverRunAndWhatToRaise) {
  const ReplicaShape shape = ShapeOf(MakeRanks(8, 1, 16, /*slots=*/40, /*frames=*/1000));  // 5 blocks, all layers kept
  const KvPlacement::Options all{.fixed_keep = 8, .chunk_tokens = 64};
  EXPECT_OK(KvPlacement::CheckCanRun(shape, all, 5 * 16));
  EXPECT_THAT(KvPlacement::CheckCanRun(shape, all, 6 * 16),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("can never run"), HasSubstr("48 device slots of stage 0, which has 40"),
                             HasSubstr("kv.device_bytes"), HasSubstr("lower kv.keep_layers"))));
  EXPECT_OK(KvPlacement::CheckCanRun(shape, options_, 24 * 16));  // 16 slots of tails, a ring of 24
  EXPECT_THAT(KvPlacement::CheckCanRun(shape, options_, 25 * 16),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("41 device slots"), HasSubstr("kv.device_bytes"))));
  const ReplicaShape little_host = ShapeOf(MakeRanks(8, 1, 16, 40, /*frames=*/100));
  EXPECT_THAT(KvPlacement::CheckCanRun(little_host, options_, 24 * 16),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("192 host frames of stage 0, which has 100"), HasSubstr("kv.host_bytes"))));
}

TEST_F(KvPlacementTest, StartKeepsAsManyLayersAsFitOrChangesNothing) {
  Form(/*slots=*/24, /*frames=*/100);
  SequenceState &first = Make(2, 1), &second = Make(5, 2), &third = Make(1, 3);
  ASSERT_TRUE(Start(first));
  EXPECT_EQ(first.kept, all_layers_);
  EXPECT_EQ(taken(), (KvRoom{8, 0}));
  // 16 slots are left: 5 for the kept layer, 2 for the tail of each of the three others, 5 for their ring.
  ASSERT_TRUE(Start(second));
  EXPECT_EQ(second.kept.size(), 1);
  EXPECT_EQ(taken(), (KvRoom{8 + 11, 15}));
  EXPECT_EQ(placement_->budget().RingOf(0), 5);
  EXPECT_EQ(free().slots, 0);
  EXPECT_FALSE(Start(third));
  EXPECT_EQ(taken(), (KvRoom{8 + 11, 15}));
  EXPECT_TRUE(third.charge.empty() && third.kept.empty() && third.reserved == 0);
  Release(second);
  EXPECT_EQ(placement_->budget().RingOf(0), 0) << "nobody streams any more";
  EXPECT_FALSE(Start(third, 0, 0, /*spare=*/4)) << "spare blocks are left alone";
  EXPECT_TRUE(Start(third, 0, 0, /*spare=*/3));
}

TEST_F(KvPlacementTest, StartAdoptsWhatOthersSealedAndChargesItOnce) {
  Form(100, 0);
  SequenceState &first = Make(3, 1), &second = Make(3, 1);
  ASSERT_TRUE(Start(first));
  placement_->Seal(first, 2, PlanId{7});
  EXPECT_EQ(placement_->Match(second, 2, PlanId{7}), 0) << "sealed by the very plan that would adopt them";
  EXPECT_EQ(placement_->Match(second, 2, PlanId{8}), 2);
  EXPECT_EQ(placement_->Match(second, 1, PlanId{8}), 1);
  ASSERT_TRUE(Start(second, 2));
  EXPECT_EQ(taken().slots, 12 + 4) << "one block of its own in four layers";
  EXPECT_EQ(Find(1, 0)->users.size(), 2u);
  EXPECT_TRUE(placement_->TakeMoves().empty());
  Release(first);
  EXPECT_EQ(Find(1, 0)->users.size(), 1u);
  EXPECT_TRUE(placement_->directory().idle_on_device().empty()) << "the other one still uses them";
}

TEST_F(KvPlacementTest, WhatBothComputedIsChargedOnceFromTheNextPlanOn) {
  Form(100, 0);
  SequenceState &first = Make(2, 1), &second = Make(2, 1);
  ASSERT_TRUE(Start(first));
  ASSERT_TRUE(Start(second));
  Seal(first, 1);
  placement_->Seal(second, 1, PlanId{9});
  EXPECT_EQ(taken().slots, 16) << "the copy goes when the plan is executed";
  placement_->BeginPlan();
  EXPECT_EQ(taken().slots, 12);
  Check();
}

TEST_F(KvPlacementTest, TheDeepestBlockOfTheCacheGoesFirst) {
  for (int32_t frames : {0, 100}) {
    Form(/*slots=*/12, frames);
    all_.clear();
    SequenceState& former = Make(3, 1);
    ASSERT_TRUE(Start(former));
    Seal(former, 3);
    Release(former);
    EXPECT_EQ(taken().slots, 12) << "it stays as cache";
    ASSERT_TRUE(Start(Make(1, 2)));
    std::vector<BlockMove> expected = {{{1, 2}, MoveKind::kDropDevice, all_layers_}};
    if (frames > 0) expected.insert(expected.begin(), {{1, 2}, MoveKind::kCopyOut, all_layers_});
    EXPECT_EQ(placement_->TakeMoves(), expected);
    EXPECT_EQ(Find(1, 1)->device, all_layers_);
    if (frames > 0) {
      EXPECT_EQ(Find(1, 2)->host, all_layers_);
    } else {
      EXPECT_EQ(Find(1, 2), nullptr) << "there is no room for it anywhere";
    }
  }
}

TEST_F(KvPlacementTest, HeldBlocksLeaveTheDeviceForRoomAndComeBack) {
  Form(/*slots=*/12, /*frames=*/12);
  SequenceState &parked = Make(3, 1), &other = Make(3, 2);
  ASSERT_TRUE(Start(parked));
  Seal(parked, 2);
  Park(parked);
  EXPECT_EQ(parked.blocks.size(), 2u);
  EXPECT_TRUE(placement_->TakeMoves().empty()) << "nobody wants the room yet";
  ASSERT_TRUE(Start(other));
  EXPECT_EQ(other.kept, all_layers_);
  EXPECT_EQ(Find(1, 0)->host, all_layers_);
  EXPECT_EQ(placement_->Match(parked, 2, PlanId{99}), 2) << "held blocks are not forgotten";
  placement_->TakeMoves();
  Release(other);
  ASSERT_TRUE(Start(parked, 2));
  EXPECT_EQ(parked.kept, all_layers_);
  int copies = 0;
  for (const BlockMove& move : placement_->TakeMoves()) copies += move.kind == MoveKind::kCopyIn ? 1 : 0;
  EXPECT_EQ(copies, 2);
  EXPECT_EQ(Find(1, 0)->holds, 0);
}

TEST_F(KvPlacementTest, LayersLeaveForSomebodyElseAndComeBack) {
  Form(/*slots=*/40, /*frames=*/100);
  SequenceState &large = Make(7, 1), &small = Make(2, 2);
  ASSERT_TRUE(Start(large));
  Seal(large, 6);
  ASSERT_TRUE(Start(small));
  ASSERT_EQ(large.kept.size() + small.kept.size(), 8);
  const std::vector<SequenceState*> running = {&large, &small};
  const int32_t end = 4 * kBlockTokens;  // 8 slots more, 4 are free
  EXPECT_FALSE(placement_->Reserve(small, end));
  EXPECT_FALSE(placement_->LowerFor(small, 1000 * kBlockTokens, running));
  EXPECT_EQ(large.kept, all_layers_) << "nothing is lowered for what cannot be reached";
  ASSERT_TRUE(placement_->LowerFor(small, end, running));
  ASSERT_TRUE(placement_->Reserve(small, end));
  Check();
  EXPECT_LT(large.kept.size(), 4);
  EXPECT_EQ(small.kept, all_layers_) << "the largest holder gives first";
  const LayerSet left = all_layers_ - large.kept;
  for (uint64_t b = 0; b < 6; ++b) {
    EXPECT_EQ(Find(1, b)->device, large.kept);
    EXPECT_EQ(Find(1, b)->host, left);
  }
  EXPECT_EQ(placement_->Changed(), std::vector<SequenceState*>({&large, &small}));
  placement_->TakeMoves();
  Release(small);
  EXPECT_FALSE(placement_->Raise(large, 0, /*most_extents=*/5)) << "six blocks in one layer are more";
  ASSERT_TRUE(placement_->Raise(large, 0, 1000));
  Check();
  EXPECT_EQ(large.kept, all_layers_);
  EXPECT_TRUE(placement_->streaming().empty());
  EXPECT_EQ(taken(), (KvRoom{28, 0}));
}

TEST_F(KvPlacementTest, ALayerThatAnotherKeepsStaysOnTheDevice) {
  Form(/*slots=*/60, /*frames=*/100);
  SequenceState &first = Make(5, 1), &second = Make(5, 1);
  ASSERT_TRUE(Start(first));
  Seal(first, 4);
  ASSERT_TRUE(Start(second, 4));
  SequenceState& other = Make(9, 2);  // takes all slots but a few
  ASSERT_TRUE(Start(other));
  const std::vector<SequenceState*> running = {&first};
  placement_->LowerFor(other, 11 * kBlockTokens, running);
  Check();
  for (uint64_t b = 0; b < 4; ++b) EXPECT_EQ(Find(1, b)->device, all_layers_) << "the second one keeps them";
}

TEST_F(KvPlacementTest, BlocksBehindTheWindowBecomeCacheInItsLayers) {
  options_.chunk_tokens = 8;
  Form(/*slots=*/100, 0, /*window=*/8);  // of layers 1 and 3
  SequenceState& sequence = Make(6, 1);
  ASSERT_TRUE(Start(sequence));
  Seal(sequence, 4);
  EXPECT_EQ(placement_->directory().idle_room()[0].slots, 0);
  ASSERT_TRUE(placement_->PassWindows(sequence, 5 * kBlockTokens));  // sees positions 33-40
  Check();
  EXPECT_EQ(placement_->directory().idle_room()[0].slots, 2 * 4);
  EXPECT_EQ(placement_->directory().EvictableDevice(*Find(1, 0)), all_layers_ - placement_->shape().unbounded);
  EXPECT_EQ(placement_->directory().idle_on_device().front()->index, 0) << "the oldest goes first";
}

// Another sequence still sees what this one has passed, so nothing is given back for what its windows see next. What it
// has computed is sealed all the same (found by the simulation, seed 11186).
TEST_F(KvPlacementTest, BlocksAreSealedWhereWindowsFoundNoRoomToMoveOn) {
  options_ = {.fixed_keep = 4, .chunk_tokens = 8};
  Form(/*slots=*/36, /*frames=*/0, /*window=*/8);
  SequenceState& first = Make(12, 1);
  ASSERT_TRUE(Start(first));
  Seal(first, 3);
  SequenceState& second = Make(2, 1);
  ASSERT_TRUE(Start(second, /*adopted=*/1));
  ASSERT_EQ(free().slots, 0);
  EXPECT_FALSE(placement_->PassWindows(first, 24));
  EXPECT_FALSE(placement_->Reserve(first, 32)) << "its blocks are reserved, what the windows see of them is not";
  Seal(first, 4);
  Release(second);
  EXPECT_TRUE(placement_->PassWindows(first, 32));
  Check();
}

TEST_F(KvPlacementTest, FetchedBlocksAreWaitedForAndFailedOnesLieNowhere) {
  for (bool fails : {false, true}) {
    Form(100, 0);
    all_.clear();
    SequenceState &first = Make(3, 1), &second = Make(3, 1);
    ASSERT_TRUE(Start(first, 0, 2));
    const std::vector<BlockMove> fetches = {{{1, 0}, MoveKind::kFetchDevice, all_layers_},
                                            {{1, 1}, MoveKind::kFetchDevice, all_layers_}};
    EXPECT_EQ(placement_->TakeMoves(), fetches);
    EXPECT_TRUE(placement_->Waits(first));
    EXPECT_TRUE(placement_->Arriving(second, 0));
    EXPECT_FALSE(placement_->Arriving(second, 2));
    EXPECT_EQ(placement_->Match(second, 2, PlanId{99}), 0) << "not there yet";
    placement_->OnFetched({{1, 0}, all_layers_, {}});
    EXPECT_TRUE(placement_->Waits(first));
    placement_->OnFetched({{1, 1}, fails ? LayerSet() : all_layers_, fails ? all_layers_ : LayerSet()});
    Check();
    EXPECT_FALSE(placement_->Waits(first));
    EXPECT_EQ(placement_->Whole(first), !fails);
    EXPECT_EQ(placement_->Match(second, 2, PlanId{99}), fails ? 1 : 2);
  }
}

// A rank holds the room of what is on its way until it has arrived (found by the simulation, seed 18757).
TEST_F(KvPlacementTest, WhatIsOnItsWayIsNotEvictedWithTheRest) {
  options_.fixed_keep = 4;
  Form(/*slots=*/10, 0);
  SequenceState &first = Make(2, 1), &second = Make(2, 2);
  ASSERT_TRUE(Start(first, 0, 1));
  placement_->OnFetched({{1, 0}, LayerSet::Range(2, 4), {}});
  Release(first);
  placement_->TakeMoves();
  ASSERT_TRUE(Start(second));
  EXPECT_EQ(placement_->TakeMoves(), (std::vector<BlockMove>{{{1, 0}, MoveKind::kDropDevice, LayerSet::Range(2, 4)}}));
  EXPECT_EQ(taken().slots, 10);
  EXPECT_TRUE(placement_->AnyArriving());
  placement_->OnFetched({{1, 0}, {}, LayerSet::Range(0, 2)});
  Check();
  EXPECT_EQ(taken().slots, 8);
  EXPECT_EQ(Find(1, 0), nullptr);
}

// The plan that names a block moves others before the block is there: what a frame holds of it is needed until then
// (found by the simulation, seed 26180).
TEST_F(KvPlacementTest, AFrameStaysUntilThePlanThatNamesItsBlockAgainIsOver) {
  Form(/*slots=*/40, /*frames=*/4);
  SequenceState& held = Make(1, 1);
  ASSERT_TRUE(Start(held));
  Seal(held, 1);
  Park(held);
  SequenceState& wide = Make(10, 2);
  ASSERT_TRUE(Start(wide));  // the parked one's block leaves the device
  ASSERT_EQ(Find(1, 0)->host, all_layers_);
  Release(wide);
  placement_->TakeMoves();
  SequenceState& again = Make(2, 1);
  ASSERT_TRUE(Start(again));
  ASSERT_TRUE(Start(held, 1));
  placement_->Seal(again, 1, PlanId{77});
  Check();
  EXPECT_EQ(placement_->directory().EvictableHost(*Find(1, 0)), LayerSet());
  placement_->BeginPlan();
  Check();
  EXPECT_EQ(placement_->directory().EvictableHost(*Find(1, 0)), Find(1, 0)->host & Find(1, 0)->device);
}

TEST_F(KvPlacementTest, AForgottenBlockIsDroppedEverywhere) {
  Form(100, 0);
  SequenceState& sequence = Make(2, 1);
  ASSERT_TRUE(Start(sequence));
  Seal(sequence, 1);
  placement_->Forget(*sequence.blocks[0]);
  Check();
  EXPECT_EQ(placement_->TakeMoves(), (std::vector<BlockMove>{{{1, 0}, MoveKind::kDropDevice, all_layers_}}));
  EXPECT_FALSE(placement_->Whole(sequence));
  Release(sequence);
  EXPECT_EQ(Find(1, 0), nullptr);
  EXPECT_EQ(taken(), KvRoom());
}

// There are no host frames: what leaves the device is gone.
TEST_F(KvPlacementTest, WhatAParkedRequestHoldsIsTheLastToGo) {
  Form(/*slots=*/16, /*frames=*/0);
  SequenceState &parked = Make(2, 1), &ended = Make(1, 2), &next = Make(2, 3), &last = Make(2, 4);
  ASSERT_TRUE(Start(parked));
  Seal(parked, 2);
  ASSERT_TRUE(Start(ended));
  Seal(ended, 1);
  Park(parked);  // sooner than the other one ends
  Release(ended);
  EXPECT_EQ(free().slots, 4);
  ASSERT_TRUE(Start(next));
  EXPECT_EQ(Find(2, 0), nullptr) << "nobody counts on it";
  EXPECT_EQ(placement_->Match(parked, 2, PlanId{99}), 2) << "it is what the parked request comes back to";
  ASSERT_TRUE(Start(last)) << "held blocks do not keep a running request out";
  EXPECT_EQ(placement_->Match(parked, 2, PlanId{99}), 0);
}

}  // namespace
}  // namespace interlace
