// FakeTransport: one end of a transport whose connections, arrivals and losses the test decides.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/bounded_queue.h"
#include "common/transport.h"

namespace interlace {

// Any thread. What is sent waits, by header, until the test takes it. Arrivals and losses run their handlers inside the
// call; after Close nothing arrives from a peer any more.
class FakeTransport final : public Transport {
 public:
  struct Sent {
    PeerId peer{};
    Channel channel{};
    std::string body;
  };
  using Answer = std::function<absl::StatusOr<PeerId>(const std::string& address)>;

  // Who answers Connect; by default each address is a new peer.
  void OnConnect(Answer answer) {
    absl::MutexLock lock(&mutex_);
    answer_ = std::move(answer);
  }
  PeerId NewPeer() {
    absl::MutexLock lock(&mutex_);
    return PeerId{++last_peer_};
  }
  // What is sent from now on does not leave.
  void FailSends(absl::Status why) {
    absl::MutexLock lock(&mutex_);
    failure_ = std::move(why);
  }
  // Called with each message that left, on the sender's thread.
  using Watcher = std::function<void(const Sent& sent, const std::string& header)>;
  void OnSend(Watcher watcher) {
    absl::MutexLock lock(&mutex_);
    watcher_ = std::make_shared<Watcher>(std::move(watcher));
  }
  // The next message with this header; nothing if none comes in time.
  std::optional<Sent> Take(const std::string& header, absl::Duration within = absl::Seconds(20)) {
    return SentUnder(header)->PopWithin(within);
  }
  // False: the peer was closed here, or nobody listens.
  bool Arrive(Channel channel, PeerId from, std::string header, std::string body) {
    std::shared_ptr<Handler> handler;
    {
      absl::MutexLock lock(&mutex_);
      const auto found = handlers_.find(static_cast<uint16_t>(channel));
      if (found == handlers_.end() || closed_.contains(from)) return false;
      handler = found->second;
    }
    (*handler)(Message{from, std::move(header), std::move(body)});
    return true;
  }
  void Lose(PeerId peer, const absl::Status& why) {
    std::vector<std::shared_ptr<PeerLost>> handlers;
    {
      absl::MutexLock lock(&mutex_);
      handlers = lost_;
    }
    for (const auto& handler : handlers) (*handler)(peer, why);
  }
  // Whether the peer is closed, at once or soon.
  bool AwaitClosed(PeerId peer) {
    absl::MutexLock lock(&mutex_);
    const auto closed = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return closed_.contains(peer); };
    return mutex_.AwaitWithTimeout(absl::Condition(&closed), absl::Seconds(20));
  }

  // What Refused says from now on.
  void Refuse(const RefusalCounts& counts) {
    absl::MutexLock lock(&mutex_);
    refused_ = counts;
  }

  const std::string& address() const override { return address_; }
  absl::StatusOr<PeerId> Connect(absl::string_view address) override {
    Answer answer;
    {
      absl::MutexLock lock(&mutex_);
      answer = answer_;
    }
    return answer == nullptr ? NewPeer() : answer(std::string(address));
  }
  void Send(PeerId peer, Channel channel, std::string header, std::vector<SharedBytes> parts, SendDone done) override {
    absl::Status failure;
    std::shared_ptr<Watcher> watcher;
    {
      absl::MutexLock lock(&mutex_);
      failure = failure_;
      watcher = watcher_;
    }
    if (!failure.ok()) return done(failure);
    Sent sent{.peer = peer, .channel = channel};
    for (const SharedBytes& part : parts) sent.body += *part;
    SentUnder(header)->Push(sent);
    done(absl::OkStatus());
    if (watcher != nullptr) (*watcher)(sent, header);
  }
  void Listen(Channel channel, Handler handler) override {
    absl::MutexLock lock(&mutex_);
    handlers_[static_cast<uint16_t>(channel)] = std::make_shared<Handler>(std::move(handler));
  }
  void OnPeerLost(PeerLost handler) override {
    absl::MutexLock lock(&mutex_);
    lost_.push_back(std::make_shared<PeerLost>(std::move(handler)));
  }
  RefusalCounts Refused() const override {
    absl::MutexLock lock(&mutex_);
    return refused_;
  }
  void Close(PeerId peer) override {
    absl::MutexLock lock(&mutex_);
    closed_.insert(peer);
  }

 private:
  using Queue = BoundedQueue<Sent>;
  std::shared_ptr<Queue> SentUnder(const std::string& header) {
    absl::MutexLock lock(&mutex_);
    std::shared_ptr<Queue>& queue = sent_[header];
    if (queue == nullptr) queue = std::make_shared<Queue>(10000);
    return queue;
  }

  const std::string address_ = "fake";
  mutable absl::Mutex mutex_;
  uint64_t last_peer_ = 0;  // protected by mutex_, as everything below
  Answer answer_;
  absl::Status failure_;
  std::shared_ptr<Watcher> watcher_;
  RefusalCounts refused_{};
  std::map<std::string, std::shared_ptr<Queue>> sent_;
  std::map<uint16_t, std::shared_ptr<Handler>> handlers_;
  std::vector<std::shared_ptr<PeerLost>> lost_;
  std::set<PeerId> closed_;
};

}  // namespace interlace
