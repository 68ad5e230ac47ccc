// Forming, plans and results, losses, refusals, drain.
#include <memory>
#include <string>
#include <vector>

#include "tests/coordinator/cluster_fixture.h"

namespace interlace {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

TEST_F(ClusterServiceTest, FormsWhenEveryStageIsThereAndRunsPlans) {
  Start(2);
  auto last = Register(1);  // in any order
  EXPECT_TRUE(last->Linked());
  EXPECT_EQ(loop_->Load().ranks_ready, 0);
  auto first = Register(0);
  const v1::Order start = first->Next();
  EXPECT_EQ(start.start().next_stage_address(), "address 1");
  EXPECT_EQ(start.start().first_stage_address(), "");
  const v1::Order last_start = last->Next();
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

// Replicas are formed and lost one by one, and a plan reaches the ranks of its own alone.
TEST_F(ClusterServiceTest, ReplicasAreFormedAndLostEachByItself) {
  replicas_ = 2;
  Start(1);
  RankInfo other = ranks_[0];
  other.replica = 1;
  other.incarnation = 2;
  other.transport_address = "address of replica 1";
  auto second = Register(other);
  const uint64_t epoch = second->NextEpoch();
  ASSERT_TRUE(AwaitLoad(*other_loops_[0], [](const EngineLoad& load) { return load.ranks_ready == 1; }));
  EXPECT_EQ(loop_->Load().ranks_ready, 0) << "it has no rank";
  auto first = Register(0);
  EXPECT_NE(first->NextEpoch(), epoch);
  ASSERT_TRUE(Ready(1));
  const auto sink = Submit(2);
  StepPlan plan = first->NextPlan();
  second->Break();
  ASSERT_TRUE(AwaitLoad(*other_loops_[0], [](const EngineLoad& load) { return load.ranks_ready == 0; }));
  EXPECT_EQ(loop_->Load().ranks_ready, 1) << "the other replica's loss is not its own";
  first->Answer(ResultOf(plan, 0, true));
  plan = first->NextPlan();
  first->Answer(ResultOf(plan, 0, true));
  EXPECT_OK(sink->AwaitEnd().status);
  EXPECT_EQ(sink->tokens(), (std::vector<int32_t>{3, 4}));

  RankInfo unlike = other;
  unlike.numerics = "something else";
  EXPECT_THAT(Register(unlike)->End(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("replica 0, stage 0 has test")));
  RankInfo beyond = other;
  beyond.replica = 2;
  EXPECT_THAT(Register(beyond)->End(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("cluster.replica is 2, the coordinator has cluster.replicas=2")));
}

TEST_F(ClusterServiceTest, RanksThatDoNotFitAreToldWhichFieldIsWrong) {
  Start(2);
  auto first = Register(0);
  ASSERT_TRUE(first->Linked());
  struct Row {
    const char* text;
    void (*spoil)(RankInfo&);
  };
  for (const Row& row : std::vector<Row>{{"digest", [](RankInfo& r) { r.model_digest = "another"; }},
                                         {"model.adapters, by digest, is a,b, the coordinator has none",
                                          [](RankInfo& r) {
                                            r.adapters = {"a", "b"};
                                          }},
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
    EXPECT_THAT(Register(info)->End(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(row.text)));
  }
  auto last = Register(1);  // none of them took the place
  EXPECT_EQ(last->NextEpoch(), first->NextEpoch());
}

// Where a draft model is to guess, a rank without one is no member: it would serve on, and nobody would guess.
TEST_F(ClusterServiceTest, ARankWithoutTheDraftModelThatIsToGuessIsRefused) {
  draft_model_ = true;
  Start(1);
  EXPECT_THAT(Register(ranks_[0])->End(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                   AllOf(HasSubstr("sched.speculate=draft-model"),
                                                         HasSubstr("engine.draft_model"), HasSubstr("auto"))));
  RankInfo with = ranks_[0];
  with.draft_model = "small";
  EXPECT_TRUE(Register(with)->Linked());
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
          for (uint64_t i = 1; i <= 20; ++i) {
            // What was said last must be heard last: two streams keep no order between them.
            if (i == 20) {
              EXPECT_TRUE(last[stage]->Linked());
            }
            last[stage] = RegisterAs(stage, 1000 * static_cast<uint64_t>(round + 1) + i);
          }
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
  // A stream to which a sign of life is just being written is cancelled, since its end may not read; then no reason is
  // said.
  EXPECT_THAT(silent->End(), AnyOf(StatusIs(absl::StatusCode::kUnavailable, HasSubstr("silent")),
                                   StatusIs(absl::StatusCode::kCancelled, HasSubstr("server side"))));
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
  for (const char* fault : {"heartbeat before register", "no session", "empty", "register twice", "no result",
                            "garbage", "another stage"}) {
    SCOPED_TRACE(fault);
    const absl::string_view what = fault;
    v1::FromRank message;
    v1::StepResultMessage result;
    if (what == "heartbeat before register" || what == "no session") {
      RankClient stranger(address_);
      what == "no session" ? EncodeRank(ranks_[1], message.mutable_register_())
                           : static_cast<void>(message.mutable_heartbeat());
      stranger.Write(message);
      EXPECT_THAT(stranger.End(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("register")));
      continue;
    }
    auto last = Register(1);
    const uint64_t epoch = last->NextEpoch();
    EXPECT_EQ(first->NextEpoch(), epoch);
    ASSERT_TRUE(Ready(2));
    if (what == "register twice") EncodeRank(ranks_[1], message.mutable_register_());
    if (what == "garbage") result.add_lost()->set_block(-5);
    if (what == "another stage") result.set_epoch(epoch);  // of stage 0
    if (what == "no result") {
      last->Answer("\xff\xff");
    } else if (what == "empty" || what == "register twice") {
      last->Write(message);
    } else {
      last->Answer(result.SerializeAsString());
    }
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
