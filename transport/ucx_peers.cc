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
      if (peers_.at(id)->state != Peer::State::kOpen) return;  // of nobody that we know
      if (!event.status.ok()) return LosePeer(id, event.status);
      return HandleMessage(id, *peers_.at(id), frame, event.header.substr(sizeof(Frame)), std::move(event.body));
    }
  }
}

// Strangers can cause refusals at will: a line a second is enough to know.
void UcxTransport::Refuse(PeerId id, Cause cause, absl::string_view why) {
  if (!peers_.contains(id)) return;
  ++refused_[static_cast<size_t>(cause)];
  if (const std::optional<int64_t> more = told_of_refusal_.Pass(clock_.Now())) {
    LOG(WARNING) << "transport peer refused" << Field("peer", static_cast<uint64_t>(id))
                 << Field("cause", kRefusalCauses[static_cast<size_t>(cause)]) << Field("why", why)
                 << Field("refused_before_in_silence", *more);
  }
  LosePeer(id, absl::InvalidArgumentError(why));
}

void UcxTransport::RefuseHandshake(PeerId id, const absl::Status& why) {
  Refuse(id, absl::IsPermissionDenied(why) ? Cause::kWrongKey : Cause::kGarbage, why.message());
}

void UcxTransport::HandleFrame(PeerId id, const Frame& frame, std::string header, std::string body) {
  Peer& peer = *peers_.at(id);
  if (frame.kind != FrameKind::kMessage) return HandleHandshake(id, peer, frame, header);
  if (peer.state != Peer::State::kOpen) return Refuse(id, Cause::kOutOfTurn, "message before the handshake");
  if (frame.token != peer.token) return Refuse(id, Cause::kTampered, "message for another connection");
  if (frame.sequence != peer.received[frame.channel].next()) {
    return Refuse(id, Cause::kOrder, "message out of sequence");
  }
  HandleMessage(id, peer, frame, std::move(header), std::move(body));
}

void UcxTransport::HandleHandshake(PeerId id, Peer& peer, const Frame& frame, const std::string& header) {
  if (frame.kind == FrameKind::kGreeting && peer.state == Peer::State::kAccepted) {
    const absl::StatusOr<std::string> welcome = peer.handshake.TakeGreeting(header);
    if (!welcome.ok()) return RefuseHandshake(id, welcome.status());
    peer.state = Peer::State::kGreeted;
    SayHandshake(peer, FrameKind::kWelcome, *welcome);
  } else if (frame.kind == FrameKind::kWelcome && peer.state == Peer::State::kDialling && peer.to_peer == nullptr) {
    const absl::StatusOr<std::string> confirm = peer.handshake.TakeWelcome(header);
    if (!confirm.ok()) return RefuseHandshake(id, confirm.status());
    StartSession(peer);
    SayHandshake(peer, FrameKind::kConfirm, *confirm);
  } else if (frame.kind == FrameKind::kConfirm && peer.state == Peer::State::kGreeted) {
    const absl::Status confirmed = peer.handshake.TakeConfirm(header);
    if (!confirmed.ok()) return RefuseHandshake(id, confirmed);
    StartSession(peer);
    Open(id, peer);
    SayHandshake(peer, FrameKind::kReady, "");
  } else if (frame.kind == FrameKind::kReady && peer.state == Peer::State::kDialling && peer.to_peer != nullptr) {
    Open(id, peer);
    return std::exchange(peer.greeting, nullptr)->Answer(absl::OkStatus());
  } else {
    return Refuse(id, Cause::kOutOfTurn, "handshake out of turn");
  }
  WriteLink(id);
}

void UcxTransport::HandleMessage(PeerId id, Peer& peer, const Frame& frame, std::string header, std::string body) {
  const bool whole = peer.bulk || !IsBulk(Channel{frame.channel});
  if (!peer.from_peer->Holds(frame, header, whole ? absl::string_view(body) : absl::string_view())) {
    return Refuse(id, Cause::kTampered, "message that its sender did not make so");
  }
  std::vector<Message> ready;
  if (!peer.received[frame.channel].Arrive(frame.sequence, Message{id, std::move(header), std::move(body)}, &ready)) {
    return Refuse(id, Cause::kOrder, "message out of sequence");
  }
  for (Message& message : ready) {
    if (!peers_.contains(id)) return;  // a handler closed it
    Deliver(frame.channel, std::move(message));
  }
}

void UcxTransport::Deliver(uint16_t channel, Message message) {
  if (Channel{channel} == kAliveChannel) return;
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
