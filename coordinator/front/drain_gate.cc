#include "coordinator/front/drain_gate.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/log.h"
#include "coordinator/front/api_error.h"

namespace interlace {
namespace {

constexpr absl::Duration kLastWords = absl::Seconds(5);  // between a cut and the ends of what was cut

}  // namespace

// The sink of one request: what its door gets, but for the end of one that was cut.
class DrainGate::Passage final : public TokenSink {
 public:
  Passage(std::shared_ptr<Ledger> ledger, RequestId id, std::shared_ptr<TokenSink> sink)
      : ledger_(std::move(ledger)), id_(id), sink_(std::move(sink)) {}

  void OnCached(int32_t tokens) override { sink_->OnCached(tokens); }
  void OnFidelity(const FidelityReport& so_far) override { sink_->OnFidelity(so_far); }
  void OnCacheHit(const CacheHit& hit) override { sink_->OnCacheHit(hit); }
  void OnTokens(absl::Span<const int32_t> tokens) override { sink_->OnTokens(tokens); }
  void OnScoredToken(int32_t token, absl::Span<const TokenScore> scores) override {
    sink_->OnScoredToken(token, scores);
  }
  void OnPromptScores(const PromptScores& scores) override { sink_->OnPromptScores(scores); }
  void OnPooled(absl::Span<const float> mean) override { sink_->OnPooled(mean); }
  // The door hears of the end before the ledger does: whoever waits for the last one finds it told.
  void OnEnd(const RequestEnd& end) override {
    if (WasCut() && !end.status.ok()) {
      RequestEnd told = end;
      told.shed.reset();
      told.status =
          WithCode(absl::UnavailableError("the server stopped before the answer was complete"), "server_stopping");
      sink_->OnEnd(told);
    } else {
      sink_->OnEnd(end);
    }
    absl::MutexLock lock(&ledger_->mutex);
    ledger_->left.erase(id_);
  }

 private:
  bool WasCut() const {
    absl::MutexLock lock(&ledger_->mutex);
    const auto found = ledger_->left.find(id_);
    return found != ledger_->left.end() && found->second;
  }

  const std::shared_ptr<Ledger> ledger_;
  const RequestId id_;
  const std::shared_ptr<TokenSink> sink_;
};

DrainGate::DrainGate(Engine& engine, Clock& clock, Metrics& metrics)
    : engine_(engine),
      clock_(clock),
      draining_metric_(metrics.gauge("interlace_draining")),
      cut_metric_(metrics.counter("interlace_drain_cut_total")),
      thread_("drain", [this] { Run(); }) {
  draining_metric_.Set(0);
}

DrainGate::~DrainGate() {
  {
    absl::MutexLock lock(&ledger_->mutex);
    end_ = true;
  }
  thread_.Join();
}

absl::Status DrainGate::Refusal() const {
  return WithCode(absl::UnavailableError(for_good_ ? "the server is draining: it stops when what runs has ended"
                                                   : "the server is draining: it takes no new requests until it is "
                                                     "told to resume"),
                  "server_draining");
}

absl::Status DrainGate::Submit(Request request) {
  const RequestId id = request.id;
  {
    absl::MutexLock lock(&ledger_->mutex);
    if (over_ || (closed_ && !request.follows)) return Refusal();
    ledger_->left[id] = false;
  }
  request.sink = std::make_shared<Passage>(ledger_, id, std::move(request.sink));
  const absl::Status submitted = engine_.Submit(std::move(request));
  bool cut_meanwhile = false;  // before the engine knew it
  {
    absl::MutexLock lock(&ledger_->mutex);
    const auto found = ledger_->left.find(id);
    cut_meanwhile = found != ledger_->left.end() && found->second;
    if (!submitted.ok() && found != ledger_->left.end()) ledger_->left.erase(found);
  }
  if (submitted.ok() && cut_meanwhile) engine_.Cancel(id);
  return submitted;
}

absl::StatusOr<ReplicaSnapshot> DrainGate::Snapshot() {
  absl::StatusOr<ReplicaSnapshot> snapshot = engine_.Snapshot();
  if (!snapshot.ok()) return snapshot;
  absl::MutexLock lock(&ledger_->mutex);
  snapshot->draining |= closed_;
  return snapshot;
}

EngineLoad DrainGate::Load() {
  EngineLoad load = engine_.Load();
  absl::MutexLock lock(&ledger_->mutex);
  load.draining |= closed_;
  return load;
}

void DrainGate::CloseUntil(absl::Time cut_at) {
  closed_ = true;
  over_ = false;
  cut_at_ = cut_at;
  ++changes_;
  draining_metric_.Set(1);
}

absl::Status DrainGate::Close(absl::Duration timeout) {
  {
    absl::MutexLock lock(&ledger_->mutex);
    if (for_good_) return absl::FailedPreconditionError("the server stops: it is draining already, for good");
    CloseUntil(clock_.Now() + timeout);
  }
  LOG(INFO) << "draining" << Field("at_most", absl::FormatDuration(timeout));
  return absl::OkStatus();
}

absl::Status DrainGate::Open() {
  {
    absl::MutexLock lock(&ledger_->mutex);
    if (for_good_) return absl::FailedPreconditionError("the server stops: it cannot resume");
    closed_ = over_ = false;
    cut_at_ = absl::InfiniteFuture();
    ++changes_;
    draining_metric_.Set(0);
  }
  LOG(INFO) << "new requests are taken again";
  return absl::OkStatus();
}

bool DrainGate::CloseForGood(absl::Duration timeout) {
  absl::MutexLock lock(&ledger_->mutex);
  const int64_t cut_before = cut_;
  for_good_ = true;
  CloseUntil(clock_.Now() + timeout);
  const auto empty = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return ledger_->left.empty(); };
  ledger_->mutex.AwaitWithTimeout(absl::Condition(&empty), timeout + kLastWords);
  return cut_ == cut_before && ledger_->left.empty();
}

DrainState DrainGate::state() const {
  absl::MutexLock lock(&ledger_->mutex);
  DrainState state{.draining = closed_, .stopping = for_good_};
  state.left = static_cast<int32_t>(ledger_->left.size());
  state.cut = cut_;
  if (cut_at_ < absl::InfiniteFuture()) state.until_cut = std::max(absl::ZeroDuration(), cut_at_ - clock_.Now());
  return state;
}

void DrainGate::Run() {
  for (;;) {
    {
      absl::MutexLock lock(&ledger_->mutex);
      const uint64_t seen = changes_;
      const auto changed = [this, seen]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return end_ || changes_ != seen; };
      if (ledger_->mutex.AwaitWithTimeout(absl::Condition(&changed), cut_at_ - clock_.Now())) {
        if (end_) return;
        continue;
      }
    }
    Cut();
  }
}

void DrainGate::Cut() {
  std::vector<RequestId> cut;
  {
    absl::MutexLock lock(&ledger_->mutex);
    if (!closed_ || cut_at_ > clock_.Now()) return;  // it was told otherwise meanwhile
    over_ = true;
    cut_at_ = absl::InfiniteFuture();
    for (auto& [id, was_cut] : ledger_->left) {
      if (!std::exchange(was_cut, true)) cut.push_back(id);
    }
    cut_ += static_cast<int64_t>(cut.size());
  }
  if (cut.empty()) return;
  LOG(WARNING) << "requests still run at the end of the drain; they end with an error" << Field("requests", cut.size());
  cut_metric_.Add(static_cast<double>(cut.size()));
  for (const RequestId id : cut) engine_.Cancel(id);
}

}  // namespace interlace
