// Ranks over gRPC on loopback: forming, plans and results, losses, refusals, drain.
#include "coordinator/cluster_service.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/bounded_queue.h"
#include "common/grpc_status.h"
#include "common/log.h"
#include "common/thread.h"
#include "coordinator/replica_loop.h"
#include "proto/cluster.grpc.pb.h"
#include "proto/plan/plan_codec.h"
#include "tests/coordinator/fake_replica.h"
#include "tests/coordinator/loop_sink.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// The rank's end of a plan stream; a thread reads it.
class RankClient {
 public:
  explicit RankClient(const std::string& address)
      : stub_(v1::Cluster::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()))),
        stream_(stub_->Attach(&context_)),
        reader_("rank", [this] {
          v1::ToRank message;
          while (stream_->Read(&message)) messages_.Push(message);
          status_ = FromGrpcStatus(stream_->Finish());
          messages_.Close();
        }) {}
  RankClient(const std::string& address, const RankInfo& info) : RankClient(address) {
    v1::FromRank hello;
    EncodeRank(info, hello.mutable_register_());
    Write(hello);
  }
  ~RankClient() {
    speaking_ = false;
    Break();
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
  void Answer(const StepResult& result) {
    v1::FromRank message;
    EncodeResult(result, message.mutable_result());
    Write(message);
  }
  // The next message; an empty one when the stream ended or nothing came in time.
  v1::ToRank Next() {
    while (std::optional<v1::ToRank> message = messages_.PopWithin(absl::Seconds(20))) {
      if (!message->has_heartbeat()) return *std::move(message);
      ++heartbeats_;
    }
    return {};
  }
  int heartbeats() const { return heartbeats_; }  // that Next and End came past
  uint64_t NextEpoch() {
    const v1::ToRank message = Next();
    EXPECT_TRUE(message.has_start());
    return message.start().epoch();
  }
  StepPlan NextPlan() {
    const v1::ToRank message = Next();
    EXPECT_TRUE(message.has_plan());
    return DecodePlan(message.plan()).value_or(StepPlan());
  }
  // What the coordinator ended the stream with.
  absl::Status End() {
    while (const std::optional<v1::ToRank> message = messages_.PopWithin(absl::Seconds(20))) {
      heartbeats_ += message->has_heartbeat();
    }
    if (!messages_.closed()) return absl::UnknownError("the stream did not end");
    reader_.Join();
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
  BoundedQueue<v1::ToRank> messages_{1000};
  absl::Status status_;  // set before messages_ closes
  absl::Mutex write_mutex_;
  int heartbeats_ = 0;
  std::atomic<bool> speaking_{false};
  Thread reader_;
  Thread speaker_;
};

class ClusterServiceTest : public testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  }
  void TearDown() override {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
    server_.reset();
    loop_.reset();
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
    service_ = std::make_unique<ClusterService>(ClusterService::Options{.stages = stages,
                                                                        .model_digest = "digest",
                                                                        .block_tokens = 8,
                                                                        .liveness = timing.liveness,
                                                                        .register_within = timing.register_within},
                                                clock_);
    ReplicaLoop::Options options;
    options.scheduler.context = 100;
    options.ranks = stages;
    loop_ = std::make_unique<ReplicaLoop>(options, **FindPolicy("stream"), clock_, metrics_, *service_);
    service_->Connect(loop_.get());
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_->service());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    address_ = absl::StrCat("127.0.0.1:", port);
  }
  std::unique_ptr<RankClient> Register(int32_t stage) { return std::make_unique<RankClient>(address_, ranks_[stage]); }
  std::unique_ptr<RankClient> RegisterAs(int32_t stage, uint64_t incarnation) {
    RankInfo info = ranks_[stage];
    info.incarnation = incarnation;
    return std::make_unique<RankClient>(address_, info);
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

  RealClock clock_;
  Metrics metrics_{"test"};
  std::vector<RankInfo> ranks_;
  std::unique_ptr<ClusterService> service_;
  std::unique_ptr<ReplicaLoop> loop_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  uint64_t next_ = 0;
};

TEST_F(ClusterServiceTest, FormsWhenEveryStageIsThereAndRunsPlans) {
  Start(2);
  auto last = Register(1);  // in any order
  EXPECT_EQ(loop_->Load().ranks_ready, 0);
  auto first = Register(0);
  const v1::ToRank start = first->Next();
  EXPECT_EQ(start.start().next_stage_address(), "address 1");
  EXPECT_EQ(start.start().first_stage_address(), "");
  const v1::ToRank last_start = last->Next();
  EXPECT_EQ(last_start.start().next_stage_address(), "");
  EXPECT_EQ(last_start.start().first_stage_address(), "address 0");
  EXPECT_EQ(last_start.start().epoch(), start.start().epoch());
  ASSERT_TRUE(Ready(2));
  const auto sink = Submit(3);
  for (int token = 0; token < 3; ++token) {
    const StepPlan plan = first->NextPlan();
    EXPECT_EQ(last->NextPlan(), plan) << "every rank gets the same plan";
    EXPECT_EQ(Value(plan.epoch), start.start().epoch());
    last->Answer(ResultOf(plan, 1, true));
    first->Answer(ResultOf(plan, 0, false));
  }
  const RequestEnd end = sink->AwaitEnd();
  EXPECT_OK(end.status);
  EXPECT_EQ(sink->tokens(), (std::vector<int32_t>{3, 4, 5}));
}

TEST_F(ClusterServiceTest, ALostRankIsWaitedForAndTheStreamGoesOn) {
  Start(2);
  auto first = Register(0), last = Register(1);
  const uint64_t epoch = first->NextEpoch();
  EXPECT_EQ(last->NextEpoch(), epoch);
  ASSERT_TRUE(Ready(2));
  const auto sink = Submit(2);
  StepPlan plan = first->NextPlan();
  first->Answer(ResultOf(plan, 0, false));
  last->Answer(ResultOf(plan, 1, true));
  const StepPlan lost = first->NextPlan();
  last->Break();
  ASSERT_TRUE(Ready(0));
  last = Register(1);
  const uint64_t anew = last->NextEpoch();
  EXPECT_GT(anew, epoch);
  EXPECT_EQ(first->NextEpoch(), anew) << "the rank that stayed starts anew";
  first->Answer(ResultOf(lost, 0, false));  // of the former epoch: ignored
  plan = first->NextPlan();
  EXPECT_EQ(plan.sequences.at(0).start, 0) << "what the former epoch computed is gone";
  EXPECT_EQ(plan.sequences[0].tokens, (PlanTokens{1, 2, 3, 3}));
  first->Answer(ResultOf(plan, 0, false));
  last->Answer(ResultOf(plan, 1, true));
  EXPECT_OK(sink->AwaitEnd().status);
  EXPECT_EQ(sink->tokens(), (std::vector<int32_t>{3, 4}));
}

TEST_F(ClusterServiceTest, RanksThatDoNotFitAreToldWhichFieldIsWrong) {
  Start(2);
  auto first = Register(0);
  struct Row {
    const char* text;
    void (*spoil)(RankInfo&);
  };
  for (const Row& row : std::vector<Row>{{"digest", [](RankInfo& r) { r.model_digest = "another"; }},
                                         {"kv.block_tokens", [](RankInfo& r) { r.block_tokens = 16; }},
                                         {"cluster.stages", [](RankInfo& r) { r.stages = 3; }},
                                         {"first layer", [](RankInfo& r) { r.layer_begin = 3; }},
                                         {"layer end", [](RankInfo& r) { r.layer_end = 3; }},
                                         {"layers",
                                          [](RankInfo& r) {
                                            r.layers = 5;
                                            r.windows.push_back(0);
                                          }},
                                         {"windows", [](RankInfo& r) { r.windows[0] = 8; }},
                                         {"kv.dtype", [](RankInfo& r) { r.dtype = "BF16"; }},
                                         {"bytes of a KV slot", [](RankInfo& r) { r.slot_bytes *= 2; }},
                                         {"engine.ops", [](RankInfo& r) { r.numerics = "another"; }},
                                         {"kv.tiers", [](RankInfo& r) { r.tiers.push_back("another"); }}}) {
    RankInfo info = ranks_[1];
    row.spoil(info);
    // The neighbour registers first, so that its layers are known.
    RankClient rank(address_, info);
    EXPECT_THAT(rank.End(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(row.text)));
  }
  auto last = Register(1);  // none of them took the place
  EXPECT_EQ(last->NextEpoch(), first->NextEpoch());
}

// A rank that died unnoticed and was started again: its stream is still open when the new process comes.
TEST_F(ClusterServiceTest, ANewIncarnationTakesThePlaceOfTheOld) {
  Start(2);
  auto first = RegisterAs(0, 10), old = RegisterAs(1, 11);
  const uint64_t epoch = first->NextEpoch();
  old->NextEpoch();
  ASSERT_TRUE(Ready(2));
  const auto sink = Submit(1);
  const StepPlan before = first->NextPlan();
  auto fresh = RegisterAs(1, 12);
  EXPECT_THAT(old->End(), StatusIs(absl::StatusCode::kAborted, HasSubstr("newer rank")));
  const uint64_t anew = fresh->NextEpoch();
  EXPECT_GT(anew, epoch);
  EXPECT_EQ(first->NextEpoch(), anew) << "the replica is formed again";
  first->Answer(ResultOf(before, 0, false));
  const StepPlan again = first->NextPlan();
  EXPECT_EQ(Value(again.epoch), anew);
  first->Answer(ResultOf(again, 0, false));
  fresh->Answer(ResultOf(again, 1, true));
  EXPECT_OK(sink->AwaitEnd().status);
}

// Two processes that were told the same stage: the older one may not come back while the newer one holds it, so they do
// not put each other out for ever.
TEST_F(ClusterServiceTest, TheOneThatWasPutOutWaitsUntilTheStageIsFree) {
  Start(1);
  auto old = RegisterAs(0, 11);
  old->NextEpoch();
  auto fresh = RegisterAs(0, 12);
  EXPECT_EQ(old->End().code(), absl::StatusCode::kAborted);
  fresh->NextEpoch();
  EXPECT_THAT(RegisterAs(0, 11)->End(), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("newer rank")));
  ASSERT_TRUE(Ready(1));
  const auto sink = Submit(1);
  const StepPlan plan = fresh->NextPlan();
  fresh->Answer(ResultOf(plan, 0, true));
  EXPECT_OK(sink->AwaitEnd().status) << "the holder was not disturbed";
  fresh->Break();
  ASSERT_TRUE(Ready(0));
  old = RegisterAs(0, 11);
  EXPECT_GT(old->NextEpoch(), 0u);
}

// A process that was stopped and continued comes back before its old stream has ended.
TEST_F(ClusterServiceTest, TheSameIncarnationMayComeAgain) {
  Start(1);
  auto once = RegisterAs(0, 11);
  const uint64_t epoch = once->NextEpoch();
  for (int round = 0; round < 3; ++round) {
    auto again = RegisterAs(0, 11);
    EXPECT_EQ(once->End().code(), absl::StatusCode::kAborted);
    EXPECT_GT(again->NextEpoch(), epoch);
    once = std::move(again);
  }
  ASSERT_TRUE(Ready(1));
}

// Losses and formings reach the loop in the order in which they happened, whatever threads they happen on.
TEST_F(ClusterServiceTest, RanksThatComeAndGoAtOnceLeaveAFormedReplica) {
  Start(2);
  for (int round = 0; round < 5; ++round) {
    std::unique_ptr<RankClient> last[2];
    {
      std::vector<Thread> threads;
      for (int32_t stage : {0, 1}) {
        threads.emplace_back("rank", [&, stage] {
          for (uint64_t i = 1; i <= 20; ++i)
            last[stage] = RegisterAs(stage, 1000 * static_cast<uint64_t>(round + 1) + i);
        });
      }
    }
    ASSERT_TRUE(Ready(2)) << "round " << round;
  }
}

// The process is stopped (SIGSTOP): its connection stays open and nothing comes.
TEST_F(ClusterServiceTest, ASilentRankIsGone) {
  Start(2, {.liveness = {.speak_every = absl::Milliseconds(10), .silence = absl::Milliseconds(300)},
            .register_within = absl::Hours(1)});
  auto first = Register(0);
  first->KeepSpeaking(absl::Milliseconds(10));
  auto silent = Register(1);
  const uint64_t epoch = first->NextEpoch();
  EXPECT_THAT(silent->End(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("silent")));
  EXPECT_GT(silent->heartbeats(), 0) << "the coordinator itself was silent";
  ASSERT_TRUE(Ready(0));
  auto back = Register(1);
  back->KeepSpeaking(absl::Milliseconds(10));
  EXPECT_GT(back->NextEpoch(), epoch);
  EXPECT_GT(first->NextEpoch(), epoch) << "the one that spoke is still there";
  ASSERT_TRUE(Ready(2));
}

TEST_F(ClusterServiceTest, WhoNeverRegistersIsSentAway) {
  Start(1, {.liveness = {.speak_every = absl::Milliseconds(10), .silence = absl::Hours(1)},
            .register_within = absl::Milliseconds(50)});
  RankClient stranger(address_);
  EXPECT_EQ(stranger.End().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(ClusterServiceTest, MessagesThatMakeNoSenseEndTheirRankAlone) {
  Start(2);
  auto first = Register(0);
  for (const char* fault : {"result before register", "empty", "register twice", "garbage", "another stage"}) {
    SCOPED_TRACE(fault);
    const absl::string_view what = fault;
    if (what == "result before register") {
      RankClient stranger(address_);
      stranger.Answer(StepResult{});
      EXPECT_THAT(stranger.End(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("register")));
      continue;
    }
    auto last = Register(1);
    const uint64_t epoch = last->NextEpoch();
    EXPECT_EQ(first->NextEpoch(), epoch);
    ASSERT_TRUE(Ready(2));
    v1::FromRank message;
    if (what == "register twice") EncodeRank(ranks_[1], message.mutable_register_());
    if (what == "garbage") {
      message.mutable_result()->add_lost()->set_block(-5);
    } else if (what == "another stage") {
      message.mutable_result()->set_stage(0);
    }
    last->Write(message);
    EXPECT_EQ(last->End().code(), absl::StatusCode::kInvalidArgument);
    ASSERT_TRUE(Ready(0));
  }
  auto last = Register(1);  // the replica forms again all the same
  EXPECT_EQ(last->NextEpoch(), first->NextEpoch());
}

// What a rank says need not be true: a token of nobody ends its request, and the loop never sees it.
TEST_F(ClusterServiceTest, ATokenOutsideTheVocabularyEndsItsRequestAlone) {
  Start(1);
  auto rank = Register(0);
  rank->NextEpoch();
  ASSERT_TRUE(Ready(1));
  const auto next_with_sequences = [&] {
    StepPlan plan = rank->NextPlan();
    for (; plan.sequences.empty() && Value(plan.id) != 0; plan = rank->NextPlan()) {  // of releases
      rank->Answer(ResultOf(plan, 0, true));
    }
    return plan;
  };
  for (int32_t token : {1000, 2000000000}) {
    const auto sink = Submit(1);
    const StepPlan plan = next_with_sequences();
    StepResult result = ResultOf(plan, 0, true);
    ASSERT_EQ(result.sampled.size(), 1u);
    result.sampled[0].token = token;
    rank->Answer(result);
    EXPECT_EQ(sink->AwaitEnd().status.code(), absl::StatusCode::kInternal) << token;
    EXPECT_TRUE(sink->tokens().empty());
  }
  const auto sink = Submit(1);
  rank->Answer(ResultOf(next_with_sequences(), 0, true));
  EXPECT_OK(sink->AwaitEnd().status);
}

TEST_F(ClusterServiceTest, ARankThatFailsResetsAllAndTheyRegisterAnew) {
  Start(2);
  auto first = Register(0), last = Register(1);
  first->NextEpoch();
  last->NextEpoch();
  ASSERT_TRUE(Ready(2));
  const auto sink = Submit(1);
  const StepPlan plan = first->NextPlan();
  StepResult result = ResultOf(plan, 0, false);
  result.status = absl::InternalError("out of paper");
  first->Answer(result);
  EXPECT_THAT(first->End(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("out of paper")));
  EXPECT_THAT(last->End(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("stage 0")));
  first = Register(0);
  last = Register(1);
  EXPECT_EQ(first->NextEpoch(), last->NextEpoch());
  const StepPlan again = first->NextPlan();
  first->Answer(ResultOf(again, 0, false));
  last->Answer(ResultOf(again, 1, true));
  EXPECT_OK(sink->AwaitEnd().status);
}

TEST_F(ClusterServiceTest, DrainTellsEveryRankAndWaitsForItsStream) {
  Start(2);
  auto first = Register(0), last = Register(1);
  first->NextEpoch();
  last->NextEpoch();
  {
    std::vector<Thread> leaving;
    for (RankClient* rank : {first.get(), last.get()}) {
      leaving.emplace_back("leaving", [rank] {
        EXPECT_TRUE(rank->Next().has_drain());
        rank->Leave();
      });
    }
    service_->Drain();
  }
  EXPECT_OK(first->End());
  EXPECT_OK(last->End());
  EXPECT_THAT(Register(0)->End(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("draining")));
}

}  // namespace
}  // namespace interlace
