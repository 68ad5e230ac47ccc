#include "coordinator/front/inference_service.h"

#include "absl/time/clock.h"
#include "common/grpc_status.h"
#include "coordinator/front/event_writer.h"

namespace interlace {
namespace {

// The fields that Generate and Chat share.
GenerationSpec SpecOf(const std::string& name, const std::string& model, const v1::SamplingOptions& options,
                      const grpc::CallbackServerContext& context) {
  GenerationSpec spec;
  spec.name = name;
  spec.model = model;
  if (options.has_temperature()) spec.temperature = options.temperature();
  if (options.has_top_p()) spec.top_p = options.top_p();
  if (options.has_top_k()) spec.top_k = options.top_k();
  if (options.has_seed()) spec.seed = options.seed();
  if (options.has_max_tokens()) spec.max_tokens = options.max_tokens();
  spec.stop.assign(options.stop().begin(), options.stop().end());
  spec.stop_token_ids.assign(options.stop_token_ids().begin(), options.stop_token_ids().end());
  spec.ignore_eos = options.ignore_eos();
  const absl::Duration remaining = absl::FromChrono(context.deadline()) - absl::Now();
  if (remaining < absl::Hours(24 * 365)) spec.deadline = remaining;  // a call without a deadline has one far away
  return spec;
}

void Fill(const Explanation& e, v1::ExplainReply* reply) {
  reply->set_request_id(e.name);
  reply->set_state(e.state);
  reply->set_status(e.end.status.ToString());
  reply->set_prompt_tokens(e.end.prompt_tokens);
  reply->set_completion_tokens(e.end.completion_tokens);
  reply->set_keep_layers(e.keep_layers);
  reply->set_layers(static_cast<int32_t>(e.layers.size()));
  reply->set_steps(e.steps);
  reply->set_recomputes(e.recomputes);
  reply->set_recomputed_tokens(e.recomputed_tokens);
  reply->set_preemptions(e.preemptions);
  reply->set_queue_seconds(absl::ToDoubleSeconds(e.end.timing.queue));
  reply->set_first_token_seconds(absl::ToDoubleSeconds(e.end.timing.first_token));
  reply->set_total_seconds(absl::ToDoubleSeconds(e.end.timing.total));
  for (const std::string& tier : e.tiers) reply->add_tiers(tier);
  for (const std::string& note : e.notes) reply->add_notes(note);
  for (size_t l = 0; l < e.layers.size(); ++l) {
    const LayerExplanation& layer = e.layers[l];
    v1::LayerExplanation* out = reply->add_by_layer();
    out->set_layer(static_cast<int32_t>(l));
    out->set_stage(layer.stage);
    out->set_mode(layer.kept ? "keep" : "stream");
    out->set_blocks_device(layer.blocks_device);
    out->mutable_blocks_tier()->Assign(layer.blocks_tier.begin(), layer.blocks_tier.end());
    out->set_bytes_in(layer.bytes_in);
    out->set_bytes_out(layer.bytes_out);
    out->set_stall_us(layer.stall_us);
  }
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateEvent>* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                                        const v1::GenerateRequest* request) {
  GenerationSpec spec = SpecOf(request->request_id(), request->model(), request->sampling(), *context);
  if (request->has_tokens()) {
    const auto& ids = request->tokens().ids();
    spec.prompts.emplace_back(std::vector<int32_t>(ids.begin(), ids.end()));
  } else if (request->has_text()) {
    spec.prompts.emplace_back(request->text());
  }
  return EventWriter::Open(std::move(spec), intake_, slow_, streams_);
}

grpc::ServerWriteReactor<v1::GenerateEvent>* InferenceService::Chat(grpc::CallbackServerContext* context,
                                                                    const v1::ChatRequest* request) {
  GenerationSpec spec = SpecOf(request->request_id(), request->model(), request->sampling(), *context);
  std::vector<ChatMessage> messages;
  for (const v1::ChatMessage& message : request->messages()) messages.push_back({message.role(), message.content()});
  spec.prompts.emplace_back(std::move(messages));
  return EventWriter::Open(std::move(spec), intake_, slow_, streams_);
}

grpc::ServerUnaryReactor* InferenceService::GetModel(grpc::CallbackServerContext* context, const v1::GetModelRequest*,
                                                     v1::Model* reply) {
  reply->set_id(intake_.options().model);
  reply->set_context(intake_.options().context);
  reply->set_vocab(intake_.tokenizer().vocab_size());
  reply->set_layers(intake_.options().layers);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

// Request and reply live until Finish.
grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request, v1::TokenizeReply* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  slow_.Post([this, reactor, request, reply] {
    const std::vector<int32_t> ids = intake_.tokenizer().Encode(request->text(), request->special());
    reply->mutable_ids()->Assign(ids.begin(), ids.end());
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Explain(grpc::CallbackServerContext* context,
                                                    const v1::ExplainRequest* request, v1::ExplainReply* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  slow_.Post([this, reactor, request, reply] {
    const absl::StatusOr<Explanation> explanation = intake_.Explain(request->request_id());
    if (explanation.ok()) Fill(*explanation, reply);
    reactor->Finish(ToGrpcStatus(explanation.status()));
  });
  return reactor;
}

}  // namespace interlace
