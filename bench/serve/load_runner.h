// LoadRunner: sends a plan's requests when they are due and keeps what came of them.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "bench/serve/load_client.h"
#include "bench/serve/load_loop.h"
#include "bench/serve/load_plan.h"
#include "bench/serve/load_record.h"
#include "bench/serve/load_saturation.h"

namespace interlace {

// How a run is getting on.
struct LoadProgress {
  absl::Duration elapsed;
  int64_t sent = 0, open = 0, ok = 0, shed = 0, failed = 0;  // failed: any other end that is no success
  int64_t tokens = 0;                                        // arrived so far
  absl::Duration ttft_p50;                                   // of the answers so far
};

struct LoadRunnerOptions {
  int32_t concurrency = 0;          // most sessions open at once; 0: no bound. A closed loop needs one
  absl::Duration duration;          // nothing is sent from then on; zero: until the plan ends
  bool stop_when_saturated = true;  // gives up what is open then
  absl::AnyInvocable<void(const LoadProgress&)> on_progress;  // every 200 ms and at the end; may be empty
};

// For one run. Owned by the command; all on the loop's thread. Of an open loop a request is sent when it is due,
// whatever became of those before it. With a bound (`concurrency`) a request that finds no slot free waits, in order;
// it is then due when both its time has come and a slot is free, so that its send lag stays the generator's own
// lateness. A turn is due `think` after the end of the one before it; if that one was no whole answer the session is
// over. The records' times count from the first call of Run.
class LoadRunner final : private LoadSink {
 public:
  LoadRunner(LoadRunnerOptions options, LoadPlan& plan, LoadLoop& loop, LoadClient& client);
  // Runs the loop until all is sent and ended. Records, duration, elapsed, unsent and why it stopped are set.
  LoadRun Run();
  // Sends nothing more and gives up what is open. Thread: the loop's, while Run runs.
  void Stop(const std::string& why);

 private:
  struct Session {
    std::vector<PlannedRequest> turns;
    size_t at = 0;                                          // turn that is open or due next
    std::vector<std::pair<std::string, std::string>> said;  // messages of the turns before
    int32_t tokens = 0;                                     // of them
  };

  void OnFirstToken(const PlannedRequest& request, absl::Duration ttft) override;
  void OnEnd(const PlannedRequest& request, RequestRecord record) override;

  void TakeNext();
  void AwaitNext();
  void SendDue();
  // What is not begun yet will not be.
  void GiveUpRest();
  void Begin(absl::Duration due);
  void SendTurn(int64_t key, absl::Duration due);
  void ContinueSession(int64_t key, const RequestRecord& record);
  void EndSession(int64_t key);
  void CheckEnd();
  void Look();
  LoadProgress Progress() const;
  absl::Duration Now() { return loop_.Now() - began_; }
  bool slot_free() const {
    return options_.concurrency == 0 || sessions_.size() < static_cast<size_t>(options_.concurrency);
  }

  LoadRunnerOptions options_;
  LoadPlan& plan_;
  LoadLoop& loop_;
  LoadClient& client_;
  SaturationWatch watch_;
  absl::Duration began_;
  std::optional<std::vector<PlannedRequest>> next_;  // the session that begins next
  std::map<int64_t, Session> sessions_;              // open ones, by the index of their first request
  LoadRun run_;
  LoadProgress count_;
  std::vector<double> ttfts_;  // seconds
  absl::Duration first_due_ = absl::InfiniteDuration(), last_due_;
  absl::Duration slot_freed_;  // when the bound last let somebody in
  absl::Duration last_end_, looked_;
  bool stopped_ = false, ended_ = false;
};

}  // namespace interlace
