#include "coordinator/front/vllm_engine_service.h"

#include <deque>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/clock.h"
#include "common/grpc_status.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/readiness.h"
#include "coordinator/front/vllm_engine_spec.h"

namespace interlace {
namespace {

namespace wire = vllm::grpc::engine;

constexpr size_t kMostAborts = 1024;  // names of one Abort

// Of one output: what it has made and not said yet.
struct Output {
  std::vector<uint32_t> ids;
  wire::OutputLogProbs logprobs;
  int32_t completion_tokens = 0;
  bool ended = false;
};

void Add(const ShownToken& token, Output* output) {
  output->ids.push_back(static_cast<uint32_t>(token.token));
  if (token.scores.empty()) return;
  output->logprobs.add_token_logprobs(token.scores[0].logprob);
  output->logprobs.add_token_ids(static_cast<uint32_t>(token.scores[0].token));
  wire::TopLogProbs* top = output->logprobs.add_top_logprobs();
  for (size_t i = 1; i < token.scores.size(); ++i) {
    top->add_values(token.scores[i].logprob);
    top->add_token_ids(static_cast<uint32_t>(token.scores[i].token));
  }
}

class VllmStream;
using StreamSet = std::set<VllmStream*>;

// The reactor of one Generate call.
// Holds itself until gRPC is done with it. Its state belongs to the `streams` executor: gRPC's calls are posted there.
// One write is in flight; what the client does not take stays in the TextStreams, whose backlog is bounded. The trap:
// both executors outlive the call.
class VllmStream final : public grpc::ServerWriteReactor<wire::GenerateResponse>,
                         public std::enable_shared_from_this<VllmStream> {
 public:
  // `open` holds the stream until gRPC is done with it; thread: that of `streams`.
  VllmStream(grpc::CallbackServerContext* context, std::string name, bool chunks, Intake& intake, Executor& streams,
             StreamSet& open)
      : context_(*context), name_(std::move(name)), chunks_(chunks), intake_(intake), streams_(streams), open_(open) {}
  void Open(absl::StatusOr<GenerationSpec> spec, Executor& slow) {
    self_ = shared_from_this();
    streams_.Post([self = self_] { self->open_.insert(self.get()); });
    slow.Post([self = self_, spec = std::move(spec)] { self->Begin(spec); });
  }
  const std::string& name() const { return name_; }
  // On `streams`. Every output that has not ended ends so, and the call well.
  void Abort() {
    if (final_) return;
    run_.reset();
    for (size_t i = 0; i < outputs_.size(); ++i) {
      if (!outputs_[i].ended) Complete(i, "abort", nullptr);
    }
    final_ = absl::OkStatus();
    Advance();
  }

  void OnWriteDone(bool ok) override {
    streams_.Post([self = shared_from_this(), ok] {
      self->writing_ = false;
      self->messages_.pop_front();
      if (!ok) self->Drop(absl::CancelledError("the client is gone"));
      self->Advance();
    });
  }
  void OnCancel() override {
    streams_.Post([self = shared_from_this()] {
      if (self->finished_) return;
      self->Drop(absl::CancelledError("the client cancelled the call or its deadline passed"));
      self->Advance();
    });
  }
  void OnDone() override {
    Executor& streams = streams_;
    streams.Post([self = std::move(self_)] {
      self->run_.reset();
      self->open_.erase(self.get());
    });
  }

 private:
  void Begin(const absl::StatusOr<GenerationSpec>& spec) {  // on `slow`
    absl::StatusOr<GenerationRun> run = spec.ok()
                                            ? intake_.Start(*spec, streams_,
                                                            [weak = std::weak_ptr<VllmStream>(shared_from_this())] {
                                                              if (auto stream = weak.lock()) stream->Advance();
                                                            })
                                            : absl::StatusOr<GenerationRun>(spec.status());
    streams_.Post([self = shared_from_this(), run = std::move(run)]() mutable { self->Begun(std::move(run)); });
  }
  void Begun(absl::StatusOr<GenerationRun> run) {
    if (final_) return;  // cancelled meanwhile; `run` cancels the request as it dies
    if (run.ok()) {
      run_.emplace(*std::move(run));
      prompt_tokens_ = run_->prompt_tokens();
      outputs_.resize(run_->streams().size());
      open_outputs_ = outputs_.size();
    } else {
      final_ = run.status();
    }
    Advance();
  }
  void Advance() {
    while (!writing_ && !finished_) {
      while (messages_.empty() && !final_ && TakeOne()) {
      }
      if (!messages_.empty()) {
        writing_ = true;
        StartWrite(&messages_.front());
      } else if (final_) {
        finished_ = true;
        Finish(ToGrpcStatus(*final_));
      } else {
        return;
      }
    }
  }
  // False: no output has anything.
  bool TakeOne() {
    for (size_t i = 0; i < outputs_.size() && run_; ++i) {
      if (const std::optional<TextEvent> event = run_->streams()[i]->Take()) {
        Convert(i, *event);
        return true;
      }
    }
    return false;
  }
  void Convert(size_t index, const TextEvent& event) {
    Output& output = outputs_[index];
    for (const ShownToken& token : event.shown) Add(token, &output);
    output.completion_tokens = event.completion_tokens;
    if (event.end) return ConvertEnd(index, event);
    if (!chunks_ || output.ids.empty()) return;
    wire::GenerateStreamChunk* chunk = messages_.emplace_back().mutable_chunk();
    chunk->mutable_token_ids()->Assign(output.ids.begin(), output.ids.end());
    chunk->set_prompt_tokens(static_cast<uint32_t>(prompt_tokens_));
    chunk->set_completion_tokens(static_cast<uint32_t>(output.completion_tokens));
    if (output.logprobs.token_ids_size() > 0) *chunk->mutable_output_logprobs() = std::move(output.logprobs);
    chunk->set_index(static_cast<uint32_t>(index));
    output.ids.clear();
    output.logprobs.Clear();
  }
  void ConvertEnd(size_t index, const TextEvent& event) {
    const RequestEnd& end = *event.end;
    if (!end.status.ok()) {
      final_ = end.status;
      return;
    }
    outputs_[index].completion_tokens = end.completion_tokens;
    intake_.NoteServed(end.timing.total);
    Complete(index, end.reason == FinishReason::kStop ? "stop" : "length", &event);
    absl::Status next = intake_.NoteEnd(*run_);
    if (!next.ok()) final_ = std::move(next);
    if (--open_outputs_ == 0) final_ = absl::OkStatus();
  }
  void Complete(size_t index, const char* reason, const TextEvent* event) {
    Output& output = outputs_[index];
    output.ended = true;
    wire::GenerateComplete* complete = messages_.emplace_back().mutable_complete();
    complete->mutable_output_ids()->Assign(output.ids.begin(), output.ids.end());
    complete->set_finish_reason(reason);
    complete->set_prompt_tokens(static_cast<uint32_t>(prompt_tokens_));
    complete->set_completion_tokens(static_cast<uint32_t>(output.completion_tokens));
    if (output.logprobs.token_ids_size() > 0) *complete->mutable_output_logprobs() = std::move(output.logprobs);
    complete->set_index(static_cast<uint32_t>(index));
    if (event == nullptr) return;
    complete->set_cached_tokens(static_cast<uint32_t>(event->end->cached_tokens));
    if (!event->stop.empty()) complete->set_matched_stop_str(event->stop);
  }
  void Drop(absl::Status why) {
    run_.reset();  // cancels the request
    messages_.resize(writing_ ? 1 : 0);
    final_ = std::move(why);
  }

  grpc::CallbackServerContext& context_;  // lives until OnDone
  const std::string name_;                // as the client calls it
  const bool chunks_;                     // tokens are sent as they come
  Intake& intake_;
  Executor& streams_;
  StreamSet& open_;
  std::shared_ptr<VllmStream> self_;  // until OnDone
  std::optional<GenerationRun> run_;  // none: not begun, or over
  int32_t prompt_tokens_ = 0;
  std::vector<Output> outputs_;
  size_t open_outputs_ = 0;
  std::deque<wire::GenerateResponse> messages_;  // the front one may be in flight
  std::optional<absl::Status> final_;
  bool writing_ = false;
  bool finished_ = false;
};

}  // namespace

// Thread: that of the `streams` executor.
class VllmEngineService::OpenStreams {
 public:
  StreamSet set;
};

VllmEngineService::VllmEngineService(Options options, Intake& intake)
    : options_(std::move(options)),
      intake_(intake),
      started_(absl::Now()),
      open_(std::make_unique<OpenStreams>()),
      subscriptions_(options_.kv_events == nullptr ? nullptr : std::make_unique<KvEventStreams>(*options_.kv_events)) {}
VllmEngineService::~VllmEngineService() = default;

void VllmEngineService::EndSubscriptions(const absl::Status& why) {
  if (subscriptions_ != nullptr) subscriptions_->End(why);
}

absl::Status VllmEngineService::Admit(const grpc::CallbackServerContext& context) const {
  return options_.admit ? options_.admit(context) : absl::OkStatus();
}

grpc::ServerUnaryReactor* VllmEngineService::Answer(grpc::CallbackServerContext* context,
                                                    const std::function<void()>& fill) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const absl::Status admitted = Admit(*context);
  if (admitted.ok()) fill();
  reactor->Finish(ToGrpcStatus(admitted));
  return reactor;
}

grpc::ServerWriteReactor<wire::GenerateResponse>* VllmEngineService::Generate(grpc::CallbackServerContext* context,
                                                                              const wire::GenerateRequest* request) {
  last_request_ = absl::ToUnixMillis(absl::Now()) / 1e3;
  const absl::Status admitted = Admit(*context);
  absl::StatusOr<GenerationSpec> spec = admitted.ok() ? SpecOf(*request) : absl::StatusOr<GenerationSpec>(admitted);
  if (spec.ok()) {
    const absl::Duration remaining = absl::FromChrono(context->deadline()) - absl::Now();
    if (remaining < absl::Hours(24 * 365)) spec->deadline = remaining;  // a call without one has one far away
  }
  auto stream =
      std::make_shared<VllmStream>(context, request->request_id(), request->stream(), intake_, streams_, open_->set);
  stream->Open(std::move(spec), slow_);
  return stream.get();
}

grpc::ServerUnaryReactor* VllmEngineService::HealthCheck(grpc::CallbackServerContext* context,
                                                         const wire::HealthCheckRequest*,
                                                         wire::HealthCheckResponse* reply) {
  return Answer(context, [&] {
    const EngineLoad load = intake_.engine().Load();
    reply->set_healthy(IsReady(load));
    reply->set_message(load.draining   ? "the server is draining"
                       : IsReady(load) ? "ready"
                                       : absl::StrCat(load.ranks_ready, " of ", load.ranks, " ranks are there"));
  });
}

grpc::ServerUnaryReactor* VllmEngineService::Abort(grpc::CallbackServerContext* context,
                                                   const wire::AbortRequest* request, wire::AbortResponse*) {
  return Answer(context, [&] {
    std::set<std::string> names;
    for (const std::string& name : request->request_ids()) {
      if (names.size() < kMostAborts && !name.empty()) names.insert(name);
    }
    streams_.Post([this, names = std::move(names)] {
      for (VllmStream* stream : StreamSet(open_->set)) {
        if (names.count(stream->name()) > 0) stream->Abort();
      }
    });
  });
}

grpc::ServerUnaryReactor* VllmEngineService::GetModelInfo(grpc::CallbackServerContext* context,
                                                          const wire::GetModelInfoRequest*,
                                                          wire::GetModelInfoResponse* reply) {
  return Answer(context, [&] {
    const Tokenizer& tokenizer = intake_.tokenizer();
    reply->set_model_path(options_.model_path);
    reply->set_is_generation(true);
    reply->set_max_context_length(static_cast<uint32_t>(intake_.options().context));
    reply->set_vocab_size(static_cast<uint32_t>(tokenizer.vocab_size()));
    reply->set_served_model_name(intake_.options().model);
    reply->set_tokenizer_path(options_.model_path);
    reply->mutable_eos_token_ids()->Assign(tokenizer.stop_tokens().begin(), tokenizer.stop_tokens().end());
    if (tokenizer.eos() >= 0) reply->set_pad_token_id(tokenizer.eos());
    if (tokenizer.bos() >= 0) reply->set_bos_token_id(tokenizer.bos());
    reply->set_max_req_input_len(intake_.options().context - 1);
  });
}

grpc::ServerUnaryReactor* VllmEngineService::GetServerInfo(grpc::CallbackServerContext* context,
                                                           const wire::GetServerInfoRequest*,
                                                           wire::GetServerInfoResponse* reply) {
  return Answer(context, [&] {
    const EngineLoad load = intake_.engine().Load();
    reply->set_active_requests(static_cast<uint32_t>(load.running + load.waiting));
    reply->set_is_paused(load.draining);
    reply->set_last_receive_timestamp(last_request_);
    reply->set_uptime_seconds(absl::ToDoubleSeconds(absl::Now() - started_));
    reply->set_server_type("vllm-grpc");
    reply->set_data_parallel_size(1);
    reply->set_kv_cache_dtype(options_.kv_dtype);
    reply->set_block_size(options_.block_tokens);
    reply->set_max_num_seqs(options_.max_running);
  });
}

grpc::ServerUnaryReactor* VllmEngineService::GetLoads(grpc::CallbackServerContext* context,
                                                      const wire::GetLoadsRequest* request,
                                                      wire::GetLoadsResponse* reply) {
  return Answer(context, [&] {
    const EngineLoad load = intake_.engine().Load();
    reply->set_timestamp(absl::FormatTime(absl::Now(), absl::UTCTimeZone()));
    reply->set_version(INTERLACE_VERSION);
    reply->set_dp_rank_count(1);
    if (request->dp_rank() != 0) return;
    wire::SchedulerLoad* one = reply->add_loads();
    one->set_num_running_reqs(load.running);
    one->set_num_waiting_reqs(load.waiting);
    one->set_num_total_reqs(load.running + load.waiting);
    one->set_num_used_tokens(load.blocks_held * options_.block_tokens);
    one->set_max_total_num_tokens(load.blocks * options_.block_tokens);
    one->set_max_running_requests(options_.max_running);
    if (load.blocks > 0) one->set_token_usage(static_cast<double>(load.blocks_held) / load.blocks);
    if (options_.max_running > 0) one->set_utilization(static_cast<double>(load.running) / options_.max_running);
  });
}

KvEventStreams::Reactor* VllmEngineService::SubscribeKvEvents(
    grpc::CallbackServerContext* context, const smg::grpc::common::SubscribeKvEventsRequest* request) {
  if (absl::Status admitted = Admit(*context); !admitted.ok()) return KvEventStreams::Refuse(admitted);
  if (subscriptions_ == nullptr) {
    return KvEventStreams::Refuse(
        absl::FailedPreconditionError("KV events are off; --set kv_events.grpc=true switches them on"));
  }
  return subscriptions_->Open(request->start_sequence_number());
}

}  // namespace interlace
