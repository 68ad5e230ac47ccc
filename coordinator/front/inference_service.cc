#include "coordinator/front/inference_service.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/grpc_status.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/inference_spec.h"
#include "coordinator/front/leader_gate.h"

namespace interlace {
namespace {

// Of one token: its own score, then those of the most likely.
void Fill(absl::Span<const TokenScore> scores, const Tokenizer& tokenizer, v1::TokenLogprobs* out) {
  for (const TokenScore& score : scores) {
    v1::TokenLogprob* one = out->has_chosen() ? out->add_top() : out->mutable_chosen();
    one->set_id(score.token);
    one->set_logprob(score.logprob);
    one->set_text(tokenizer.Piece(score.token, /*special=*/true));
  }
}

void Fill(const FidelityReport& report, v1::FidelityReport* out) {
  out->set_mode(std::string(FidelityName(report.mode)));
  out->set_target(report.target);
  out->set_steps_skipped(report.skipped);
  out->set_steps_whole(report.whole);
  out->set_steps_audited(report.audited);
  out->set_audits_agreed(report.agreed);
  out->set_sublayers_saved(report.saved);
  out->set_sublayers_saved_share(report.saved_share());
  out->set_switched_off(report.switched_off);
}

void Fill(const PromptScores& scores, const Tokenizer& tokenizer, v1::PromptLogprobs* out) {
  out->set_first(scores.first);
  for (int32_t i = 0; i < scores.size(); ++i) {
    const absl::Span<const TokenScore> of = scores.of(i);
    const auto known = std::find_if(of.begin(), of.end(), [](const TokenScore& score) { return score.token < 0; });
    v1::TokenLogprobs* one = out->add_logprobs();
    Fill(of.first(known - of.begin()), tokenizer, one);
    one->mutable_chosen()->set_rank(scores.ranks[i]);
    for (int32_t k = 0; k < one->top_size(); ++k) one->mutable_top(k)->set_rank(k + 1);
  }
}

// The reactor of one Generate or Chat call.
// Holds itself until gRPC is done with it. Its state belongs to the `streams` executor: gRPC's calls are posted there.
// One write is in flight; what the client does not take stays in the TextStream, whose backlog is bounded. The trap:
// the executor and the intake's threads outlive the call.
class EventWriter final : public grpc::ServerWriteReactor<v1::GenerateEvent>,
                          public std::enable_shared_from_this<EventWriter> {
 public:
  static std::shared_ptr<EventWriter> Open(grpc::CallbackServerContext* context, Intake& intake, Executor& streams);
  void Begin(const GenerationSpec& spec);  // on an intake's thread
  // Set once nobody waits for the answer.
  std::shared_ptr<std::atomic<bool>> left() const { return left_; }
  EventWriter(grpc::CallbackServerContext* context, Intake& intake, Executor& streams)
      : context_(*context), intake_(intake), streams_(streams) {}
  // On `streams`: the call ends with `why` once what it has is written.
  void End(const absl::Status& why);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void Begun(absl::StatusOr<GenerationRun> run);
  void Advance();
  void Convert(TextEvent event);
  void EndCall();

  grpc::CallbackServerContext& context_;  // lives until OnDone
  Intake& intake_;
  Executor& streams_;
  std::shared_ptr<EventWriter> self_;     // until OnDone
  std::optional<GenerationRun> run_;      // none: not begun, or over
  std::deque<v1::GenerateEvent> events_;  // the front one may be in flight
  std::optional<absl::Status> final_;
  const std::shared_ptr<std::atomic<bool>> left_ = std::make_shared<std::atomic<bool>>(false);
  bool writing_ = false;
  bool finished_ = false;
};

std::shared_ptr<EventWriter> EventWriter::Open(grpc::CallbackServerContext* context, Intake& intake,
                                               Executor& streams) {
  auto writer = std::make_shared<EventWriter>(context, intake, streams);
  writer->self_ = writer;
  return writer;
}

void EventWriter::Begin(const GenerationSpec& spec) {
  absl::StatusOr<GenerationRun> run =
      intake_.Start(spec, streams_, [weak = std::weak_ptr<EventWriter>(shared_from_this())] {
        if (auto writer = weak.lock()) writer->Advance();
      });
  streams_.Post([self = shared_from_this(), run = std::move(run)]() mutable { self->Begun(std::move(run)); });
}

void EventWriter::Begun(absl::StatusOr<GenerationRun> run) {
  if (final_) return;  // cancelled meanwhile; `run` cancels the request as it dies
  if (run.ok()) {
    run_.emplace(*std::move(run));
  } else {
    final_ = run.status();
  }
  Advance();
}

void EventWriter::Advance() {
  while (!writing_ && !finished_) {
    if (events_.empty() && !final_ && run_) {
      std::optional<TextEvent> event = run_->streams()[0]->Take();
      if (event) Convert(*std::move(event));
    }
    if (!events_.empty()) {
      writing_ = true;
      StartWrite(&events_.front());
    } else if (final_) {
      finished_ = true;
      EndCall();
    } else {
      return;
    }
  }
}

// When to ask again, and why a request was shed, stand in the trailing metadata, under the names of HTTP's headers.
void EventWriter::EndCall() {
  const ApiError error = ToApiError(*final_);
  if (error.retry_after > absl::ZeroDuration()) {
    context_.AddTrailingMetadata("retry-after-ms", absl::StrCat(absl::ToInt64Milliseconds(error.retry_after)));
  }
  if (const auto leader = LeaderOf(*final_)) context_.AddTrailingMetadata("x-interlace-leader", leader->grpc);
  if (!error.shed_reason.empty()) {
    context_.AddTrailingMetadata("x-interlace-shed-reason", error.shed_reason);
    if (!error.retry) context_.AddTrailingMetadata("x-should-retry", "false");
  }
  Finish(ToGrpcStatus(*final_));
}

void EventWriter::Convert(TextEvent event) {
  for (const PromptScores& scores : run_->streams()[0]->TakePromptScores()) {
    v1::GenerateEvent& out = events_.emplace_back();
    out.set_request_id(run_->name());
    Fill(scores, intake_.tokenizer(), out.mutable_prompt_logprobs());
  }
  if (!event.shown.empty() || !event.text.empty()) {
    v1::GenerateEvent& out = events_.emplace_back();
    out.set_request_id(run_->name());
    for (const ShownToken& token : event.shown) {
      out.mutable_tokens()->add_ids(token.token);
      if (!token.scores.empty()) Fill(token.scores, intake_.tokenizer(), out.mutable_tokens()->add_logprobs());
    }
    out.mutable_tokens()->set_text(std::move(event.text));
  }
  if (!event.end) return;
  final_ = event.end->status;
  if (!final_->ok()) return;
  const RequestEnd& end = *event.end;
  intake_.NoteServed(end.timing.total);
  v1::GenerateEvent& out = events_.emplace_back();
  out.set_request_id(run_->name());
  v1::Finished* finished = out.mutable_finished();
  finished->set_reason(end.reason == FinishReason::kStop ? v1::FINISH_REASON_STOP : v1::FINISH_REASON_LENGTH);
  finished->set_prompt_tokens(end.prompt_tokens);
  finished->set_completion_tokens(end.completion_tokens);
  finished->set_cached_tokens(end.cached_tokens);
  finished->set_queue_seconds(absl::ToDoubleSeconds(end.timing.queue));
  finished->set_first_token_seconds(absl::ToDoubleSeconds(end.timing.first_token));
  finished->set_total_seconds(absl::ToDoubleSeconds(end.timing.total));
  if (end.fidelity.mode != FidelityMode::kExact) Fill(end.fidelity, finished->mutable_fidelity());
}

void EventWriter::OnWriteDone(bool ok) {
  streams_.Post([self = shared_from_this(), ok] {
    self->writing_ = false;
    self->events_.pop_front();
    if (!ok) {
      self->events_.clear();
      self->run_.reset();
      self->final_ = absl::CancelledError("the client is gone");
    }
    self->Advance();
  });
}

void EventWriter::OnCancel() {
  left_->store(true);
  streams_.Post([self = shared_from_this()] {
    if (self->finished_) return;
    self->run_.reset();  // cancels the request
    self->events_.resize(self->writing_ ? 1 : 0);
    self->final_ = absl::CancelledError("the client cancelled the call or its deadline passed");
    self->Advance();
  });
}

void EventWriter::OnDone() {
  Executor& streams = streams_;
  streams.Post([self = std::move(self_)] { self->run_.reset(); });
}

void EventWriter::End(const absl::Status& why) {
  if (final_) return;
  run_.reset();  // cancels the request
  final_ = why;
  Advance();
}

// A call without a deadline has one far away.
void SetDeadline(const grpc::CallbackServerContext& context, GenerationSpec* spec) {
  const absl::Duration remaining = absl::FromChrono(context.deadline()) - absl::Now();
  if (remaining < absl::Hours(24 * 365)) spec->deadline = remaining;
}

void SetTrace(const grpc::CallbackServerContext& context, GenerationSpec* spec) {
  const auto found = context.client_metadata().find("traceparent");
  if (found == context.client_metadata().end()) return;
  spec->trace = ParseTraceparent({found->second.data(), found->second.size()});
}

double Milliseconds(absl::Duration time) { return absl::ToDoubleMilliseconds(time); }

void Fill(const Targets& targets, absl::Duration deadline, v1::Targets* out) {
  if (targets.ttft) out->set_ttft_ms(Milliseconds(*targets.ttft));
  if (targets.tpot) out->set_tpot_ms(Milliseconds(*targets.tpot));
  if (targets.largest_gap) out->set_largest_gap_ms(Milliseconds(*targets.largest_gap));
  out->set_priority(targets.priority);
  out->set_fairness_id(targets.tenant);
  if (deadline < absl::InfiniteDuration()) out->set_deadline_ms(Milliseconds(deadline));
}

void Fill(const TargetsMet& met, v1::TargetsMet* out) {
  if (met.ttft) out->set_ttft(*met.ttft);
  if (met.tpot) out->set_tpot(*met.tpot);
  if (met.largest_gap) out->set_largest_gap(*met.largest_gap);
  if (met.deadline) out->set_deadline(*met.deadline);
}

void Fill(const TimeSpent& spent, v1::TimeSpent* out) {
  const auto seconds = [&](Spending spending) { return absl::ToDoubleSeconds(spent[spending]); };
  out->set_queued_seconds(seconds(Spending::kQueued));
  out->set_fetching_seconds(seconds(Spending::kFetching));
  out->set_prefill_seconds(seconds(Spending::kPrefill));
  out->set_decode_seconds(seconds(Spending::kDecode));
  out->set_parked_seconds(seconds(Spending::kParked));
  out->set_sat_out_seconds(seconds(Spending::kSatOut));
}

void Fill(const Decision& decision, v1::Decision* out) {
  out->set_kind(std::string(DecisionName(decision.kind)));
  out->set_text(DecisionText(decision));
  out->set_at_seconds(absl::ToDoubleSeconds(decision.at));
  out->set_until_seconds(absl::ToDoubleSeconds(decision.until));
  out->set_times(decision.times);
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
  reply->set_tpot_seconds(absl::ToDoubleSeconds(e.end.timing.tpot));
  reply->set_largest_gap_seconds(absl::ToDoubleSeconds(e.end.timing.largest_gap));
  reply->set_objective(e.targets.objective);
  Fill(e.targets, e.deadline, reply->mutable_targets());
  Fill(e.end.met, reply->mutable_met());
  for (const Decision& decision : e.decisions) Fill(decision, reply->add_decisions());
  reply->set_decisions_left_out(e.decisions_left_out);
  Fill(e.spent, reply->mutable_spent());
  reply->set_step_reads(e.step_reads);
  reply->set_step_budget(e.step_budget);
  for (size_t l = 0; l < e.layers.size(); ++l) {
    const LayerExplanation& layer = e.layers[l];
    v1::LayerExplanation* out = reply->add_by_layer();
    out->set_layer(static_cast<int32_t>(l));
    out->set_stage(layer.stage);
    out->set_mode(layer.kept ? "keep" : "stream");
    out->set_blocks_device(layer.blocks_device);
    out->set_blocks_host(layer.blocks_host);
    out->set_bytes_in(layer.bytes_in);
    out->set_bytes_out(layer.bytes_out);
    out->set_stall_us(layer.stall_us);
    out->set_found_device(layer.found_device);
    out->set_found_host(layer.found_host);
    out->set_found_below(layer.found_below);
    out->set_computed(layer.computed);
  }
}

}  // namespace

InferenceService::InferenceService(Intake& intake, Tenants* tenants) : intake_(intake), tenants_(tenants) {}

absl::StatusOr<std::shared_ptr<Tenant>> InferenceService::CallerOf(const grpc::CallbackServerContext& context) const {
  if (tenants_ == nullptr || !tenants_->on()) return nullptr;
  const auto& metadata = context.client_metadata();
  const auto value = [&](const char* name) {
    const auto found = metadata.find(name);
    return found == metadata.end() ? absl::string_view()
                                   : absl::string_view(found->second.data(), found->second.size());
  };
  const absl::string_view key = BearerKey(value("authorization"));
  return tenants_->Find(key.empty() ? value("x-api-key") : key);
}

absl::Status InferenceService::MayRoute(const grpc::CallbackServerContext& context) const {
  const absl::StatusOr<std::shared_ptr<Tenant>> caller = CallerOf(context);
  if (!caller.ok()) return caller.status();
  if (*caller == nullptr || (*caller)->is_operator()) return absl::OkStatus();
  return absl::PermissionDeniedError("this service is for routers: it takes the key of an operator");
}

grpc::ServerWriteReactor<v1::GenerateEvent>* InferenceService::Open(grpc::CallbackServerContext* context, size_t bytes,
                                                                    GenerationSpec spec) {
  SetDeadline(*context, &spec);
  SetTrace(*context, &spec);
  const std::shared_ptr<EventWriter> writer = EventWriter::Open(context, intake_, streams_);
  spec.arrival = intake_.Now();
  spec.left = writer->left();
  const absl::StatusOr<std::shared_ptr<Tenant>> caller = CallerOf(*context);
  absl::Status refused = caller.status();
  if (refused.ok() && *caller != nullptr) {
    absl::StatusOr<std::shared_ptr<TenantPass>> pass = (*caller)->Enter();
    refused = pass.status();
    if (pass.ok()) spec.pass = *std::move(pass);
  }
  if (refused.ok()) {
    lanes_.Post(bytes, [writer, spec = std::move(spec)] { writer->Begin(spec); });
  } else {
    streams_.Post([writer, refused] { writer->End(refused); });
  }
  return writer.get();
}

bool InferenceService::MayAsk(grpc::CallbackServerContext* context, grpc::ServerUnaryReactor* reactor,
                              std::shared_ptr<Tenant>* caller) {
  absl::StatusOr<std::shared_ptr<Tenant>> found = CallerOf(*context);
  absl::Status status = found.status();
  if (status.ok() && *found != nullptr) status = (*found)->CountRequest();
  if (!status.ok()) {
    const ApiError error = ToApiError(status);
    if (error.retry_after > absl::ZeroDuration()) {
      context->AddTrailingMetadata("retry-after-ms", absl::StrCat(absl::ToInt64Milliseconds(error.retry_after)));
    }
    reactor->Finish(ToGrpcStatus(status));
    return false;
  }
  *caller = *std::move(found);
  return true;
}

grpc::ServerWriteReactor<v1::GenerateEvent>* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                                        const v1::GenerateRequest* request) {
  return Open(context, request->ByteSizeLong(), SpecOf(*request));
}

grpc::ServerWriteReactor<v1::GenerateEvent>* InferenceService::Chat(grpc::CallbackServerContext* context,
                                                                    const v1::ChatRequest* request) {
  return Open(context, request->ByteSizeLong(), SpecOf(*request));
}

grpc::ServerUnaryReactor* InferenceService::GetModel(grpc::CallbackServerContext* context, const v1::GetModelRequest*,
                                                     v1::Model* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  std::shared_ptr<Tenant> caller;
  if (!MayAsk(context, reactor, &caller)) return reactor;
  reply->set_id(intake_.options().model);
  reply->set_context(intake_.options().context);
  reply->set_vocab(intake_.tokenizer().vocab_size());
  reply->set_layers(intake_.options().layers);
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

// Request and reply live until Finish.
grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request, v1::TokenizeReply* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  std::shared_ptr<Tenant> caller;
  if (!MayAsk(context, reactor, &caller)) return reactor;
  lanes_.Post(request->text().size(), [this, reactor, request, reply] {
    const std::vector<int32_t> ids = intake_.tokenizer().Encode(request->text(), request->special());
    reply->mutable_ids()->Assign(ids.begin(), ids.end());
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Explain(grpc::CallbackServerContext* context,
                                                    const v1::ExplainRequest* request, v1::ExplainReply* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  std::shared_ptr<Tenant> caller;
  if (!MayAsk(context, reactor, &caller)) return reactor;
  lanes_.Post(request->request_id().size(), [this, reactor, request, reply, caller = std::move(caller)] {
    absl::StatusOr<Explanation> explanation = intake_.Explain(request->request_id());
    if (explanation.ok() && !MaySee(caller.get(), *explanation)) {
      explanation = absl::NotFoundError(absl::StrCat("no request '", request->request_id(), "' is known"));
    }
    if (explanation.ok()) Fill(*explanation, reply);
    reactor->Finish(ToGrpcStatus(explanation.status()));
  });
  return reactor;
}

}  // namespace interlace
