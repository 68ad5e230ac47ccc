// UcxTransport: what any thread calls, and how it is made.
#include "transport/ucx_transport.h"

#include <malloc.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/check.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "transport/transport_address.h"
#include "transport/ucx_peers.h"

namespace interlace {
namespace {

constexpr int64_t kMostWrittenAtOnce = 64 << 10;  // bytes of a message that its sender writes itself

// One piece of memory: UCX 1.13 sends a list of pieces at a third of the speed of one piece plus this copy.
SharedBytes Gather(const std::vector<SharedBytes>& parts, size_t bytes) {
  auto whole = std::make_shared<std::string>();
  whole->reserve(bytes);
  for (const SharedBytes& part : parts) whole->append(*part);
  return whole;
}

}  // namespace

UcxTransport::UcxTransport(const UcxOptions& options, FileDescriptor listener, std::unique_ptr<UcxWorker> fabric)
    : options_(options),
      machine_(ThisMachine()),
      entropy_(MakeOsEntropy()),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      listener_(std::move(listener)),
      fabric_(std::move(fabric)) {
  CHECK(epoll_.open() && wake_.open());
  if (listener_.open()) {
    const std::string nonce = absl::StrFormat("%016x%016x", entropy_->Next(), entropy_->Next());
    key_ = KeyOfListener(options_.secret, nonce);
    TransportAddress address{.machine = machine_, .nonce = nonce, .port = PortOf(listener_)};
    address.loopback = options.host == "0.0.0.0" || options.host == "127.0.0.1";
    if (options.host == "0.0.0.0") address.hosts = LocalHosts();
    if (!address.loopback) address.hosts = {options.host};
    address_ = address.Encode();
    Watch(listener_.get(), kListenerKey, EPOLLIN);
  }
  Watch(wake_.get(), kWakeKey, EPOLLIN);
  if (fabric_ != nullptr) Watch(fabric_->event_fd(), kFabricKey, EPOLLIN);
  thread_ = Thread("ucx", [this] { Run(); });
}

UcxTransport::~UcxTransport() {
  CHECK_MSG(!OnLoop(), "a transport was destroyed by its own handler");
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  Wake();
  thread_.Join();
}

void UcxTransport::Wake() { eventfd_write(wake_.get(), 1); }

const void* UcxTransport::LoopMark() {
  static thread_local char mark;
  return &mark;
}

bool UcxTransport::Post(Command& command) {
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return false;
    commands_.push_back(std::move(command));
  }
  if (sleeping_.load()) Wake();
  return true;
}

absl::StatusOr<PeerId> UcxTransport::Connect(absl::string_view address) {
  if (OnLoop()) return absl::FailedPreconditionError("Connect would wait for the thread that calls it");
  ASSIGN_OR_RETURN(const TransportAddress to, TransportAddress::Decode(address));
  absl::Status last = absl::UnavailableError(
      "the peer listens on the loopback of another machine; set transport.host there to an address that is reached "
      "from here");
  for (const std::string& host : to.Candidates(machine_)) {
    absl::StatusOr<PeerId> peer = ConnectTo(host, to.port, to.nonce);
    if (peer.ok()) return peer;
    last = peer.status();
  }
  return last;
}

absl::StatusOr<PeerId> UcxTransport::ConnectTo(const std::string& host, uint16_t port, const std::string& nonce) {
  auto greeting = std::make_shared<Greeting>();
  Command command = DialCommand{host, port, nonce, greeting};
  if (!Post(command)) return absl::CancelledError("the transport is closing");
  PeerId peer{};
  absl::Status status;
  bool answered = false;
  {
    absl::MutexLock lock(&greeting->mutex);
    answered = greeting->mutex.AwaitWithTimeout(absl::Condition(&greeting->answered), options_.connect_timeout);
    status = answered ? greeting->status : absl::UnavailableError("no answer");
    peer = greeting->peer;
  }
  if (status.ok()) return peer;
  if (peer != PeerId{}) Close(peer);
  return absl::UnavailableError(
      absl::StrCat("connecting to ", host, ":", port, ": ", status.message(),
                   answered ? "" : absl::StrCat(" within ", absl::FormatDuration(options_.connect_timeout))));
}

void UcxTransport::Send(PeerId peer, Channel channel, std::string header, std::vector<SharedBytes> parts,
                        SendDone done) {
  int64_t bytes = 0;
  for (const SharedBytes& part : parts) {
    CHECK(part != nullptr);
    bytes += static_cast<int64_t>(part->size());
  }
  if (header.size() > kMostHeaderBytes || bytes > options_.max_body_bytes) {
    return done(absl::InvalidArgumentError(absl::StrCat("message with a header of ", header.size(), " bytes (at most ",
                                                        kMostHeaderBytes, ") and a body of ", bytes, " bytes (at most ",
                                                        options_.max_body_bytes, ")")));
  }
  if (parts.size() > 1) parts = {Gather(parts, static_cast<size_t>(bytes))};
  SendCommand send{peer, channel, std::move(header), std::move(parts), std::move(done)};
  if (bytes <= kMostWrittenAtOnce && SendNow(send)) return;
  Command command = std::move(send);
  if (!Post(command)) std::get<SendCommand>(command).done(absl::CancelledError("the transport is closing"));
}

bool UcxTransport::SendNow(SendCommand& command) {
  if (fabric_ != nullptr || !sleeping_.load() || !loop_.TryLock()) return false;
  std::vector<FinishedSend> finished;
  bool first = false;
  {
    absl::MutexLock lock(&mutex_);
    first = commands_.empty() && !stopping_;
  }
  const auto it = first ? peers_.find(command.peer) : peers_.end();
  const bool now = it != peers_.end() && !it->second->link.has_unsent();
  if (now) {
    Execute(std::move(command));
    unwritten_.erase(it->first);
    if (!Write(it->first, *it->second, &finished)
             .ok()) {  // the transport's thread finds this again, and loses the peer
      unwritten_.insert(it->first);
      Wake();
    }
  }
  loop_.Unlock();
  Finish(std::move(finished));
  return now;
}

void UcxTransport::Listen(Channel channel, Handler handler) {
  absl::MutexLock lock(&mutex_);
  handlers_[static_cast<uint16_t>(channel)] = std::make_shared<Handler>(std::move(handler));
}

void UcxTransport::OnPeerLost(PeerLost handler) {
  absl::MutexLock lock(&mutex_);
  lost_handlers_.push_back(std::make_shared<PeerLost>(std::move(handler)));
}

void UcxTransport::Close(PeerId peer) {
  if (OnLoop()) return ClosePeer(peer);
  absl::Notification closed;
  Command command = CloseCommand{peer, &closed};
  if (!Post(command)) return;  // stopping: everything is being closed
  closed.WaitForNotification();
}

RefusalCounts UcxTransport::Refused() const {
  RefusalCounts counts{};
  for (size_t cause = 0; cause < counts.size(); ++cause) counts[cause] = refused_[cause].load();
  return counts;
}

void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
}

namespace {

absl::Status CheckTls(const std::string& tls) {
  for (absl::string_view name : absl::StrSplit(tls, ',')) {
    if (name != "tcp" && name != "all" && !absl::StartsWith(name, "^")) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("transport.tls='", tls,
                     "' lets UCX open TCP ports, which bytes of a stranger abort; name transports "
                     "such as rc, or say auto (RDMA where there is any) or none (our own sockets alone)"));
  }
  return absl::OkStatus();
}

bool HasRdma() {
  std::error_code none;
  return std::filesystem::directory_iterator("/sys/class/infiniband", none) != std::filesystem::directory_iterator();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakeUcxTransport(const UcxOptions& options) {
  if (options.max_body_bytes < 1) {
    return absl::InvalidArgumentError(absl::StrCat("max_body_bytes=", options.max_body_bytes, " must be positive"));
  }
  RETURN_IF_ERROR(CheckTls(options.tls));
  if (options.mac != "auto" && options.mac != "all" && options.mac != "control") {
    return absl::InvalidArgumentError(absl::StrCat("transport.mac='", options.mac, "' is none of auto, all, control"));
  }
  FileDescriptor listener;
  if (!options.host.empty()) {
    ASSIGN_OR_RETURN(listener, ListenOn(options.host, options.port));
  }
  std::unique_ptr<UcxWorker> fabric;
  if (options.tls != "none" && (options.tls != "auto" || HasRdma())) {
    absl::StatusOr<std::unique_ptr<UcxWorker>> made = UcxWorker::Create(options);
    if (!made.ok() && options.tls != "auto") {
      return absl::Status(made.status().code(), absl::StrCat("transport.tls='", options.tls, "' transport.devices='",
                                                             options.devices, "': ", made.status().message()));
    }
    if (!made.ok()) LOG(WARNING) << "UCX cannot use this machine's RDMA; sockets are used" << made.status();
    if (made.ok()) fabric = *std::move(made);
  }
  return std::make_unique<UcxTransport>(options, std::move(listener), std::move(fabric));
}

}  // namespace interlace
