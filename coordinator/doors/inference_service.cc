#include "coordinator/doors/inference_service.h"

#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/grpc_status.h"
#include "common/status_macros.h"
#include "proto/inference.grpc.pb.h"

namespace interlace {
namespace {

constexpr size_t kMostBacklog = 1024;  // events that a slow reader may be behind

// One answer. Holds itself until gRPC is done with it; the engine's listener holds it too. gRPC threads and the
// scheduler's; one write in flight.
class EventStream final : public grpc::ServerWriteReactor<v1::GenerateEvent>,
                          public std::enable_shared_from_this<EventStream> {
 public:
  explicit EventStream(Frontend& frontend) : frontend_(frontend) {}

  void Begin(absl::StatusOr<GenerationSpec> spec) {
    self_ = shared_from_this();
    absl::Status status = spec.status();
    if (status.ok()) {
      absl::StatusOr<OpenRequest> generation = frontend_.Start(
          *std::move(spec), [stream = shared_from_this()](TextEvent event) { stream->Push(std::move(event)); });
      status = generation.status();
      if (generation.ok()) return Started(*generation);
    }
    absl::MutexLock lock(&mutex_);
    end_ = status;
    Advance();
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    events_.pop_front();
    if (!ok) {
      events_.clear();
      if (!end_) end_ = absl::CancelledError("the client is gone");
    }
    Advance();
  }

  void OnCancel() override {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    if (started_) frontend_.engine().Cancel(generation_.id);
    events_.erase(events_.begin() + (writing_ ? 1 : 0), events_.end());
    if (!end_) end_ = absl::CancelledError("the client is gone");
    Advance();
  }

  void OnDone() override { std::exchange(self_, nullptr); }

 private:
  void Started(const OpenRequest& generation) {
    absl::MutexLock lock(&mutex_);
    generation_ = generation;
    started_ = true;
    for (v1::GenerateEvent& event : events_) event.set_request_id(generation.name);
    if (cancelled_) frontend_.engine().Cancel(generation.id);
    Advance();
  }

  // Thread: the scheduler's.
  void Push(TextEvent event) {
    absl::MutexLock lock(&mutex_);
    if (end_) return;
    completion_tokens_ += static_cast<int32_t>(event.tokens.size());
    if (!event.tokens.empty() || !event.text.empty()) {
      v1::GenerateEvent& out = events_.emplace_back();
      out.set_request_id(generation_.name);
      out.mutable_tokens()->mutable_ids()->Assign(event.tokens.begin(), event.tokens.end());
      out.mutable_tokens()->set_text(std::move(event.text));
    }
    if (event.end) {
      if (event.cancel) frontend_.engine().Cancel(generation_.id);
      if (event.end->status.ok()) AddFinished(*event.end);
      end_ = event.end->status;
    } else if (events_.size() > kMostBacklog) {
      frontend_.engine().Cancel(generation_.id);
      events_.erase(events_.begin() + 1, events_.end());
      end_ = absl::ResourceExhaustedError("the client reads too slowly");
    }
    Advance();
  }

  void AddFinished(const RequestEnd& end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    v1::GenerateEvent& out = events_.emplace_back();
    out.set_request_id(generation_.name);
    v1::Finished* finished = out.mutable_finished();
    finished->set_reason(end.reason == FinishReason::kStop ? v1::FINISH_REASON_STOP : v1::FINISH_REASON_LENGTH);
    finished->set_prompt_tokens(end.prompt_tokens);
    finished->set_completion_tokens(completion_tokens_);
    finished->set_queue_seconds(absl::ToDoubleSeconds(end.timing.queue));
    finished->set_first_token_seconds(absl::ToDoubleSeconds(end.timing.first_token));
    finished->set_total_seconds(absl::ToDoubleSeconds(end.timing.total));
  }

  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_ || (!started_ && !end_)) return;
    if (!events_.empty() && started_) {
      writing_ = true;
      StartWrite(&events_.front());
    } else if (end_) {
      finished_ = true;
      Finish(ToGrpcStatus(*end_));
    }
  }

  Frontend& frontend_;
  absl::Mutex mutex_;
  OpenRequest generation_;                // protected by mutex_
  std::deque<v1::GenerateEvent> events_;  // protected by mutex_; the front one is being written
  std::optional<absl::Status> end_;       // protected by mutex_
  int32_t completion_tokens_ = 0;         // protected by mutex_
  bool started_ = false, writing_ = false, finished_ = false, cancelled_ = false;  // protected by mutex_
  std::shared_ptr<EventStream> self_;                                              // until OnDone
};

GenerationSpec ToSpec(const std::string& name, const v1::SamplingOptions& options,
                      grpc::CallbackServerContext* context) {
  GenerationSpec spec;
  spec.name = name;
  if (options.has_temperature()) spec.temperature = options.temperature();
  if (options.has_top_p()) spec.top_p = options.top_p();
  if (options.has_top_k()) spec.top_k = options.top_k();
  if (options.has_seed()) spec.seed = options.seed();
  if (options.has_max_tokens()) spec.max_tokens = options.max_tokens();
  spec.ignore_eos = options.ignore_eos();
  spec.stop.assign(options.stop().begin(), options.stop().end());
  spec.stop_token_ids.assign(options.stop_token_ids().begin(), options.stop_token_ids().end());
  const auto left = context->deadline() - std::chrono::system_clock::now();
  spec.deadline = left > std::chrono::hours(24 * 365) ? absl::InfiniteDuration() : absl::FromChrono(left);
  return spec;
}

class InferenceService final : public v1::Inference::CallbackService {
 public:
  explicit InferenceService(Frontend& frontend) : frontend_(frontend) {}

  grpc::ServerWriteReactor<v1::GenerateEvent>* Generate(grpc::CallbackServerContext* context,
                                                        const v1::GenerateRequest* request) override {
    return Answer(GenerateSpec(context, *request));
  }

  grpc::ServerWriteReactor<v1::GenerateEvent>* Chat(grpc::CallbackServerContext* context,
                                                    const v1::ChatRequest* request) override {
    return Answer(ChatSpec(context, *request));
  }

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context, const v1::GetModelRequest*,
                                     v1::Model* reply) override {
    reply->set_id(frontend_.options().model_name);
    reply->set_context(frontend_.options().context);
    reply->set_vocab(frontend_.tokenizer().vocab_size());
    reply->set_layers(frontend_.options().layers);
    return Finish(context, absl::OkStatus());
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeReply* reply) override {
    const std::vector<int32_t> ids = frontend_.tokenizer().Encode(request->text(), request->special());
    reply->mutable_ids()->Assign(ids.begin(), ids.end());
    return Finish(context, absl::OkStatus());
  }

  grpc::ServerUnaryReactor* Explain(grpc::CallbackServerContext* context, const v1::ExplainRequest* request,
                                    v1::ExplainReply* reply) override {
    const absl::StatusOr<Explanation> explanation = frontend_.engine().Explain(request->request_id());
    if (explanation.ok()) Fill(*explanation, reply);
    return Finish(context, explanation.status());
  }

 private:
  grpc::ServerWriteReactor<v1::GenerateEvent>* Answer(absl::StatusOr<GenerationSpec> spec) {
    auto stream = std::make_shared<EventStream>(frontend_);
    stream->Begin(std::move(spec));
    return stream.get();  // holds itself until OnDone
  }

  absl::StatusOr<GenerationSpec> GenerateSpec(grpc::CallbackServerContext* context,
                                              const v1::GenerateRequest& request) {
    RETURN_IF_ERROR(frontend_.CheckModel(request.model()));
    GenerationSpec spec = ToSpec(request.request_id(), request.sampling(), context);
    if (request.has_tokens()) {
      spec.prompt.assign(request.tokens().ids().begin(), request.tokens().ids().end());
      RETURN_IF_ERROR(frontend_.CheckTokens(spec.prompt));
    } else {
      spec.prompt = frontend_.EncodeText(request.text());
    }
    return spec;
  }

  absl::StatusOr<GenerationSpec> ChatSpec(grpc::CallbackServerContext* context, const v1::ChatRequest& request) {
    RETURN_IF_ERROR(frontend_.CheckModel(request.model()));
    GenerationSpec spec = ToSpec(request.request_id(), request.sampling(), context);
    std::vector<ChatMessage> messages;
    for (const v1::ChatMessage& message : request.messages()) messages.push_back({message.role(), message.content()});
    ASSIGN_OR_RETURN(spec.prompt, frontend_.EncodeChat(messages));
    return spec;
  }

  static grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context, const absl::Status& status) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(status));
    return reactor;
  }

  static void Fill(const Explanation& e, v1::ExplainReply* reply) {
    reply->set_request_id(e.name);
    reply->set_state(e.state);
    if (!e.end.status.ok()) reply->set_status(e.end.status.ToString());
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

  Frontend& frontend_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeInferenceService(Frontend& frontend) {
  return std::make_unique<InferenceService>(frontend);
}

}  // namespace interlace
