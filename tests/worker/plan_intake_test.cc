// A rank's end of its stream and plan link, against a coordinator that the test plays.
#include "worker/plan_intake.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/thread.h"
#include "proto/cluster.grpc.pb.h"
#include "proto/plan/adapter_list.h"
#include "proto/plan/plan_codec.h"
#include "tests/fake_transport.h"
#include "tests/status_matchers.h"
#include "tests/worker/tiny_file.h"
#include "transport/tcp_socket.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;
using Stream = grpc::ServerReaderWriter<v1::ToRank, v1::FromRank>;

constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr Liveness::Options kQuick{.speak_every = absl::Milliseconds(10), .silence = absl::Milliseconds(300)};
constexpr Liveness::Options kPatient{.speak_every = absl::Hours(1), .silence = absl::Hours(1)};

v1::Order StartOf(uint64_t epoch) {
  v1::Order order;
  order.mutable_start()->set_epoch(epoch);
  return order;
}
v1::Order PlanOf(uint64_t epoch, uint64_t id) {
  v1::Order order;
  EncodePlan(StepPlan{.epoch = Epoch{epoch}, .id = PlanId{id}}, order.mutable_plan());
  return order;
}
v1::Order DrainOrder() {
  v1::Order order;
  order.mutable_drain();
  return order;
}
v1::Order LinkedOrder() {
  v1::Order order;
  order.mutable_linked();
  return order;
}

// One attached rank, as the coordinator sees it; its calls run on the test's thread.
class Attached {
 public:
  Attached(Stream* stream, FakeTransport& link) : stream_(stream), link_(link), peer_(link.NewPeer()) {}
  // The first message of the rank.
  bool HearRegister() {
    v1::FromRank message;
    if (!stream_->Read(&message) || !message.has_register_()) return false;
    session_ = message.register_().session();
    incarnation_ = message.register_().incarnation();
    return true;
  }
  uint64_t incarnation() const { return incarnation_; }
  const std::string& session() const { return session_; }
  PeerId peer() const { return peer_; }

  // Over the link; false: it is closed.
  bool Say(const v1::Order& order) { return SayAs(peer_, session_, order.SerializeAsString()); }
  bool SayAs(PeerId from, const std::string& header, const std::string& bytes) {
    return link_.Arrive(kPlanChannel, from, header, bytes);
  }
  // Whether the rank has said over the link that it is its own.
  bool HearConfirmed(absl::Duration within = kPatience) {
    const std::optional<FakeTransport::Sent> sent = link_.Take(session_, within);
    return sent && sent->channel == kResultChannel && sent->peer == peer_ && sent->body.empty();
  }
  std::vector<int64_t> HearRefusals() {
    v1::FromRank message;
    if (!stream_->Read(&message) || !message.has_heartbeat()) return {};
    return {message.heartbeat().refused().begin(), message.heartbeat().refused().end()};
  }
  StepResult HearResult() {
    const std::optional<FakeTransport::Sent> sent = link_.Take(session_, kPatience);
    v1::StepResultMessage message;
    EXPECT_TRUE(sent && sent->channel == kResultChannel && message.ParseFromString(sent->body));
    EXPECT_TRUE(!sent || sent->peer == peer_) << "over another link";
    return DecodeResult(message).value_or(StepResult());
  }
  void SayHeartbeat() {
    v1::ToRank message;
    message.mutable_heartbeat();
    stream_->Write(message);
  }
  bool HearHeartbeats(int count) {
    v1::FromRank message;
    while (heartbeats_ < count && stream_->Read(&message)) heartbeats_ += message.has_heartbeat();
    return heartbeats_ >= count;
  }
  // Until the rank has ended its side.
  void HearEnd() {
    v1::FromRank message;
    while (stream_->Read(&message)) EXPECT_TRUE(message.has_heartbeat());
  }
  void End(absl::Status status) {
    end_ = {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
    ended_.Notify();
  }
  grpc::Status AwaitEnd() {
    ended_.WaitForNotification();
    return end_;
  }

 private:
  Stream* const stream_;
  FakeTransport& link_;
  const PeerId peer_;
  std::string session_;
  uint64_t incarnation_ = 0;
  int heartbeats_ = 0;
  grpc::Status end_;
  absl::Notification ended_;
};

class Coordinator final : public v1::Cluster::Service {
 public:
  explicit Coordinator(FakeTransport& link, const std::string& address = "127.0.0.1:0") : link_(link) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
  }
  ~Coordinator() override {
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  grpc::Status Attach(grpc::ServerContext* context, Stream* stream) override {
    auto attached = std::make_shared<Attached>(stream, link_);
    ranks_.Push(attached);
    return attached->AwaitEnd();
  }
  grpc::Status Lead(grpc::ServerContext*, const v1::LeadRequest*, v1::LeadReply* reply) override {
    reply->set_leads(lead_epoch_ > 0);
    reply->set_lead_epoch(lead_epoch_);
    return grpc::Status::OK;
  }
  // 0: it does not.
  void Leads(uint64_t epoch) { lead_epoch_ = epoch; }
  v1::Order LinkedOrder() const {
    v1::Order order;
    order.mutable_linked()->set_lead_epoch(lead_epoch_);
    return order;
  }
  // The next rank that attaches, once it has registered; to be ended by the test.
  std::shared_ptr<Attached> Next() {
    const std::optional<std::shared_ptr<Attached>> rank = ranks_.PopWithin(kPatience);
    if (!rank) return nullptr;
    EXPECT_TRUE((*rank)->HearRegister());
    incarnations_.push_back((*rank)->incarnation());
    return *rank;
  }
  const std::vector<uint64_t>& incarnations() const { return incarnations_; }

 private:
  FakeTransport& link_;
  std::atomic<uint64_t> lead_epoch_{0};
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  BoundedQueue<std::shared_ptr<Attached>> ranks_{100};
  std::vector<uint64_t> incarnations_;
};

class PlanIntakeTest : public testing::Test {
 protected:
  PlanIntakeTest() {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
    Config config;
    config.model.path = file_.path();
    config.engine.threads = 1;
    config.kv.device_bytes.value = 1 << 20;
    config.kv.host_bytes.value = 1 << 20;
    config.sched.step_tokens = 32;
    auto rank = Rank::Create(config, 4711, clock_, faults_, nullptr, [](int64_t, int64_t) {});
    EXPECT_OK(rank);
    rank_ = *std::move(rank);
  }
  ~PlanIntakeTest() override {
    if (intake_ != nullptr) intake_->Stop();
    if (running_.joinable()) running_.Join();
    SetLogSink(nullptr, LogLevel::kInfo);
  }
  void Run(const std::string& coordinator, const Liveness::Options& liveness, const Backoff::Options& backoff = {}) {
    intake_ = std::make_unique<PlanIntake>(
        *rank_, PlanIntake::Options{.coordinator = coordinator, .liveness = liveness, .backoff = backoff}, link_,
        clock_, MakeSeededEntropy(1));
    running_ = Thread("intake", [this] {
      ended_with_ = intake_->Run();
      ended_.Notify();
    });
  }
  absl::Status AwaitEnd() {
    if (!ended_.WaitForNotificationWithTimeout(kPatience)) return absl::UnknownError("Run did not end");
    return ended_with_;
  }

  const TinyFile file_{{.layers = 2}};
  RealClock clock_;
  FaultPoints faults_;
  FakeTransport link_;  // the rank's
  std::unique_ptr<Rank> rank_;
  std::unique_ptr<PlanIntake> intake_;
  absl::Notification ended_;
  absl::Status ended_with_;
  Thread running_;
  absl::Mutex mutex_;
  int losses_told_ = 0;  // by the log; protected by mutex_
};

TEST_F(PlanIntakeTest, ExecutesThePlansOfTheLastEpochThatStarted) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kPatient);
  const auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  rank->Say(PlanOf(1, 1));  // before any start: of nobody
  rank->Say(StartOf(7));
  rank->Say(PlanOf(6, 1));  // of an epoch that is over
  rank->Say(PlanOf(7, 1));
  const StepResult result = rank->HearResult();
  EXPECT_OK(result.status);
  EXPECT_EQ(result.epoch, Epoch{7});
  EXPECT_EQ(result.plan, PlanId{1});
  rank->End(absl::OkStatus());
}

// Before it is started and while plans come; a session later it is told again.
TEST_F(PlanIntakeTest, AnswersListsOfAdapters) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kPatient, {.first = absl::Milliseconds(1), .most = absl::Milliseconds(1)});
  for (const uint64_t serial : {5, 1}) {
    const auto rank = coordinator.Next();
    ASSERT_NE(rank, nullptr);
    const auto answer_to = [&](const AdapterList& list) {
      v1::Order order;
      EncodeAdapters(list, order.mutable_adapters());
      rank->Say(order);
      const std::optional<FakeTransport::Sent> sent = link_.Take(rank->session(), kPatience);
      v1::StepResultMessage message;
      EXPECT_TRUE(sent && sent->channel == kResultChannel && message.ParseFromString(sent->body));
      EXPECT_TRUE(message.has_adapters());
      return DecodeAnswer(message.adapters());
    };
    EXPECT_EQ(answer_to({serial, {}}), (AdapterAnswer{serial, {}}));
    rank->Say(StartOf(7 + serial));
    rank->Say(PlanOf(7 + serial, 1));
    EXPECT_OK(rank->HearResult().status);
    const AdapterAnswer refused = answer_to({serial + 1, {{"one", "digest"}}});
    ASSERT_EQ(refused.failures.size(), 1u);
    EXPECT_EQ(refused.failures[0].digest, "digest");
    EXPECT_THAT(refused.failures[0].why.message(), HasSubstr("model.runtime_adapters=true"));
    rank->Say(PlanOf(7 + serial, 2));
    EXPECT_OK(rank->HearResult().status) << "it serves all the same";
    rank->End(serial == 5 ? absl::UnavailableError("restarted") : absl::OkStatus());
  }
}

TEST_F(PlanIntakeTest, ADrainedRankAnswersWhatItHasAndEndsItsSide) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kPatient);
  const auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  rank->Say(StartOf(7));
  for (uint64_t id : {1, 2, 3}) rank->Say(PlanOf(7, id));
  rank->Say(DrainOrder());
  rank->Say(PlanOf(7, 4));  // behind the drain: of nobody
  rank->HearEnd();
  for (uint64_t id : {1, 2, 3}) EXPECT_EQ(rank->HearResult().plan, PlanId{id});
  EXPECT_FALSE(link_.Take(rank->session(), absl::ZeroDuration()).has_value());
  rank->End(absl::OkStatus());
  EXPECT_OK(AwaitEnd());
  EXPECT_TRUE(link_.AwaitClosed(rank->peer()));
}

TEST_F(PlanIntakeTest, ConfirmsTheFirstLinkUnderItsSessionAndNoOther) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kPatient, {.first = absl::Milliseconds(1), .most = absl::Milliseconds(1)});
  auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  const v1::Order linked = LinkedOrder();
  const PeerId stranger = link_.NewPeer();
  rank->SayAs(stranger, "another session.", linked.SerializeAsString());
  EXPECT_FALSE(rank->HearConfirmed(absl::ZeroDuration()));
  rank->Say(linked);
  EXPECT_TRUE(rank->HearConfirmed());
  rank->SayAs(stranger, rank->session(), linked.SerializeAsString());  // of a registration that was sent again
  EXPECT_FALSE(rank->HearConfirmed(absl::ZeroDuration()));
  EXPECT_EQ(intake_->strangers(), 2);
  rank->End(absl::UnavailableError("restarted"));
  const auto next = coordinator.Next();
  ASSERT_NE(next, nullptr);
  rank->SayAs(stranger, rank->session(), linked.SerializeAsString());  // of a session that is over
  EXPECT_FALSE(rank->HearConfirmed(absl::ZeroDuration()));
  next->Say(linked);
  EXPECT_TRUE(next->HearConfirmed());
  next->End(absl::OkStatus());
}

TEST_F(PlanIntakeTest, HeartbeatsSayWhomTheTransportRefused) {
  Coordinator coordinator(link_);
  const RefusalCounts refused = {5, 0, 7};
  link_.Refuse(refused);
  Run(coordinator.address(), {.speak_every = absl::Milliseconds(10), .silence = absl::Hours(1)});
  const auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  EXPECT_EQ(rank->HearRefusals(), std::vector<int64_t>(refused.begin(), refused.end()));
  rank->End(absl::OkStatus());
}

// Several coordinators: the rank goes to the one that leads, and to the next leader when it is let go.
TEST_F(PlanIntakeTest, ServesTheCoordinatorThatLeads) {
  Coordinator first(link_), second(link_);
  first.Leads(3);
  Run(absl::StrCat(second.address(), ",", first.address()), kPatient,
      {.first = absl::Milliseconds(1), .most = absl::Milliseconds(5)});
  auto rank = first.Next();
  ASSERT_NE(rank, nullptr);
  rank->Say(first.LinkedOrder());
  EXPECT_TRUE(rank->HearConfirmed());
  first.Leads(0);
  second.Leads(4);
  rank->End(absl::UnavailableError("another one leads"));
  rank = second.Next();
  ASSERT_NE(rank, nullptr);
  rank->Say(second.LinkedOrder());
  EXPECT_TRUE(rank->HearConfirmed());
  rank->Say(StartOf(9));
  rank->Say(PlanOf(9, 1));
  EXPECT_EQ(rank->HearResult().epoch, Epoch{9});
  rank->End(absl::OkStatus());
}

// A former leader that stood still and goes on where it was: its epoch is over.
TEST_F(PlanIntakeTest, NeverObeysALeaderOfAnEpochBeforeTheHighestItObeyed) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kPatient, {.first = absl::Milliseconds(1), .most = absl::Milliseconds(1)});
  for (uint64_t epoch : {7, 8}) {
    coordinator.Leads(epoch);
    const auto rank = coordinator.Next();
    ASSERT_NE(rank, nullptr);
    rank->Say(coordinator.LinkedOrder());
    EXPECT_TRUE(rank->HearConfirmed());
    rank->End(absl::UnavailableError("restarted"));
  }
  coordinator.Leads(7);
  auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  rank->Say(coordinator.LinkedOrder());
  rank->Say(StartOf(100));
  rank->Say(PlanOf(100, 1));
  EXPECT_FALSE(rank->HearConfirmed(absl::ZeroDuration())) << "it ended the session instead";
  rank->HearEnd();
  rank->End(absl::OkStatus());
  coordinator.Leads(8);
  rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  rank->Say(coordinator.LinkedOrder());
  EXPECT_TRUE(rank->HearConfirmed());
  rank->End(absl::OkStatus());
}

// What is not of the session that the rank holds changes nothing, whatever it says.
TEST_F(PlanIntakeTest, OrdersOfStrangersAreDroppedAndCounted) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kPatient, {.first = absl::Milliseconds(1), .most = absl::Milliseconds(1)});
  auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  rank->Say(StartOf(7));
  const std::string drain = DrainOrder().SerializeAsString(), start = StartOf(8).SerializeAsString();
  const PeerId stranger = link_.NewPeer();
  rank->SayAs(stranger, "", drain);
  rank->SayAs(stranger, "another session.", start);
  rank->SayAs(stranger, rank->session(), start);  // whose link is another connection
  rank->SayAs(rank->peer(), "", "\xff\xff");
  rank->SayAs(rank->peer(), rank->session() + "0", drain);
  rank->SayAs(stranger, std::string(4096, '\xff'), std::string(4096, '\xff'));
  EXPECT_EQ(intake_->strangers(), 6);
  rank->Say(PlanOf(7, 1));
  EXPECT_EQ(rank->HearResult().epoch, Epoch{7});

  // A coordinator that is gone and goes on speaking: its session is over.
  rank->End(absl::UnavailableError("restarted"));
  const auto next = coordinator.Next();
  ASSERT_NE(next, nullptr);
  EXPECT_NE(next->session(), rank->session()) << "drawn anew for each stream";
  EXPECT_TRUE(rank->SayAs(stranger, rank->session(), start));
  EXPECT_EQ(intake_->strangers(), 7);
  next->Say(StartOf(9));
  next->Say(PlanOf(9, 1));
  EXPECT_EQ(next->HearResult().epoch, Epoch{9});
  next->End(absl::OkStatus());
}

TEST_F(PlanIntakeTest, ALostLinkEndsTheStreamAndTheRankComesAgain) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kPatient, {.first = absl::Milliseconds(1), .most = absl::Milliseconds(1)});
  auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  link_.Lose(link_.NewPeer(), absl::UnavailableError("of somebody else"));
  rank->Say(StartOf(1));
  link_.Lose(rank->peer(), absl::UnavailableError("cable cut"));
  rank->HearEnd();
  rank->End(absl::OkStatus());
  rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  rank->Say(StartOf(2));
  link_.FailSends(absl::UnavailableError("cable cut"));  // found out by a result
  rank->Say(PlanOf(2, 1));
  rank->HearEnd();
  link_.FailSends(absl::OkStatus());
  rank->End(absl::OkStatus());
  rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  rank->Say(StartOf(3));
  rank->Say(PlanOf(3, 1));
  EXPECT_EQ(rank->HearResult().epoch, Epoch{3});
  rank->End(absl::OkStatus());
}

TEST_F(PlanIntakeTest, IsAttachedFromTheLinkToTheEndOfTheSession) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kPatient, {.first = absl::Milliseconds(1), .most = absl::Milliseconds(1)});
  for (int session = 0; session < 3; ++session) {
    auto rank = coordinator.Next();
    ASSERT_NE(rank, nullptr);
    EXPECT_FALSE(intake_->attached()) << "registered, and nobody has answered";
    rank->Say(LinkedOrder());
    EXPECT_TRUE(intake_->AwaitAttachedOtherThan(false));
    EXPECT_TRUE(intake_->attached());
    rank->End(absl::OkStatus());
    EXPECT_TRUE(intake_->AwaitAttachedOtherThan(true));
  }
  auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  intake_->Stop();
  EXPECT_FALSE(intake_->AwaitAttachedOtherThan(false)) << "Stop ends the wait";
  rank->End(absl::OkStatus());
}

// The coordinator hangs up, and the reason that it gives over the stream comes later.
TEST_F(PlanIntakeTest, ALostLinkDoesNotHideWhyTheRankIsSentAway) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kPatient);
  const auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  rank->Say(StartOf(1));
  link_.Lose(rank->peer(), absl::UnavailableError("closed by the peer"));
  rank->HearEnd();
  rank->End(absl::FailedPreconditionError("kv.dtype differs"));
  EXPECT_THAT(AwaitEnd(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("kv.dtype")));
}

// A frozen coordinator does not end its side.
TEST_F(PlanIntakeTest, ALostLinkAndThenSilenceAreALoss) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kQuick, {.first = absl::Milliseconds(1), .most = absl::Milliseconds(1)});
  const auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  rank->Say(StartOf(1));
  link_.Lose(rank->peer(), absl::UnavailableError("cable cut"));
  const auto again = coordinator.Next();
  ASSERT_NE(again, nullptr);
  rank->End(absl::OkStatus());
  again->End(absl::OkStatus());
}

TEST_F(PlanIntakeTest, ReportsWhenAskedAlsoWithoutAPlan) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kPatient);
  const auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  intake_->Report();  // before the start: nothing to say
  rank->Say(StartOf(3));
  rank->Say(PlanOf(3, 1));
  EXPECT_EQ(rank->HearResult().plan, PlanId{1});
  for (int i = 0; i < 3; ++i) {
    intake_->Report();
    const StepResult report = rank->HearResult();
    EXPECT_EQ(report.plan, PlanId{0});
    EXPECT_EQ(report.epoch, Epoch{3});
  }
  rank->End(absl::OkStatus());
}

TEST_F(PlanIntakeTest, SaysThatItLivesWhileNothingHappens) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), {.speak_every = absl::Milliseconds(5), .silence = absl::Hours(1)});
  const auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  EXPECT_TRUE(rank->HearHeartbeats(5));
  rank->End(absl::OkStatus());
}

// The coordinator is stopped (SIGSTOP): its connection stays open and nothing comes.
TEST_F(PlanIntakeTest, ASilentCoordinatorIsLeftAndTheRankComesAgain) {
  SetLogSink(
      [this](const LogEvent& event) {
        absl::MutexLock lock(&mutex_);
        losses_told_ += event.text == "no session with the coordinator; registering again";
      },
      LogLevel::kWarning);
  Coordinator coordinator(link_);
  Run(coordinator.address(), kQuick, {.first = absl::Milliseconds(1), .most = absl::Milliseconds(1)});
  for (uint64_t epoch : {9, 2, 3}) {  // a coordinator that was started anew may count from a lower one
    const auto rank = coordinator.Next();
    ASSERT_NE(rank, nullptr);
    rank->Say(StartOf(epoch));
    rank->Say(PlanOf(epoch, 1));
    EXPECT_EQ(rank->HearResult().epoch, Epoch{epoch});
    rank->HearEnd();
    rank->End(absl::OkStatus());
  }
  EXPECT_EQ(coordinator.incarnations(), (std::vector<uint64_t>(3, 4711))) << "the same process, weights and all";
  intake_->Stop();
  running_.Join();
  absl::MutexLock lock(&mutex_);
  EXPECT_GE(losses_told_, 2) << "the second loss is told like the first, though it reads the same";
}

TEST_F(PlanIntakeTest, ACoordinatorThatSpeaksIsKept) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kQuick);
  const auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  // Three times the silence that would be a loss, in heartbeats of either side.
  for (int i = 1; i <= 90; ++i) {
    ASSERT_TRUE(rank->HearHeartbeats(i));
    rank->SayHeartbeat();
  }
  rank->Say(StartOf(1));
  rank->Say(PlanOf(1, 1));
  EXPECT_OK(rank->HearResult().status);
  rank->End(absl::OkStatus());
}

TEST_F(PlanIntakeTest, ARestartedCoordinatorFindsTheRankAgain) {
  auto coordinator = std::make_unique<Coordinator>(link_);
  const std::string address = coordinator->address();
  Run(address, kPatient, {.first = absl::Milliseconds(1), .most = absl::Milliseconds(20)});
  auto rank = coordinator->Next();
  ASSERT_NE(rank, nullptr);
  rank->End(absl::UnavailableError("crashed"));
  coordinator.reset();
  coordinator = std::make_unique<Coordinator>(link_, address);
  rank = coordinator->Next();
  ASSERT_NE(rank, nullptr);
  rank->Say(StartOf(1));
  rank->Say(PlanOf(1, 1));
  EXPECT_OK(rank->HearResult().status);
  rank->End(absl::OkStatus());
}

TEST_F(PlanIntakeTest, ARankThatDoesNotFitEndsWithTheReason) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kPatient);
  const auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  rank->End(absl::FailedPreconditionError("kv.dtype differs"));
  EXPECT_THAT(AwaitEnd(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("kv.dtype")));
}

TEST_F(PlanIntakeTest, ARankThatWasPutOutOrToldNonsenseComesAgain) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kPatient, {.first = absl::Milliseconds(1), .most = absl::Milliseconds(1)});
  for (absl::StatusCode code : {absl::StatusCode::kAborted, absl::StatusCode::kAlreadyExists}) {
    const auto rank = coordinator.Next();
    ASSERT_NE(rank, nullptr);
    rank->End(absl::Status(code, "a newer rank"));
  }
  const auto told = coordinator.Next();
  ASSERT_NE(told, nullptr);
  v1::Order nonsense;
  nonsense.mutable_plan()->add_sequences()->set_start(-5);
  told->Say(nonsense);
  told->HearEnd();
  told->End(absl::OkStatus());
  for (const char* bytes : {"\xff\xff", ""}) {  // no order, an empty one
    const auto rank = coordinator.Next();
    ASSERT_NE(rank, nullptr);
    rank->SayAs(rank->peer(), rank->session(), bytes);
    rank->HearEnd();
    rank->End(absl::OkStatus());
  }
  const auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  rank->End(absl::OkStatus());
}

// Each of the places where a rank may wait for an hour.
TEST_F(PlanIntakeTest, StopEndsTheWaitBetweenAttempts) {
  Run("127.0.0.1:1", kPatient, {.first = absl::Hours(1), .most = absl::Hours(1)});
  intake_->Stop();
  EXPECT_OK(AwaitEnd());
}

TEST_F(PlanIntakeTest, StopEndsTheWaitForAConnection) {
  absl::StatusOr<FileDescriptor> mute = ListenOn("127.0.0.1", 0);  // the system accepts, nobody answers
  ASSERT_OK(mute);
  Run(absl::StrCat("127.0.0.1:", PortOf(*mute)), kPatient, {.first = absl::Hours(1), .most = absl::Hours(1)});
  intake_->Stop();
  EXPECT_OK(AwaitEnd());
}

TEST_F(PlanIntakeTest, StopEndsASession) {
  Coordinator coordinator(link_);
  Run(coordinator.address(), kPatient);
  const auto rank = coordinator.Next();
  ASSERT_NE(rank, nullptr);
  intake_->Stop();
  rank->HearEnd();
  rank->End(absl::OkStatus());
  EXPECT_OK(AwaitEnd());
}

}  // namespace
}  // namespace interlace
