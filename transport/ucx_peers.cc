// UcxTransport: what peers say, and how they end.
#include "transport/ucx_peers.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"

namespace interlace {

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

// Strangers can cause refusals at will: a line a second is enough to know.
void UcxTransport::Refuse(PeerId id, absl::string_view why) {
  if (const std::optional<int64_t> more = refused_.Pass(clock_.Now())) {
    LOG(WARNING) << "transport peer refused" << Field("peer", static_cast<uint64_t>(id)) << Field("why", why)
                 << Field("refused_before_in_silence", *more);
  }
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

}  // namespace interlace
