#include "coordinator/front/inference_service.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>

#include "absl/strings/str_cat.h"
#include "coordinator/front/grpc_server.h"
#include "coordinator/front/tenants.h"
#include "tests/front/test_certificate.h"
#include "tests/front/text_model.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

struct GrpcRig : IntakeRig {
  GrpcRig() {
    absl::StatusOr<std::unique_ptr<GrpcServer>> listening =
        GrpcServer::Listen({.host = "127.0.0.1", .setting = "server.grpc_port=N", .max_message = 1 << 20}, &service);
    CHECK(listening.ok());
    server = *std::move(listening);
    channel = grpc::CreateChannel(absl::StrCat("127.0.0.1:", server->port()), grpc::InsecureChannelCredentials());
    stub = v1::Inference::NewStub(channel);
  }
  void Say(const Request& request, absl::string_view text) {
    for (int32_t token : TestText().tokenizer->Encode(text, false)) request.sink->OnTokens({token});
  }
  // Sends bytes as the one message of a call.
  grpc::Status Ask(const std::string& method, const std::string& message, grpc::ByteBuffer* reply) {
    const grpc::Slice slice(message);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    grpc::GenericStub generic(channel);
    auto call = generic.PrepareUnaryCall(&context, method, request, &queue);
    call->StartCall();
    grpc::Status status;
    call->Finish(reply, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status;
  }
  // What a health check of `name` answers: 1 serving, 2 not; -1: unknown.
  int Health(const std::string& name) {
    std::string question;
    if (!name.empty()) question = absl::StrCat("\x0a", std::string(1, static_cast<char>(name.size())), name);
    grpc::ByteBuffer reply;
    if (!Ask("/grpc.health.v1.Health/Check", question, &reply).ok()) return -1;
    std::vector<grpc::Slice> slices;
    reply.Dump(&slices);
    return slices.empty() || slices[0].size() < 2 ? 0 : slices[0].begin()[1];
  }

  InferenceService service{intake};
  std::unique_ptr<GrpcServer> server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Inference::Stub> stub;
};

TEST(InferenceServiceTest, StreamsTokensAndTheEnd) {
  GrpcRig rig;
  grpc::ClientContext context;
  v1::GenerateRequest ask;
  ask.set_request_id("mine");
  ask.set_text("a");
  ask.mutable_sampling()->set_temperature(0);
  ask.mutable_sampling()->set_max_tokens(5);
  auto reader = rig.stub->Generate(&context, ask);
  const Request request = rig.engine.Await(0);
  EXPECT_EQ(request.name, "mine");
  EXPECT_EQ(request.max_tokens, 5);
  EXPECT_EQ(request.sampling.temperature, 0);
  rig.Say(request, "Hello 漢字 🙂");
  request.sink->OnEnd(EndOf(request, 9, FinishReason::kLength));
  std::string text;
  std::vector<int32_t> ids;
  v1::GenerateEvent event;
  bool finished = false;
  while (reader->Read(&event)) {
    EXPECT_EQ(event.request_id(), "mine");
    EXPECT_FALSE(finished);
    text += event.tokens().text();
    ids.insert(ids.end(), event.tokens().ids().begin(), event.tokens().ids().end());
    finished |= event.has_finished();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, "Hello 漢字 🙂");
  EXPECT_EQ(ids, TestText().tokenizer->Encode("Hello 漢字 🙂", false));
  ASSERT_TRUE(event.has_finished());
  EXPECT_EQ(event.finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(event.finished().completion_tokens(), 9);
  EXPECT_GT(event.finished().total_seconds(), 0);
}

TEST(InferenceServiceTest, ChatAndStopStrings) {
  GrpcRig rig;
  grpc::ClientContext context;
  v1::ChatRequest ask;
  v1::ChatMessage* message = ask.add_messages();
  message->set_role("user");
  message->set_content("hi");
  ask.mutable_sampling()->add_stop("END");
  auto reader = rig.stub->Chat(&context, ask);
  const Request request = rig.engine.Await(0);
  EXPECT_EQ(request.prompt,
            *TestText().chat_template->Encode(std::vector<ChatMessage>{{"user", "hi"}}, *TestText().tokenizer));
  rig.Say(request, "one END two");
  std::string text;
  v1::GenerateEvent event;
  while (reader->Read(&event)) text += event.tokens().text();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, "one ");
  EXPECT_EQ(event.finished().reason(), v1::FINISH_REASON_STOP);
  EXPECT_TRUE(rig.engine.AwaitStop(request.id));
}

TEST(InferenceServiceTest, ACancelledCallCancelsItsRequest) {
  GrpcRig rig;
  for (size_t round = 0; round < 4; ++round) {
    grpc::ClientContext context;
    v1::GenerateRequest ask;
    ask.mutable_tokens()->add_ids(5);
    auto reader = rig.stub->Generate(&context, ask);
    const Request request = rig.engine.Await(round);
    v1::GenerateEvent event;
    if (round % 2) {
      rig.Say(request, "x");
      EXPECT_TRUE(reader->Read(&event));
    }
    context.TryCancel();
    EXPECT_TRUE(rig.engine.AwaitCancel(request.id));
    EXPECT_EQ(reader->Finish().error_code(), grpc::CANCELLED);
  }
}

TEST(InferenceServiceTest, TheCallsDeadlineIsTheRequests) {
  GrpcRig rig;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::hours(3));
  v1::GenerateRequest ask;
  ask.set_text("a");
  auto reader = rig.stub->Generate(&context, ask);
  const Request request = rig.engine.Await(0);
  EXPECT_GT(request.deadline - request.arrival, absl::Hours(2));
  EXPECT_LT(request.deadline - request.arrival, absl::Hours(3) + absl::Minutes(3));  // the wire rounds timeouts up
  context.TryCancel();
  EXPECT_TRUE(rig.engine.AwaitCancel(request.id));

  grpc::ClientContext brief;
  brief.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  auto late = rig.stub->Generate(&brief, ask);
  const Request expired = rig.engine.Await(1);
  EXPECT_EQ(late->Finish().error_code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_TRUE(rig.engine.AwaitCancel(expired.id));
}

TEST(InferenceServiceTest, TargetsComeWithGenerateAndChat) {
  GrpcRig rig;
  v1::Targets targets;
  targets.set_ttft_ms(250);
  targets.set_tpot_ms(12.5);
  targets.set_largest_gap_ms(1000);
  targets.set_priority(-3);
  targets.set_fairness_id("acme");
  targets.set_deadline_ms(5000);
  const Targets expected = {.ttft = absl::Milliseconds(250),
                            .tpot = absl::Microseconds(12500),
                            .largest_gap = absl::Seconds(1),
                            .priority = -3,
                            .tenant = "acme"};
  const auto check = [&](auto reader, size_t index) {
    const Request request = rig.engine.Await(index);
    EXPECT_EQ(request.targets, expected);
    EXPECT_EQ(request.deadline - request.arrival, absl::Seconds(5));
    request.sink->OnEnd(EndOf(request, 0));
    v1::GenerateEvent event;
    while (reader->Read(&event)) {
    }
    EXPECT_TRUE(event.has_finished() && reader->Finish().ok());
  };
  grpc::ClientContext generating, chatting, failing;
  v1::GenerateRequest generate;
  generate.set_text("a");
  *generate.mutable_targets() = targets;
  check(rig.stub->Generate(&generating, generate), 0);
  v1::ChatRequest chat;
  chat.add_messages()->set_role("user");
  chat.mutable_messages(0)->set_content("hi");
  *chat.mutable_targets() = targets;
  check(rig.stub->Chat(&chatting, chat), 1);
  generate.mutable_targets()->set_tpot_ms(-1);
  const grpc::Status refused = rig.stub->Generate(&failing, generate)->Finish();
  EXPECT_EQ(refused.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(refused.error_message(), HasSubstr("tpot_ms: -1"));
}

TEST(InferenceServiceTest, RefusalsKeepTheirCode) {
  GrpcRig rig;
  const auto ask = [&](absl::string_view model) {
    grpc::ClientContext context;
    v1::GenerateRequest request;
    request.set_text("a");
    request.set_model(std::string(model));
    v1::GenerateEvent event;
    auto reader = rig.stub->Generate(&context, request);
    EXPECT_FALSE(reader->Read(&event));
    return reader->Finish();
  };
  EXPECT_EQ(ask("other").error_code(), grpc::NOT_FOUND);
  rig.engine.Refuse(absl::UnavailableError("draining"));
  EXPECT_EQ(ask("").error_code(), grpc::UNAVAILABLE);
  rig.engine.Refuse(absl::ResourceExhaustedError("256 requests are waiting"));
  EXPECT_EQ(ask("").error_code(), grpc::RESOURCE_EXHAUSTED);
  rig.engine.Refuse(absl::FailedPreconditionError("the request can never run"));
  EXPECT_EQ(ask("").error_code(), grpc::INVALID_ARGUMENT);
  grpc::ClientContext context;
  auto reader = rig.stub->Generate(&context, v1::GenerateRequest());
  EXPECT_EQ(reader->Finish().error_code(), grpc::INVALID_ARGUMENT);
}

// Every numeric field, and ids that no vocabulary has.
TEST(InferenceServiceTest, BadNumbersAreRefusedByName) {
  GrpcRig rig;
  struct Case {
    const char* field;
    std::function<void(v1::GenerateRequest&)> spoil;
  };
  const float nan = std::nanf(""), inf = HUGE_VALF;
  std::vector<Case> cases;
  for (const float bad : {nan, inf, -inf, 1e38f, -5.0f}) {
    cases.push_back({"temperature", [bad](auto& r) { r.mutable_sampling()->set_temperature(bad); }});
    cases.push_back({"top_p", [bad](auto& r) { r.mutable_sampling()->set_top_p(bad); }});
    cases.push_back({"min_p", [bad](auto& r) { r.mutable_sampling()->set_min_p(bad); }});
    cases.push_back({"typical_p", [bad](auto& r) { r.mutable_sampling()->set_typical_p(bad); }});
    cases.push_back({"repetition_penalty", [bad](auto& r) { r.mutable_sampling()->set_repetition_penalty(bad); }});
    cases.push_back({"presence_penalty", [bad](auto& r) { r.mutable_sampling()->set_presence_penalty(bad); }});
    cases.push_back({"frequency_penalty", [bad](auto& r) { r.mutable_sampling()->set_frequency_penalty(bad); }});
    if (bad != -5.0f)
      cases.push_back({"logit_bias", [bad](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[5] = bad; }});
  }
  for (const int32_t bad : {INT32_MIN, -2, INT32_MAX}) {
    cases.push_back({"max_tokens", [bad](auto& r) { r.mutable_sampling()->set_max_tokens(bad); }});
    cases.push_back({"prompt", [bad](auto& r) { r.mutable_tokens()->add_ids(bad); }});
    cases.push_back({"stop_token_ids", [bad](auto& r) { r.mutable_sampling()->add_stop_token_ids(bad); }});
    cases.push_back({"logit_bias", [bad](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[bad] = 1; }});
    cases.push_back({"prompt_logprobs", [bad](auto& r) { r.mutable_sampling()->set_prompt_logprobs(bad); }});
    cases.push_back({"top_logprobs", [bad](auto& r) { r.mutable_sampling()->set_logprobs(bad); }});
    if (bad > 0) continue;
    cases.push_back({"top_k", [bad](auto& r) { r.mutable_sampling()->set_top_k(bad); }});
    cases.push_back({"min_tokens", [bad](auto& r) { r.mutable_sampling()->set_min_tokens(bad); }});
  }
  for (const Case& c : cases) {
    grpc::ClientContext context;
    v1::GenerateRequest ask;
    ask.mutable_tokens()->add_ids(5);
    c.spoil(ask);
    auto reader = rig.stub->Generate(&context, ask);
    v1::GenerateEvent event;
    EXPECT_FALSE(reader->Read(&event)) << c.field;
    const grpc::Status status = reader->Finish();
    EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT) << c.field << " " << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(c.field));
  }
  EXPECT_EQ(rig.engine.submitted(), 0u);
}

TEST(InferenceServiceTest, IdsBeyondTheTokenizerAreEmptyPiecesAndCachedTokensAreTold) {
  GrpcRig rig;
  grpc::ClientContext context;
  v1::GenerateRequest ask;
  ask.set_text("a");
  ask.mutable_sampling()->set_logprobs(1);
  auto reader = rig.stub->Generate(&context, ask);
  const Request request = rig.engine.Await(0);
  const int32_t beyond = TestText().tokenizer->vocab_size();
  request.sink->OnScoredToken(beyond, {{beyond, -1}, {INT32_MAX, -2}});
  RequestEnd end = EndOf(request, 1);
  end.cached_tokens = 7;
  request.sink->OnEnd(end);
  v1::GenerateEvent event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.tokens().ids(0), beyond);
  EXPECT_EQ(event.tokens().text(), "");
  EXPECT_EQ(event.tokens().logprobs(0).top(0).id(), INT32_MAX);
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.finished().cached_tokens(), 7);
  EXPECT_TRUE(reader->Finish().ok());
}

TEST(InferenceServiceTest, ScoresOfThePromptComeInPartsBeforeTheEnd) {
  GrpcRig rig;
  grpc::ClientContext context;
  v1::GenerateRequest ask;
  for (const int32_t id : {5, 6, 7, 8}) ask.mutable_tokens()->add_ids(id);
  ask.mutable_sampling()->set_prompt_logprobs(1);
  ask.mutable_sampling()->set_max_tokens(0);
  auto reader = rig.stub->Generate(&context, ask);
  const Request request = rig.engine.Await(0);
  EXPECT_EQ(request.prompt_logprobs, 1);
  EXPECT_EQ(request.max_tokens, 0);
  request.sink->OnPromptScores({request.id, 1, 1, 1, {3, 1}, {{6, -2}, {9, -1}, {7, -0.5}, {7, -0.5}}});
  request.sink->OnPromptScores({request.id, 1, 3, 1, {2}, {{8, -4}, {-1, 0}}});
  request.sink->OnEnd(EndOf(request, 0, FinishReason::kLength));
  v1::GenerateEvent event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.prompt_logprobs().first(), 1);
  ASSERT_EQ(event.prompt_logprobs().logprobs_size(), 2);
  const v1::TokenLogprobs& six = event.prompt_logprobs().logprobs(0);
  EXPECT_EQ(six.chosen().id(), 6);
  EXPECT_EQ(six.chosen().rank(), 3);
  EXPECT_EQ(six.chosen().logprob(), -2);
  EXPECT_EQ(six.chosen().text(), TestText().tokenizer->Piece(6, true));
  EXPECT_EQ(six.top(0).id(), 9);
  EXPECT_EQ(six.top(0).rank(), 1);
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.prompt_logprobs().first(), 3);
  EXPECT_EQ(event.prompt_logprobs().logprobs(0).top_size(), 0);  // there is no more that is finite
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_TRUE(reader->Finish().ok());
}

TEST(InferenceServiceTest, AReaderThatDoesNotReadIsClosed) {
  GrpcRig rig;
  grpc::ClientContext context;
  v1::GenerateRequest ask;
  ask.set_text("a");
  auto reader = rig.stub->Generate(&context, ask);
  const Request request = rig.engine.Await(0);
  const int32_t token = TestText().tokenizer->Encode(" word", false).at(0);
  int64_t sent = 0;
  while (!rig.engine.cancelled(request.id)) {
    ASSERT_LT(sent, 2'000'000) << "the backlog is not bounded";
    for (int i = 0; i < 100; ++i) request.sink->OnTokens({token});
    sent += 100;
  }
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::RESOURCE_EXHAUSTED);
}

TEST(InferenceServiceTest, TellsOfTheModelTokensAndRequests) {
  GrpcRig rig;
  {
    grpc::ClientContext context;
    v1::Model model;
    ASSERT_TRUE(rig.stub->GetModel(&context, v1::GetModelRequest(), &model).ok());
    EXPECT_EQ(model.id(), "tiny");
    EXPECT_EQ(model.context(), kTestContext);
    EXPECT_EQ(model.vocab(), TestText().tokenizer->vocab_size());
  }
  {
    grpc::ClientContext context;
    v1::TokenizeRequest ask;
    ask.set_text("<|im_end|>");
    ask.set_special(true);
    v1::TokenizeReply reply;
    ASSERT_TRUE(rig.stub->Tokenize(&context, ask, &reply).ok());
    EXPECT_EQ(reply.ids_size(), 1);
  }
  Explanation explanation;
  explanation.name = "abc";
  explanation.layers.resize(3);
  explanation.targets = {.ttft = absl::Milliseconds(250), .priority = -2, .tenant = "acme", .objective = "premium"};
  explanation.end.met = {.ttft = false, .deadline = true};
  explanation.end.timing.largest_gap = absl::Milliseconds(500);
  explanation.spent[Spending::kParked] = absl::Milliseconds(250);
  explanation.Add({.kind = DecisionKind::kNoRoom, .at = absl::Milliseconds(500), .figures = {33, 12}});
  explanation.layers[2].found_host = 4;
  rig.engine.SetExplanation(explanation);
  for (const char* name : {"abc", "cmpl-abc", "none"}) {
    grpc::ClientContext context;
    v1::ExplainRequest ask;
    ask.set_request_id(name);
    v1::ExplainReply reply;
    const grpc::Status status = rig.stub->Explain(&context, ask, &reply);
    EXPECT_EQ(status.error_code(), name == std::string("none") ? grpc::NOT_FOUND : grpc::OK) << name;
    EXPECT_EQ(reply.by_layer_size(), status.ok() ? 3 : 0);
    if (!status.ok()) continue;
    EXPECT_EQ(reply.targets().ttft_ms(), 250);
    EXPECT_FALSE(reply.targets().has_tpot_ms() || reply.targets().has_deadline_ms());
    EXPECT_EQ(reply.targets().priority(), -2);
    EXPECT_EQ(reply.targets().fairness_id(), "acme");
    EXPECT_EQ(reply.objective(), "premium");
    EXPECT_TRUE(reply.met().has_ttft() && !reply.met().ttft() && reply.met().deadline());
    EXPECT_FALSE(reply.met().has_tpot());
    EXPECT_EQ(reply.largest_gap_seconds(), 0.5);
    EXPECT_EQ(reply.spent().parked_seconds(), 0.25);
    ASSERT_EQ(reply.decisions_size(), 1);
    EXPECT_EQ(reply.decisions(0).kind(), "no_room");
    EXPECT_EQ(reply.decisions(0).text(), "waits for room: 33 blocks wanted, 12 free");
    EXPECT_EQ(reply.decisions(0).at_seconds(), 0.5);
    EXPECT_EQ(reply.by_layer(2).found_host(), 4);
    EXPECT_EQ(reply.step_budget(), -1);
  }
}

TEST(InferenceServiceTest, WhoIsShedIsToldWhyAndWhenToComeBack) {
  GrpcRig rig;
  grpc::ClientContext context;
  v1::GenerateRequest ask;
  ask.set_text("a");
  auto reader = rig.stub->Generate(&context, ask);
  const Request request = rig.engine.Await(0);
  RequestEnd end = EndOf(request, 0, FinishReason::kStop, absl::ResourceExhaustedError("its first token .."));
  end.shed = Shed{"predicted_ttft_miss", absl::Milliseconds(1234)};
  request.sink->OnEnd(end);
  v1::GenerateEvent event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(reader->Finish().error_code(), grpc::RESOURCE_EXHAUSTED);
  const auto& details = context.GetServerTrailingMetadata();
  const auto detail = [&](const char* name) {
    const auto it = details.find(name);
    return it == details.end() ? std::string("absent") : std::string(it->second.data(), it->second.size());
  };
  EXPECT_EQ(detail("x-interlace-shed-reason"), "predicted_ttft_miss");
  EXPECT_EQ(detail("retry-after-ms"), "1234");
  EXPECT_EQ(detail("x-should-retry"), "absent");
}

// Groups and messages that stand inside each other, in fields that are known and in fields that are not.
TEST(InferenceServiceTest, DeepMessagesAreRefused) {
  GrpcRig rig;
  for (const char* method : {"Generate", "Chat", "Tokenize", "Explain"}) {
    for (const char byte : {'\x7b', '\x1b', '\x23'}) {  // the beginnings of groups
      grpc::ByteBuffer reply;
      EXPECT_FALSE(rig.Ask(absl::StrCat("/interlace.v1.Inference/", method), std::string(900000, byte), &reply).ok());
    }
  }
  EXPECT_EQ(rig.engine.submitted(), 0u);
  EXPECT_EQ(rig.Health(""), 1);
}

TEST(InferenceServiceTest, LargeMessagesAreRefused) {
  GrpcRig rig;
  grpc::ClientContext context;
  v1::GenerateRequest ask;
  ask.set_text(std::string(2 << 20, 'a'));
  auto reader = rig.stub->Generate(&context, ask);
  EXPECT_EQ(reader->Finish().error_code(), grpc::RESOURCE_EXHAUSTED);
}

TEST(InferenceServiceTest, HealthIsAnsweredByName) {
  GrpcRig rig;
  EXPECT_EQ(rig.Health(""), 1);
  EXPECT_EQ(rig.Health("interlace.v1.Inference"), -1);
  rig.server->SetServing("interlace.v1.Inference", true);
  EXPECT_EQ(rig.Health("interlace.v1.Inference"), 1);
  rig.server->SetServing("interlace.v1.Inference", false);
  EXPECT_EQ(rig.Health("interlace.v1.Inference"), 2);
}

TEST(InferenceServiceTest, ATakenPortIsNamed) {
  GrpcRig rig;
  InferenceService other(rig.intake);
  EXPECT_THAT(
      GrpcServer::Listen({.host = "127.0.0.1", .port = rig.server->port(), .setting = "server.grpc_port=N"}, &other),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("server.grpc_port")));
}

TEST(InferenceServiceTest, StreamsWhoseRequestsAreCutGetWhatTheyHaveAndAStatus) {
  GrpcRig rig;
  grpc::ClientContext contexts[2];
  v1::GenerateRequest ask;
  ask.set_text("a");
  auto begun = rig.stub->Generate(&contexts[0], ask);
  const Request request = rig.engine.Await(0);
  rig.Say(request, "half");
  v1::GenerateEvent event;
  ASSERT_TRUE(begun->Read(&event));
  EXPECT_EQ(event.tokens().text(), "half");
  auto silent = rig.stub->Generate(&contexts[1], ask);
  rig.engine.Await(1);
  for (size_t i = 0; i < 2; ++i) {
    const Request cut = rig.engine.Await(i);
    cut.sink->OnEnd(EndOf(cut, 0, FinishReason::kStop, absl::UnavailableError("the server stops")));
  }
  for (auto* reader : {begun.get(), silent.get()}) {
    EXPECT_FALSE(reader->Read(&event));
    const grpc::Status status = reader->Finish();
    EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
    EXPECT_EQ(status.error_message(), "the server stops");
  }
}

TEST(InferenceServiceTest, ShutdownCancelsWhatItsPatienceDoesNotCover) {
  GrpcRig rig;
  grpc::ClientContext context;
  v1::GenerateRequest ask;
  ask.set_text("a");
  auto reader = rig.stub->Generate(&context, ask);
  const Request request = rig.engine.Await(0);
  rig.server->Shutdown(absl::Milliseconds(10));
  EXPECT_TRUE(rig.engine.AwaitCancel(request.id));
  EXPECT_FALSE(reader->Finish().ok());
}

// ---- keys

struct KeyedGrpcRig : GrpcRig {
  KeyedGrpcRig() {
    const std::string path = absl::StrCat(testing::TempDir(), "/grpc-keys.json");
    std::ofstream(path) << R"({"tenants":[{"name":"acme","keys":["sk-acme"],"concurrent":1},
                                         {"name":"beta","keys":["sk-beta"]}]})";
    tenants.emplace(Tenants::Options{.file = path}, clock, metrics);
    CHECK(tenants->Read().ok());
    absl::StatusOr<std::unique_ptr<GrpcServer>> listening =
        GrpcServer::Listen({.host = "127.0.0.1", .setting = "server.grpc_port=N", .max_message = 1 << 20},
                           &keyed.emplace(intake, &*tenants));
    CHECK(listening.ok());
    keyed_server = *std::move(listening);
    stub = v1::Inference::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", keyed_server->port()), grpc::InsecureChannelCredentials()));
  }
  ~KeyedGrpcRig() { keyed_server->Shutdown(absl::ZeroDuration()); }
  // The status of a call with this metadata, of each method.
  std::vector<grpc::StatusCode> Codes(const char* name, const std::string& value) {
    std::vector<grpc::StatusCode> codes;
    const auto with = [&](grpc::ClientContext& context) -> grpc::ClientContext* {
      if (name != nullptr) context.AddMetadata(name, value);
      return &context;
    };
    grpc::ClientContext contexts[5];
    v1::Model model;
    v1::TokenizeReply tokens;
    v1::ExplainReply explained;
    codes.push_back(stub->GetModel(with(contexts[0]), {}, &model).error_code());
    codes.push_back(stub->Tokenize(with(contexts[1]), {}, &tokens).error_code());
    codes.push_back(stub->Explain(with(contexts[2]), {}, &explained).error_code());
    codes.push_back(stub->Generate(with(contexts[3]), {})->Finish().error_code());
    codes.push_back(stub->Chat(with(contexts[4]), {})->Finish().error_code());
    return codes;
  }
  Metrics metrics{"m"};
  std::optional<Tenants> tenants;
  std::optional<InferenceService> keyed;
  std::unique_ptr<GrpcServer> keyed_server;
};

TEST(GrpcKeysTest, EachMethodNeedsOne) {
  KeyedGrpcRig rig;
  const std::vector<grpc::StatusCode> refused(5, grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(rig.Codes(nullptr, ""), refused);
  EXPECT_EQ(rig.Codes("authorization", "Bearer sk-no"), refused);
  EXPECT_EQ(rig.Codes("x-api-key", "sk-no"), refused);
  for (const auto& [name, value] :
       {std::pair<const char*, const char*>{"authorization", "Bearer sk-acme"}, {"x-api-key", "sk-acme"}}) {
    for (const grpc::StatusCode code : rig.Codes(name, value))
      EXPECT_NE(code, grpc::StatusCode::UNAUTHENTICATED) << name;
  }
}

TEST(GrpcKeysTest, TenantAndLimitsAreThoseOfTheKey) {
  KeyedGrpcRig rig;
  v1::GenerateRequest ask;
  ask.set_text("a");
  grpc::ClientContext first, second, third;
  for (grpc::ClientContext* context : {&first, &second}) context->AddMetadata("authorization", "Bearer sk-acme");
  third.AddMetadata("authorization", "Bearer sk-beta");
  auto running = rig.stub->Generate(&first, ask);
  const Request request = rig.engine.Await(0);
  EXPECT_EQ(request.targets.tenant, "acme");
  const grpc::Status refused = rig.stub->Generate(&second, ask)->Finish();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(second.GetServerTrailingMetadata().count("retry-after-ms"), 1u);
  ask.mutable_targets()->set_fairness_id("acme");
  EXPECT_EQ(rig.stub->Generate(&third, ask)->Finish().error_code(), grpc::StatusCode::PERMISSION_DENIED);
  request.sink->OnEnd(EndOf(request, 0));
  v1::GenerateEvent event;
  while (running->Read(&event)) {
  }
  EXPECT_TRUE(running->Finish().ok());
}

// ---- TLS

TEST(GrpcTlsTest, SpeaksTlsWhereItHasACertificate) {
  TestAuthority authority(absl::StrCat(testing::TempDir(), "/grpc-tls"));
  const TestCertificate server = authority.Sign("server"), client = authority.Sign("client");
  const auto read = [](const std::string& path) {
    std::ifstream file(path);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  for (const bool mutual : {false, true}) {
    IntakeRig intake;
    InferenceService service(intake.intake);
    const auto listening = GrpcServer::Listen({.host = "127.0.0.1",
                                               .setting = "server.grpc_port=N",
                                               .max_message = 1 << 20,
                                               .tls = {server.certificate, server.key, mutual ? authority.file() : ""}},
                                              &service);
    ASSERT_OK(listening);
    const auto ask = [&](std::shared_ptr<grpc::ChannelCredentials> credentials) {
      const auto stub =
          v1::Inference::NewStub(grpc::CreateChannel(absl::StrCat("localhost:", (*listening)->port()), credentials));
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
      v1::Model model;
      return stub->GetModel(&context, {}, &model).error_code();
    };
    const std::string ca = read(authority.file());
    EXPECT_EQ(ask(grpc::InsecureChannelCredentials()), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(ask(grpc::SslCredentials({ca, "", ""})), mutual ? grpc::StatusCode::UNAVAILABLE : grpc::StatusCode::OK);
    EXPECT_EQ(ask(grpc::SslCredentials({ca, read(client.key), read(client.certificate)})), grpc::StatusCode::OK);
    (*listening)->Shutdown(absl::ZeroDuration());
  }
}

}  // namespace
}  // namespace interlace
