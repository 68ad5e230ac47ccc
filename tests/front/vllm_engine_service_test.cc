// VllmEngine as a gateway speaks it, with a scripted engine behind it.
#include "coordinator/front/vllm_engine_service.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/front/grpc_server.h"
#include "tests/front/text_model.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

namespace wire = vllm::grpc::engine;
using ::testing::HasSubstr;

struct VllmRig : IntakeRig {
  explicit VllmRig(VllmEngineService::Options options = {.model_path = "/models/tiny",
                                                         .block_tokens = 32,
                                                         .max_running = 64,
                                                         .kv_dtype = "bf16"})
      : service(std::move(options), intake) {
    absl::StatusOr<std::unique_ptr<GrpcServer>> listening =
        GrpcServer::Listen({.host = "127.0.0.1", .setting = "server.grpc_port=N", .max_message = 1 << 20}, &service);
    CHECK(listening.ok());
    server = *std::move(listening);
    stub = wire::VllmEngine::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", server->port()), grpc::InsecureChannelCredentials()));
  }
  void Say(const Request& request, absl::string_view text) {
    for (int32_t token : TestText().tokenizer->Encode(text, false)) request.sink->OnTokens({token});
  }
  VllmEngineService service;
  std::unique_ptr<GrpcServer> server;
  std::unique_ptr<wire::VllmEngine::Stub> stub;
};

// One call: its ids by output, what it completed, and how it ended.
struct Heard {
  std::map<uint32_t, std::vector<uint32_t>> ids;
  std::map<uint32_t, wire::GenerateComplete> complete;
  int chunks = 0;
  grpc::Status end;
  explicit Heard(grpc::ClientReader<wire::GenerateResponse>* reader) {
    wire::GenerateResponse message;
    while (reader->Read(&message)) {
      const bool whole = message.has_complete();
      const uint32_t index = whole ? message.complete().index() : message.chunk().index();
      EXPECT_EQ(complete.count(index), 0u) << "something behind the last of an output";
      const auto& more = whole ? message.complete().output_ids() : message.chunk().token_ids();
      ids[index].insert(ids[index].end(), more.begin(), more.end());
      if (whole) complete[index] = message.complete();
      chunks += whole ? 0 : 1;
    }
    end = reader->Finish();
  }
};

std::vector<uint32_t> IdsOf(absl::string_view text) {
  const std::vector<int32_t> ids = TestText().tokenizer->Encode(text, false);
  return {ids.begin(), ids.end()};
}

TEST(VllmEngine, DeltasAddUpToTheAnswerWithAndWithoutAStream) {
  VllmRig rig;
  for (const bool stream : {true, false}) {
    wire::GenerateRequest ask;
    ask.set_request_id(stream ? "mine" : "mine-too");  // the first name is held until its call is over
    ask.mutable_tokenized()->add_input_ids(5);
    ask.mutable_tokenized()->add_input_ids(6);
    ask.mutable_sampling_params()->set_temperature(0);
    ask.mutable_sampling_params()->set_max_tokens(9);
    ask.set_stream(stream);
    grpc::ClientContext context;
    const auto reader = rig.stub->Generate(&context, ask);
    const Request request = rig.engine.Await(stream ? 0 : 1);
    EXPECT_EQ(request.prompt, (std::vector<int32_t>{5, 6}));
    EXPECT_EQ(request.max_tokens, 9);
    EXPECT_EQ(request.sampling.temperature, 0);
    rig.Say(request, "Hello 漢字 🙂");
    RequestEnd end = EndOf(request, 9, FinishReason::kLength);
    end.cached_tokens = 1;
    request.sink->OnEnd(end);
    const Heard heard(reader.get());
    EXPECT_TRUE(heard.end.ok());
    EXPECT_EQ(heard.ids.at(0), IdsOf("Hello 漢字 🙂"));
    EXPECT_EQ(heard.chunks > 0, stream);
    const wire::GenerateComplete& complete = heard.complete.at(0);
    EXPECT_EQ(complete.finish_reason(), "length");
    EXPECT_EQ(complete.prompt_tokens(), 2u);
    EXPECT_EQ(complete.completion_tokens(), 9u);
    EXPECT_EQ(complete.cached_tokens(), 1u);
  }
}

TEST(VllmEngine, SeveralOutputsATextAndAStopString) {
  VllmRig rig;
  wire::GenerateRequest ask;
  ask.set_text("<|im_start|>user");
  ask.mutable_sampling_params()->set_n(3);
  ask.mutable_sampling_params()->set_seed(7);
  ask.mutable_sampling_params()->add_stop("END");
  ask.set_stream(true);
  grpc::ClientContext context;
  const auto reader = rig.stub->Generate(&context, ask);
  for (size_t i = 0; i < 3; ++i) {
    const Request request = rig.engine.Await(i);
    EXPECT_EQ(request.prompt, TestText().tokenizer->EncodePrompt("<|im_start|>user", true)) << "as transformers does";
    EXPECT_EQ(request.sampling.seed, 7 + i);
    rig.Say(request, absl::StrCat("number ", i, " END"));
  }
  const Heard heard(reader.get());
  EXPECT_TRUE(heard.end.ok());
  ASSERT_EQ(heard.complete.size(), 3u);
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(heard.complete.at(i).finish_reason(), "stop");
    EXPECT_EQ(heard.complete.at(i).matched_stop_str(), "END");
    const std::vector<int32_t> ids(heard.ids.at(i).begin(), heard.ids.at(i).end());
    // The token that holds the stop string begins with a space, which is shown.
    EXPECT_THAT(TestText().tokenizer->Decode(ids), ::testing::StartsWith(absl::StrCat("number ", i)));
  }
}

TEST(VllmEngine, LogprobsComeWithTheirTokens) {
  VllmRig rig;
  wire::GenerateRequest ask;
  ask.mutable_tokenized()->add_input_ids(5);
  ask.mutable_sampling_params()->set_logprobs(2);
  grpc::ClientContext context;
  const auto reader = rig.stub->Generate(&context, ask);
  const Request request = rig.engine.Await(0);
  for (int32_t token : {40, 41}) {
    request.sink->OnScoredToken(token, std::vector<TokenScore>{{token, -1.0f}, {7, -0.5f}, {token, -1.0f}});
  }
  request.sink->OnEnd(EndOf(request, 2, FinishReason::kLength));
  const Heard heard(reader.get());
  const wire::OutputLogProbs& logprobs = heard.complete.at(0).output_logprobs();
  EXPECT_EQ(heard.ids.at(0), (std::vector<uint32_t>{40, 41}));
  EXPECT_EQ(std::vector<uint32_t>(logprobs.token_ids().begin(), logprobs.token_ids().end()), heard.ids.at(0));
  ASSERT_EQ(logprobs.top_logprobs_size(), 2);
  EXPECT_EQ(logprobs.top_logprobs(1).token_ids(0), 7u);
  EXPECT_EQ(logprobs.top_logprobs(1).values(0), -0.5f);
  EXPECT_EQ(logprobs.token_logprobs(1), -1.0f);
}

TEST(VllmEngine, AbortEndsTheOutputsOfItsRequestAlone) {
  VllmRig rig;
  const auto ask = [](const std::string& name) {
    wire::GenerateRequest request;
    request.set_request_id(name);
    request.mutable_tokenized()->add_input_ids(5);
    request.set_stream(true);
    return request;
  };
  grpc::ClientContext first_context, second_context, abort_context;
  const auto first = rig.stub->Generate(&first_context, ask("first"));
  const Request aborted = rig.engine.Await(0);
  const auto second = rig.stub->Generate(&second_context, ask("second"));
  const Request kept = rig.engine.Await(1);
  wire::AbortRequest abort;
  abort.add_request_ids("first");
  abort.add_request_ids("nobody");
  wire::AbortResponse reply;
  EXPECT_TRUE(rig.stub->Abort(&abort_context, abort, &reply).ok());
  EXPECT_TRUE(rig.engine.AwaitCancel(aborted.id));
  const Heard heard(first.get());
  EXPECT_TRUE(heard.end.ok());
  EXPECT_EQ(heard.complete.at(0).finish_reason(), "abort");
  rig.Say(kept, "goes on");
  kept.sink->OnEnd(EndOf(kept, 2));
  EXPECT_EQ(Heard(second.get()).complete.at(0).finish_reason(), "stop");
}

TEST(VllmEngine, WhatIsNotBuiltInIsRefusedByName) {
  VllmRig rig;
  const std::vector<std::pair<std::string, std::function<void(wire::GenerateRequest*)>>> rows = {
      {"prompt", [](auto* r) { r->clear_input(); }},
      {"json_schema", [](auto* r) { r->mutable_sampling_params()->set_json_schema("{}"); }},
      {"choice", [](auto* r) { r->mutable_sampling_params()->mutable_choice()->add_choices("a"); }},
      {"prompt_logprobs", [](auto* r) { r->mutable_sampling_params()->set_prompt_logprobs(1); }},
      {"mm_inputs", [](auto* r) { r->mutable_mm_inputs(); }},
      {"media_refs", [](auto* r) { r->mutable_media_refs(); }},
      {"kv_transfer_params", [](auto* r) { r->set_kv_transfer_params_json("{}"); }},
      {"data_parallel_rank", [](auto* r) { r->set_data_parallel_rank(3); }},
      {"temperature", [](auto* r) { r->mutable_sampling_params()->set_temperature(-1); }},
      {"max_tokens", [](auto* r) { r->mutable_sampling_params()->set_max_tokens(0); }},
      {"n", [](auto* r) { r->mutable_sampling_params()->set_n(4000000000u); }},
      {"logprobs", [](auto* r) { r->mutable_sampling_params()->set_logprobs(-1); }},
      {"outside the vocabulary", [](auto* r) { r->mutable_tokenized()->add_input_ids(4000000000u); }},
      {"outside the vocabulary", [](auto* r) { r->mutable_tokenized()->add_input_ids(1u << 30); }},
      {"outside the vocabulary", [](auto* r) { r->mutable_sampling_params()->add_stop_token_ids(~0u); }}};
  for (const auto& [field, spoil] : rows) {
    wire::GenerateRequest ask;
    ask.mutable_tokenized()->add_input_ids(5);
    spoil(&ask);
    grpc::ClientContext context;
    const Heard heard(rig.stub->Generate(&context, ask).get());
    EXPECT_EQ(heard.end.error_code(), grpc::INVALID_ARGUMENT) << field;
    EXPECT_THAT(heard.end.error_message(), HasSubstr(field));
  }
  EXPECT_EQ(rig.engine.submitted(), 0u);
}

TEST(VllmEngine, ACancelledCallCancelsItsRequestAndACutOneEndsItsCall) {
  VllmRig rig;
  wire::GenerateRequest ask;
  ask.mutable_tokenized()->add_input_ids(5);
  grpc::ClientContext cancelled, stopped;
  const auto first = rig.stub->Generate(&cancelled, ask);
  const Request request = rig.engine.Await(0);
  cancelled.TryCancel();
  EXPECT_TRUE(rig.engine.AwaitCancel(request.id));
  EXPECT_EQ(Heard(first.get()).end.error_code(), grpc::CANCELLED);
  const auto second = rig.stub->Generate(&stopped, ask);
  const Request cut = rig.engine.Await(1);
  cut.sink->OnEnd(EndOf(cut, 0, FinishReason::kStop, absl::UnavailableError("the server stopped")));
  EXPECT_EQ(Heard(second.get()).end.error_code(), grpc::UNAVAILABLE);
}

TEST(VllmEngine, SaysWhatItServesAndHowBusyItIs) {
  VllmRig rig;
  rig.engine.SetLoad({.ranks_ready = 1, .ranks = 2, .running = 3, .waiting = 4, .blocks_held = 10, .blocks = 40});
  grpc::ClientContext contexts[5];
  wire::GetModelInfoResponse model;
  EXPECT_TRUE(rig.stub->GetModelInfo(&contexts[0], {}, &model).ok());
  EXPECT_TRUE(model.is_generation());
  EXPECT_EQ(model.served_model_name(), "tiny");
  EXPECT_EQ(model.model_path(), "/models/tiny");
  EXPECT_EQ(model.max_context_length(), static_cast<uint32_t>(kTestContext));
  EXPECT_EQ(model.vocab_size(), static_cast<uint32_t>(TestText().tokenizer->vocab_size()));
  EXPECT_FALSE(model.eos_token_ids().empty());
  wire::GetServerInfoResponse info;
  EXPECT_TRUE(rig.stub->GetServerInfo(&contexts[1], {}, &info).ok());
  EXPECT_EQ(info.active_requests(), 7u);
  EXPECT_EQ(info.server_type(), "vllm-grpc");
  EXPECT_EQ(info.data_parallel_size(), 1);
  EXPECT_EQ(info.max_num_seqs(), 64);
  wire::GetLoadsResponse loads;
  EXPECT_TRUE(rig.stub->GetLoads(&contexts[2], {}, &loads).ok());
  ASSERT_EQ(loads.loads_size(), 1);
  EXPECT_EQ(loads.loads(0).num_total_reqs(), 7);
  EXPECT_EQ(loads.loads(0).token_usage(), 0.25);
  EXPECT_EQ(loads.loads(0).max_total_num_tokens(), 40 * 32);
  wire::HealthCheckResponse health;
  EXPECT_TRUE(rig.stub->HealthCheck(&contexts[3], {}, &health).ok());
  EXPECT_FALSE(health.healthy());
  EXPECT_EQ(health.message(), "1 of 2 ranks are there");
  rig.engine.SetLoad({.ranks_ready = 2, .ranks = 2});
  EXPECT_TRUE(rig.stub->HealthCheck(&contexts[4], {}, &health).ok());
  EXPECT_TRUE(health.healthy());
}

TEST(VllmEngine, WhoIsNotAdmittedReachesNothing) {
  VllmRig rig({.admit = [](const grpc::CallbackServerContext&) { return absl::UnauthenticatedError("no key"); }});
  wire::GenerateRequest ask;
  ask.mutable_tokenized()->add_input_ids(5);
  grpc::ClientContext contexts[3];
  EXPECT_EQ(Heard(rig.stub->Generate(&contexts[0], ask).get()).end.error_code(), grpc::UNAUTHENTICATED);
  wire::GetModelInfoResponse model;
  EXPECT_EQ(rig.stub->GetModelInfo(&contexts[1], {}, &model).error_code(), grpc::UNAUTHENTICATED);
  wire::AbortResponse reply;
  EXPECT_EQ(rig.stub->Abort(&contexts[2], {}, &reply).error_code(), grpc::UNAUTHENTICATED);
  EXPECT_EQ(rig.engine.submitted(), 0u);
}

}  // namespace
}  // namespace interlace
