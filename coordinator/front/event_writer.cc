#include "coordinator/front/event_writer.h"

#include <utility>

#include "common/grpc_status.h"

namespace interlace {

EventWriter* EventWriter::Open(GenerationSpec spec, Intake& intake, Executor& slow, Executor& streams) {
  auto writer = std::make_shared<EventWriter>(intake, streams);
  writer->self_ = writer;
  slow.Post([writer, spec = std::move(spec)] { writer->Begin(spec); });
  return writer.get();
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
      Finish(ToGrpcStatus(*final_));
    } else {
      return;
    }
  }
}

void EventWriter::Convert(TextEvent event) {
  if (event.token >= 0 || !event.text.empty()) {
    v1::GenerateEvent& out = events_.emplace_back();
    out.set_request_id(run_->name());
    if (event.token >= 0) out.mutable_tokens()->add_ids(event.token);
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
  finished->set_queue_seconds(absl::ToDoubleSeconds(end.timing.queue));
  finished->set_first_token_seconds(absl::ToDoubleSeconds(end.timing.first_token));
  finished->set_total_seconds(absl::ToDoubleSeconds(end.timing.total));
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

}  // namespace interlace
