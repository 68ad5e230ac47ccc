#include "client/client.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "client/retry.h"
#include "common/grpc_status.h"
#include "common/status_macros.h"
#include "proto/inference.grpc.pb.h"

namespace interlace {
namespace {

constexpr int kKeepalive = 2000;  // milliseconds between pings, and until the answer to one
constexpr int kLooks = 20;        // at one coordinator or another of several, until one leads, count as a try
constexpr absl::Duration kQuestion = absl::Seconds(10);  // for an answer that is there already

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

// What has come of an answer, over all tries.
struct Progress {
  std::vector<int32_t> ids;
  int64_t text_bytes = 0;
  ClientResult result;
  bool finished = false;
  bool cancelled = false;  // by the caller
};

// The last token is left out: it must come again, which shows that this server goes the same way.
void SetResume(const Progress& progress, v1::Resume* resume) {
  resume->mutable_ids()->Assign(progress.ids.begin(), progress.ids.end() - 1);
  resume->set_text_bytes(progress.text_bytes);
}

ClientToken FromProto(const v1::TokenLogprobs& m) {
  ClientToken token{.chosen = FromProto(m.chosen())};
  for (const v1::TokenLogprob& top : m.top()) token.top.push_back(FromProto(top));
  return token;
}

// False: the first token is not the one that came before.
bool TakeTokens(const v1::Tokens& tokens, bool again, Progress* progress) {
  const int known = again && tokens.ids_size() > 0 ? 1 : 0;
  if (known == 1 && tokens.ids(0) != progress->ids.back()) return false;
  progress->ids.insert(progress->ids.end(), tokens.ids().begin() + known, tokens.ids().end());
  for (int i = known; i < tokens.logprobs_size(); ++i) {
    progress->result.logprobs.push_back(FromProto(tokens.logprobs(i)));
  }
  return true;
}

void TakeEnd(const v1::Finished& end, Progress* progress) {
  ClientResult& result = progress->result;
  progress->finished = true;
  result.finish_reason = end.reason() == v1::FINISH_REASON_LENGTH ? "length" : "stop";
  result.prompt_tokens = end.prompt_tokens();
  result.completion_tokens = end.completion_tokens();
  result.cached_tokens = end.cached_tokens();
  result.first_token = absl::Seconds(end.first_token_seconds());
  result.total = absl::Seconds(end.total_seconds());
}

// One try. Its status is not the answer's if the caller cancelled.
absl::Status Drain(grpc::ClientContext& context, grpc::ClientReader<v1::GenerateEvent>& reader, Client::OnText on_text,
                   Progress* progress) {
  v1::GenerateEvent event;
  bool again = !progress->ids.empty(), elsewhere = false;
  while (reader.Read(&event)) {
    if (progress->cancelled || elsewhere) continue;  // what was on its way; it is not wanted
    progress->result.request_id = event.request_id();
    elsewhere = event.has_tokens() && !TakeTokens(event.tokens(), again, progress);
    again &= event.tokens().ids_size() == 0;
    const std::string& text = event.tokens().text();
    if (!elsewhere && !text.empty()) {
      progress->text_bytes += static_cast<int64_t>(text.size());
      progress->cancelled = !on_text(text);
    }
    elsewhere |= event.has_finished() && again;  // the answer is shorter than what has come
    if (progress->cancelled || elsewhere) context.TryCancel();
    if (event.has_finished()) TakeEnd(event.finished(), progress);
  }
  const absl::Status status = FromGrpcStatus(reader.Finish());
  if (elsewhere) {
    return absl::DataLossError(
        "the call broke off, and the server that was tried next answers with other tokens than those that had come");
  }
  if (status.ok() && !progress->finished) return absl::InternalError("the stream ended without saying why");
  return status;
}

CallEnd EndOf(const grpc::ClientContext& context, absl::Status status) {
  CallEnd end{.status = std::move(status)};
  const auto& trailing = context.GetServerTrailingMetadata();
  const auto value = [&](const char* name) {
    const auto found = trailing.find(name);
    return found == trailing.end() ? absl::string_view()
                                   : absl::string_view(found->second.data(), found->second.size());
  };
  int64_t after = 0;
  if (absl::SimpleAtoi(value("retry-after-ms"), &after)) end.retry_after = absl::Milliseconds(after);
  end.hopeless = value("x-should-retry") == "false";
  return end;
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
  std::vector<std::unique_ptr<v1::Inference::Stub>> doors;  // one for each address
  std::atomic<size_t> at{0};                                // the one that is asked first
  std::string authorization;                                // empty: none

  v1::Inference::Stub& door() const { return *doors[at.load() % doors.size()]; }
  void Prepare(absl::Time deadline, grpc::ClientContext* context) const {
    context->set_deadline(absl::ToChronoTime(deadline));
    if (!authorization.empty()) context->AddMetadata("authorization", authorization);
  }

  // The tries of one answer: `begin` begins a call.
  template <typename AnyRequest, typename Begin>
  absl::StatusOr<ClientResult> Answer(AnyRequest request, const ClientOptions& options, OnText on_text, Begin begin) {
    const absl::Time deadline = absl::Now() + options.deadline;
    absl::BitGen chance;
    request.set_request_id(options.request_id);
    *request.mutable_sampling() = ToProto(options);
    *request.mutable_targets() = TargetsOf(options);
    if (options.retries > 0 && !options.seed && options.temperature.value_or(1) > 0) {
      request.mutable_sampling()->set_seed(absl::Uniform<uint64_t>(chance));
    }
    Progress progress;
    for (;; ++progress.result.tries) {
      if (!progress.ids.empty()) SetResume(progress, request.mutable_resume());
      const size_t asked = at.load();
      grpc::ClientContext context;
      Prepare(deadline, &context);
      const absl::Status status =
          Drain(context, *begin(*doors[asked % doors.size()], context, request), on_text, &progress);
      // Even if the answer was complete.
      if (progress.cancelled) return absl::CancelledError("the caller asked for no more text");
      if (status.ok()) return std::move(progress.result);
      const int looks = doors.size() > 1 ? kLooks : 1;
      const int tries = (progress.result.tries + looks - 1) / looks;
      const std::optional<absl::Duration> wait =
          RetryIn(EndOf(context, status), tries, options.first_wait, absl::Uniform(chance, 0.0, 1.0));
      if (tries > options.retries || !wait || absl::Now() + *wait >= deadline) return status;
      size_t still = asked;  // unless another call has moved on already
      if (absl::IsUnavailable(status)) at.compare_exchange_strong(still, asked + 1);
      absl::Notification().WaitForNotificationWithTimeout(*wait);  // nothing ends it sooner
    }
  }
};

Client::Client(std::unique_ptr<Stub> stub) : stub_(std::move(stub)) {}
Client::~Client() = default;

std::unique_ptr<Client> Client::Connect(const std::string& addresses, const ClientAccess& access) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // A server that is back is found soon, and one that hangs is left.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepalive);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepalive);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  auto stub = std::make_unique<Stub>();
  const auto credentials = access.tls ? grpc::SslCredentials({access.root_certificates, access.key, access.certificate})
                                      : grpc::InsecureChannelCredentials();
  for (const absl::string_view address : absl::StrSplit(addresses, ',')) {
    stub->doors.push_back(
        v1::Inference::NewStub(grpc::CreateCustomChannel(std::string(address), credentials, arguments)));
  }
  if (!access.api_key.empty()) stub->authorization = "Bearer " + access.api_key;
  return std::unique_ptr<Client>(new Client(std::move(stub)));
}

absl::StatusOr<ClientResult> Client::Generate(absl::string_view prompt, const ClientOptions& options, OnText on_text) {
  v1::GenerateRequest request;
  request.set_text(std::string(prompt));
  return stub_->Answer(std::move(request), options, on_text,
                       [](v1::Inference::Stub& door, grpc::ClientContext& context, const v1::GenerateRequest& asked) {
                         return door.Generate(&context, asked);
                       });
}

absl::StatusOr<ClientResult> Client::Chat(const std::vector<ClientMessage>& messages, const ClientOptions& options,
                                          OnText on_text) {
  v1::ChatRequest request;
  for (const ClientMessage& message : messages) {
    v1::ChatMessage* out = request.add_messages();
    out->set_role(message.role);
    out->set_content(message.content);
  }
  return stub_->Answer(std::move(request), options, on_text,
                       [](v1::Inference::Stub& door, grpc::ClientContext& context, const v1::ChatRequest& asked) {
                         return door.Chat(&context, asked);
                       });
}

absl::StatusOr<ClientModel> Client::Model() {
  grpc::ClientContext context;
  stub_->Prepare(absl::Now() + kQuestion, &context);
  v1::Model model;
  RETURN_IF_ERROR(FromGrpcStatus(stub_->door().GetModel(&context, v1::GetModelRequest(), &model)));
  return ClientModel{model.id(), model.context(), model.vocab(), model.layers()};
}

absl::StatusOr<RequestReport> Client::Explain(absl::string_view request_id) {
  grpc::ClientContext context;
  stub_->Prepare(absl::Now() + kQuestion, &context);
  v1::ExplainRequest request;
  request.set_request_id(std::string(request_id));
  v1::ExplainReply reply;
  RETURN_IF_ERROR(FromGrpcStatus(stub_->door().Explain(&context, request, &reply)));
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
