// UcxWorker: the UCX objects of one transport, with endpoints named by number and events taken one by one.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/transport.h"
#include "transport/ucx_transport.h"

struct ucp_conn_request;
struct ucp_context;
struct ucp_ep;
struct ucp_listener;
struct ucp_worker;

namespace interlace {

using EndpointId = uint64_t;  // never reused by a worker; 0: none

struct UcxEvent {
  enum class Kind { kAccepted, kMessage, kSent, kLost };
  Kind kind;
  EndpointId endpoint = 0;
  absl::Status status;       // kSent, kLost
  std::string header;        // kMessage
  std::string body;          // kMessage
  Transport::SendDone done;  // kSent
};

// A send that ended while its endpoint was closed.
struct UcxFinished {
  Transport::SendDone done;
  absl::Status status;
};

// Thread: the transport's, except Signal. UCX callbacks only append events, so every method may be called between two
// NextEvent() calls, whatever the event was about.
// The trap: memory of a send that UCX would not give back when its endpoint was closed is kept until the worker dies.
class UcxWorker {
 public:
  static absl::StatusOr<std::unique_ptr<UcxWorker>> Create(const UcxOptions& options);
  ~UcxWorker();

  uint16_t port() const { return port_; }
  absl::StatusOr<EndpointId> Dial(const std::string& host, uint16_t port);
  // Ends in one kSent event, unless Close returns it first. An unknown endpoint is Unavailable.
  void Send(EndpointId endpoint, std::string header, std::vector<SharedBytes> parts, Transport::SendDone done);
  // Tears the endpoint down at once; its events are forgotten and its unfinished sends fail with `reason`.
  std::vector<UcxFinished> Close(EndpointId endpoint, const absl::Status& reason);

  // False iff nothing happened.
  bool Progress();
  std::optional<UcxEvent> NextEvent();
  // Sleeps until UCX has something to do or Signal is called; returns at once if it already has.
  void Wait();
  void Signal();  // any thread

 private:
  struct Outbound;
  struct Inbound;
  struct Callbacks;  // what UCX calls
  friend struct Callbacks;

  explicit UcxWorker(const UcxOptions& options) : max_body_bytes_(options.max_body_bytes) {}
  absl::Status OpenContext(const UcxOptions& options);
  absl::Status OpenWorker();
  absl::Status OpenListener(const UcxOptions& options);
  void AcceptPending();
  EndpointId Adopt(ucp_ep* endpoint);
  void CloseEndpoint(ucp_ep* endpoint);
  void Finish(Outbound* outbound, int code);
  EndpointId IdOf(ucp_ep* endpoint) const;

  const int64_t max_body_bytes_;
  ucp_context* context_ = nullptr;
  ucp_worker* worker_ = nullptr;
  ucp_listener* listener_ = nullptr;
  uint16_t port_ = 0;
  int event_fd_ = -1;
  EndpointId last_id_ = 0;
  absl::flat_hash_map<EndpointId, ucp_ep*> endpoints_;
  absl::flat_hash_map<ucp_ep*, EndpointId> ids_;
  std::vector<ucp_conn_request*> connecting_;  // accepted outside of UCX's callback
  std::unordered_set<Outbound*> outbound_;     // in UCX's hands
  std::unordered_set<Inbound*> inbound_;       // in UCX's hands
  std::deque<UcxEvent> events_;
};

}  // namespace interlace
