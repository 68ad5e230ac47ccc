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
  grpc::Status Generate(grpc::ServerContext*, const v1::GenerateRequest*,
                        grpc::ServerWriter<v1::GenerateEvent>* writer) override {
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
