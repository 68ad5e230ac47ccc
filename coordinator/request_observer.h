// RequestObserver: who is told of each request that has ended.
#pragma once

#include "coordinator/explanation.h"
#include "coordinator/request.h"
#include "coordinator/request_trace.h"

namespace interlace {

struct EndedRequest {
  const Request& request;
  const Explanation& explanation;
  const RequestTrace& trace;
  absl::Time first_token;  // infinite past: there was none
  absl::Time ended;
};

// Called on the scheduler's thread: it must not wait for anything.
class RequestObserver {
 public:
  virtual ~RequestObserver() = default;
  virtual void OnEnded(const EndedRequest& ended) = 0;
};

}  // namespace interlace
