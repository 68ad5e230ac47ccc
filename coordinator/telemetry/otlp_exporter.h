// OtlpExporter: spans of ended requests to an OpenTelemetry collector, over HTTP.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/bounded_queue.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "common/log_limit.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "coordinator/request_observer.h"
#include "coordinator/telemetry/span.h"

namespace interlace {

// Where a collector takes traces.
struct OtlpEndpoint {
  std::string host, port, path;
  std::string authority() const { return host + ":" + port; }
};
// "http://collector:4318": without a path, /v1/traces. InvalidArgument names the setting.
absl::StatusOr<OtlpEndpoint> ParseOtlpEndpoint(const std::string& url);

// ExportTraceServiceRequest as bytes. `epoch`: of 1970 on the clock of the spans' times.
std::string EncodeSpans(const std::vector<Span>& spans, const std::string& service, absl::Time epoch);

// Gathers spans for a second, or until there are many, and posts them from a thread of its own. Whoever ends a request
// never waits: what the queue has no room for, and what the collector does not take in two tries, is dropped and
// counted (interlace_telemetry_spans_total). Owned by main; OnEnded: the scheduler's thread. It outlives the scheduler.
class OtlpExporter final : public RequestObserver {
 public:
  struct Options {
    OtlpEndpoint endpoint;
    std::string service;
    std::string model;
    size_t queue = 1024;  // requests
    size_t batch = 128;   // requests
    absl::Duration gather = absl::Seconds(1);
    absl::Duration patience = absl::Seconds(5);  // for one post
  };
  OtlpExporter(Options options, Clock& clock, Metrics& metrics, std::unique_ptr<Entropy> entropy);
  ~OtlpExporter() override;  // sends what is there, once
  void OnEnded(const EndedRequest& ended) override;

 private:
  using Spans = std::vector<Span>;
  void Run();
  // What comes until the batch is full or its time is over.
  Spans Gather(Spans first);
  bool Send(const Spans& spans);  // false: they are dropped
  absl::Status Post(const std::string& body) const;

  const Options options_;
  Clock& clock_;
  const Metrics::Counter sent_, dropped_;
  const std::unique_ptr<Entropy> entropy_;  // thread: the scheduler's
  BoundedQueue<Spans> queue_;
  LogLimit complaints_;
  Thread thread_;
};

}  // namespace interlace
