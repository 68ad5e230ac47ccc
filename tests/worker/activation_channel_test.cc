#include "worker/activation_channel.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "common/log.h"
#include "common/thread.h"
#include "tests/status_matchers.h"
#include "tests/worker/scripted_transport.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kNow = absl::ZeroDuration();
constexpr absl::Duration kLong = absl::Seconds(60);
constexpr PeerId kFrom{71};

Tensor Rows(std::vector<float>& values, int64_t cols = 4) {
  return {values.data(), DType::kF32, static_cast<int64_t>(values.size()) / cols, cols};
}

// Stages 0 and 1; what stage 0 sends is carried over by the test.
class ActivationChannelTest : public testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  }
  void TearDown() override { SetLogSink(nullptr, LogLevel::kInfo); }
  // As both ends do when an epoch starts.
  void Start(Epoch epoch) {
    receiver_.Interrupt(epoch);
    ASSERT_OK(sender_.Connect("next", "", epoch));
    Carry();
  }
  void Carry() {
    while (!below_.sent.empty()) above_.Arrive(kActivationChannel, kFrom, below_.Take());
  }
  absl::Status Send(Epoch epoch, PlanId plan, std::vector<size_t> lost = {}) {
    return sender_.Send({epoch, plan, std::move(lost)}, Rows(x_));
  }
  absl::StatusOr<ActivationNote> Receive(Epoch epoch, PlanId plan, absl::Duration timeout = kNow) {
    return receiver_.Receive(epoch, plan, Rows(y_), timeout);
  }

  ScriptedTransport below_, above_;
  ActivationChannel sender_{below_, StageId{0}, 2}, receiver_{above_, StageId{1}, 2};
  std::vector<float> x_ = {1, 2, 3, 4, 5, 6, 7, 8}, y_ = std::vector<float>(8);
};

TEST_F(ActivationChannelTest, CarriesRowsAndAnyNumberOfLostSequences) {
  Start(Epoch{3});
  for (size_t count : {0, 1, 508, 509, 5000}) {
    std::vector<size_t> lost(count);
    std::iota(lost.begin(), lost.end(), 7);
    const PlanId plan{count + 1};
    ASSERT_OK(Send(Epoch{3}, plan, lost)) << count;
    Carry();
    const absl::StatusOr<ActivationNote> note = Receive(Epoch{3}, plan);
    ASSERT_OK(note);
    EXPECT_EQ(note->lost, lost);
    EXPECT_EQ(y_, x_);
  }
}

TEST_F(ActivationChannelTest, DamageAnywhereIsNeverARow) {
  Start(Epoch{1});
  std::mt19937_64 random(3);
  for (int round = 0; round < 500; ++round) {
    const PlanId plan{static_cast<uint64_t>(round) + 1};
    ASSERT_OK(Send(Epoch{1}, plan, {1, 2, 3}));
    Message message = below_.Take();
    std::string& part = random() % 2 == 0 ? message.header : message.body;
    part[random() % part.size()] ^= static_cast<char>(1 + random() % 255);
    if (random() % 8 == 0) part.resize(random() % part.size());
    above_.Arrive(kActivationChannel, kFrom, std::move(message));
    EXPECT_FALSE(Receive(Epoch{1}, plan).ok()) << "round " << round;
  }
}

TEST_F(ActivationChannelTest, AFlippedBitOfARowIsDataLoss) {
  Start(Epoch{1});
  ASSERT_OK(Send(Epoch{1}, PlanId{1}));
  Message message = below_.Take();
  message.body[5] ^= 1;
  above_.Arrive(kActivationChannel, kFrom, std::move(message));
  EXPECT_THAT(Receive(Epoch{1}, PlanId{1}), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("plan 1")));
}

TEST_F(ActivationChannelTest, OnlyThePreviousStageIsHeard) {
  Start(Epoch{1});
  ScriptedTransport elsewhere;
  ActivationChannel stranger(elsewhere, StageId{4}, 6);
  ASSERT_OK(stranger.Connect("next", "", Epoch{1}));
  elsewhere.Take();
  ASSERT_OK(stranger.Send({Epoch{1}, PlanId{1}, {}}, Rows(x_)));
  above_.Arrive(kActivationChannel, PeerId{9}, elsewhere.Take());
  EXPECT_THAT(Receive(Epoch{1}, PlanId{1}), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("plan 1")));
}

// Words of the previous stage over a connection that is not its own: recorded ones, or those of its former life.
TEST_F(ActivationChannelTest, OnlyTheConnectionThatOpenedTheEpochIsHeard) {
  ASSERT_OK(sender_.Connect("next", "", Epoch{1}));
  Message former_opening = below_.Take();
  above_.Arrive(kActivationChannel, kFrom, former_opening);
  Start(Epoch{2});
  ASSERT_OK(Send(Epoch{2}, PlanId{1}));
  const Message rows = below_.Take();
  constexpr PeerId kElsewhere{9};
  above_.Arrive(kActivationChannel, kElsewhere, rows);
  EXPECT_FALSE(Receive(Epoch{2}, PlanId{1}).ok());
  above_.Arrive(kActivationChannel, kElsewhere, former_opening);  // of an epoch that is over
  ASSERT_OK(sender_.Connect("next", "", Epoch{2}));
  above_.Arrive(kActivationChannel, kElsewhere, below_.Take());  // of this one, while its connection stands
  above_.Arrive(kActivationChannel, kElsewhere, rows);
  EXPECT_FALSE(Receive(Epoch{2}, PlanId{1}).ok());
  above_.Arrive(kActivationChannel, kFrom, rows);
  EXPECT_OK(Receive(Epoch{2}, PlanId{1}));
}

TEST_F(ActivationChannelTest, OlderPlansAndEpochsAreForgottenAndLaterOnesWait) {
  Start(Epoch{2});
  for (uint64_t plan : {1, 2, 3}) ASSERT_OK(Send(Epoch{2}, PlanId{plan}));
  Carry();
  EXPECT_OK(Receive(Epoch{2}, PlanId{2}));
  EXPECT_FALSE(Receive(Epoch{2}, PlanId{1}).ok());
  EXPECT_OK(Receive(Epoch{2}, PlanId{3}));
  ASSERT_OK(Send(Epoch{2}, PlanId{4}));
  Carry();
  EXPECT_FALSE(Receive(Epoch{3}, PlanId{4}).ok());
}

TEST_F(ActivationChannelTest, AMessageOfAnotherShapeIsRefused) {
  Start(Epoch{1});
  ASSERT_OK(Send(Epoch{1}, PlanId{1}));
  Carry();
  EXPECT_THAT(receiver_.Receive(Epoch{1}, PlanId{1}, Rows(y_, 2), kNow),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("[2, 4], expected [4, 2]")));
}

TEST_F(ActivationChannelTest, ASendThatFailsIsTheStatusOfTheNextStep) {
  Start(Epoch{1});
  ASSERT_OK(Send(Epoch{1}, PlanId{1}));
  below_.sent.front().done(absl::UnavailableError("cable pulled"));
  below_.sent.pop_front();
  EXPECT_THAT(Send(Epoch{1}, PlanId{2}), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("cable pulled")));
  Start(Epoch{2});  // another connection
  EXPECT_OK(Send(Epoch{2}, PlanId{1}));
}

TEST_F(ActivationChannelTest, ALostNextStageIsTheStatusOfTheNextStep) {
  Start(Epoch{1});
  below_.Lose(PeerId{1}, absl::UnavailableError("killed"));
  EXPECT_THAT(Send(Epoch{1}, PlanId{1}), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("killed")));
}

TEST_F(ActivationChannelTest, ALostPreviousStageEndsTheWait) {
  Start(Epoch{1});
  ASSERT_OK(Send(Epoch{1}, PlanId{1}));
  Carry();
  above_.Lose(PeerId{kFrom}, absl::UnavailableError("killed"));
  EXPECT_OK(Receive(Epoch{1}, PlanId{1}, kLong)) << "what had arrived still counts";
  EXPECT_THAT(Receive(Epoch{1}, PlanId{2}, kLong), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("killed")));
  // The former connection of a stage that started anew, which it closed: no loss for the new epoch.
  receiver_.Interrupt(Epoch{2});
  EXPECT_THAT(Receive(Epoch{2}, PlanId{1}), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no activations")));
}

TEST_F(ActivationChannelTest, InterruptEndsTheWaitOfEarlierEpochsForGood) {
  Start(Epoch{1});
  {
    Thread waiting("waiting", [&] {
      EXPECT_THAT(Receive(Epoch{1}, PlanId{1}, kLong),
                  StatusIs(absl::StatusCode::kUnavailable, HasSubstr("interrupted")));
    });
    receiver_.Interrupt(Epoch{2});
  }
  // The second of two Starts comes while the first is still being carried out: nothing that the first one does makes
  // plans of its epoch wait.
  receiver_.Interrupt(Epoch{3});
  receiver_.Interrupt(Epoch{2});
  EXPECT_THAT(Receive(Epoch{2}, PlanId{1}, kLong), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("interrupted")));
  Start(Epoch{3});
  ASSERT_OK(Send(Epoch{3}, PlanId{1}));
  Carry();
  EXPECT_OK(Receive(Epoch{3}, PlanId{1}));
}

TEST_F(ActivationChannelTest, ANewSessionForgetsWhatTheOldOneReceived) {
  Start(Epoch{5});
  ASSERT_OK(Send(Epoch{5}, PlanId{1}));
  Carry();
  receiver_.Interrupt();
  EXPECT_THAT(Receive(Epoch{6}, PlanId{1}, kLong), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("interrupted")));
  receiver_.Resume();
  EXPECT_THAT(Receive(Epoch{5}, PlanId{1}), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no activations")));
}

// The way back: stage 1 is the last, and tells the first what it sampled.
class SampledTokensTest : public ActivationChannelTest {
 protected:
  void StartBack(Epoch epoch) {
    sender_.Interrupt(epoch);
    ASSERT_OK(receiver_.Connect("", "first", epoch));
    CarryBack();
  }
  void CarryBack() {
    while (!above_.sent.empty()) below_.Arrive(kSampleChannel, kBack, above_.Take());
  }
  absl::Status SendBack(Epoch epoch, PlanId plan) {
    return receiver_.SendSamples(epoch, plan,
                                 {{RequestId{7}, 2, 5, 280, {}}, {RequestId{1} /* not finite */, 1, 0, -1, {}}});
  }
  absl::StatusOr<std::vector<ReturnedSample>> ReceiveBack(Epoch epoch, PlanId plan, absl::Duration timeout = kNow) {
    return sender_.ReceiveSamples(epoch, plan, timeout);
  }
  static constexpr PeerId kBack{72};
  const std::vector<ReturnedSample> sampled_ = {{RequestId{7}, 2, 280}, {RequestId{1}, 1, -1}};
};

TEST_F(SampledTokensTest, ReachTheFirstStage) {
  StartBack(Epoch{2});
  EXPECT_FALSE(sender_.SamplesArrived(Epoch{2}, PlanId{4}));
  ASSERT_OK(SendBack(Epoch{2}, PlanId{4}));
  ASSERT_OK(receiver_.SendSamples(Epoch{2}, PlanId{5}, {}));  // every sequence of it was lost
  CarryBack();
  EXPECT_TRUE(sender_.SamplesArrived(Epoch{2}, PlanId{4}));
  auto samples = ReceiveBack(Epoch{2}, PlanId{4});
  ASSERT_OK(samples);
  EXPECT_EQ(*samples, sampled_);
  samples = ReceiveBack(Epoch{2}, PlanId{5});
  ASSERT_OK(samples);
  EXPECT_TRUE(samples->empty());
  EXPECT_FALSE(sender_.SamplesArrived(Epoch{2}, PlanId{4})) << "taken once";
}

TEST_F(SampledTokensTest, DamageAnywhereIsNeverAToken) {
  StartBack(Epoch{1});
  std::mt19937_64 random(4);
  for (int round = 0; round < 500; ++round) {
    const PlanId plan{static_cast<uint64_t>(round) + 1};
    ASSERT_OK(SendBack(Epoch{1}, plan));
    Message message = above_.Take();
    std::string& part = random() % 2 == 0 ? message.header : message.body;
    part[random() % part.size()] ^= static_cast<char>(1 + random() % 255);
    if (random() % 8 == 0) part.resize(random() % part.size());
    below_.Arrive(kSampleChannel, kBack, std::move(message));
    EXPECT_FALSE(ReceiveBack(Epoch{1}, plan).ok()) << "round " << round;
  }
  ASSERT_OK(SendBack(Epoch{1}, PlanId{600}));
  Message message = above_.Take();
  message.body[12] ^= 1;
  below_.Arrive(kSampleChannel, kBack, std::move(message));
  EXPECT_THAT(ReceiveBack(Epoch{1}, PlanId{600}), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("sampled tokens")));
}

TEST_F(SampledTokensTest, OnlyTheLastStageIsHeard) {
  StartBack(Epoch{1});
  ScriptedTransport elsewhere;
  ActivationChannel middle(elsewhere, StageId{0}, 2);
  ASSERT_OK(middle.Connect("", "first", Epoch{1}));
  elsewhere.Take();
  ASSERT_OK(middle.SendSamples(Epoch{1}, PlanId{1}, {}));
  below_.Arrive(kSampleChannel, PeerId{9}, elsewhere.Take());
  EXPECT_THAT(ReceiveBack(Epoch{1}, PlanId{1}), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("last stage")));
}

TEST_F(SampledTokensTest, AnEpochThatIsOverSaysNothing) {
  StartBack(Epoch{1});
  ASSERT_OK(SendBack(Epoch{1}, PlanId{1}));
  CarryBack();
  StartBack(Epoch{2});
  EXPECT_THAT(ReceiveBack(Epoch{1}, PlanId{1}, kLong),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("interrupted")));
  EXPECT_THAT(ReceiveBack(Epoch{2}, PlanId{1}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no sampled tokens of plan 1")));
}

TEST_F(SampledTokensTest, TheLossOfEitherEndIsToldToTheOther) {
  StartBack(Epoch{1});
  below_.Lose(kBack, absl::UnavailableError("killed"));
  EXPECT_THAT(ReceiveBack(Epoch{1}, PlanId{1}, kLong),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("the last pipeline stage is gone: killed")));
  above_.Lose(PeerId{1}, absl::UnavailableError("killed"));
  EXPECT_THAT(SendBack(Epoch{1}, PlanId{1}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("did not reach the first stage: killed")));
}

TEST_F(ActivationChannelTest, AFloodIsBounded) {
  Start(Epoch{1});
  for (uint64_t plan = 1; plan <= 1000; ++plan) {
    ASSERT_OK(Send(Epoch{1}, PlanId{plan}));
    Carry();
  }
  EXPECT_OK(Receive(Epoch{1}, PlanId{1000}));
  EXPECT_FALSE(Receive(Epoch{1}, PlanId{1}).ok());
}

}  // namespace
}  // namespace interlace
