// Ranks over gRPC on loopback and plan links that the test plays, for tests of ClusterService.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "common/grpc_status.h"
#include "common/log.h"
#include "common/thread.h"
#include "coordinator/cluster_service.h"
#include "coordinator/replica_loop.h"
#include "proto/cluster.grpc.pb.h"
#include "proto/plan/plan_codec.h"
#include "tests/coordinator/fake_replica.h"
#include "tests/coordinator/loop_sink.h"
#include "tests/fake_transport.h"
#include "tests/status_matchers.h"

namespace interlace {

// The rank's end of a stream, which a thread reads, and of its plan link.
class RankClient {
 public:
  explicit RankClient(const std::string& address)
      : stub_(v1::Cluster::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()))),
        stream_(stub_->Attach(&context_)),
        reader_("rank", [this] {
          v1::ToRank message;
          while (stream_->Read(&message)) {
            EXPECT_TRUE(message.has_heartbeat()) << "orders go over the link";
            ++heartbeats_;
          }
          status_ = FromGrpcStatus(stream_->Finish());
          ended_.Notify();
        }) {}
  RankClient(const std::string& address, const RankInfo& info, FakeTransport& links)
      : RankClient(address, info, links, NewSession()) {}
  RankClient(const std::string& address, const RankInfo& info, FakeTransport& links, std::string session)
      : RankClient(address) {
    session_ = std::move(session);
    links_ = &links;
    v1::FromRank hello;
    EncodeRank(info, hello.mutable_register_());
    hello.mutable_register_()->set_session(session_);
    Write(hello);
  }
  ~RankClient() {
    speaking_ = false;
    Break();
  }

  static std::string NewSession() {
    static std::atomic<int> drawn{0};
    return absl::StrFormat("session %08d", ++drawn);
  }

  void Write(const v1::FromRank& message) {
    absl::MutexLock lock(&write_mutex_);
    stream_->Write(message);
  }
  // Heartbeats from now on, as a rank sends them whatever its runner does.
  void KeepSpeaking(absl::Duration every) {
    speaking_ = true;
    speaker_ = Thread("speaker", [this, every] {
      v1::FromRank message;
      message.mutable_heartbeat();
      const auto quiet = [this] { return !speaking_; };
      absl::Mutex mutex;
      absl::MutexLock lock(&mutex);
      while (!mutex.AwaitWithTimeout(absl::Condition(&quiet), every)) Write(message);
    });
  }
  const std::string& session() const { return session_; }
  // Whether the coordinator has said, as the first thing, that the link is there; waits for it.
  bool Linked() {
    if (linked_) return true;
    const std::optional<FakeTransport::Sent> first = links_->Take(session_);
    v1::Order order;
    if (!first || first->channel != kPlanChannel || !order.ParseFromString(first->body)) return false;
    peer_ = first->peer;
    lead_epoch_ = order.linked().lead_epoch();
    return linked_ = order.has_linked();
  }
  PeerId peer() {
    EXPECT_TRUE(Linked());
    return peer_;
  }
  uint64_t lead_epoch() {
    EXPECT_TRUE(Linked());
    return lead_epoch_;
  }
  // The next order; an empty one when nothing came in time.
  v1::Order Next() {
    v1::Order order;
    EXPECT_TRUE(Linked());
    if (const std::optional<FakeTransport::Sent> sent = links_->Take(session_)) {
      EXPECT_EQ(sent->peer, peer_);
      EXPECT_TRUE(order.ParseFromString(sent->body));
    }
    return order;
  }
  uint64_t NextEpoch() {
    const v1::Order order = Next();
    EXPECT_TRUE(order.has_start());
    return order.start().epoch();
  }
  StepPlan NextPlan() {
    const v1::Order order = Next();
    EXPECT_TRUE(order.has_plan());
    return DecodePlan(order.plan()).value_or(StepPlan());
  }
  void Answer(const StepResult& result) {
    v1::StepResultMessage message;
    EncodeResult(result, &message);
    Answer(message.SerializeAsString());
  }
  void Answer(const std::string& bytes) { links_->Arrive(kResultChannel, peer(), session_, bytes); }

  int heartbeats() const { return heartbeats_; }
  // What the coordinator ended the stream with.
  absl::Status End() {
    if (!ended_.WaitForNotificationWithTimeout(absl::Seconds(20))) return absl::UnknownError("the stream did not end");
    return status_;
  }
  void Leave() { stream_->WritesDone(); }
  void Break() {
    context_.TryCancel();
    reader_.Join();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<v1::Cluster::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::FromRank, v1::ToRank>> stream_;
  std::string session_;
  FakeTransport* links_ = nullptr;
  bool linked_ = false;
  PeerId peer_{};
  uint64_t lead_epoch_ = 0;
  absl::Status status_;  // set before ended_
  absl::Notification ended_;
  absl::Mutex write_mutex_;
  std::atomic<int> heartbeats_{0};
  std::atomic<bool> speaking_{false};
  Thread reader_;
  Thread speaker_;
};

class ClusterServiceTest : public testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
    // As ranks do when the first connection that bears their session says that it is their link.
    links_.OnSend([this](const FakeTransport::Sent& sent, const std::string& session) {
      v1::Order order;
      if (!order.ParseFromString(sent.body) || !order.has_linked()) return;
      {
        absl::MutexLock lock(&confirmed_mutex_);
        if (strangers_.contains(session) || !confirmed_.insert(session).second) return;
      }
      links_.Arrive(kResultChannel, sent.peer, session, "");
    });
  }
  // Nobody at its address knows of the session, as if it were of a stream that is over, or made up.
  void IsNobodys(const std::string& session) {
    absl::MutexLock lock(&confirmed_mutex_);
    strangers_.insert(session);
  }
  void TearDown() override {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
    server_.reset();
    loop_.reset();
    other_loops_.clear();
    SetLogSink(nullptr, LogLevel::kInfo);
  }
  // Ranks of most tests say nothing that they are not asked for.
  static constexpr Liveness::Options kPatient{.speak_every = absl::Hours(1), .silence = absl::Hours(1)};
  void Start(int32_t stages,
             const ClusterService::Options& timing = {.liveness = kPatient, .register_within = absl::Hours(1)}) {
    ranks_ = MakeRanks(2 * stages, stages, 8, 100, 0);
    for (RankInfo& rank : ranks_) {
      rank.transport_address = absl::StrCat("address ", Value(rank.stage));
      rank.vocab = 1000;
    }
    service_ = std::make_unique<ClusterService>(ClusterService::Options{.replicas = replicas_,
                                                                        .stages = stages,
                                                                        .model_digest = "digest",
                                                                        .runtime_adapters = runtime_adapters_,
                                                                        .adapter_failed = adapter_failed_,
                                                                        .block_tokens = 8,
                                                                        .draft_model = draft_model_,
                                                                        .leads = [this] { return leads_.load(); },
                                                                        .liveness = timing.liveness,
                                                                        .register_within = timing.register_within},
                                                links_, clock_, metrics_);
    ReplicaLoop::Options options;
    options.scheduler.context = 100;
    options.ranks = stages;
    loop_ = std::make_unique<ReplicaLoop>(options, **FindPolicy("stream"), clock_, metrics_, service_->channel(0));
    service_->Connect(0, loop_.get());
    for (int32_t r = 1; r < replicas_; ++r) {
      other_loops_.push_back(
          std::make_unique<ReplicaLoop>(options, **FindPolicy("stream"), clock_, metrics_, service_->channel(r)));
      service_->Connect(r, other_loops_.back().get());
    }
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_->service());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    address_ = absl::StrCat("127.0.0.1:", port);
  }
  std::unique_ptr<RankClient> Register(int32_t stage) { return Register(ranks_[stage]); }
  std::unique_ptr<RankClient> Register(const RankInfo& info) {
    return std::make_unique<RankClient>(address_, info, links_);
  }
  std::unique_ptr<RankClient> RegisterAs(int32_t stage, uint64_t incarnation) {
    RankInfo info = ranks_[stage];
    info.incarnation = incarnation;
    return Register(info);
  }
  bool Ready(int32_t ranks) {
    return AwaitLoad(*loop_, [ranks](const EngineLoad& load) { return load.ranks_ready == ranks; });
  }
  std::shared_ptr<LoopSink> Submit(int32_t max_tokens) {
    auto sink = std::make_shared<LoopSink>();
    Request request{.id = RequestId{++next_}, .name = absl::StrCat("r", next_), .prompt = {1, 2, 3}};
    request.max_tokens = max_tokens;
    request.arrival = clock_.Now();
    request.deadline = absl::InfiniteFuture();
    request.sink = sink;
    EXPECT_OK(loop_->Submit(std::move(request)));
    return sink;
  }
  static StepResult ResultOf(const StepPlan& plan, int32_t stage, bool last) {
    StepResult result{.epoch = plan.epoch, .plan = plan.id, .stage = StageId{stage}};
    for (const PlanSequence& s : plan.sequences) {
      if (last && s.sample) {
        result.sampled.push_back(
            {s.request, s.attempt, s.sample_index, s.start + static_cast<int32_t>(s.tokens.size())});
      }
    }
    return result;
  }

  std::atomic<bool> leads_{true};  // as the election says
  bool runtime_adapters_ = false;
  bool draft_model_ = false;  // every rank must have one
  std::function<void(const std::string&, const absl::Status&)> adapter_failed_;
  RealClock clock_;
  Metrics metrics_{"test"};
  FakeTransport links_;
  absl::Mutex confirmed_mutex_;
  std::set<std::string> confirmed_, strangers_;  // sessions; protected by confirmed_mutex_
  std::vector<RankInfo> ranks_;
  std::unique_ptr<ClusterService> service_;
  int32_t replicas_ = 1;
  std::unique_ptr<ReplicaLoop> loop_;                      // of replica 0
  std::vector<std::unique_ptr<ReplicaLoop>> other_loops_;  // of the others
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  uint64_t next_ = 0;
};

}  // namespace interlace
