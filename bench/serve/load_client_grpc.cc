// interlace.v1 over gRPC.
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "bench/serve/load_client.h"
#include "bench/serve/load_client_openai.h"
#include "bench/serve/load_client_url.h"
#include "common/grpc_status.h"
#include "common/status_macros.h"
#include "proto/inference.grpc.pb.h"

namespace interlace {
namespace {

class GrpcLoadClient;

// One request that is open. gRPC's threads call the reactor's methods, one after another; the record is theirs until
// OnDone has posted it to the loop, whose thread destroys the call.
class Call final : public grpc::ClientReadReactor<v1::GenerateEvent> {
 public:
  Call(const PlannedRequest& request, LoadSink& sink, GrpcLoadClient& client, const LoadClientOptions& options);
  void Start(v1::Inference::Stub& stub, RequestRecord record);
  // Thread: the loop's.
  void Cut(const std::string& why) {
    {
      absl::MutexLock lock(&mutex_);
      if (cut_.empty()) cut_ = why;
    }
    context_.TryCancel();
  }

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  void NoteTokens(const v1::Tokens& tokens, absl::Duration now);
  void Judge(const absl::Status& status);

  const PlannedRequest& request_;
  LoadSink& sink_;
  GrpcLoadClient& client_;
  const LoadClientOptions& options_;
  grpc::ClientContext context_;
  v1::GenerateRequest prompt_;
  v1::ChatRequest chat_;
  v1::GenerateEvent event_;
  RequestRecord record_;
  bool finished_ = false, had_enough_ = false;
  absl::Duration last_;  // event
  absl::Mutex mutex_;
  std::string cut_;  // protected by mutex_; why it was given up
};

class GrpcLoadClient final : public LoadClient {
 public:
  GrpcLoadClient(LoadUrl url, const LoadClientOptions& options, AsioLoop& loop)
      : url_(std::move(url)), options_(options), loop_(loop) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a run measures its own connection
    channel_ = grpc::CreateCustomChannel(absl::StrCat(url_.authority), grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Inference::NewStub(channel_);
  }

  absl::StatusOr<std::string> Prepare() override {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    context.set_wait_for_ready(true);
    v1::Model model;
    const absl::Status status = FromGrpcStatus(stub_->GetModel(&context, v1::GetModelRequest(), &model));
    if (!status.ok()) {
      return absl::UnavailableError(absl::StrCat("--url ", options_.url, " did not answer interlace.v1 (",
                                                 status.message(), "); give the gRPC port, such as 127.0.0.1:50051"));
    }
    if (options_.model.empty()) options_.model = model.id();
    return options_.model;
  }

  void Send(const PlannedRequest& request, LoadSink& sink) override {
    auto* call = new Call(request, sink, *this, options_);
    open_.insert(call);
    RequestRecord record = RecordOf(request, options_);
    record.sent = loop_.Now();
    call->Start(*stub_, std::move(record));
  }

  void HangUp(const std::string& why) override {
    for (Call* call : open_) call->Cut(why);
  }
  int64_t tokens() const override { return tokens_.load(std::memory_order_relaxed); }

  // For calls, from any thread.
  absl::Duration Now() { return loop_.Now(); }
  void CountTokens(int32_t n) { tokens_.fetch_add(n, std::memory_order_relaxed); }
  void Post(Task task) { loop_.Post(std::move(task)); }
  bool connected() { return channel_->GetState(false) == GRPC_CHANNEL_READY; }
  // Thread: the loop's.
  void Forget(Call* call) {
    open_.erase(call);
    delete call;
  }

 private:
  const LoadUrl url_;
  LoadClientOptions options_;
  AsioLoop& loop_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  std::set<Call*> open_;
  std::atomic<int64_t> tokens_{0};
};

v1::SamplingOptions SamplingOf(const PlannedRequest& request, const LoadClientOptions& options) {
  v1::SamplingOptions sampling;
  sampling.set_temperature(static_cast<float>(options.temperature));
  if (request.max_tokens > 0) sampling.set_max_tokens(request.max_tokens);
  if (request.ignore_eos) sampling.set_ignore_eos(true);
  return sampling;
}

v1::Targets TargetsOf(const PlannedRequest& request) {
  v1::Targets out;
  const LoadTargets& targets = request.targets;
  if (targets.ttft) out.set_ttft_ms(absl::ToDoubleMilliseconds(*targets.ttft));
  if (targets.tpot) out.set_tpot_ms(absl::ToDoubleMilliseconds(*targets.tpot));
  if (targets.largest_gap) out.set_largest_gap_ms(absl::ToDoubleMilliseconds(*targets.largest_gap));
  if (request.deadline) out.set_deadline_ms(absl::ToDoubleMilliseconds(*request.deadline));
  if (request.priority != 0) out.set_priority(request.priority);
  if (!request.tenant.empty()) out.set_fairness_id(request.tenant);
  return out;
}

Call::Call(const PlannedRequest& request, LoadSink& sink, GrpcLoadClient& client, const LoadClientOptions& options)
    : request_(request), sink_(sink), client_(client), options_(options) {}

void Call::Start(v1::Inference::Stub& stub, RequestRecord record) {
  record_ = std::move(record);
  context_.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(options_.timeout));
  if (!options_.api_key.empty()) context_.AddMetadata("authorization", absl::StrCat("Bearer ", options_.api_key));
  if (!request_.messages.empty()) {
    chat_.set_request_id(record_.request_id);
    chat_.set_model(options_.model);
    for (const auto& [role, content] : request_.messages) {
      v1::ChatMessage* message = chat_.add_messages();
      message->set_role(role);
      message->set_content(content);
    }
    *chat_.mutable_sampling() = SamplingOf(request_, options_);
    *chat_.mutable_targets() = TargetsOf(request_);
    stub.async()->Chat(&context_, &chat_, this);
  } else {
    prompt_.set_request_id(record_.request_id);
    prompt_.set_model(options_.model);
    if (request_.prompt_ids.empty()) {
      prompt_.set_text(request_.prompt);
    } else {
      prompt_.mutable_tokens()->mutable_ids()->Add(request_.prompt_ids.begin(), request_.prompt_ids.end());
    }
    *prompt_.mutable_sampling() = SamplingOf(request_, options_);
    *prompt_.mutable_targets() = TargetsOf(request_);
    stub.async()->Generate(&context_, &prompt_, this);
  }
  StartRead(&event_);
  StartCall();
}

void Call::OnReadDone(bool ok) {
  if (!ok) return;
  last_ = client_.Now();
  if (!event_.request_id().empty()) record_.request_id = event_.request_id();
  if (event_.has_tokens() && !had_enough_) NoteTokens(event_.tokens(), last_);
  if (event_.has_finished()) {
    const v1::Finished& end = event_.finished();
    finished_ = true;
    record_.finish_reason = end.reason() == v1::FINISH_REASON_LENGTH ? "length" : "stop";
    record_.prompt_tokens = end.prompt_tokens();
    record_.completion_tokens = end.completion_tokens();
    record_.cached_tokens = end.cached_tokens();
    record_.ended = last_;
  }
  StartRead(&event_);
}

void Call::NoteTokens(const v1::Tokens& tokens, absl::Duration now) {
  if (tokens.text().empty() && tokens.ids_size() == 0) return;
  const int32_t count = std::max(1, tokens.ids_size());
  record_.chunks.push_back(now);
  record_.chunk_tokens.push_back(count);
  record_.completion_tokens += count;
  client_.CountTokens(count);
  if (options_.save_texts || request_.session >= 0) record_.text += tokens.text();
  if (record_.chunks.size() == 1) {
    client_.Post([this, ttft = now - record_.sent] { sink_.OnFirstToken(request_, ttft); });
  }
  if (request_.cancel_after_tokens >= 0 && record_.completion_tokens >= request_.cancel_after_tokens) {
    had_enough_ = true;
    record_.ended = now;
    context_.TryCancel();
  }
}

void Call::OnDone(const grpc::Status& status) {
  Judge(FromGrpcStatus(status));
  client_.Post([this] {
    sink_.OnEnd(request_, std::move(record_));
    client_.Forget(this);
  });
}

// What the final status means. gRPC reports a lost connection and a server without room by the same code; the channel
// tells them apart.
void Call::Judge(const absl::Status& status) {
  const bool began = !record_.chunks.empty();
  if (!finished_ && !had_enough_) record_.ended = client_.Now();
  record_.error = std::string(status.message());
  std::string cut;
  {
    absl::MutexLock lock(&mutex_);
    cut = cut_;
  }
  if (had_enough_) {
    record_.outcome = LoadOutcome::kCancelled;
    record_.error.clear();
  } else if (status.ok() && finished_) {
    record_.outcome = LoadOutcome::kOk;
    SpreadTokens(&record_);
  } else if (status.ok()) {
    record_.outcome = LoadOutcome::kTruncated;
    record_.error = "the stream ended without Finished";
  } else if (!cut.empty()) {
    record_.outcome = LoadOutcome::kTimeout;
    record_.error = cut;
  } else if (absl::IsDeadlineExceeded(status) && record_.ended - record_.sent >= 0.99 * options_.timeout) {
    // Ours: gRPC's clock is another. Earlier it is the server that gave the request up.
    record_.outcome = LoadOutcome::kTimeout;
  } else if (absl::IsUnavailable(status) && !client_.connected()) {
    record_.outcome = began ? LoadOutcome::kTruncated : LoadOutcome::kNoConnection;
  } else if (began) {
    record_.outcome = LoadOutcome::kFailed;
  } else if (absl::IsUnavailable(status) || absl::IsResourceExhausted(status)) {
    record_.outcome = LoadOutcome::kShed;
  } else {
    record_.outcome = LoadOutcome::kRefused;
    record_.error = status.ToString();
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadClient>> MakeGrpcClient(const LoadClientOptions& options, AsioLoop& loop) {
  ASSIGN_OR_RETURN(LoadUrl url, ParseLoadUrl(options.url));
  return std::make_unique<GrpcLoadClient>(std::move(url), options, loop);
}

}  // namespace interlace
