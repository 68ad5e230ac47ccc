// The C++ client at servers that break off, are full, or answer otherwise than the one before.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "client/retry.h"
#include "common/entropy.h"
#include "proto/inference.grpc.pb.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

std::string WordOf(int32_t token) { return absl::StrCat("w", token, " "); }

// Says token 100, 101, .. and breaks off where `script` says: how many events each try has, and its status. A try
// without a script of its own is whole.
class Breaker final : public v1::Inference::Service {
 public:
  struct Try {
    int32_t tokens = 0;
    grpc::Status status;
    int64_t retry_after_ms = -1;
    bool hopeless = false;
  };
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateEvent>* writer) override {
    requests.push_back(*request);
    const bool scripted = requests.size() <= script.size();
    const Try current = scripted ? script[requests.size() - 1] : Try{length};
    const int64_t had = request->resume().text_bytes();
    std::string text;
    for (int32_t i = 0; i < length; ++i) {
      const int32_t token = first_token + i;
      const size_t before = text.size();
      text += WordOf(token);
      if (i < request->resume().ids_size()) {
        EXPECT_EQ(request->resume().ids(i), token);
        continue;
      }
      if (i >= request->resume().ids_size() + current.tokens) break;
      v1::GenerateEvent event;
      event.mutable_tokens()->add_ids(token);
      const auto unseen = std::max<int64_t>(static_cast<int64_t>(before), had);
      if (unseen < static_cast<int64_t>(text.size())) event.mutable_tokens()->set_text(text.substr(unseen));
      writer->Write(event);
    }
    if (current.retry_after_ms >= 0) {
      context->AddTrailingMetadata("retry-after-ms", absl::StrCat(current.retry_after_ms));
    }
    if (current.hopeless) context->AddTrailingMetadata("x-should-retry", "false");
    if (scripted) return current.status;
    v1::GenerateEvent end;
    end.mutable_finished()->set_completion_tokens(length);
    writer->Write(end);
    return grpc::Status::OK;
  }
  int32_t length = 12;
  int32_t first_token = 100;
  std::vector<Try> script;
  std::vector<v1::GenerateRequest> requests;
};

struct Server {
  Server() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&breaker);
    server = builder.BuildAndStart();
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port); }
  int port = 0;
  Breaker breaker;
  std::unique_ptr<grpc::Server> server;
};

const grpc::Status kAway(grpc::StatusCode::UNAVAILABLE, "away");
const grpc::Status kFull(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");

ClientOptions Quick() {
  ClientOptions options;
  options.first_wait = absl::Microseconds(100);
  return options;
}

struct Got {
  absl::StatusOr<ClientResult> result = absl::UnknownError("");
  std::string text;
};
Got Ask(const std::string& addresses, const ClientOptions& options) {
  Got got;
  got.result = Client::Connect(addresses)->Generate("x", options, [&](absl::string_view piece) {
    absl::StrAppend(&got.text, piece);
    return true;
  });
  return got;
}

std::string Whole() {
  std::string text;
  for (int32_t i = 0; i < 12; ++i) text += WordOf(100 + i);
  return text;
}

TEST(ResumeTest, AnAnswerThatBreaksOffGoesOnBehindWhatHasCome) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(3);
  for (int round = 0; round < 40; ++round) {
    Server server;
    int32_t broken = static_cast<int32_t>(entropy->Next() % 7);
    for (int32_t i = 0; i < broken; ++i) {
      server.breaker.script.push_back({static_cast<int32_t>(entropy->Next() % 4), kAway});
    }
    const Got got = Ask(server.address(), Quick());
    ASSERT_OK(got.result);
    EXPECT_EQ(got.text, Whole()) << "round " << round;
    EXPECT_EQ(got.result->completion_tokens, 12);
    EXPECT_EQ(got.result->tries, broken + 1);
    for (const v1::GenerateRequest& request : server.breaker.requests) {
      EXPECT_TRUE(request.sampling().has_seed());
      EXPECT_EQ(request.sampling().seed(), server.breaker.requests[0].sampling().seed());
    }
  }
}

TEST(ResumeTest, AServerThatGoesAnotherWayIsNotBelieved) {
  Server first, second;
  first.breaker.script = {{5, kAway}};
  second.breaker.length = 4;
  Got got = Ask(absl::StrCat(first.address(), ",", second.address()), Quick());
  EXPECT_THAT(got.result, StatusIs(absl::StatusCode::kDataLoss, HasSubstr("other tokens")));
  Server third, fourth;
  third.breaker.script = {{1, kAway}};
  fourth.breaker.first_token = 300;
  got = Ask(absl::StrCat(third.address(), ",", fourth.address()), Quick());
  EXPECT_THAT(got.result, StatusIs(absl::StatusCode::kDataLoss, HasSubstr("other tokens")));
  EXPECT_EQ(got.text, WordOf(100));
}

TEST(ResumeTest, TheNextAddressIsAskedAndRemembered) {
  Server dead, alive;
  dead.server->Shutdown();
  const std::unique_ptr<Client> client = Client::Connect(absl::StrCat(dead.address(), ",", alive.address()));
  const auto more = [](absl::string_view) { return true; };
  absl::StatusOr<ClientResult> result = client->Generate("x", Quick(), more);
  ASSERT_OK(result);
  EXPECT_EQ(result->tries, 2);
  result = client->Generate("x", Quick(), more);
  ASSERT_OK(result);
  EXPECT_EQ(result->tries, 1);
}

TEST(ResumeTest, WhatNoTryMendsIsSaidAtOnce) {
  const grpc::Status kBad(grpc::StatusCode::INVALID_ARGUMENT, "bad"), kHeld(grpc::StatusCode::ALREADY_EXISTS, "held");
  for (const Breaker::Try& one : {Breaker::Try{0, kBad}, Breaker::Try{0, kHeld}, Breaker::Try{0, kFull},
                                  Breaker::Try{0, kFull, 1, true}, Breaker::Try{3, kBad}}) {
    Server server;
    server.breaker.script = {one};
    EXPECT_EQ(static_cast<int>(Ask(server.address(), Quick()).result.status().code()), one.status.error_code());
    EXPECT_EQ(server.breaker.requests.size(), 1u);
  }
  Server server;
  server.breaker.script = {{0, kAway}};
  ClientOptions none = Quick();
  none.retries = 0;
  EXPECT_THAT(Ask(server.address(), none).result, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("away")));
  EXPECT_FALSE(server.breaker.requests[0].sampling().has_seed());
}

TEST(ResumeTest, AFullServerIsAskedAgainWhenItSays) {
  Server server;
  server.breaker.script = {{0, kFull, 1}, {0, kAway}, {0, grpc::Status(grpc::StatusCode::ALREADY_EXISTS, "held")}};
  const Got got = Ask(server.address(), Quick());
  ASSERT_OK(got.result);
  EXPECT_EQ(got.text, Whole());
  EXPECT_EQ(got.result->tries, 4);
}

TEST(ResumeTest, NoWaitReachesPastTheDeadline) {
  Server server;
  server.breaker.script = {{2, kFull, 3600 * 1000}};
  const Got got = Ask(server.address(), Quick());
  EXPECT_THAT(got.result, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("full")));
}

TEST(RetryTest, WaitsDoubleUpToABoundAndAServersWordCounts) {
  const absl::Duration first = absl::Milliseconds(10);
  const CallEnd away{absl::UnavailableError("")};
  absl::Duration before = absl::ZeroDuration();
  for (int tries = 1; tries < 100; ++tries) {
    const std::optional<absl::Duration> most = RetryIn(away, tries, first, 0), least = RetryIn(away, tries, first, 1);
    ASSERT_TRUE(most && least);
    EXPECT_EQ(*most, std::min(20 * first, before == absl::ZeroDuration() ? first : 2 * before));
    EXPECT_EQ(*least, *most / 2);
    before = *most;
  }
  EXPECT_EQ(RetryIn({absl::ResourceExhaustedError(""), absl::Seconds(7)}, 1, first, 0.5), absl::Seconds(7));
}

}  // namespace
}  // namespace interlace
