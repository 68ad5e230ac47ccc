// UcxTransport: its thread's loop, commands and sockets.
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"
#include "common/loopback.h"
#include "transport/ucx_peers.h"

namespace interlace {
namespace {

constexpr size_t kMostStrangers = 64;  // accepted and not greeted yet; the oldest goes first
constexpr size_t kMostCommands = 64;   // between two looks at the sockets
constexpr int kSocketsEvery = 16;      // rounds of a busy fabric between two looks at the sockets
constexpr int kMostSocketEvents = 64;
constexpr absl::Duration kAcceptPause = absl::Milliseconds(100);  // when the process has no descriptor left
// A link whose way is cut is lost within 2 s: after kTendEvery at most something is under way on it, and its loss is
// seen at the first look behind kMostSilence.
constexpr absl::Duration kTendEvery = absl::Milliseconds(400);
constexpr absl::Duration kMostSilence = absl::Milliseconds(1600);

}  // namespace

void UcxTransport::Run() {
  loop_id_.store(LoopMark());
  absl::MutexLock lock(&loop_);
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
  if (idle && (fabric_ == nullptr || fabric_->Arm())) PollSockets(std::min(NextExpiry(), NextTending()) - clock_.Now());
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
  const auto it = peers_.find(command.peer);
  if (it == peers_.end() || it->second->state != Peer::State::kOpen) {
    return command.done(absl::UnavailableError(absl::StrCat("peer ", static_cast<uint64_t>(command.peer), " is gone")));
  }
  SharedBytes body = command.parts.empty() ? nullptr : std::move(command.parts[0]);
  PushMessage(*it->second, command.channel, command.header, std::move(body), std::move(command.done));
  if (it->second->fabric == 0) unwritten_.insert(command.peer);
}

// A sign of life goes over the link always, since the link is what it is for.
void UcxTransport::PushMessage(Peer& peer, Channel channel, absl::string_view header, SharedBytes body, SendDone done) {
  Frame frame{.kind = FrameKind::kMessage,
              .channel = static_cast<uint16_t>(channel),
              .header_bytes = static_cast<uint32_t>(header.size()),
              .body_bytes = body == nullptr ? 0 : body->size(),
              .sequence = peer.sent[static_cast<uint16_t>(channel)]++,
              .token = peer.handshake.session().peer_token};
  const bool whole = body != nullptr && (peer.bulk || !IsBulk(channel));
  frame.tag = peer.to_peer->TagOf(frame, header, whole ? absl::string_view(*body) : absl::string_view());
  std::string head = frame.With(header);
  if (peer.fabric != 0 && channel != kAliveChannel) {
    return fabric_->Send(peer.fabric, std::move(head), std::move(body), std::move(done));
  }
  peer.link.Push(std::move(head), std::move(body), std::move(done));
  peer.spoke = true;
}

void UcxTransport::Execute(DialCommand command) {
  absl::StatusOr<FileDescriptor> socket = DialTo(command.host, command.port);
  if (!socket.ok()) return command.greeting->Answer(socket.status());
  const PeerId id{++last_peer_};
  {
    absl::MutexLock lock(&command.greeting->mutex);
    command.greeting->peer = id;
  }
  Peer& peer = AddPeer(id, Peer::State::kDialling, *std::move(socket), KeyOfListener(options_.secret, command.nonce),
                       WantsBulk(command.host));
  peer.greeting = command.greeting;
  // Written once the connection is made, which epoll says.
  SayHandshake(peer, FrameKind::kGreeting, peer.handshake.Greet());
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

Peer& UcxTransport::AddPeer(PeerId id, Peer::State state, FileDescriptor socket, const LinkKey& key, bool bulk) {
  Handshake::Self self{.token = entropy_->Next(), .fabric = fabric_ == nullptr ? "" : fabric_->address(), .bulk = bulk};
  for (uint64_t& word : self.random) word = entropy_->Next();
  auto peer = std::make_unique<Peer>(Peer{.state = state,
                                          .link = TcpLink(std::move(socket)),
                                          .interest = EPOLLIN | (state == Peer::State::kDialling ? EPOLLOUT : 0u),
                                          .token = self.token,
                                          .greet_until = clock_.Now() + options_.connect_timeout,
                                          .handshake = Handshake(key, std::move(self))});
  Watch(peer->link.fd(), static_cast<uint64_t>(id), peer->interest);
  by_token_[peer->token] = id;
  strangers_.insert(id);
  return *(peers_[id] = std::move(peer));
}

bool UcxTransport::WantsBulk(const std::string& peer_host) const {
  return options_.mac == "all" || (options_.mac == "auto" && !IsLoopback(peer_host));
}

void UcxTransport::SayHandshake(Peer& peer, FrameKind kind, absl::string_view header) {
  peer.link.Push(HandshakeFrame(kind, header), nullptr, [](absl::Status) {});
}

void UcxTransport::StartSession(Peer& peer) {
  const LinkSession& session = peer.handshake.session();
  peer.to_peer = std::make_unique<FrameMac>(session.send);
  peer.from_peer = std::make_unique<FrameMac>(session.receive);
  peer.bulk = session.bulk;
}

void UcxTransport::Open(PeerId id, Peer& peer) {
  peer.state = Peer::State::kOpen;
  strangers_.erase(id);
  OpenFabric(id, peer, peer.handshake.session().peer_fabric);
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
  TendLinks();
  epoll_event events[kMostSocketEvents];
  const int64_t ms = absl::ToInt64Milliseconds(absl::Ceil(timeout, absl::Milliseconds(1)));
  const int wait = timeout == absl::InfiniteDuration() ? -1 : static_cast<int>(std::clamp<int64_t>(ms, 0, 60000));
  if (wait != 0) loop_.Unlock();
  const int count = epoll_wait(epoll_.get(), events, kMostSocketEvents, wait);
  if (wait != 0) loop_.Lock();
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
      if (not_accepted_.Pass(clock_.Now())) LOG(WARNING) << "transport cannot accept" << socket.status();
      accept_again_ = clock_.Now() + kAcceptPause;
      Watch(listener_.get(), kListenerKey, 0);
    }
    if (!socket.ok()) return;
    if (strangers_.size() >= kMostStrangers)
      Refuse(*strangers_.begin(), Cause::kCrowd, "too many connections that do not greet");
    const bool bulk = WantsBulk(PeerHost(*socket));
    AddPeer(PeerId{++last_peer_}, Peer::State::kAccepted, *std::move(socket), key_, bulk);
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
    Refuse(*strangers_.begin(), Cause::kLate, "no handshake in time");
  }
}

absl::Time UcxTransport::NextTending() const { return peers_.empty() ? absl::InfiniteFuture() : tended_ + kTendEvery; }

// Something is said on each link now and then, which the other end's system has to acknowledge: so each end of a link
// that is cut finds that out, also the one that only waits. The verdict is on what systems did, not processes. So
// a machine whose processes stand still for long loses no peer by it, and is lost to none.
void UcxTransport::TendLinks() {
  const absl::Time now = clock_.Now();
  if (now < NextTending()) return;
  tended_ = now;
  std::vector<PeerId> cut;
  for (auto& [id, peer] : peers_) {
    if (peer->state != Peer::State::kOpen) continue;
    if (peer->link.AnswersNothing(kMostSilence)) {
      cut.push_back(id);
    } else if (!std::exchange(peer->spoke, false) && !peer->link.has_unsent()) {
      PushMessage(*peer, kAliveChannel, "", nullptr, [](absl::Status) {});
      unwritten_.insert(id);
    }
  }
  for (const PeerId id : cut) {
    LosePeer(id, absl::UnavailableError(absl::StrCat("its machine has answered nothing for ",
                                                     absl::FormatDuration(kMostSilence),
                                                     ": it is gone, or the way to it is cut")));
  }
  while (!unwritten_.empty()) WriteLink(*unwritten_.begin());
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
    if (absl::IsInvalidArgument(status)) return Refuse(id, Cause::kGarbage, status.message());
    if (!status.ok()) return LosePeer(id, status);
  }
}

void UcxTransport::WriteLink(PeerId id) {
  unwritten_.erase(id);
  const auto it = peers_.find(id);
  if (it == peers_.end()) return;
  std::vector<FinishedSend> finished;
  const absl::Status status = Write(id, *it->second, &finished);
  Finish(std::move(finished));  // may close the peer
  if (!status.ok()) LosePeer(id, status);
}

absl::Status UcxTransport::Write(PeerId id, Peer& peer, std::vector<FinishedSend>* finished) {
  const absl::Status status = peer.link.Write(finished);
  const uint32_t interest = EPOLLIN | (peer.link.has_unsent() ? EPOLLOUT : 0u);
  if (interest != std::exchange(peer.interest, interest)) Watch(peer.link.fd(), static_cast<uint64_t>(id), interest);
  return status;
}

}  // namespace interlace
