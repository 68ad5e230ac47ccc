// ScriptedTransport: one end of a transport whose sends, arrivals and losses the test decides. Everything happens
// inside the call, on the caller's thread.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/transport.h"

namespace interlace {

class ScriptedTransport final : public Transport {
 public:
  struct Sent {
    PeerId peer;
    Channel channel;
    Message message;
    SendDone done;  // to be called by the test
  };
  std::deque<Sent> sent;
  std::vector<PeerId> closed;
  std::function<absl::StatusOr<PeerId>(std::string)> connect = [this](std::string) { return PeerId{++last_peer_}; };

  void Arrive(Channel channel, PeerId from, Message message) {
    message.from = from;
    handlers_.at(static_cast<uint16_t>(channel))(std::move(message));
  }
  void Lose(PeerId peer, const absl::Status& why) {
    for (PeerLost& handler : lost_) handler(peer, why);
  }
  // The oldest message that was sent; it left.
  Message Take() {
    Sent first = std::move(sent.front());
    sent.pop_front();
    first.done(absl::OkStatus());
    return std::move(first.message);
  }

  const std::string& address() const override { return address_; }
  absl::StatusOr<PeerId> Connect(absl::string_view address) override { return connect(std::string(address)); }
  void Send(PeerId peer, Channel channel, std::string header, std::vector<SharedBytes> parts, SendDone done) override {
    if (header.size() > 4096) return done(absl::InvalidArgumentError("header too large"));
    std::string body;
    for (const SharedBytes& part : parts) body += *part;
    sent.push_back({peer, channel, {peer, std::move(header), std::move(body)}, std::move(done)});
  }
  void Listen(Channel channel, Handler handler) override {
    handlers_[static_cast<uint16_t>(channel)] = std::move(handler);
  }
  void OnPeerLost(PeerLost handler) override { lost_.push_back(std::move(handler)); }
  void Close(PeerId peer) override { closed.push_back(peer); }

 private:
  const std::string address_ = "scripted";
  uint64_t last_peer_ = 0;
  std::map<uint16_t, Handler> handlers_;
  std::vector<PeerLost> lost_;
};

}  // namespace interlace
