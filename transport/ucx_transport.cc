#include "transport/ucx_transport.h"

#include <malloc.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>
#include <variant>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "transport/inbound_order.h"
#include "transport/tcp_link.h"
#include "transport/tcp_socket.h"
#include "transport/transport_address.h"
#include "transport/ucx_worker.h"
#include "transport/wire_frame.h"

namespace interlace {
namespace {

constexpr size_t kMostStrangers = 64;  // accepted and not greeted yet; the oldest goes first
constexpr size_t kMostCommands = 64;   // between two looks at the sockets
constexpr int kSocketsEvery = 16;      // rounds of a busy fabric between two looks at the sockets
constexpr int kMostSocketEvents = 64;
constexpr absl::Duration kAcceptPause = absl::Milliseconds(100);  // when the process has no descriptor left

// What epoll names besides peers, whose ids are small.
constexpr uint64_t kListenerKey = ~uint64_t{0};
constexpr uint64_t kFabricKey = ~uint64_t{1};
constexpr uint64_t kWakeKey = ~uint64_t{2};

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
  bool answered = false;  // protected by mutex
  absl::Status status;    // protected by mutex
  PeerId peer{};          // protected by mutex; 0 until dialled
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
  TcpLink link;
  uint32_t interest;                             // of epoll
  uint64_t token;                                // which the peer puts into its frames
  absl::Time greet_until;                        // unless kOpen
  std::shared_ptr<Greeting> greeting = nullptr;  // of kDialling
  uint64_t peer_token = 0;                       // which we put into ours
  EndpointId fabric = 0;                         // 0: what is sent goes over the link
  absl::flat_hash_map<uint16_t, uint64_t> sent;
  absl::flat_hash_map<uint16_t, InboundOrder> received;
};

class UcxTransport final : public Transport {
 public:
  UcxTransport(const UcxOptions& options, FileDescriptor listener, std::unique_ptr<UcxWorker> fabric);
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
  void Wake();
  bool OnLoop() const { return loop_id_.load() == LoopMark(); }
  static const void* LoopMark();  // differs from thread to thread

  // Below: the transport's thread.
  void Run();
  void Sleep();
  bool Stopping();
  bool RunCommands();
  void Execute(SendCommand command);
  void Execute(DialCommand command);
  void Execute(CloseCommand command);
  bool PollSockets(absl::Duration timeout);
  void AcceptAll();
  void ExpireStrangers();
  absl::Time NextExpiry() const;
  Peer& AddPeer(PeerId id, Peer::State state, FileDescriptor socket);
  void Watch(int fd, uint64_t key, uint32_t interest);
  Hello OwnHello(const Peer& peer, const std::string& nonce) const;
  void OpenFabric(PeerId id, Peer& peer, const std::string& address);
  void ReadLink(PeerId id);
  void WriteLink(PeerId id);
  void Handle(UcxEvent event);
  void HandleFrame(PeerId id, const Frame& frame, std::string header, std::string body);
  void HandleMessage(PeerId id, Peer& peer, const Frame& frame, std::string header, std::string body);
  void Refuse(PeerId id, absl::string_view why);
  void Deliver(uint16_t channel, Message message);
  std::vector<FinishedSend> Forget(PeerId id, const absl::Status& reason);
  void ClosePeer(PeerId id);
  void LosePeer(PeerId id, const absl::Status& why);
  void Finish(std::vector<FinishedSend> finished);
  void Shutdown();

  const UcxOptions options_;
  const std::string machine_;
  const std::unique_ptr<Entropy> entropy_;
  std::string nonce_;
  std::string address_;
  RealClock clock_;
  FileDescriptor epoll_;
  FileDescriptor wake_;
  FileDescriptor listener_;
  std::unique_ptr<UcxWorker> fabric_;  // null: sockets alone

  // Of the transport's thread.
  absl::flat_hash_map<PeerId, std::unique_ptr<Peer>> peers_;
  absl::flat_hash_map<uint64_t, PeerId> by_token_;
  absl::flat_hash_map<EndpointId, PeerId> by_endpoint_;
  std::set<PeerId> strangers_;  // of kDialling and kAccepted, in the order in which they came
  std::set<PeerId> unwritten_;  // whose link got something to send since the last look
  uint64_t last_peer_ = 0;
  absl::Time accept_again_ = absl::InfinitePast();

  absl::Mutex mutex_;
  std::deque<Command> commands_;                                      // protected by mutex_
  bool stopping_ = false;                                             // protected by mutex_
  absl::flat_hash_map<uint16_t, std::shared_ptr<Handler>> handlers_;  // protected by mutex_
  std::vector<std::shared_ptr<PeerLost>> lost_handlers_;              // protected by mutex_
  std::atomic<bool> sleeping_{false};
  std::atomic<const void*> loop_id_{nullptr};
  Thread thread_;
};

UcxTransport::UcxTransport(const UcxOptions& options, FileDescriptor listener, std::unique_ptr<UcxWorker> fabric)
    : options_(options),
      machine_(ThisMachine()),
      entropy_(MakeOsEntropy()),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      listener_(std::move(listener)),
      fabric_(std::move(fabric)) {
  CHECK(epoll_.open() && wake_.open());
  nonce_ = absl::StrFormat("%016x%016x", entropy_->Next(), entropy_->Next());
  TransportAddress address{.machine = machine_, .nonce = nonce_, .port = PortOf(listener_)};
  address.loopback = options.host == "0.0.0.0" || options.host == "127.0.0.1";
  if (options.host == "0.0.0.0") address.hosts = LocalHosts();
  if (!address.loopback) address.hosts = {options.host};
  address_ = address.Encode();
  Watch(listener_.get(), kListenerKey, EPOLLIN);
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
  if (OnLoop()) return ClosePeer(peer);
  absl::Notification closed;
  Command command = CloseCommand{peer, &closed};
  if (!Post(command)) return;  // stopping: everything is being closed
  closed.WaitForNotification();
}

void UcxTransport::Run() {
  loop_id_.store(LoopMark());
  absl::Time last_activity = clock_.Now();
  for (int round = 0; !Stopping(); ++round) {
    bool active = RunCommands();
    if (fabric_ != nullptr) {
      active |= fabric_->Progress();
      while (std::optional<UcxEvent> event = fabric_->NextEvent()) Handle(*std::move(event));
    }
    if (!active || round % kSocketsEvery == 0) active |= PollSockets(absl::ZeroDuration());
    const absl::Time now = clock_.Now();
    if (active) last_activity = now;
    if (!active && now - last_activity >= options_.spin) Sleep();
  }
  Shutdown();
  loop_id_.store(nullptr);
}

void UcxTransport::Sleep() {
  sleeping_.store(true);
  bool idle = false;
  {
    absl::MutexLock lock(&mutex_);
    idle = commands_.empty() && !stopping_;
  }
  if (idle && (fabric_ == nullptr || fabric_->Arm())) PollSockets(NextExpiry() - clock_.Now());
  sleeping_.store(false);
}

bool UcxTransport::Stopping() {
  absl::MutexLock lock(&mutex_);
  return stopping_;
}

// One by one, so that a Close inside a completion finds the commands that are left.
bool UcxTransport::RunCommands() {
  size_t run = 0;
  for (; run < kMostCommands; ++run) {
    std::optional<Command> command;
    {
      absl::MutexLock lock(&mutex_);
      if (commands_.empty()) break;
      command = std::move(commands_.front());
      commands_.pop_front();
    }
    std::visit([this](auto& c) { Execute(std::move(c)); }, *command);
  }
  while (!unwritten_.empty()) WriteLink(*unwritten_.begin());
  return run > 0;
}

void UcxTransport::Execute(SendCommand command) {
  const auto channel = static_cast<uint16_t>(command.channel);
  const auto it = peers_.find(command.peer);
  if (it == peers_.end()) {
    return command.done(absl::UnavailableError(absl::StrCat("peer ", static_cast<uint64_t>(command.peer), " is gone")));
  }
  Peer& peer = *it->second;
  SharedBytes body = command.parts.empty() ? nullptr : std::move(command.parts[0]);
  Frame frame{.kind = FrameKind::kMessage,
              .channel = channel,
              .body_bytes = body == nullptr ? 0 : body->size(),
              .sequence = peer.sent[channel]++,
              .token = peer.peer_token};
  std::string head = frame.With(command.header);
  if (peer.fabric != 0) return fabric_->Send(peer.fabric, std::move(head), std::move(body), std::move(command.done));
  peer.link.Push(std::move(head), std::move(body), std::move(command.done));
  unwritten_.insert(command.peer);
}

void UcxTransport::Execute(DialCommand command) {
  absl::StatusOr<FileDescriptor> socket = DialTo(command.host, command.port);
  if (!socket.ok()) return command.greeting->Answer(socket.status());
  const PeerId id{++last_peer_};
  {
    absl::MutexLock lock(&command.greeting->mutex);
    command.greeting->peer = id;
  }
  Peer& peer = AddPeer(id, Peer::State::kDialling, *std::move(socket));
  peer.greeting = command.greeting;
  Frame frame{.kind = FrameKind::kGreeting};
  // Written once the connection is made, which epoll says.
  peer.link.Push(frame.With(OwnHello(peer, command.nonce).Encode()), nullptr, [](absl::Status) {});
}

void UcxTransport::Execute(CloseCommand command) {
  ClosePeer(command.peer);
  command.closed->Notify();
}

void UcxTransport::Watch(int fd, uint64_t key, uint32_t interest) {
  epoll_event event{};
  event.events = interest;
  event.data.u64 = key;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return;
  CHECK_MSG(epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) == 0, "epoll refuses a descriptor");
}

Peer& UcxTransport::AddPeer(PeerId id, Peer::State state, FileDescriptor socket) {
  auto peer = std::make_unique<Peer>(Peer{.state = state,
                                          .link = TcpLink(std::move(socket)),
                                          .interest = EPOLLIN | (state == Peer::State::kDialling ? EPOLLOUT : 0u),
                                          .token = entropy_->Next(),
                                          .greet_until = clock_.Now() + options_.connect_timeout});
  Watch(peer->link.fd(), static_cast<uint64_t>(id), peer->interest);
  by_token_[peer->token] = id;
  strangers_.insert(id);
  return *(peers_[id] = std::move(peer));
}

Hello UcxTransport::OwnHello(const Peer& peer, const std::string& nonce) const {
  return {.nonce = nonce, .token = peer.token, .fabric = fabric_ == nullptr ? "" : fabric_->address()};
}

// Each direction on its own: where no endpoint can be made, we send over the link and the peer may still use the
// fabric.
void UcxTransport::OpenFabric(PeerId id, Peer& peer, const std::string& address) {
  if (fabric_ == nullptr || address.empty()) return;
  const absl::StatusOr<EndpointId> endpoint = fabric_->Open(address);
  if (!endpoint.ok()) return;
  peer.fabric = *endpoint;
  by_endpoint_[*endpoint] = id;
}

bool UcxTransport::PollSockets(absl::Duration timeout) {
  ExpireStrangers();
  epoll_event events[kMostSocketEvents];
  const int64_t ms =
      timeout == absl::InfiniteDuration() ? -1 : absl::ToInt64Milliseconds(absl::Ceil(timeout, absl::Milliseconds(1)));
  const int count =
      epoll_wait(epoll_.get(), events, kMostSocketEvents, static_cast<int>(std::clamp<int64_t>(ms, -1, 60000)));
  for (int i = 0; i < count; ++i) {
    const uint64_t key = events[i].data.u64;
    if (key == kListenerKey) {
      AcceptAll();
    } else if (key == kWakeKey) {
      eventfd_t value = 0;
      eventfd_read(wake_.get(), &value);
    } else if (key != kFabricKey) {
      // An earlier event of this round may have ended the peer: both look it up.
      if ((events[i].events & EPOLLOUT) != 0) WriteLink(PeerId{key});
      if ((events[i].events & ~static_cast<uint32_t>(EPOLLOUT)) != 0) ReadLink(PeerId{key});
    }
  }
  return count > 0;
}

void UcxTransport::AcceptAll() {
  while (true) {
    absl::StatusOr<FileDescriptor> socket = AcceptFrom(listener_);
    if (absl::IsResourceExhausted(socket.status())) {
      // The connection stays in the backlog, which would wake us at once for ever.
      LOG(WARNING) << "transport cannot accept" << socket.status();
      accept_again_ = clock_.Now() + kAcceptPause;
      Watch(listener_.get(), kListenerKey, 0);
    }
    if (!socket.ok()) return;
    if (strangers_.size() >= kMostStrangers) Refuse(*strangers_.begin(), "too many connections that do not greet");
    AddPeer(PeerId{++last_peer_}, Peer::State::kAccepted, *std::move(socket));
  }
}

absl::Time UcxTransport::NextExpiry() const {
  const absl::Time stranger = strangers_.empty() ? absl::InfiniteFuture() : peers_.at(*strangers_.begin())->greet_until;
  return accept_again_ == absl::InfinitePast() ? stranger : std::min(stranger, accept_again_);
}

void UcxTransport::ExpireStrangers() {
  if (NextExpiry() > clock_.Now()) return;
  if (accept_again_ <= clock_.Now() && accept_again_ != absl::InfinitePast()) {
    accept_again_ = absl::InfinitePast();
    Watch(listener_.get(), kListenerKey, EPOLLIN);
  }
  while (!strangers_.empty() && peers_.at(*strangers_.begin())->greet_until <= clock_.Now()) {
    Refuse(*strangers_.begin(), "no greeting in time");
  }
}

void UcxTransport::ReadLink(PeerId id) {
  bool more = true;
  while (more) {
    const auto it = peers_.find(id);
    if (it == peers_.end()) return;
    const bool open = it->second->state == Peer::State::kOpen;
    const TcpLink::Bounds bounds = {open ? kMostHeaderBytes : kMostHelloBytes,
                                    open ? static_cast<uint64_t>(options_.max_body_bytes) : 0};
    std::vector<InboundFrame> frames;
    const absl::Status status = it->second->link.Read(bounds, &frames);
    more = status.ok() && it->second->link.paused();
    for (InboundFrame& in : frames) {
      if (peers_.contains(id)) HandleFrame(id, in.frame, std::move(in.header), std::move(in.body));
    }
    if (!status.ok()) return LosePeer(id, status);
  }
}

void UcxTransport::WriteLink(PeerId id) {
  unwritten_.erase(id);
  const auto it = peers_.find(id);
  if (it == peers_.end()) return;
  Peer& peer = *it->second;
  std::vector<FinishedSend> finished;
  const absl::Status status = peer.link.Write(&finished);
  const uint32_t interest = EPOLLIN | (peer.link.has_unsent() ? EPOLLOUT : 0u);
  if (interest != std::exchange(peer.interest, interest)) Watch(peer.link.fd(), static_cast<uint64_t>(id), interest);
  Finish(std::move(finished));  // may close the peer
  if (!status.ok()) LosePeer(id, status);
}

void UcxTransport::Handle(UcxEvent event) {
  switch (event.kind) {
    case UcxEvent::Kind::kSent: {
      const auto it = by_endpoint_.find(event.endpoint);
      const PeerId peer = it == by_endpoint_.end() ? PeerId{} : it->second;
      const absl::Status status = event.status;
      event.done(std::move(event.status));
      // Its number in the sequence was used: what follows it would be held back for ever.
      if (!status.ok()) LosePeer(peer, status);
      return;
    }
    case UcxEvent::Kind::kLost: {
      const auto it = by_endpoint_.find(event.endpoint);
      if (it != by_endpoint_.end()) LosePeer(it->second, event.status);
      return;
    }
    case UcxEvent::Kind::kMessage: {
      if (event.header.size() < sizeof(Frame)) return;
      const Frame frame = Frame::Decode(event.header.data());
      const auto it = by_token_.find(frame.token);
      if (frame.magic != Frame::kMagic || frame.kind != FrameKind::kMessage || it == by_token_.end()) return;
      const PeerId id = it->second;
      if (!event.status.ok()) return LosePeer(id, event.status);
      return HandleMessage(id, *peers_.at(id), frame, event.header.substr(sizeof(Frame)), std::move(event.body));
    }
  }
}

void UcxTransport::Refuse(PeerId id, absl::string_view why) {
  LOG(WARNING) << "transport peer refused" << Field("peer", static_cast<uint64_t>(id)) << Field("why", why);
  LosePeer(id, absl::InvalidArgumentError(why));
}

void UcxTransport::HandleFrame(PeerId id, const Frame& frame, std::string header, std::string body) {
  Peer& peer = *peers_.at(id);
  switch (frame.kind) {
    case FrameKind::kGreeting:
    case FrameKind::kWelcome: {
      const absl::StatusOr<Hello> hello = Hello::Decode(header);
      const bool greeting = frame.kind == FrameKind::kGreeting;
      if (peer.state != (greeting ? Peer::State::kAccepted : Peer::State::kDialling))
        return Refuse(id, "hello out of turn");
      if (!hello.ok()) return Refuse(id, hello.status().message());
      if (greeting ? hello->nonce != nonce_ : frame.token != peer.token) {
        return Refuse(id, "greeting not meant for this process");
      }
      peer.state = Peer::State::kOpen;
      peer.peer_token = hello->token;
      strangers_.erase(id);
      OpenFabric(id, peer, hello->fabric);
      if (!greeting) return std::exchange(peer.greeting, nullptr)->Answer(absl::OkStatus());
      Frame welcome{.kind = FrameKind::kWelcome, .token = peer.peer_token};
      peer.link.Push(welcome.With(OwnHello(peer, "").Encode()), nullptr, [](absl::Status) {});
      return WriteLink(id);
    }
    case FrameKind::kMessage:
      if (peer.state != Peer::State::kOpen) return Refuse(id, "message before the greeting");
      if (frame.token != peer.token) return Refuse(id, "message for another connection");
      if (frame.sequence != peer.received[frame.channel].next()) return Refuse(id, "message out of sequence");
      return HandleMessage(id, peer, frame, std::move(header), std::move(body));
  }
  Refuse(id, "unknown frame");
}

void UcxTransport::HandleMessage(PeerId id, Peer& peer, const Frame& frame, std::string header, std::string body) {
  std::vector<Message> ready;
  if (!peer.received[frame.channel].Arrive(frame.sequence, Message{id, std::move(header), std::move(body)}, &ready)) {
    return Refuse(id, "message out of sequence");
  }
  for (Message& message : ready) {
    if (!peers_.contains(id)) return;  // a handler closed it
    Deliver(frame.channel, std::move(message));
  }
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

void UcxTransport::Finish(std::vector<FinishedSend> finished) {
  for (FinishedSend& one : finished) one.done(std::move(one.status));
}

// Takes the peer out of every table; what it had not sent fails with `reason`.
std::vector<FinishedSend> UcxTransport::Forget(PeerId id, const absl::Status& reason) {
  const std::unique_ptr<Peer> peer = std::move(peers_.at(id));
  peers_.erase(id);
  by_token_.erase(peer->token);
  strangers_.erase(id);
  unwritten_.erase(id);
  std::vector<FinishedSend> finished;
  if (peer->fabric != 0) {
    by_endpoint_.erase(peer->fabric);
    finished = fabric_->Close(peer->fabric, reason);
  }
  for (SendDone& done : peer->link.TakeUnsent()) finished.push_back({std::move(done), reason});
  return finished;
}

// May run inside a handler: sends that wait in the queue are taken out of it here.
void UcxTransport::ClosePeer(PeerId id) {
  const auto it = peers_.find(id);
  if (it == peers_.end()) return;
  const std::shared_ptr<Greeting> greeting = std::move(it->second->greeting);
  const absl::Status closed = absl::CancelledError(absl::StrCat("peer ", static_cast<uint64_t>(id), " was closed"));
  std::vector<FinishedSend> finished = Forget(id, closed);
  {
    absl::MutexLock lock(&mutex_);
    std::deque<Command> kept;
    for (Command& command : commands_) {
      auto* send = std::get_if<SendCommand>(&command);
      if (send != nullptr && send->peer == id) {
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

void UcxTransport::LosePeer(PeerId id, const absl::Status& why) {
  const auto it = peers_.find(id);
  if (it == peers_.end()) return;
  const bool announced = it->second->state == Peer::State::kOpen;
  const std::shared_ptr<Greeting> greeting = std::move(it->second->greeting);
  const absl::Status status =
      absl::UnavailableError(absl::StrCat("peer ", static_cast<uint64_t>(id), " was lost: ", why.message()));
  std::vector<FinishedSend> finished = Forget(id, status);
  if (greeting != nullptr) greeting->Answer(status);
  Finish(std::move(finished));
  if (!announced) return;
  std::vector<std::shared_ptr<PeerLost>> handlers;
  {
    absl::MutexLock lock(&mutex_);
    handlers = lost_handlers_;
  }
  for (const std::shared_ptr<PeerLost>& handler : handlers) (*handler)(id, status);
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
  while (std::optional<UcxEvent> event = fabric_ == nullptr ? std::nullopt : fabric_->NextEvent()) {
    if (event->kind == UcxEvent::Kind::kSent) event->done(closing);
  }
}

}  // namespace

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
  ASSIGN_OR_RETURN(FileDescriptor listener, ListenOn(options.host, options.port));
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
