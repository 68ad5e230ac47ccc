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
#include "transport/tcp_link.h"
#include "transport/ucx_transport.h"

struct ucp_context;
struct ucp_ep;
struct ucp_worker;

namespace interlace {

using EndpointId = uint64_t;  // never reused by a worker; 0: none

struct UcxEvent {
  enum class Kind { kMessage, kSent, kLost };
  Kind kind;
  EndpointId endpoint = 0;   // kSent, kLost
  absl::Status status;       // kSent, kLost; of a kMessage: why its body did not come
  std::string header;        // kMessage
  std::string body;          // kMessage
  Transport::SendDone done;  // kSent
};

// Shared memory and RDMA alone: UCX's own TCP aborts on bytes that strangers send to its port, so it is never opened,
// and no process of ours listens through UCX. Which connection a message belongs to stands in its header, not here.
// Thread: the transport's. UCX callbacks only append events, so every method may be called between two
// NextEvent() calls, whatever the event was about.
// The trap: memory of a send that UCX would not give back when its endpoint was closed is kept until the worker dies.
class UcxWorker {
 public:
  static absl::StatusOr<std::unique_ptr<UcxWorker>> Create(const UcxOptions& options);
  ~UcxWorker();

  // What another process passes to Open. UCX trusts these bytes.
  const std::string& address() const { return address_; }
  // Unavailable if no transport of UCX leads there.
  absl::StatusOr<EndpointId> Open(const std::string& address);
  // Ends in one kSent event, unless Close returns it first. An unknown endpoint is Unavailable.
  void Send(EndpointId endpoint, std::string header, SharedBytes body, Transport::SendDone done);
  // Tears the endpoint down at once; its events are forgotten and its unfinished sends fail with `reason`.
  std::vector<FinishedSend> Close(EndpointId endpoint, const absl::Status& reason);

  // False iff nothing happened.
  bool Progress();
  std::optional<UcxEvent> NextEvent();
  // Readable once UCX has something to do, if Arm has said so before. False: it already has.
  int event_fd() const { return event_fd_; }
  bool Arm();

 private:
  struct Outbound;
  struct Inbound;
  struct Callbacks;  // what UCX calls
  friend struct Callbacks;

  explicit UcxWorker(const UcxOptions& options) : max_body_bytes_(options.max_body_bytes) {}
  absl::Status OpenContext(const UcxOptions& options);
  absl::Status OpenWorker();
  absl::Status ReadAddress();
  void CloseEndpoint(ucp_ep* endpoint);
  void Finish(Outbound* outbound, int code);
  EndpointId IdOf(ucp_ep* endpoint) const;

  const int64_t max_body_bytes_;
  ucp_context* context_ = nullptr;
  ucp_worker* worker_ = nullptr;
  std::string address_;
  int event_fd_ = -1;
  EndpointId last_id_ = 0;
  absl::flat_hash_map<EndpointId, ucp_ep*> endpoints_;
  absl::flat_hash_map<ucp_ep*, EndpointId> ids_;
  std::unordered_set<Outbound*> outbound_;  // in UCX's hands
  std::unordered_set<Inbound*> inbound_;    // in UCX's hands
  std::deque<UcxEvent> events_;
};

}  // namespace interlace
