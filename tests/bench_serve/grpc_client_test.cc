// The interlace.v1 client against a server that answers as a test says.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "proto/inference.grpc.pb.h"
#include "tests/bench_serve/client_rig.h"

namespace interlace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Writer = grpc::ServerWriter<v1::GenerateEvent>;

class ScriptedService final : public v1::Inference::Service {
 public:
  using Script = std::function<grpc::Status(grpc::ServerContext*, Writer*)>;
  explicit ScriptedService(Script script) : script_(std::move(script)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~ScriptedService() override { Stop(); }
  void Stop() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_ = nullptr;
  }
  std::string url() const { return absl::StrCat("127.0.0.1:", port_); }

  grpc::Status GetModel(grpc::ServerContext*, const v1::GetModelRequest*, v1::Model* model) override {
    model->set_id("tiny");
    return grpc::Status::OK;
  }
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request, Writer* writer) override {
    {
      absl::MutexLock lock(&mutex_);
      generated_ = *request;
    }
    return script_(context, writer);
  }
  grpc::Status Chat(grpc::ServerContext* context, const v1::ChatRequest* request, Writer* writer) override {
    {
      absl::MutexLock lock(&mutex_);
      chatted_ = *request;
    }
    return script_(context, writer);
  }

  // The last request of its kind.
  v1::GenerateRequest generated() {
    absl::MutexLock lock(&mutex_);
    return generated_;
  }
  v1::ChatRequest chatted() {
    absl::MutexLock lock(&mutex_);
    return chatted_;
  }

 private:
  const Script script_;
  int port_ = 0;
  absl::Mutex mutex_;              // gRPC's threads answer many requests at once
  v1::GenerateRequest generated_;  // protected by mutex_
  v1::ChatRequest chatted_;        // protected by mutex_
  std::unique_ptr<grpc::Server> server_;
};

void Say(Writer* writer, const std::string& text, std::initializer_list<int32_t> ids) {
  v1::GenerateEvent event;
  event.set_request_id("named");
  event.mutable_tokens()->set_text(text);
  for (int32_t id : ids) event.mutable_tokens()->add_ids(id);
  writer->Write(event);
}
void Finish(Writer* writer, int tokens) {
  v1::GenerateEvent event;
  event.mutable_finished()->set_reason(v1::FINISH_REASON_LENGTH);
  event.mutable_finished()->set_prompt_tokens(3);
  event.mutable_finished()->set_cached_tokens(1);
  event.mutable_finished()->set_completion_tokens(tokens);
  writer->Write(event);
}
void AwaitHangUp(grpc::ServerContext* context) {
  // The client's cancellation reaches a synchronous service only through this flag.
  while (!context->IsCancelled()) std::this_thread::yield();
}

LoadClientOptions At(ScriptedService& service) {
  LoadClientOptions options;
  options.url = service.url();
  options.save_texts = true;
  return options;
}

TEST(GrpcClient, AWholeAnswer) {
  ScriptedService service([&](grpc::ServerContext*, Writer* writer) {
    Say(writer, "a", {1});
    Say(writer, "bc", {2, 3});
    Finish(writer, 3);
    return grpc::Status::OK;
  });
  ClientRig rig("interlace-grpc", At(service));
  PlannedRequest request = Ask(5, 3);
  request.ignore_eos = true;
  request.targets.ttft = absl::Milliseconds(700);
  request.tenant = "free";
  const RequestRecord record = rig.Send(request);
  EXPECT_EQ(record.outcome, LoadOutcome::kOk) << record.error;
  EXPECT_THAT(record.chunk_tokens, ElementsAre(1, 2));
  EXPECT_EQ(record.completion_tokens, 3);
  EXPECT_EQ(record.prompt_tokens, 3);
  EXPECT_EQ(record.cached_tokens, 1);
  EXPECT_EQ(record.finish_reason, "length");
  EXPECT_EQ(record.request_id, "named");
  EXPECT_EQ(record.text, "abc");
  EXPECT_THAT(rig.first_tokens, SizeIs(1));
  EXPECT_EQ(service.generated().request_id(), "t-5");
  EXPECT_THAT(service.generated().tokens().ids(), ElementsAre(5, 6, 7));
  EXPECT_EQ(service.generated().sampling().max_tokens(), 3);
  EXPECT_TRUE(service.generated().sampling().ignore_eos());
  EXPECT_EQ(service.generated().targets().ttft_ms(), 700);
  EXPECT_EQ(service.generated().targets().fairness_id(), "free");
  EXPECT_FALSE(service.generated().targets().has_tpot_ms());
}

TEST(GrpcClient, MessagesAreAChat) {
  ScriptedService service([](grpc::ServerContext*, Writer* writer) {
    Finish(writer, 0);
    return grpc::Status::OK;
  });
  ClientRig rig("interlace-grpc", At(service));
  PlannedRequest request;
  request.messages = {{"user", "hi"}};
  EXPECT_EQ(rig.Send(request).outcome, LoadOutcome::kOk);
  ASSERT_EQ(service.chatted().messages_size(), 1);
  EXPECT_EQ(service.chatted().messages(0).content(), "hi");
}

struct Wrong {
  const char* name;
  ScriptedService::Script script;
  LoadOutcome outcome;
  const char* error;
  int chunks = 0;
};

class WrongServices : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongServices, AreCountedAsWhatTheyAre) {
  ScriptedService service(GetParam().script);
  LoadClientOptions options = At(service);
  options.timeout = absl::Milliseconds(500);
  ClientRig rig("interlace-grpc", options);
  const RequestRecord record = rig.Send(Ask());
  EXPECT_EQ(LoadOutcomeName(record.outcome), LoadOutcomeName(GetParam().outcome)) << record.error;
  EXPECT_THAT(record.error, HasSubstr(GetParam().error));
  EXPECT_THAT(record.chunks, SizeIs(GetParam().chunks));
}

INSTANTIATE_TEST_SUITE_P(
    All, WrongServices,
    ::testing::Values(
        Wrong{"Sheds",
              [](grpc::ServerContext*, Writer*) { return grpc::Status(grpc::RESOURCE_EXHAUSTED, "queue is full"); },
              LoadOutcome::kShed, "queue is full"},
        Wrong{"Drains", [](grpc::ServerContext*, Writer*) { return grpc::Status(grpc::UNAVAILABLE, "stopping"); },
              LoadOutcome::kShed, "stopping"},
        Wrong{"Refuses", [](grpc::ServerContext*, Writer*) { return grpc::Status(grpc::INVALID_ARGUMENT, "too long"); },
              LoadOutcome::kRefused, "too long"},
        Wrong{"GivesUpByTheRequestsOwnDeadline",
              [](grpc::ServerContext*, Writer*) { return grpc::Status(grpc::DEADLINE_EXCEEDED, "its deadline"); },
              LoadOutcome::kRefused, "its deadline"},
        Wrong{"FailsWithinTheStream",
              [](grpc::ServerContext*, Writer* writer) {
                Say(writer, "a", {1});
                return grpc::Status(grpc::INTERNAL, "a rank died");
              },
              LoadOutcome::kFailed, "a rank died", 1},
        Wrong{"EndsWithoutFinished",
              [](grpc::ServerContext*, Writer* writer) {
                Say(writer, "a", {1});
                return grpc::Status::OK;
              },
              LoadOutcome::kTruncated, "Finished", 1},
        Wrong{"Stalls",
              [](grpc::ServerContext* context, Writer* writer) {
                Say(writer, "a", {1});
                AwaitHangUp(context);
                return grpc::Status::CANCELLED;
              },
              LoadOutcome::kTimeout, "", 1}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(GrpcClient, HangsUpAsPlanned) {
  ScriptedService service([](grpc::ServerContext* context, Writer* writer) {
    Say(writer, "a", {1});
    Say(writer, "b", {2});
    AwaitHangUp(context);
    return grpc::Status::CANCELLED;
  });
  ClientRig rig("interlace-grpc", At(service));
  PlannedRequest request = Ask();
  request.cancel_after_tokens = 2;
  const RequestRecord record = rig.Send(request);
  EXPECT_EQ(record.outcome, LoadOutcome::kCancelled);
  EXPECT_THAT(record.error, IsEmpty());
  EXPECT_EQ(record.completion_tokens, 2);
}

TEST(GrpcClient, AServerThatIsGoneIsNoShedding) {
  auto service = std::make_unique<ScriptedService>([](grpc::ServerContext*, Writer*) { return grpc::Status::OK; });
  ClientRig rig("interlace-grpc", At(*service));
  service->Stop();
  EXPECT_EQ(rig.Send(Ask()).outcome, LoadOutcome::kNoConnection);
}

TEST(GrpcClient, ManyAtOnce) {
  ScriptedService service([](grpc::ServerContext*, Writer* writer) {
    Say(writer, "a", {1});
    Finish(writer, 1);
    return grpc::Status::OK;
  });
  ClientRig rig("interlace-grpc", At(service));
  std::vector<PlannedRequest> requests;
  for (int i = 0; i < 200; ++i) requests.push_back(Ask(i));
  for (const RequestRecord& record : rig.SendAll(requests)) EXPECT_EQ(record.outcome, LoadOutcome::kOk) << record.error;
}

}  // namespace
}  // namespace interlace
