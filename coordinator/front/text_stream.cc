#include "coordinator/front/text_stream.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace interlace {

TextStream::TextStream(Options options, const Tokenizer& tokenizer, Engine& engine, Clock& clock, Executor& executor,
                       Ready ready)
    : options_(std::move(options)),
      engine_(engine),
      clock_(clock),
      detokenizer_(tokenizer),
      matcher_(options_.stop),
      executor_(&executor),
      ready_(std::move(ready)),
      first_token_(absl::InfiniteFuture()) {}

void TextStream::OnTokens(absl::Span<const int32_t> tokens) {
  const absl::Time now = clock_.Now();
  Executor* executor = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    if (executor_ == nullptr || finished_ || overflow_) return;
    if (first_token_ == absl::InfiniteFuture()) first_token_ = now;
    if (pending_.size() + tokens.size() > options_.backlog) {
      overflow_ = true;
      pending_.clear();
    } else {
      pending_.insert(pending_.end(), tokens.begin(), tokens.end());
    }
    executor = BeginPost();
  }
  Post(executor);
}

void TextStream::OnEnd(const RequestEnd& end) {
  Executor* executor = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    end_ = end;
    executor = BeginPost();
  }
  Post(executor);
}

Executor* TextStream::BeginPost() {
  if (posted_ || executor_ == nullptr) return nullptr;
  posted_ = true;
  ++posting_;
  return executor_;
}

void TextStream::Post(Executor* executor) {
  if (executor == nullptr) return;
  executor->Post([self = shared_from_this()] { self->OnPosted(); });
  absl::MutexLock lock(&mutex_);
  --posting_;
}

void TextStream::OnPosted() {
  bool cancel = false;
  {
    absl::MutexLock lock(&mutex_);
    posted_ = false;
    if (executor_ == nullptr) return;
    cancel = overflow_ && !cancelled_ && !end_;
    cancelled_ |= cancel;
  }
  if (cancel) engine_.Cancel(options_.id);
  ready_();
}

std::optional<TextEvent> TextStream::Take() {
  std::optional<int32_t> token;
  std::optional<RequestEnd> end;
  {
    absl::MutexLock lock(&mutex_);
    if (executor_ == nullptr || finished_) return std::nullopt;
    if (overflow_) {
      end = RequestEnd{.prompt_tokens = options_.prompt_tokens, .completion_tokens = taken_};
      end->status = absl::ResourceExhaustedError(
          absl::StrCat("the client reads too slowly: more than ", options_.backlog, " tokens were waiting for it"));
    } else if (!pending_.empty()) {
      token = pending_.front();
      pending_.pop_front();
    } else if (end_) {
      end = end_;
    } else {
      return std::nullopt;
    }
    finished_ = end.has_value();
  }
  return token ? TokenEvent(*token) : EndEvent(*std::move(end));
}

TextEvent TextStream::TokenEvent(int32_t token) {
  TextEvent event{.token = token, .completion_tokens = ++taken_};
  if (matcher_.Push(detokenizer_.Push(token), &event.text)) event.end = StoppedHere();
  return event;
}

TextEvent TextStream::EndEvent(RequestEnd end) {
  TextEvent event{.completion_tokens = taken_};
  if (matcher_.Push(detokenizer_.Flush(), &event.text)) {
    end.reason = FinishReason::kStop;
  } else {
    matcher_.Flush(&event.text);
  }
  event.end = std::move(end);
  return event;
}

// A stop string is complete: what the engine still makes is not wanted.
RequestEnd TextStream::StoppedHere() {
  const absl::Time now = clock_.Now();
  RequestEnd end{.reason = FinishReason::kStop, .prompt_tokens = options_.prompt_tokens, .completion_tokens = taken_};
  bool cancel = false;
  {
    absl::MutexLock lock(&mutex_);
    finished_ = true;
    cancel = !end_ && !cancelled_;
    cancelled_ |= cancel;
    end.timing.first_token = first_token_ - options_.arrival;
    end.timing.total = now - options_.arrival;
  }
  if (cancel) engine_.Cancel(options_.id);
  return end;
}

void TextStream::Close() {
  bool cancel = false;
  {
    absl::MutexLock lock(&mutex_);
    if (executor_ == nullptr) return;
    executor_ = nullptr;
    const auto none = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return posting_ == 0; };
    mutex_.Await(absl::Condition(&none));
    cancel = !end_ && !cancelled_;
    cancelled_ |= cancel;
    pending_.clear();
  }
  if (cancel) engine_.Cancel(options_.id);
}

}  // namespace interlace
