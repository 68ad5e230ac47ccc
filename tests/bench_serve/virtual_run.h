// A run in virtual time: a loop that jumps to what is due, and a server that answers as a test says.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/serve/load_runner.h"

namespace interlace {

class VirtualLoop final : public LoadLoop {
 public:
  absl::Duration Now() override { return now_; }
  void At(absl::Duration when, Task task) override {
    due_.emplace(std::pair(std::max(when, now_), order_++), std::make_shared<Task>(std::move(task)));
  }
  void Post(Task task) override { At(now_, std::move(task)); }
  void Run() override {
    stopped_ = false;
    while (!stopped_ && !due_.empty()) {
      const auto first = due_.begin();
      now_ = first->first.first;
      const std::shared_ptr<Task> task = first->second;
      due_.erase(first);
      (*task)();
    }
  }
  void Stop() override { stopped_ = true; }

 private:
  absl::Duration now_ = absl::Seconds(5);  // a run need not begin at zero
  uint64_t order_ = 0;
  std::map<std::pair<absl::Duration, uint64_t>, std::shared_ptr<Task>> due_;
  bool stopped_ = false;
};

// What a server does with a request: how long until the first token, and until the end.
struct VirtualAnswer {
  absl::Duration first, end;
  LoadOutcome outcome = LoadOutcome::kOk;
};

class VirtualClient final : public LoadClient {
 public:
  using Server = std::function<VirtualAnswer(const PlannedRequest& request, absl::Duration now)>;
  VirtualClient(VirtualLoop& loop, Server server) : loop_(loop), server_(std::move(server)) {}

  absl::StatusOr<std::string> Prepare() override { return "m"; }
  void Send(const PlannedRequest& request, LoadSink& sink) override {
    sent.push_back(request);
    const int64_t index = request.index;
    RequestRecord record = RecordOf(request, LoadClientOptions{});
    record.sent = loop_.Now();
    const VirtualAnswer answer = server_(request, loop_.Now());
    open_[index] = {&request, &sink, record};
    most_open = std::max(most_open, open_.size());
    loop_.At(loop_.Now() + answer.first, [this, index] {
      const auto it = open_.find(index);
      if (it == open_.end()) return;
      Open& open = it->second;
      open.record.chunks.push_back(loop_.Now());
      open.record.chunk_tokens.push_back(1);
      open.sink->OnFirstToken(*open.request, loop_.Now() - open.record.sent);
    });
    loop_.At(loop_.Now() + answer.end, [this, index, answer] { End(index, answer.outcome); });
  }
  void HangUp(const std::string& why) override {
    hung_up = why;
    loop_.Post([this] {
      while (!open_.empty()) End(open_.begin()->first, LoadOutcome::kTimeout);
    });
  }
  int64_t tokens() const override { return 0; }

  std::vector<PlannedRequest> sent;
  std::string hung_up;
  size_t most_open = 0;

 private:
  struct Open {
    const PlannedRequest* request;
    LoadSink* sink;
    RequestRecord record;
  };
  void End(int64_t index, LoadOutcome outcome) {
    const auto it = open_.find(index);
    if (it == open_.end()) return;
    Open open = std::move(it->second);
    open_.erase(it);
    open.record.outcome = outcome;
    open.record.ended = loop_.Now();
    open.record.text = absl::StrCat("answer ", index);
    open.record.prompt_tokens = 10 + 20 * open.record.turn;
    open.record.completion_tokens = 5;
    open.sink->OnEnd(*open.request, std::move(open.record));
  }

  VirtualLoop& loop_;
  const Server server_;
  std::map<int64_t, Open> open_;
};

// A server of one place, first come first served: how long each request takes is drawn.
class VirtualQueue {
 public:
  VirtualQueue(double mean_seconds, uint64_t seed) : mean_(mean_seconds), draws_(std::make_shared<Draws>(MakeSeededEntropy(seed))) {}
  VirtualAnswer operator()(const PlannedRequest&, absl::Duration now) {
    const absl::Duration begin = std::max(now, free_at_);
    free_at_ = begin + absl::Seconds(draws_->Exponential(mean_));
    return {begin - now + absl::Milliseconds(1), free_at_ - now + absl::Milliseconds(1)};
  }

 private:
  const double mean_;
  std::shared_ptr<Draws> draws_;
  absl::Duration free_at_ = -absl::InfiniteDuration();
};

}  // namespace interlace
