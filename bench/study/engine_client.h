// EngineClient: the load generator's requests, handed to an engine in the same process.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "bench/serve/load_client.h"
#include "common/clock.h"
#include "coordinator/engine.h"

namespace interlace {

// How an engine that has everything is kept from using some of it, so that a comparison can leave parts out.
struct EngineClientOptions {
  // Each token is asked for by a request of its own, whose prompt is the former prompt and the answer so far and whose
  // blocks nobody else may use: everything is computed again for every token, as by a model without a KV cache.
  bool without_cache = false;
  // No request uses blocks of another.
  bool private_prefixes = false;
  // What comes while others run waits until all of them have ended: static batching.
  bool static_batches = false;
};

// Owned by the command, for one run of a fresh replica (its ids begin at 1). Threads: as LoadClient; tokens come on the
// scheduler's thread. Its requests have token ids, and are not cancelled by plan. A record's text is the answer's token
// ids, so that answers are compared token by token.
class EngineClient final : public LoadClient {
 public:
  // All outlive this; all requests have ended before it is destroyed.
  EngineClient(Engine& engine, Clock& clock, LoadLoop& loop, const EngineClientOptions& options)
      : engine_(engine), clock_(clock), loop_(loop), options_(options) {}

  absl::StatusOr<std::string> Prepare() override { return std::string("in process"); }
  void Send(const PlannedRequest& request, LoadSink& sink) override;
  void HangUp(const std::string& why) override;
  int64_t tokens() const override { return tokens_.load(std::memory_order_relaxed); }

 private:
  class Call;
  void Submit(const std::shared_ptr<Call>& call);
  void SubmitHeld();
  void Ended(const std::shared_ptr<Call>& call);
  void Finish(const std::shared_ptr<Call>& call, LoadOutcome outcome);

  Engine& engine_;
  Clock& clock_;
  LoadLoop& loop_;
  const EngineClientOptions options_;
  std::set<std::shared_ptr<Call>> open_;
  std::vector<std::shared_ptr<Call>> held_;  // of open_, those that the engine does not know yet
  uint64_t next_id_ = 1;
  std::atomic<int64_t> tokens_{0};
};

}  // namespace interlace
