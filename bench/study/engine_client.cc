#include "bench/study/engine_client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/check.h"

namespace interlace {

// One request that is open. Its record belongs to the scheduler's thread from Submit until OnEnd has posted it to the
// loop's, and to the loop's thread otherwise.
class EngineClient::Call final : public TokenSink, public std::enable_shared_from_this<EngineClient::Call> {
 public:
  Call(const PlannedRequest& request, LoadSink& sink, EngineClient& client)
      : request(request), sink(sink), record(RecordOf(request, {.name = "study"})), client_(client) {}

  void OnTokens(absl::Span<const int32_t> tokens) override {
    const absl::Duration now = client_.loop_.Now();
    record.chunks.push_back(now);
    record.chunk_tokens.push_back(static_cast<int32_t>(tokens.size()));
    answer.insert(answer.end(), tokens.begin(), tokens.end());
    client_.tokens_.fetch_add(static_cast<int64_t>(tokens.size()), std::memory_order_relaxed);
    if (record.chunks.size() > 1) return;
    client_.loop_.Post(
        [self = shared_from_this(), ttft = now - record.sent] { self->sink.OnFirstToken(self->request, ttft); });
  }
  void OnEnd(const RequestEnd& of) override {
    record.ended = client_.loop_.Now();
    record.cached_tokens += of.cached_tokens;
    end = of;
    client_.loop_.Post([self = shared_from_this()] { self->client_.Ended(self); });
  }

  const PlannedRequest& request;
  LoadSink& sink;
  RequestRecord record;
  std::vector<int32_t> answer;
  RequestEnd end;
  RequestId id{};   // of the engine's request; the last one, without a cache
  std::string cut;  // why it was given up; the loop's thread

 private:
  EngineClient& client_;
};

void EngineClient::Send(const PlannedRequest& request, LoadSink& sink) {
  CHECK_MSG(!request.prompt_ids.empty() && request.cancel_after_tokens < 0, "studies ask in token ids, to the end");
  auto call = std::make_shared<Call>(request, sink, *this);
  call->record.sent = loop_.Now();
  open_.insert(call);
  if (!options_.static_batches) return Submit(call);
  // What comes in the same moment makes one batch.
  held_.push_back(std::move(call));
  loop_.Post([this] { SubmitHeld(); });
}

void EngineClient::SubmitHeld() {
  if (open_.size() > held_.size()) return;  // others run
  for (const std::shared_ptr<Call>& call : std::exchange(held_, {})) Submit(call);
}

void EngineClient::Submit(const std::shared_ptr<Call>& call) {
  Request request;
  request.id = call->id = RequestId{next_id_++};
  request.name = absl::StrCat(call->record.request_id, "-", Value(request.id));
  request.prompt = call->request.prompt_ids;
  request.prompt.insert(request.prompt.end(), call->answer.begin(), call->answer.end());
  request.max_tokens = options_.without_cache ? 1 : call->request.max_tokens;
  request.arrival = clock_.Now();
  request.deadline = call->request.deadline ? request.arrival + *call->request.deadline : absl::InfiniteFuture();
  const LoadTargets& targets = call->request.targets;
  request.targets = {.ttft = targets.ttft,
                     .tpot = targets.tpot,
                     .largest_gap = targets.largest_gap,
                     .priority = call->request.priority,
                     .tenant = call->request.tenant};
  if (options_.without_cache || options_.private_prefixes) request.salt = request.name;
  request.sink = call;
  if (const absl::Status status = engine_.Submit(std::move(request)); !status.ok()) {
    call->end.status = status;
    call->record.ended = loop_.Now();
    loop_.Post([this, call] { Ended(call); });
  }
}

void EngineClient::Ended(const std::shared_ptr<Call>& call) {
  const absl::Status& status = call->end.status;
  if (!call->cut.empty()) {
    call->record.error = call->cut;
    return Finish(call, LoadOutcome::kTimeout);
  }
  if (!status.ok()) {
    call->record.error = std::string(status.message());
    const bool shed = absl::IsResourceExhausted(status) || absl::IsUnavailable(status);
    if (!call->record.chunks.empty()) return Finish(call, LoadOutcome::kFailed);
    return Finish(call, shed ? LoadOutcome::kShed : LoadOutcome::kRefused);
  }
  const bool more = options_.without_cache && static_cast<int32_t>(call->answer.size()) < call->request.max_tokens;
  if (more) return Submit(call);
  Finish(call, LoadOutcome::kOk);
}

void EngineClient::Finish(const std::shared_ptr<Call>& call, LoadOutcome outcome) {
  RequestRecord& record = call->record;
  record.outcome = outcome;
  record.completion_tokens = static_cast<int32_t>(call->answer.size());
  record.finish_reason = call->end.reason == FinishReason::kLength ? "length" : "stop";
  record.text = absl::StrJoin(call->answer, " ");
  open_.erase(call);
  if (!held_.empty()) loop_.Post([this] { SubmitHeld(); });
  call->sink.OnEnd(call->request, std::move(record));
}

void EngineClient::HangUp(const std::string& why) {
  for (const std::shared_ptr<Call>& call : open_) {
    call->cut = why;
    if (call->id != RequestId{}) engine_.Cancel(call->id);
  }
  for (const std::shared_ptr<Call>& call : std::exchange(held_, {})) {
    call->record.ended = loop_.Now();
    loop_.Post([this, call] { Finish(call, LoadOutcome::kTimeout); });
  }
}

}  // namespace interlace
