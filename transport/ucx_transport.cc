#include "transport/ucx_transport.h"

#include <malloc.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <optional>
#include <variant>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "transport/inbound_order.h"
#include "transport/transport_address.h"
#include "transport/ucx_worker.h"

namespace interlace {
namespace {

constexpr size_t kMostHeaderBytes = 4096;

// In front of every header. All machines of a cluster are little-endian.
enum class FrameKind : uint16_t { kGreeting = 0x4947, kWelcome = 0x4957, kMessage = 0x494d };
struct Frame {
  FrameKind kind;
  uint16_t channel;
  uint32_t reserved;
  uint64_t sequence;  // of the channel, from 0
};
static_assert(sizeof(Frame) == 16);

std::string Framed(FrameKind kind, uint16_t channel, uint64_t sequence, absl::string_view header) {
  const Frame frame{kind, channel, 0, sequence};
  std::string bytes(reinterpret_cast<const char*>(&frame), sizeof frame);
  bytes.append(header.data(), header.size());
  return bytes;
}

// One piece of memory: UCX 1.13 sends a list of pieces at a third of the speed of one piece plus this copy.
SharedBytes Gather(const std::vector<SharedBytes>& parts, size_t bytes) {
  auto whole = std::make_shared<std::string>();
  whole->reserve(bytes);
  for (const SharedBytes& part : parts) whole->append(*part);
  return whole;
}

// What Connect waits for.
struct Greeting {
  absl::Mutex mutex;
  bool answered = false;    // protected by mutex
  absl::Status status;      // protected by mutex
  EndpointId endpoint = 0;  // protected by mutex; 0 until dialled
  void Answer(absl::Status with) {
    absl::MutexLock lock(&mutex);
    if (answered) return;
    answered = true;
    status = std::move(with);
  }
};

struct SendCommand {
  PeerId peer;
  Channel channel;
  std::string header;
  std::vector<SharedBytes> parts;
  Transport::SendDone done;
};
struct DialCommand {
  std::string host;
  uint16_t port;
  std::string nonce;
  std::shared_ptr<Greeting> greeting;
};
struct CloseCommand {
  PeerId peer;
  absl::Notification* closed;
};
using Command = std::variant<SendCommand, DialCommand, CloseCommand>;

// One connection. Thread: the transport's.
struct Peer {
  enum class State { kDialling, kAccepted, kOpen };
  State state;
  std::shared_ptr<Greeting> greeting;  // of kDialling
  absl::flat_hash_map<uint16_t, uint64_t> sent;
  absl::flat_hash_map<uint16_t, InboundOrder> received;
};

class UcxTransport final : public Transport {
 public:
  UcxTransport(const UcxOptions& options, std::unique_ptr<UcxWorker> worker);
  ~UcxTransport() override;

  const std::string& address() const override { return address_; }
  absl::StatusOr<PeerId> Connect(absl::string_view address) override;
  void Send(PeerId peer, Channel channel, std::string header, std::vector<SharedBytes> parts, SendDone done) override;
  void Listen(Channel channel, Handler handler) override;
  void OnPeerLost(PeerLost handler) override;
  void Close(PeerId peer) override;

 private:
  absl::StatusOr<PeerId> ConnectTo(const std::string& host, uint16_t port, const std::string& nonce);
  bool Post(Command& command);  // false iff stopping; the command is then untouched
  bool OnLoop() const { return loop_id_.load() == LoopMark(); }
  static const void* LoopMark();  // differs from thread to thread

  // Below: the transport's thread.
  void Run();
  bool Stopping();
  bool RunCommands();
  void Execute(SendCommand command);
  void Execute(DialCommand command);
  void Execute(CloseCommand command);
  void Handle(UcxEvent event);
  void HandleFrame(EndpointId endpoint, std::string header, std::string body);
  void Deliver(uint16_t channel, Message message);
  void ClosePeer(EndpointId endpoint);
  void LosePeer(EndpointId endpoint, const absl::Status& why);
  void Finish(std::vector<UcxFinished> finished);
  void Shutdown();

  const UcxOptions options_;
  const std::string machine_;
  std::string nonce_;
  std::string address_;
  RealClock clock_;
  std::unique_ptr<UcxWorker> worker_;
  absl::flat_hash_map<EndpointId, Peer> peers_;  // of the transport's thread

  absl::Mutex mutex_;
  std::deque<Command> commands_;                                      // protected by mutex_
  bool stopping_ = false;                                             // protected by mutex_
  absl::flat_hash_map<uint16_t, std::shared_ptr<Handler>> handlers_;  // protected by mutex_
  std::vector<std::shared_ptr<PeerLost>> lost_handlers_;              // protected by mutex_
  std::atomic<bool> sleeping_{false};
  std::atomic<const void*> loop_id_{nullptr};
  Thread thread_;
};

UcxTransport::UcxTransport(const UcxOptions& options, std::unique_ptr<UcxWorker> worker)
    : options_(options), machine_(ThisMachine()), worker_(std::move(worker)) {
  const std::unique_ptr<Entropy> entropy = MakeOsEntropy();
  nonce_ = absl::StrFormat("%016x%016x", entropy->Next(), entropy->Next());
  const bool everywhere = options.host.empty();
  address_ = TransportAddress{.machine = machine_,
                              .nonce = nonce_,
                              .port = worker_->port(),
                              .hosts = everywhere ? LocalHosts() : std::vector<std::string>{options.host},
                              .loopback = everywhere}
                 .Encode();
  thread_ = Thread("ucx", [this] { Run(); });
}

UcxTransport::~UcxTransport() {
  CHECK_MSG(!OnLoop(), "a transport was destroyed by its own handler");
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  worker_->Signal();
  thread_.Join();
}

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
  if (sleeping_.load()) worker_->Signal();
  return true;
}

absl::StatusOr<PeerId> UcxTransport::Connect(absl::string_view address) {
  if (OnLoop()) return absl::FailedPreconditionError("Connect would wait for the thread that calls it");
  ASSIGN_OR_RETURN(const TransportAddress to, TransportAddress::Decode(address));
  absl::Status last = absl::UnavailableError("the peer names no host that can be reached from here");
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
  EndpointId endpoint = 0;
  absl::Status status;
  bool answered = false;
  {
    absl::MutexLock lock(&greeting->mutex);
    answered = greeting->mutex.AwaitWithTimeout(absl::Condition(&greeting->answered), options_.connect_timeout);
    status = answered ? greeting->status : absl::UnavailableError("no answer");
    endpoint = greeting->endpoint;
  }
  if (status.ok()) return PeerId{endpoint};
  if (endpoint != 0) Close(PeerId{endpoint});
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
  Command command = SendCommand{peer, channel, std::move(header), std::move(parts), std::move(done)};
  if (!Post(command)) std::get<SendCommand>(command).done(absl::CancelledError("the transport is closing"));
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
  if (OnLoop()) return ClosePeer(static_cast<EndpointId>(peer));
  absl::Notification closed;
  Command command = CloseCommand{peer, &closed};
  if (!Post(command)) return;  // stopping: everything is being closed
  closed.WaitForNotification();
}

void UcxTransport::Run() {
  loop_id_.store(LoopMark());
  absl::Time last_activity = clock_.Now();
  while (!Stopping()) {
    bool active = RunCommands();
    active |= worker_->Progress();
    while (std::optional<UcxEvent> event = worker_->NextEvent()) Handle(*std::move(event));
    const absl::Time now = clock_.Now();
    if (active) last_activity = now;
    if (active || now - last_activity < options_.spin) continue;
    sleeping_.store(true);
    bool idle = false;
    {
      absl::MutexLock lock(&mutex_);
      idle = commands_.empty() && !stopping_;
    }
    if (idle) worker_->Wait();
    sleeping_.store(false);
  }
  Shutdown();
  loop_id_.store(nullptr);
}

bool UcxTransport::Stopping() {
  absl::MutexLock lock(&mutex_);
  return stopping_;
}

// One by one, so that a Close inside a completion finds the commands that are left.
bool UcxTransport::RunCommands() {
  for (bool any = false;; any = true) {
    std::optional<Command> command;
    {
      absl::MutexLock lock(&mutex_);
      if (commands_.empty()) return any;
      command = std::move(commands_.front());
      commands_.pop_front();
    }
    std::visit([this](auto& c) { Execute(std::move(c)); }, *command);
  }
}

void UcxTransport::Execute(SendCommand command) {
  const auto endpoint = static_cast<EndpointId>(command.peer);
  const auto channel = static_cast<uint16_t>(command.channel);
  const auto it = peers_.find(endpoint);
  if (it == peers_.end()) return command.done(absl::UnavailableError(absl::StrCat("peer ", endpoint, " is gone")));
  worker_->Send(endpoint, Framed(FrameKind::kMessage, channel, it->second.sent[channel]++, command.header),
                std::move(command.parts), std::move(command.done));
}

void UcxTransport::Execute(DialCommand command) {
  const absl::StatusOr<EndpointId> endpoint = worker_->Dial(command.host, command.port);
  if (!endpoint.ok()) return command.greeting->Answer(endpoint.status());
  {
    absl::MutexLock lock(&command.greeting->mutex);
    command.greeting->endpoint = *endpoint;
  }
  peers_[*endpoint] = Peer{.state = Peer::State::kDialling, .greeting = command.greeting};
  worker_->Send(*endpoint, Framed(FrameKind::kGreeting, 0, 0, command.nonce), {}, [](absl::Status) {});
}

void UcxTransport::Execute(CloseCommand command) {
  ClosePeer(static_cast<EndpointId>(command.peer));
  command.closed->Notify();
}

void UcxTransport::Handle(UcxEvent event) {
  switch (event.kind) {
    case UcxEvent::Kind::kAccepted:
      peers_[event.endpoint] = Peer{.state = Peer::State::kAccepted};
      return;
    case UcxEvent::Kind::kSent:
      return event.done(std::move(event.status));
    case UcxEvent::Kind::kLost:
      return LosePeer(event.endpoint, event.status);
    case UcxEvent::Kind::kMessage:
      return HandleFrame(event.endpoint, std::move(event.header), std::move(event.body));
  }
}

void UcxTransport::HandleFrame(EndpointId endpoint, std::string header, std::string body) {
  const auto it = peers_.find(endpoint);
  if (it == peers_.end()) return;
  Peer& peer = it->second;
  const auto refuse = [&](absl::string_view why) {
    LOG(WARNING) << "transport peer refused" << Field("peer", endpoint) << Field("why", why);
    LosePeer(endpoint, absl::InvalidArgumentError(why));
  };
  Frame frame;
  if (header.size() < sizeof frame) return refuse("message without a frame");
  std::memcpy(&frame, header.data(), sizeof frame);
  header.erase(0, sizeof frame);
  switch (frame.kind) {
    case FrameKind::kGreeting:
      if (peer.state != Peer::State::kAccepted || header != nonce_)
        return refuse("greeting not meant for this process");
      peer.state = Peer::State::kOpen;
      worker_->Send(endpoint, Framed(FrameKind::kWelcome, 0, 0, ""), {}, [](absl::Status) {});
      return;
    case FrameKind::kWelcome:
      if (peer.state != Peer::State::kDialling) return refuse("welcome out of turn");
      peer.state = Peer::State::kOpen;
      std::exchange(peer.greeting, nullptr)->Answer(absl::OkStatus());
      return;
    case FrameKind::kMessage: {
      if (peer.state == Peer::State::kAccepted) return refuse("message before the greeting");
      std::vector<Message> ready;
      if (!peer.received[frame.channel].Arrive(frame.sequence,
                                               Message{PeerId{endpoint}, std::move(header), std::move(body)}, &ready)) {
        return refuse("message out of sequence");
      }
      for (Message& message : ready) {
        if (!peers_.contains(endpoint)) return;  // a handler closed it
        Deliver(frame.channel, std::move(message));
      }
      return;
    }
  }
  refuse("unknown frame");
}

void UcxTransport::Deliver(uint16_t channel, Message message) {
  std::shared_ptr<Handler> handler;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = handlers_.find(channel);
    if (it != handlers_.end()) handler = it->second;
  }
  if (handler == nullptr) {
    LOG(WARNING) << "transport message dropped: nobody listens" << Field("channel", channel);
    return;
  }
  (*handler)(std::move(message));
}

void UcxTransport::Finish(std::vector<UcxFinished> finished) {
  for (UcxFinished& one : finished) one.done(std::move(one.status));
}

// May run inside a handler: sends that wait in the queue are taken out of it here.
void UcxTransport::ClosePeer(EndpointId endpoint) {
  const auto it = peers_.find(endpoint);
  if (it == peers_.end()) return;
  const std::shared_ptr<Greeting> greeting = std::move(it->second.greeting);
  peers_.erase(it);
  const absl::Status closed = absl::CancelledError(absl::StrCat("peer ", endpoint, " was closed"));
  std::vector<UcxFinished> finished = worker_->Close(endpoint, closed);
  {
    absl::MutexLock lock(&mutex_);
    std::deque<Command> kept;
    for (Command& command : commands_) {
      auto* send = std::get_if<SendCommand>(&command);
      if (send != nullptr && static_cast<EndpointId>(send->peer) == endpoint) {
        finished.push_back({std::move(send->done), closed});
      } else {
        kept.push_back(std::move(command));
      }
    }
    commands_.swap(kept);
  }
  if (greeting != nullptr) greeting->Answer(closed);
  Finish(std::move(finished));
}

void UcxTransport::LosePeer(EndpointId endpoint, const absl::Status& why) {
  const auto it = peers_.find(endpoint);
  if (it == peers_.end()) return;
  const bool announced = it->second.state == Peer::State::kOpen;
  const std::shared_ptr<Greeting> greeting = std::move(it->second.greeting);
  peers_.erase(it);
  const absl::Status status = absl::UnavailableError(absl::StrCat("peer ", endpoint, " was lost: ", why.message()));
  std::vector<UcxFinished> finished = worker_->Close(endpoint, status);
  if (greeting != nullptr) greeting->Answer(status);
  Finish(std::move(finished));
  if (!announced) return;
  std::vector<std::shared_ptr<PeerLost>> handlers;
  {
    absl::MutexLock lock(&mutex_);
    handlers = lost_handlers_;
  }
  for (const std::shared_ptr<PeerLost>& handler : handlers) (*handler)(PeerId{endpoint}, status);
}

void UcxTransport::Shutdown() {
  while (!peers_.empty()) ClosePeer(peers_.begin()->first);
  std::deque<Command> left;
  {
    absl::MutexLock lock(&mutex_);
    left.swap(commands_);
  }
  const absl::Status closing = absl::CancelledError("the transport is closing");
  for (Command& command : left) {
    if (auto* send = std::get_if<SendCommand>(&command)) send->done(closing);
    if (auto* dial = std::get_if<DialCommand>(&command)) dial->greeting->Answer(closing);
    if (auto* close = std::get_if<CloseCommand>(&command)) close->closed->Notify();
  }
  while (std::optional<UcxEvent> event = worker_->NextEvent()) {
    if (event->kind == UcxEvent::Kind::kSent) event->done(closing);
  }
}

}  // namespace

void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
}

absl::StatusOr<std::unique_ptr<Transport>> MakeUcxTransport(const UcxOptions& options) {
  if (options.max_body_bytes < 1) {
    return absl::InvalidArgumentError(absl::StrCat("max_body_bytes=", options.max_body_bytes, " must be positive"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<UcxWorker> worker, UcxWorker::Create(options));
  return std::make_unique<UcxTransport>(options, std::move(worker));
}

}  // namespace interlace
