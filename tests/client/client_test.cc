#include "client/client.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "proto/inference.grpc.pb.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

// Says a number of words and ends well, without waiting for the reader.
class Talker final : public v1::Inference::Service {
 public:
  grpc::Status Generate(grpc::ServerContext*, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateEvent>* writer) override {
    targets = request->targets();
    v1::GenerateEvent event;
    for (int i = 0; i < 20; ++i) {
      event.mutable_tokens()->set_text(absl::StrCat("word", i, " "));
      writer->Write(event);
    }
    event.mutable_finished()->set_completion_tokens(20);
    event.mutable_finished()->set_cached_tokens(7);
    writer->Write(event);
    said.Notify();
    return grpc::Status::OK;
  }
  grpc::Status GetModel(grpc::ServerContext*, const v1::GetModelRequest*, v1::Model*) override {
    return grpc::Status::OK;
  }
  grpc::Status Chat(grpc::ServerContext*, const v1::ChatRequest* request,
                    grpc::ServerWriter<v1::GenerateEvent>*) override {
    targets = request->targets();
    return grpc::Status::OK;
  }
  grpc::Status Explain(grpc::ServerContext*, const v1::ExplainRequest*, v1::ExplainReply* reply) override {
    *reply = explanation;
    return grpc::Status::OK;
  }
  v1::Targets targets;  // of the last request
  v1::ExplainReply explanation;
  absl::Notification said;
};

struct Rig {
  Rig() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&talker);
    server = builder.BuildAndStart();
    client = Client::Connect(absl::StrCat("127.0.0.1:", port));
  }
  int port = 0;
  Talker talker;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<Client> client;
};

TEST(ClientTest, TextComesWholeAndInOrder) {
  Rig rig;
  std::string text;
  const absl::StatusOr<ClientResult> result = rig.client->Generate("x", {}, [&](absl::string_view piece) {
    absl::StrAppend(&text, piece);
    return true;
  });
  ASSERT_OK(result);
  EXPECT_EQ(result->completion_tokens, 20);
  EXPECT_EQ(result->cached_tokens, 7);
  EXPECT_THAT(text, HasSubstr("word0 word1 word2"));
  EXPECT_THAT(text, HasSubstr("word19"));
}

TEST(ClientTest, TargetsTravelAndWhatIsUnsetDoesNot) {
  Rig rig;
  const auto more = [](absl::string_view) { return true; };
  ASSERT_OK(rig.client->Generate("x", {}, more));
  EXPECT_EQ(rig.talker.targets.ByteSizeLong(), 0u);
  ClientOptions options;
  options.ttft = absl::Milliseconds(250);
  options.tpot = absl::Microseconds(12500);
  options.largest_gap = absl::Seconds(1);
  options.priority = -3;
  options.tenant = "acme";
  (void)rig.client->Chat({{"user", "x"}}, options, more);
  const v1::Targets& targets = rig.talker.targets;
  EXPECT_EQ(targets.ttft_ms(), 250);
  EXPECT_EQ(targets.tpot_ms(), 12.5);
  EXPECT_EQ(targets.largest_gap_ms(), 1000);
  EXPECT_EQ(targets.priority(), -3);
  EXPECT_EQ(targets.fairness_id(), "acme");
  EXPECT_FALSE(targets.has_deadline_ms());  // the call's own says it
}

TEST(ClientTest, AReportShowsTargets) {
  Rig rig;
  v1::ExplainReply& reply = rig.talker.explanation;
  reply.set_completion_tokens(2);
  reply.set_first_token_seconds(0.3);
  reply.set_total_seconds(2);
  reply.set_tpot_seconds(0.25);
  reply.set_largest_gap_seconds(0.5);
  reply.mutable_targets()->set_ttft_ms(250);
  reply.mutable_targets()->set_priority(-3);
  reply.mutable_targets()->set_fairness_id("acme");
  reply.mutable_targets()->set_deadline_ms(4000);
  reply.mutable_met()->set_ttft(false);
  reply.mutable_met()->set_deadline(true);
  reply.mutable_spent()->set_queued_seconds(0.25);
  reply.mutable_spent()->set_sat_out_seconds(1.5);
  v1::Decision* decision = reply.add_decisions();
  decision->set_kind("no_room");
  decision->set_text("waits for room");
  decision->set_at_seconds(0.125);
  decision->set_until_seconds(0.5);
  decision->set_times(7);
  reply.add_by_layer()->set_found_below(3);
  const absl::StatusOr<RequestReport> report = rig.client->Explain("x");
  ASSERT_OK(report);
  EXPECT_EQ(report->spent.queued, absl::Milliseconds(250));
  EXPECT_EQ(report->spent.sat_out, absl::Milliseconds(1500));
  ASSERT_EQ(report->decisions.size(), 1u);
  EXPECT_EQ(report->decisions[0].kind, "no_room");
  EXPECT_EQ(report->decisions[0].text, "waits for room");
  EXPECT_EQ(report->decisions[0].at, absl::Milliseconds(125));
  EXPECT_EQ(report->decisions[0].until, absl::Milliseconds(500));
  EXPECT_EQ(report->decisions[0].times, 7);
  EXPECT_EQ(report->by_layer.at(0).found_below, 3);
  EXPECT_EQ(report->ttft.asked, absl::Milliseconds(250));
  EXPECT_EQ(report->ttft.reached, absl::Milliseconds(300));
  EXPECT_EQ(report->ttft.met, false);
  EXPECT_EQ(report->tpot.asked, std::nullopt);
  EXPECT_EQ(report->tpot.reached, absl::Milliseconds(250));
  EXPECT_EQ(report->tpot.met, std::nullopt);
  EXPECT_EQ(report->largest_gap.reached, absl::Milliseconds(500));
  EXPECT_EQ(report->deadline.asked, absl::Seconds(4));
  EXPECT_EQ(report->deadline.met, true);
  EXPECT_EQ(report->priority, -3);
  EXPECT_EQ(report->tenant, "acme");
  reply.set_completion_tokens(1);
  EXPECT_EQ(rig.client->Explain("x")->tpot.reached, std::nullopt);
}

// Even if the rest of the answer and its status are here by then: the answers to later questions come behind them on
// the same connection.
TEST(ClientTest, WhoSaysFalseIsNotCalledAgain) {
  for (const int wanted : {1, 2, 19, 20}) {
    Rig rig;
    int calls = 0;
    const absl::StatusOr<ClientResult> result = rig.client->Generate("x", {}, [&](absl::string_view) {
      rig.talker.said.WaitForNotification();
      for (int i = 0; i < 10; ++i) EXPECT_OK(rig.client->Model());
      return ++calls < wanted;
    });
    EXPECT_EQ(calls, wanted);
    EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled, HasSubstr("no more")));
  }
}

}  // namespace
}  // namespace interlace
