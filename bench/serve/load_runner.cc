#include "bench/serve/load_runner.h"

#include <algorithm>

namespace interlace {
namespace {

constexpr absl::Duration kLook = absl::Milliseconds(200);
constexpr absl::Duration kSaturationLook = absl::Seconds(1);

}  // namespace

LoadRunner::LoadRunner(LoadRunnerOptions options, LoadPlan& plan, LoadLoop& loop, LoadClient& client)
    : options_(std::move(options)), plan_(plan), loop_(loop), client_(client) {}

LoadRun LoadRunner::Run() {
  began_ = loop_.Now();
  TakeNext();
  loop_.Post([this] {
    AwaitNext();
    CheckEnd();
  });
  loop_.At(began_ + kLook, [this] { Look(); });
  loop_.Run();
  GiveUpRest();
  run_.duration = std::max(absl::ZeroDuration(), last_due_ - first_due_);
  run_.elapsed = last_end_;
  std::sort(run_.records.begin(), run_.records.end(),
            [](const RequestRecord& a, const RequestRecord& b) { return a.index < b.index; });
  if (options_.on_progress) options_.on_progress(Progress());
  return std::move(run_);
}

void LoadRunner::TakeNext() { next_ = plan_.Next(); }

// Sees to it that the next session begins when it may.
void LoadRunner::AwaitNext() {
  if (!next_ || stopped_) return;
  if (plan_.closed_loop() || next_->front().due <= Now()) {
    SendDue();
  } else {
    loop_.At(began_ + next_->front().due, [this] { SendDue(); });
  }
}

void LoadRunner::SendDue() {
  while (next_ && !stopped_ && slot_free()) {
    const absl::Duration now = Now();
    // Of a closed loop, and behind a bound, a request is due once a slot is free for it.
    const absl::Duration due = plan_.closed_loop() ? now : std::max(next_->front().due, slot_freed_);
    if (!plan_.closed_loop() && next_->front().due > now) break;
    if (options_.duration > absl::ZeroDuration() && now >= options_.duration && options_.concurrency > 0) {
      GiveUpRest();
      break;
    }
    Begin(due);
    TakeNext();
  }
  if (next_ && slot_free()) AwaitNext();  // else the end of a session comes back here
}

void LoadRunner::GiveUpRest() {
  // A closed loop without a number of requests has no end that could be missed.
  const bool endless = plan_.closed_loop() && plan_.left() == 0;
  if (next_ && !endless) run_.unsent += static_cast<int64_t>(next_->size()) + plan_.left();
  next_.reset();
}

void LoadRunner::Begin(absl::Duration due) {
  const int64_t key = next_->front().index;
  sessions_[key].turns = *std::move(next_);
  SendTurn(key, due);
}

void LoadRunner::SendTurn(int64_t key, absl::Duration due) {
  Session& session = sessions_.at(key);
  PlannedRequest& request = session.turns[session.at];
  request.due = began_ + due;  // as the client's clock counts
  if (session.at > 0) {
    std::vector<std::pair<std::string, std::string>> messages = session.said;
    messages.insert(messages.end(), request.messages.begin(), request.messages.end());
    request.messages = std::move(messages);
    request.shared_prefix_tokens = session.tokens;
    if (request.expected_prompt_tokens > 0) request.expected_prompt_tokens += session.tokens;
  }
  first_due_ = std::min(first_due_, due);
  last_due_ = std::max(last_due_, due);
  ++count_.sent;
  ++count_.open;
  watch_.NoteOpen(Now(), count_.open);
  client_.Send(request, *this);
}

void LoadRunner::OnFirstToken(const PlannedRequest&, absl::Duration ttft) {
  watch_.NoteFirstToken(Now(), ttft);
  ttfts_.push_back(absl::ToDoubleSeconds(ttft));
}

void LoadRunner::OnEnd(const PlannedRequest& request, RequestRecord record) {
  record.due -= began_;
  record.sent -= began_;
  record.ended -= began_;
  for (absl::Duration& chunk : record.chunks) chunk -= began_;
  if (record.prompt_tokens > 0) record.shared_prefix_tokens = std::min(record.shared_prefix_tokens, record.prompt_tokens);
  last_end_ = std::max(last_end_, record.ended);
  --count_.open;
  watch_.NoteOpen(Now(), count_.open);
  if (record.outcome == LoadOutcome::kOk || record.outcome == LoadOutcome::kCancelled) {
    ++count_.ok;
  } else if (record.outcome == LoadOutcome::kShed) {
    ++count_.shed;
  } else {
    ++count_.failed;
  }
  const int64_t key = request.index - request.turn;
  ContinueSession(key, record);
  run_.records.push_back(std::move(record));
  CheckEnd();
}

void LoadRunner::ContinueSession(int64_t key, const RequestRecord& record) {
  Session& session = sessions_.at(key);
  const PlannedRequest& request = session.turns[session.at];
  const size_t next = session.at + 1;
  if (next == session.turns.size()) return EndSession(key);
  const absl::Duration due = record.ended + session.turns[next].think;
  const bool late = options_.duration > absl::ZeroDuration() && due >= options_.duration;
  if (stopped_ || late || record.outcome != LoadOutcome::kOk) {
    run_.unsent += static_cast<int64_t>(session.turns.size() - next);
    return EndSession(key);
  }
  session.said = request.messages;
  session.said.emplace_back("assistant", record.text);
  session.tokens = record.prompt_tokens + record.completion_tokens;
  session.at = next;
  loop_.At(began_ + due, [this, key, due] {
    if (!stopped_) return SendTurn(key, due);
    const Session& over = sessions_.at(key);
    run_.unsent += static_cast<int64_t>(over.turns.size() - over.at);
    EndSession(key);
    CheckEnd();
  });
}

void LoadRunner::EndSession(int64_t key) {
  const bool was_full = !slot_free();
  sessions_.erase(key);
  if (!was_full) return;
  slot_freed_ = Now();
  AwaitNext();
}

void LoadRunner::CheckEnd() {
  if (ended_ || (next_ && !stopped_) || !sessions_.empty()) return;
  ended_ = true;
  loop_.Stop();
}

void LoadRunner::Look() {
  if (ended_) return;
  if (options_.on_progress) options_.on_progress(Progress());
  const absl::Duration now = Now();
  if (options_.stop_when_saturated && !plan_.closed_loop() && options_.concurrency == 0 && !stopped_ &&
      now - looked_ >= kSaturationLook) {
    looked_ = now;
    if (const std::string why = watch_.Verdict(now); !why.empty()) {
      run_.over_saturated = true;
      Stop(why);
    }
  }
  loop_.At(loop_.Now() + kLook, [this] { Look(); });
}

void LoadRunner::Stop(const std::string& why) {
  if (stopped_) return;
  stopped_ = true;
  run_.stopped_because = why;
  client_.HangUp(why);
  CheckEnd();
}

LoadProgress LoadRunner::Progress() const {
  LoadProgress progress = count_;
  progress.elapsed = loop_.Now() - began_;
  progress.tokens = client_.tokens();
  if (!ttfts_.empty()) {
    std::vector<double> sorted = ttfts_;
    const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
    std::nth_element(sorted.begin(), middle, sorted.end());
    progress.ttft_p50 = absl::Seconds(*middle);
  }
  return progress;
}

}  // namespace interlace
