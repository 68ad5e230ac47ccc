#include "coordinator/front/text_stream.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/front/api_error.h"

namespace interlace {

int64_t CodePoints(absl::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

TextStream::TextStream(Options options, const Tokenizer& tokenizer, Engine& engine, Clock& clock, Executor& executor,
                       Ready ready)
    : options_(std::move(options)),
      engine_(engine),
      clock_(clock),
      detokenizer_(tokenizer),
      matcher_(options_.stop, options_.include_stop),
      had_(options_.had),
      executor_(&executor),
      ready_(std::move(ready)),
      first_token_(absl::InfiniteFuture()) {
  fidelity_.mode = options_.fidelity;
  detokenizer_.Show(options_.shown, options_.show_all);
}

void TextStream::OnCached(int32_t tokens) {
  absl::MutexLock lock(&mutex_);
  cached_tokens_ = tokens;
}

void TextStream::OnFidelity(const FidelityReport& so_far) {
  absl::MutexLock lock(&mutex_);
  fidelity_ = so_far;
}

void TextStream::OnCacheHit(const CacheHit& hit) {
  absl::MutexLock lock(&mutex_);
  cache_hit_ = hit;
}

std::optional<CacheHit> TextStream::cache_hit() {
  absl::MutexLock lock(&mutex_);
  return cache_hit_;
}

void TextStream::OnTokens(absl::Span<const int32_t> tokens) {
  std::vector<Pending> pending;
  for (int32_t token : tokens) pending.push_back({token, {}});
  Append(std::move(pending));
}

void TextStream::OnScoredToken(int32_t token, absl::Span<const TokenScore> scores) {
  std::vector<Pending> pending;
  pending.push_back({token, {scores.begin(), scores.end()}});
  Append(std::move(pending));
}

void TextStream::Append(std::vector<Pending> tokens) {
  const absl::Time now = clock_.Now();
  Executor* executor = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    if (executor_ == nullptr || finished_ || overflow_) return;
    if (first_token_ == absl::InfiniteFuture()) first_token_ = now;
    if (!pending_.empty() && pending_.size() + tokens.size() > options_.backlog) {
      overflow_ = true;
      pending_.clear();
    } else {
      pending_.insert(pending_.end(), std::make_move_iterator(tokens.begin()), std::make_move_iterator(tokens.end()));
    }
    executor = BeginPost();
  }
  Post(executor);
}

void TextStream::OnPromptScores(const PromptScores& scores) {
  absl::MutexLock lock(&mutex_);
  if (executor_ != nullptr && !finished_ && !overflow_) prompt_scores_.push_back(scores);
}

void TextStream::OnPooled(absl::Span<const float> mean) {
  absl::MutexLock lock(&mutex_);
  pooled_.assign(mean.begin(), mean.end());
}

std::vector<PromptScores> TextStream::TakePromptScores() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(prompt_scores_, {});
}

std::vector<float> TextStream::TakePooled() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(pooled_, {});
}

void TextStream::OnEnd(const RequestEnd& end) {
  Executor* executor = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    end_ = end;
    end_->status = ForClients(end);
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

std::optional<TextEvent> TextStream::Replay() {
  {
    absl::MutexLock lock(&mutex_);
    if (executor_ == nullptr) return std::nullopt;
  }
  for (int32_t token : std::exchange(had_.tokens, {})) {
    TextEvent event = Unseen(TokenEvent({token, {}}));
    owed_ += event.text;
    if (!event.end) continue;
    event.shown.clear();
    event.text = std::exchange(owed_, {});
    return event;
  }
  unshown_.clear();
  return std::nullopt;
}

TextEvent TextStream::Unseen(TextEvent event) {
  const size_t seen = std::min(had_.text_bytes, event.text.size());
  event.text.erase(0, seen);
  had_.text_bytes -= seen;
  return event;
}

std::optional<TextEvent> TextStream::Take() {
  if (!had_.tokens.empty()) {
    if (std::optional<TextEvent> whole = Replay()) return whole;
  }
  std::optional<Pending> token;
  std::optional<RequestEnd> end;
  {
    absl::MutexLock lock(&mutex_);
    if (executor_ == nullptr || finished_) return std::nullopt;
    if (overflow_) {
      end = RequestEnd{.prompt_tokens = options_.prompt_tokens, .completion_tokens = taken_};
      end->status = absl::ResourceExhaustedError(
          absl::StrCat("the client reads too slowly: more than ", options_.backlog, " tokens were waiting for it"));
    } else if (!pending_.empty()) {
      token = std::move(pending_.front());
      pending_.pop_front();
    } else if (end_) {
      end = end_;
    } else {
      return std::nullopt;
    }
    finished_ = end.has_value();
  }
  TextEvent event = Unseen(token ? TokenEvent(*std::move(token)) : EndEvent(*std::move(end)));
  if (!owed_.empty()) event.text = std::exchange(owed_, {}) + event.text;
  return event;
}

TextEvent TextStream::TokenEvent(Pending pending) {
  TextEvent event{.completion_tokens = ++taken_};
  const std::string piece = detokenizer_.Push(pending.token);
  unshown_.push_back({{pending.token, made_, std::move(pending.scores)}, bytes_made_, bytes_made_ + piece.size()});
  bytes_made_ += piece.size();
  made_ += CodePoints(piece);
  const bool stopped = matcher_.Push(piece, &event.text, /*exempt=*/taken_ <= options_.min_tokens);
  Show(stopped, &event);
  if (!stopped) return event;
  event.stop = matcher_.met();
  event.end = StoppedHere();
  return event;
}

void TextStream::Show(bool stopped, TextEvent* event) {
  bytes_shown_ += event->text.size();
  const auto out = [&](const Unshown& u) { return stopped ? u.begin < bytes_shown_ : u.end <= bytes_shown_; };
  while (!unshown_.empty() && out(unshown_.front())) {
    event->shown.push_back(std::move(unshown_.front().token));
    unshown_.pop_front();
  }
  if (stopped) unshown_.clear();
}

TextEvent TextStream::EndEvent(RequestEnd end) {
  TextEvent event{.completion_tokens = taken_};
  const bool stopped = matcher_.Push(detokenizer_.Flush(), &event.text, /*exempt=*/taken_ <= options_.min_tokens);
  if (stopped) {
    end.reason = FinishReason::kStop;
    event.stop = matcher_.met();
  } else {
    if (end.status.ok() && end.reason == FinishReason::kStop) ++event.completion_tokens;
    matcher_.Flush(&event.text);
    if (!end.end_scores.empty()) event.ended_by = ShownToken{end.end_token, made_, std::move(end.end_scores)};
  }
  Show(stopped, &event);
  event.end = std::move(end);
  return event;
}

// A stop string is complete: what the engine still makes is not wanted.
RequestEnd TextStream::StoppedHere() {
  const absl::Time now = clock_.Now();
  RequestEnd end{.reason = FinishReason::kStop, .prompt_tokens = options_.prompt_tokens, .completion_tokens = taken_};
  bool stop = false;
  {
    absl::MutexLock lock(&mutex_);
    finished_ = true;
    stop = !end_ && !cancelled_;
    end.cached_tokens = end_ ? end_->cached_tokens : cached_tokens_;
    end.fidelity = end_ ? end_->fidelity : fidelity_;
    cancelled_ |= stop;
    end.timing.first_token = first_token_ - options_.arrival;
    end.timing.total = now - options_.arrival;
  }
  if (stop) engine_.Stop(options_.id);
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
