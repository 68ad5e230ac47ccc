#include "client/client.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <utility>

#include "common/grpc_status.h"
#include "common/status_macros.h"
#include "proto/inference.grpc.pb.h"

namespace interlace {
namespace {

void SetDeadline(absl::Duration deadline, grpc::ClientContext* context) {
  context->set_deadline(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(deadline));
}

v1::SamplingOptions ToProto(const ClientOptions& options) {
  v1::SamplingOptions out;
  if (options.temperature) out.set_temperature(*options.temperature);
  if (options.top_p) out.set_top_p(*options.top_p);
  if (options.top_k) out.set_top_k(*options.top_k);
  if (options.seed) out.set_seed(*options.seed);
  if (options.max_tokens) out.set_max_tokens(*options.max_tokens);
  for (const std::string& stop : options.stop) out.add_stop(stop);
  if (options.min_p) out.set_min_p(*options.min_p);
  if (options.typical_p) out.set_typical_p(*options.typical_p);
  if (options.repetition_penalty) out.set_repetition_penalty(*options.repetition_penalty);
  if (options.presence_penalty) out.set_presence_penalty(*options.presence_penalty);
  if (options.frequency_penalty) out.set_frequency_penalty(*options.frequency_penalty);
  out.mutable_logit_bias()->insert(options.logit_bias.begin(), options.logit_bias.end());
  for (const std::string& word : options.bad_words) out.add_bad_words(word);
  if (options.min_tokens) out.set_min_tokens(*options.min_tokens);
  if (options.logprobs) out.set_logprobs(*options.logprobs);
  return out;
}

v1::Targets TargetsOf(const ClientOptions& options) {
  v1::Targets out;
  if (options.ttft) out.set_ttft_ms(absl::ToDoubleMilliseconds(*options.ttft));
  if (options.tpot) out.set_tpot_ms(absl::ToDoubleMilliseconds(*options.tpot));
  if (options.largest_gap) out.set_largest_gap_ms(absl::ToDoubleMilliseconds(*options.largest_gap));
  if (options.priority) out.set_priority(*options.priority);
  if (options.tenant) out.set_fairness_id(*options.tenant);
  return out;
}

ClientLogprob FromProto(const v1::TokenLogprob& m) { return {m.id(), m.logprob(), m.text()}; }

absl::StatusOr<ClientResult> Drain(grpc::ClientContext& context, grpc::ClientReader<v1::GenerateEvent>& reader,
                                   Client::OnText on_text) {
  ClientResult result;
  v1::GenerateEvent event;
  bool finished = false, cancelled = false;
  while (reader.Read(&event)) {
    if (cancelled) continue;  // what was on its way; the caller wants no more
    result.request_id = event.request_id();
    for (const v1::TokenLogprobs& m : event.tokens().logprobs()) {
      ClientToken& token = result.logprobs.emplace_back();
      token.chosen = FromProto(m.chosen());
      for (const v1::TokenLogprob& top : m.top()) token.top.push_back(FromProto(top));
    }
    if (event.has_tokens() && !event.tokens().text().empty() && !on_text(event.tokens().text())) {
      cancelled = true;
      context.TryCancel();
    }
    if (event.has_finished()) {
      const v1::Finished& end = event.finished();
      finished = true;
      result.finish_reason = end.reason() == v1::FINISH_REASON_LENGTH ? "length" : "stop";
      result.prompt_tokens = end.prompt_tokens();
      result.completion_tokens = end.completion_tokens();
      result.cached_tokens = end.cached_tokens();
      result.first_token = absl::Seconds(end.first_token_seconds());
      result.total = absl::Seconds(end.total_seconds());
    }
  }
  const absl::Status status = FromGrpcStatus(reader.Finish());
  if (cancelled) return absl::CancelledError("the caller asked for no more text");  // even if the answer was complete
  RETURN_IF_ERROR(status);
  if (!finished) return absl::InternalError("the stream ended without saying why");
  return result;
}

void FillTargets(const v1::ExplainReply& reply, RequestReport* report) {
  const v1::Targets& asked = reply.targets();
  const v1::TargetsMet& met = reply.met();
  if (asked.has_ttft_ms()) report->ttft.asked = absl::Milliseconds(asked.ttft_ms());
  if (asked.has_tpot_ms()) report->tpot.asked = absl::Milliseconds(asked.tpot_ms());
  if (asked.has_largest_gap_ms()) report->largest_gap.asked = absl::Milliseconds(asked.largest_gap_ms());
  if (asked.has_deadline_ms()) report->deadline.asked = absl::Milliseconds(asked.deadline_ms());
  if (reply.completion_tokens() > 0) report->ttft.reached = report->first_token;
  if (reply.completion_tokens() > 1) {
    report->tpot.reached = absl::Seconds(reply.tpot_seconds());
    report->largest_gap.reached = absl::Seconds(reply.largest_gap_seconds());
  }
  if (report->total > absl::ZeroDuration()) report->deadline.reached = report->total;
  if (met.has_ttft()) report->ttft.met = met.ttft();
  if (met.has_tpot()) report->tpot.met = met.tpot();
  if (met.has_largest_gap()) report->largest_gap.met = met.largest_gap();
  if (met.has_deadline()) report->deadline.met = met.deadline();
  report->priority = asked.priority();
  report->tenant = asked.fairness_id();
  report->objective = reply.objective();
}

}  // namespace

struct Client::Stub {
  std::unique_ptr<v1::Inference::Stub> inference;
  std::string authorization;  // empty: none
  void Prepare(absl::Duration deadline, grpc::ClientContext* context) const {
    SetDeadline(deadline, context);
    if (!authorization.empty()) context->AddMetadata("authorization", authorization);
  }
};

Client::Client(std::unique_ptr<Stub> stub) : stub_(std::move(stub)) {}
Client::~Client() = default;

std::unique_ptr<Client> Client::Connect(const std::string& address, const ClientAccess& access) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  auto stub = std::make_unique<Stub>();
  const auto credentials = access.tls ? grpc::SslCredentials({access.root_certificates, access.key, access.certificate})
                                      : grpc::InsecureChannelCredentials();
  stub->inference = v1::Inference::NewStub(grpc::CreateCustomChannel(address, credentials, arguments));
  if (!access.api_key.empty()) stub->authorization = "Bearer " + access.api_key;
  return std::unique_ptr<Client>(new Client(std::move(stub)));
}

absl::StatusOr<ClientResult> Client::Generate(absl::string_view prompt, const ClientOptions& options, OnText on_text) {
  grpc::ClientContext context;
  stub_->Prepare(options.deadline, &context);
  v1::GenerateRequest request;
  request.set_request_id(options.request_id);
  request.set_text(std::string(prompt));
  *request.mutable_sampling() = ToProto(options);
  *request.mutable_targets() = TargetsOf(options);
  auto reader = stub_->inference->Generate(&context, request);
  return Drain(context, *reader, on_text);
}

absl::StatusOr<ClientResult> Client::Chat(const std::vector<ClientMessage>& messages, const ClientOptions& options,
                                          OnText on_text) {
  grpc::ClientContext context;
  stub_->Prepare(options.deadline, &context);
  v1::ChatRequest request;
  request.set_request_id(options.request_id);
  for (const ClientMessage& message : messages) {
    v1::ChatMessage* out = request.add_messages();
    out->set_role(message.role);
    out->set_content(message.content);
  }
  *request.mutable_sampling() = ToProto(options);
  *request.mutable_targets() = TargetsOf(options);
  auto reader = stub_->inference->Chat(&context, request);
  return Drain(context, *reader, on_text);
}

absl::StatusOr<ClientModel> Client::Model() {
  grpc::ClientContext context;
  stub_->Prepare(absl::Seconds(10), &context);
  v1::Model model;
  RETURN_IF_ERROR(FromGrpcStatus(stub_->inference->GetModel(&context, v1::GetModelRequest(), &model)));
  return ClientModel{model.id(), model.context(), model.vocab(), model.layers()};
}

absl::StatusOr<RequestReport> Client::Explain(absl::string_view request_id) {
  grpc::ClientContext context;
  stub_->Prepare(absl::Seconds(10), &context);
  v1::ExplainRequest request;
  request.set_request_id(std::string(request_id));
  v1::ExplainReply reply;
  RETURN_IF_ERROR(FromGrpcStatus(stub_->inference->Explain(&context, request, &reply)));
  RequestReport report{.request_id = reply.request_id(), .state = reply.state(), .status = reply.status()};
  report.prompt_tokens = reply.prompt_tokens();
  report.completion_tokens = reply.completion_tokens();
  report.keep_layers = reply.keep_layers();
  report.layers = reply.layers();
  report.steps = reply.steps();
  report.recomputes = reply.recomputes();
  report.recomputed_tokens = reply.recomputed_tokens();
  report.preemptions = reply.preemptions();
  report.queue = absl::Seconds(reply.queue_seconds());
  report.first_token = absl::Seconds(reply.first_token_seconds());
  report.total = absl::Seconds(reply.total_seconds());
  FillTargets(reply, &report);
  for (const v1::Decision& d : reply.decisions()) {
    report.decisions.push_back(
        {d.kind(), d.text(), absl::Seconds(d.at_seconds()), absl::Seconds(d.until_seconds()), d.times()});
  }
  report.decisions_left_out = reply.decisions_left_out();
  const v1::TimeSpent& spent = reply.spent();
  report.spent = {absl::Seconds(spent.queued_seconds()),  absl::Seconds(spent.fetching_seconds()),
                  absl::Seconds(spent.prefill_seconds()), absl::Seconds(spent.decode_seconds()),
                  absl::Seconds(spent.parked_seconds()),  absl::Seconds(spent.sat_out_seconds())};
  report.step_reads = reply.step_reads();
  report.step_budget = reply.step_budget();
  for (const v1::LayerExplanation& l : reply.by_layer()) {
    report.by_layer.push_back({l.layer(), l.stage(), l.mode(), l.blocks_device(), l.blocks_host(), l.bytes_in(),
                               l.bytes_out(), l.stall_us(), l.found_device(), l.found_host(), l.found_below(),
                               l.computed()});
  }
  return report;
}

}  // namespace interlace
