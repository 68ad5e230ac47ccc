// What a load run plans and what came of it: the values that arrivals, datasets, clients, figures and pages share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace interlace {

// What a request must reach to count as good. An unset field asks for nothing.
struct LoadTargets {
  std::optional<absl::Duration> ttft;         // sent to first token
  std::optional<absl::Duration> tpot;         // (last token - first token) / (tokens - 1)
  std::optional<absl::Duration> largest_gap;  // between two deliveries of one stream
  std::optional<absl::Duration> e2el;         // sent to last token
  friend bool operator==(const LoadTargets&, const LoadTargets&) = default;
};

// One request as it is planned, before anything is sent.
struct PlannedRequest {
  int64_t index = 0;     // in the run
  absl::Duration due;    // since the run began; open loop: it is sent then, whatever became of those before
  int64_t session = -1;  // requests of one session follow each other; -1: alone
  int32_t turn = 0;      // of the session; the answers of earlier turns are part of its prompt
  absl::Duration think;  // between the former turn's end and this one
  std::vector<std::pair<std::string, std::string>> messages;  // role, content; one of these two
  std::string prompt;
  std::vector<int32_t> prompt_ids;     // token ids in place of the text, where the load is given in tokens
  int32_t expected_prompt_tokens = 0;  // 0: not known before the server says so
  int32_t shared_prefix_tokens = 0;    // of them seen before in this run: the ceiling of the cache's hits
  int32_t max_tokens = 0;
  bool ignore_eos = false;
  int32_t cancel_after_tokens = -1;  // the client hangs up then; -1: never
  LoadTargets targets;
  std::optional<absl::Duration> deadline;
  int32_t priority = 0;  // lower is earlier
  std::string tenant;
};

enum class LoadOutcome : uint8_t {
  kOk,         // a whole answer, its end marked as the protocol says
  kShed,       // refused before it began: 429, 503, ResourceExhausted, Unavailable
  kRefused,    // any other error status
  kFailed,     // an error inside the stream, after it began
  kTruncated,  // the connection ended before the answer did
  kGarbage,    // bytes that are no answer of this protocol
  kNoConnection,
  kTimeout,    // --timeout passed without an end, or the run was given up before it
  kCancelled,  // by cancel_after_tokens, as planned
};
absl::string_view LoadOutcomeName(LoadOutcome outcome);

// What came of it. All times count from the start of the run; on one monotonic clock.
struct RequestRecord {
  int64_t index = 0;
  std::string request_id;  // as the server named it
  int64_t session = -1;
  int32_t turn = 0;
  std::string tenant;
  int32_t priority = 0;
  LoadTargets targets;
  absl::Duration due, sent;            // their difference is the send lag: the client's own lateness
  std::vector<absl::Duration> chunks;  // when each delivery with text arrived
  std::vector<int32_t> chunk_tokens;   // tokens of each, by the server's count where it gives one, else 1
  absl::Duration ended;                // last byte, or when it was given up
  LoadOutcome outcome = LoadOutcome::kNoConnection;
  int32_t http_status = 0;  // 0: none
  std::string error;        // what went wrong, for people
  std::string finish_reason;
  int32_t prompt_tokens = 0;      // by the server's usage; else as planned
  int32_t completion_tokens = 0;  // likewise; else deliveries
  int32_t cached_tokens = 0;
  int32_t shared_prefix_tokens = 0;
  absl::Duration retry_after;  // of a shed request; zero: the server said nothing
  std::string text;            // kept where --save-texts is given
};

// One run: what was asked for, and all records in the order of their index.
struct LoadRun {
  std::string label;   // of the row or line, such as "slack"
  std::string server;  // URL
  std::string model;
  std::string dataset;      // and its shape, for people: "fixed 256/64"
  std::string arrivals;     // "poisson", "gamma 0.5", "trace mooncake x0.25"
  double offered_rate = 0;  // requests/s; 0: none that is steady, as of a closed loop, a ramp or a trace
  int32_t concurrency = 0;  // most open at once; 0: no bound
  uint64_t seed = 0;
  absl::Time began;             // wall clock
  absl::Duration duration;      // of sending, from the first due to the last
  absl::Duration elapsed;       // until the last end
  bool over_saturated = false;  // stopped early: the queue grew without end
  std::string stopped_because;
  absl::Duration client_cpu;  // CPU time of the generator in the run
  int64_t unsent = 0;         // of those planned: the run, or their session, ended before their turn
  std::vector<RequestRecord> records;
};

}  // namespace interlace
