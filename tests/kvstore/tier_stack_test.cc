#include "kvstore/tier_stack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "absl/synchronization/notification.h"
#include "common/thread.h"
#include "kvstore/block_codec.h"
#include "kvstore/tier/tiers.h"
#include "tests/kvstore/blocks.h"
#include "tests/kvstore/scripted_tier.h"
#include "tests/kvstore/tier_calls.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using testing::_;

constexpr size_t kPayload = 2000;
constexpr int32_t kLayers = 4;

struct Frame {
  std::vector<std::byte> bytes = std::vector<std::byte>(kBlockHeaderBytes + kPayload);
  absl::string_view text() const { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
};

class Rig {
 public:
  explicit Rig(std::vector<std::unique_ptr<KvTier>> tiers, const std::string& faults = "")
      : faults_(*FaultPoints::Parse(faults, 3)),
        stack_(std::make_unique<TierStack>(
            TierStack::Options{.payload_bytes = kPayload, .layer_begin = 0, .layer_end = kLayers, .heads = {0, 4}},
            std::move(tiers), clock_, *faults_)) {}

  TierStack& stack() { return *stack_; }
  FaultPoints& faults() { return *faults_; }
  void Destroy() { stack_.reset(); }
  void Offer(const BlockKey& key) { stack_->Offer(key, 0, Stored(key, 0, kPayload).bytes); }
  absl::Status Fetch(const BlockKey& key, Frame* frame, absl::Duration within = absl::Seconds(60)) {
    absl::Notification done;
    absl::Status status;
    stack_->Fetch(key, absl::MakeSpan(frame->bytes), clock_.Now() + within, [&](absl::Status answer) {
      status = std::move(answer);
      done.Notify();
    });
    done.WaitForNotification();
    return status;
  }
  int32_t Probe(const std::vector<BlockId>& blocks) {
    absl::Notification done;
    int32_t held = -1;
    stack_->Probe(blocks, [&](int32_t answer) {
      held = answer;
      done.Notify();
    });
    done.WaitForNotification();
    return held;
  }
  absl::Time Now() { return clock_.Now(); }

 private:
  RealClock clock_;
  std::unique_ptr<FaultPoints> faults_;
  std::unique_ptr<TierStack> stack_;
};

template <typename... Tiers>
std::vector<std::unique_ptr<KvTier>> List(Tiers... tiers) {
  std::vector<std::unique_ptr<KvTier>> list;
  (list.push_back(std::move(tiers)), ...);
  return list;
}

TEST(TierStackTest, OfferedBlocksComeBackInTheirFrames) {
  auto first = std::make_unique<ScriptedTier>("first"), second = std::make_unique<ScriptedTier>("second");
  ScriptedTier &upper = *first, &lower = *second;
  Rig rig(List(std::move(first), std::move(second)));
  EXPECT_EQ(rig.stack().names(), (std::vector<std::string>{"first", "second"}));
  for (uint64_t b = 0; b < 10; ++b) {
    for (int32_t layer = 0; layer < kLayers; ++layer) rig.Offer(Key(1, layer, b));
  }
  upper.WaitForBlocks(40);
  lower.WaitForBlocks(40);
  for (uint64_t b = 0; b < 10; ++b) {
    if (b % 2 == 0) upper.Drop({Key(1, 1, b)});
    Frame frame;
    ASSERT_OK(rig.Fetch(Key(1, 1, b), &frame));
    EXPECT_OK(VerifyStored(Key(1, 1, b), frame.text(), kPayload));
  }
  Frame frame;
  EXPECT_THAT(rig.Fetch(Key(2, 0, 0), &frame), StatusIs(absl::StatusCode::kNotFound, _));
  lower.Drop({Key(1, 3, 7)});
  upper.Drop({Key(1, 3, 7)});
  std::vector<BlockId> blocks;
  for (uint64_t b = 0; b < 10; ++b) blocks.push_back({1, b});
  EXPECT_EQ(rig.Probe(blocks), 7);
  EXPECT_EQ(rig.Probe({}), 0);
  const TierStats stats = rig.stack().Stats();
  EXPECT_EQ(stats.blocks_fetched, 10);
  EXPECT_EQ(stats.bytes_fetched, static_cast<int64_t>(10 * kPayload));
  EXPECT_EQ(stats.blocks_stored, 40);
  EXPECT_EQ(stats.missing, 1);
}

TEST(TierStackTest, WithoutTiersNothingIsWantedAndNothingIsFound) {
  Rig rig({});
  EXPECT_TRUE(rig.stack().empty());
  EXPECT_FALSE(rig.stack().Wants());
  rig.Offer(Key(1, 0, 0));
  Frame frame;
  EXPECT_THAT(rig.Fetch(Key(1, 0, 0), &frame), StatusIs(absl::StatusCode::kNotFound, _));
  EXPECT_EQ(rig.Probe({{1, 0}}), 0);
}

TEST(TierStackTest, WantsFollowsTheTiersAndTheQueue) {
  auto made = std::make_unique<ScriptedTier>("only");
  ScriptedTier& tier = *made;
  Rig rig(List(std::move(made)));
  EXPECT_TRUE(rig.stack().Wants());
  tier.SetWants(false);
  EXPECT_FALSE(rig.stack().Wants());
  tier.SetWants(true);
  tier.Hold();
  uint64_t offered = 0;
  while (rig.stack().Wants() && offered < 100000) rig.Offer(Key(1, 0, offered++));
  EXPECT_LE(offered * (kPayload + kBlockHeaderBytes), size_t{64} << 20);
  EXPECT_GE(offered * (kPayload + kBlockHeaderBytes), size_t{63} << 20);
  tier.Answer();
  tier.WaitForBlocks(offered);
}

TEST(TierStackTest, ATierThatHangsHoldsNobodyUp) {
  auto made = std::make_unique<ScriptedTier>("hangs");
  ScriptedTier& tier = *made;
  Rig rig(List(std::move(made)));
  tier.Store(Key(1, 0, 0), Stored(Key(1, 0, 0), 0, kPayload).bytes);  // by another: the stack has no copy of its own
  tier.Hold();
  Frame frame;
  EXPECT_THAT(rig.Fetch(Key(1, 0, 0), &frame, absl::Milliseconds(20)),
              StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  const std::vector<std::byte> untouched = frame.bytes;
  tier.Answer();
  Frame again;
  ASSERT_OK(rig.Fetch(Key(1, 0, 0), &again));
  EXPECT_EQ(frame.bytes, untouched) << "a frame was written after its fetch had ended";
}

TEST(TierStackTest, DestructionCancelsWhatIsOpen) {
  auto made = std::make_unique<ScriptedTier>("hangs");
  made->Hold();
  Rig rig(List(std::move(made)));
  std::atomic<int> cancelled{0}, probed{0};
  std::vector<Frame> frames(20);
  for (uint64_t b = 0; b < 20; ++b) {
    rig.stack().Fetch(Key(1, 0, b), absl::MakeSpan(frames[b].bytes), absl::InfiniteFuture(),
                      [&](absl::Status status) { cancelled += absl::IsCancelled(status); });
    rig.stack().Probe({{1, b}}, [&](int32_t blocks) { probed += blocks == 0; });
    rig.Offer(Key(2, 0, b));
  }
  rig.Destroy();
  EXPECT_EQ(cancelled, 20);
  EXPECT_EQ(probed, 20);
}

// Every point is caught by the verification in the frame, and the damaged copy is dropped where it came from.
class FaultTest : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Points, FaultTest,
                         testing::Values("kv.flip_at_rest", "kv.flip_in_flight", "kv.swap_layer", "kv.swap_request",
                                         "kv.read_lost"));

TEST_P(FaultTest, NeverGivesWrongBytes) {
  Rig rig(List(*MakeMemoryTier(64 << 20)), std::string(GetParam()) + ":0.3");
  std::vector<BlockKey> keys;
  for (uint64_t b = 0; b < 40; ++b) {
    for (int32_t layer = 0; layer < kLayers; ++layer) keys.push_back(Key(1, layer, b));
  }
  for (const BlockKey& key : keys) rig.Offer(key);
  while (rig.stack().Stats().blocks_stored < static_cast<int64_t>(keys.size())) {
    Frame frame;
    EXPECT_FALSE(rig.Fetch(Key(9, 0, 0), &frame).ok());  // a turn of the stack's thread
  }
  int lost = 0;
  for (const BlockKey& key : keys) {
    Frame frame;
    const absl::Status status = rig.Fetch(key, &frame);
    if (status.ok()) {
      EXPECT_OK(VerifyStored(key, frame.text(), kPayload));
    } else {
      ++lost;
      EXPECT_TRUE(absl::IsDataLoss(status) || absl::IsNotFound(status)) << status;
    }
  }
  EXPECT_GT(rig.faults().fired(GetParam()), 10);
  EXPECT_GT(lost, 5);
  EXPECT_LT(lost, static_cast<int>(keys.size()));
  const TierStats stats = rig.stack().Stats();
  if (std::string(GetParam()) != "kv.read_lost") {
    EXPECT_GT(stats.corrupt, 0);
    EXPECT_LT(rig.stack().Usage()[0].blocks, static_cast<int64_t>(keys.size()));
  }
}

TEST(TierStackTest, ManyThreadsAtOnce) {
  Rig rig(List(*MakeMemoryTier(100 * (kPayload + kBlockHeaderBytes)), *MakeMemoryTier(64 << 20)), "kv.read_lost:0.05");
  std::atomic<int> wrong{0};
  {
    std::vector<Thread> threads;
    for (uint64_t t = 0; t < 4; ++t) {
      threads.emplace_back("user", [&, t] {
        auto entropy = MakeSeededEntropy(t);
        for (int i = 0; i < 400; ++i) {
          const BlockKey key = Key(1, static_cast<int32_t>(entropy->Next() % kLayers), entropy->Next() % 60);
          if (rig.stack().Wants()) rig.Offer(key);
          Frame frame;
          if (rig.Fetch(key, &frame).ok()) wrong += !VerifyStored(key, frame.text(), kPayload).ok();
          if (i % 10 == 0) rig.Probe({{1, 0}, {1, 1}});
        }
      });
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(rig.stack().Stats().corrupt, 0);
}

}  // namespace
}  // namespace interlace
