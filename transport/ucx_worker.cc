#include "transport/ucx_worker.h"

#include <ucp/api/ucp.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr unsigned kMessageId = 1;
constexpr size_t kLargestHeader = kMostHeaderBytes + sizeof(Frame);
constexpr int kCloseProgress = 1000;  // rounds of progress that a closing endpoint gets

}  // namespace

absl::Status UcxStatus(int code, absl::string_view what) {
  const auto status = static_cast<ucs_status_t>(code);
  if (status == UCS_OK) return absl::OkStatus();
  const std::string text = absl::StrCat(what, ": ", ucs_status_string(status), " (UCX ", code, ")");
  switch (status) {
    case UCS_ERR_CANCELED:
      return absl::CancelledError(text);
    case UCS_ERR_NO_MEMORY:
    case UCS_ERR_NO_RESOURCE:
    case UCS_ERR_EXCEEDS_LIMIT:
      return absl::ResourceExhaustedError(text);
    case UCS_ERR_INVALID_PARAM:
    case UCS_ERR_INVALID_ADDR:
    case UCS_ERR_NO_ELEM:
      return absl::InvalidArgumentError(text);
    case UCS_ERR_UNREACHABLE:
    case UCS_ERR_TIMED_OUT:
    case UCS_ERR_NO_DEVICE:
    case UCS_ERR_BUSY:
    case UCS_ERR_IO_ERROR:
    case UCS_ERR_REJECTED:
    case UCS_ERR_NOT_CONNECTED:
    case UCS_ERR_CONNECTION_RESET:
    case UCS_ERR_ENDPOINT_TIMEOUT:
      return absl::UnavailableError(text);
    default:
      return absl::InternalError(text);
  }
}

// Owned by UCX from the send until its completion.
struct UcxWorker::Outbound {
  UcxWorker* worker;
  EndpointId endpoint;
  std::string header;
  SharedBytes body;          // may be null
  Transport::SendDone done;  // empty once the endpoint was closed
};

struct UcxWorker::Inbound {
  UcxWorker* worker;
  std::string header;
  std::string body;
};

struct UcxWorker::Callbacks {
  static void Sent(void* request, ucs_status_t status, void* user) {
    auto* outbound = static_cast<Outbound*>(user);
    ucp_request_free(request);
    outbound->worker->Finish(outbound, status);
  }

  static void Received(void* request, ucs_status_t status, size_t, void* user) {
    if (request != nullptr) ucp_request_free(request);
    std::unique_ptr<Inbound> inbound(static_cast<Inbound*>(user));
    UcxWorker& worker = *inbound->worker;
    worker.inbound_.erase(inbound.get());
    worker.events_.push_back({.kind = UcxEvent::Kind::kMessage,
                              .status = UcxStatus(status, "receiving a message"),
                              .header = std::move(inbound->header),
                              .body = std::move(inbound->body)});
  }

  static ucs_status_t Message(void* arg, const void* header, size_t header_length, void* data, size_t length,
                              const ucp_am_recv_param_t* param) {
    UcxWorker& worker = *static_cast<UcxWorker*>(arg);
    UcxEvent event{.kind = UcxEvent::Kind::kMessage,
                   .header = std::string(static_cast<const char*>(header), std::min(header_length, kLargestHeader))};
    const bool fits = length <= static_cast<size_t>(worker.max_body_bytes_) && header_length <= kLargestHeader;
    if (fits && (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) {
      return Fetch(worker, std::move(event.header), data, length);
    }
    if (fits) event.body.assign(static_cast<const char*>(data), length);
    if (!fits) event.status = absl::InvalidArgumentError(absl::StrCat("message of ", length, " bytes is too large"));
    worker.events_.push_back(std::move(event));
    return UCS_OK;
  }

  // The body of a rendezvous message, into memory that belongs to UCX until it has arrived.
  static ucs_status_t Fetch(UcxWorker& worker, std::string header, void* descriptor, size_t length) {
    auto* inbound = new Inbound{&worker, std::move(header), std::string(length, '\0')};
    worker.inbound_.insert(inbound);
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
    param.cb.recv_am = &Received;
    param.user_data = inbound;
    const ucs_status_ptr_t request =
        ucp_am_recv_data_nbx(worker.worker_, descriptor, inbound->body.data(), length, &param);
    if (!UCS_PTR_IS_PTR(request)) {
      Received(nullptr, UCS_PTR_STATUS(request), length, inbound);
      return UCS_OK;
    }
    return UCS_INPROGRESS;
  }

  static void Error(void* arg, ucp_ep_h endpoint, ucs_status_t status) {
    UcxWorker& worker = *static_cast<UcxWorker*>(arg);
    if (const EndpointId id = worker.IdOf(endpoint); id != 0) Lose(worker, id, UcxStatus(status, "connection"));
  }

  static void Lose(UcxWorker& worker, EndpointId endpoint, absl::Status status) {
    worker.events_.push_back({.kind = UcxEvent::Kind::kLost, .endpoint = endpoint, .status = std::move(status)});
  }
};

absl::StatusOr<std::unique_ptr<UcxWorker>> UcxWorker::Create(const UcxOptions& options) {
  auto worker = std::unique_ptr<UcxWorker>(new UcxWorker(options));
  RETURN_IF_ERROR(worker->OpenContext(options));
  RETURN_IF_ERROR(worker->OpenWorker());
  RETURN_IF_ERROR(worker->ReadAddress());
  return worker;
}

absl::Status UcxWorker::OpenContext(const UcxOptions& options) {
  ucp_config_t* config = nullptr;
  RETURN_IF_ERROR(UcxStatus(ucp_config_read(nullptr, nullptr, &config), "reading the UCX configuration"));
  std::unique_ptr<ucp_config_t, decltype(&ucp_config_release)> owned(config, &ucp_config_release);
  const auto set = [&](const char* name, const char* value) {
    return UcxStatus(ucp_config_modify(config, name, value), absl::StrCat("UCX setting ", name, "='", value, "'"));
  };
  RETURN_IF_ERROR(set("TLS", options.tls == "auto" ? "ib" : options.tls.c_str()));
  RETURN_IF_ERROR(set("MM_ERROR_HANDLING", "y"));  // or shared memory would not do for an endpoint that may fail
  RETURN_IF_ERROR(set("NET_DEVICES", options.devices.c_str()));
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  return UcxStatus(ucp_init(&params, config, &context_), "starting UCX");
}

absl::Status UcxWorker::OpenWorker() {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;  // made by one thread, then used by another
  RETURN_IF_ERROR(UcxStatus(ucp_worker_create(context_, &params, &worker_), "making a UCX worker"));
  ucp_worker_attr_t attributes{};
  attributes.field_mask = UCP_WORKER_ATTR_FIELD_MAX_AM_HEADER;
  RETURN_IF_ERROR(UcxStatus(ucp_worker_query(worker_, &attributes), "asking the UCX worker"));
  if (attributes.max_am_header < kLargestHeader) {
    return absl::UnavailableError(
        absl::StrCat("UCX takes headers of ", attributes.max_am_header, " bytes, ", kLargestHeader, " are needed"));
  }
  RETURN_IF_ERROR(UcxStatus(ucp_worker_get_efd(worker_, &event_fd_), "getting the UCX event descriptor"));
  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = kMessageId;
  handler.cb = &Callbacks::Message;
  handler.arg = this;
  return UcxStatus(ucp_worker_set_am_recv_handler(worker_, &handler), "setting the UCX message handler");
}

absl::Status UcxWorker::ReadAddress() {
  ucp_address_t* address = nullptr;
  size_t length = 0;
  RETURN_IF_ERROR(UcxStatus(ucp_worker_get_address(worker_, &address, &length), "getting the UCX worker's address"));
  address_.assign(reinterpret_cast<const char*>(address), length);
  ucp_worker_release_address(worker_, address);
  return absl::OkStatus();
}

UcxWorker::~UcxWorker() {
  for (const auto& [id, endpoint] : endpoints_) CloseEndpoint(endpoint);
  endpoints_.clear();
  ids_.clear();
  if (worker_ != nullptr) {
    for (int i = 0; i < kCloseProgress && (!outbound_.empty() || !inbound_.empty()); ++i) ucp_worker_progress(worker_);
    ucp_worker_destroy(worker_);
  }
  if (context_ != nullptr) ucp_cleanup(context_);
  for (Outbound* outbound : outbound_) delete outbound;
  for (Inbound* inbound : inbound_) delete inbound;
}

EndpointId UcxWorker::IdOf(ucp_ep* endpoint) const {
  const auto it = ids_.find(endpoint);
  return it == ids_.end() ? 0 : it->second;
}

absl::StatusOr<EndpointId> UcxWorker::Open(const std::string& address) {
  ucp_ep_params_t params{};
  params.field_mask =
      UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &Callbacks::Error;
  params.err_handler.arg = this;
  ucp_ep* endpoint = nullptr;
  RETURN_IF_ERROR(UcxStatus(ucp_ep_create(worker_, &params, &endpoint), "opening a UCX endpoint"));
  const EndpointId id = ++last_id_;
  endpoints_.emplace(id, endpoint);
  ids_[endpoint] = id;
  return id;
}

void UcxWorker::Send(EndpointId endpoint, std::string header, SharedBytes body, Transport::SendDone done) {
  const auto it = endpoints_.find(endpoint);
  if (it == endpoints_.end()) {
    events_.push_back({.kind = UcxEvent::Kind::kSent,
                       .status = absl::UnavailableError(absl::StrCat("endpoint ", endpoint, " is gone")),
                       .done = std::move(done)});
    return;
  }
  auto* outbound = new Outbound{this, endpoint, std::move(header), std::move(body), std::move(done)};
  outbound_.insert(outbound);
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.send = &Callbacks::Sent;
  param.user_data = outbound;
  const void* data = outbound->body == nullptr ? nullptr : outbound->body->data();
  const size_t bytes = outbound->body == nullptr ? 0 : outbound->body->size();
  const ucs_status_ptr_t request =
      ucp_am_send_nbx(it->second, kMessageId, outbound->header.data(), outbound->header.size(), data, bytes, &param);
  if (!UCS_PTR_IS_PTR(request)) Finish(outbound, UCS_PTR_STATUS(request));
}

void UcxWorker::Finish(Outbound* outbound, int code) {
  const std::unique_ptr<Outbound> owned(outbound);
  outbound_.erase(outbound);
  if (!outbound->done) return;  // the endpoint was closed and its sends were failed
  absl::Status status = UcxStatus(code, "sending a message");
  if (!status.ok()) status = absl::UnavailableError(status.message());  // whatever UCX calls it, it was not sent
  events_.push_back({.kind = UcxEvent::Kind::kSent,
                     .endpoint = outbound->endpoint,
                     .status = std::move(status),
                     .done = std::move(outbound->done)});
}

void UcxWorker::CloseEndpoint(ucp_ep* endpoint) {
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(endpoint, &param);
  if (!UCS_PTR_IS_PTR(request)) return;
  for (int i = 0; i < kCloseProgress && ucp_request_check_status(request) == UCS_INPROGRESS; ++i) {
    ucp_worker_progress(worker_);
  }
  ucp_request_free(request);
}

std::vector<FinishedSend> UcxWorker::Close(EndpointId endpoint, const absl::Status& reason) {
  std::vector<FinishedSend> finished;
  const auto it = endpoints_.find(endpoint);
  if (it == endpoints_.end()) return finished;
  ucp_ep* const closing = it->second;
  endpoints_.erase(it);
  ids_.erase(closing);
  CloseEndpoint(closing);
  const auto left = [&] {
    return std::any_of(outbound_.begin(), outbound_.end(), [&](Outbound* o) { return o->endpoint == endpoint; });
  };
  for (int i = 0; i < kCloseProgress && left(); ++i) ucp_worker_progress(worker_);
  std::deque<UcxEvent> kept;
  for (UcxEvent& event : events_) {
    if (event.endpoint != endpoint) {
      kept.push_back(std::move(event));
    } else if (event.kind == UcxEvent::Kind::kSent) {
      finished.push_back({std::move(event.done), event.status.ok() ? absl::OkStatus() : reason});
    }
  }
  events_.swap(kept);
  for (Outbound* outbound : outbound_) {
    if (outbound->endpoint == endpoint) finished.push_back({std::exchange(outbound->done, nullptr), reason});
  }
  return finished;
}

bool UcxWorker::Progress() {
  const unsigned happened = ucp_worker_progress(worker_);
  return happened != 0 || !events_.empty();
}

std::optional<UcxEvent> UcxWorker::NextEvent() {
  if (events_.empty()) return std::nullopt;
  std::optional<UcxEvent> event(std::move(events_.front()));
  events_.pop_front();
  return event;
}

bool UcxWorker::Arm() { return ucp_worker_arm(worker_) == UCS_OK; }

}  // namespace interlace
