// UcxTransport: the class behind MakeUcxTransport. What any thread calls stands in ucx_transport.cc, its own thread's
// loop in ucx_loop.cc, what peers say and how they end in ucx_peers.cc.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "common/log_limit.h"
#include "common/thread.h"
#include "common/transport.h"
#include "transport/frame_mac.h"
#include "transport/handshake.h"
#include "transport/inbound_order.h"
#include "transport/tcp_link.h"
#include "transport/tcp_socket.h"
#include "transport/ucx_transport.h"
#include "transport/ucx_worker.h"
#include "transport/wire_frame.h"

namespace interlace {

// What epoll names besides peers, whose ids are small.
inline constexpr uint64_t kListenerKey = ~uint64_t{0};
inline constexpr uint64_t kFabricKey = ~uint64_t{1};
inline constexpr uint64_t kWakeKey = ~uint64_t{2};

inline constexpr Channel kAliveChannel{0};  // of messages without content, which no handler hears

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

// One connection. Protected by UcxTransport::loop_.
struct Peer {
  // kDialling: until the listener's ready. kAccepted: until a greeting, then kGreeted until the confirm.
  enum class State { kDialling, kAccepted, kGreeted, kOpen };
  State state;
  TcpLink link;
  uint32_t interest;       // of epoll
  uint64_t token;          // which the peer puts into its frames
  absl::Time greet_until;  // unless kOpen
  Handshake handshake;
  std::unique_ptr<FrameMac> to_peer = nullptr;  // once each end knows the other, as everything below
  std::unique_ptr<FrameMac> from_peer = nullptr;
  bool bulk = false;                             // bodies of bulk channels carry a tag too
  std::shared_ptr<Greeting> greeting = nullptr;  // of kDialling
  uint64_t peer_token = 0;                       // which we put into ours
  EndpointId fabric = 0;                         // 0: what is sent goes over the link
  bool spoke = true;                             // over the link, since it was looked after
  absl::flat_hash_map<uint16_t, uint64_t> sent;
  absl::flat_hash_map<uint16_t, InboundOrder> received;
};

// Owned by whoever called MakeUcxTransport. Any thread may call what Transport declares; the transport's own thread
// does the rest, but that a small message is written by its sender while that thread sleeps: to wake a thread takes
// longer than to write, and on a machine whose cores all compute it takes a core from one that does.
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
  RefusalCounts Refused() const override;

 private:
  enum class Cause : size_t { kGarbage, kWrongKey, kOutOfTurn, kLate, kCrowd, kTampered, kOrder };  // kRefusalCauses
  absl::StatusOr<PeerId> ConnectTo(const std::string& host, uint16_t port, const std::string& nonce);
  bool Post(Command& command);  // false iff stopping; the command is then untouched
  // Writes the message on the calling thread, if the transport's sleeps and nothing waits to be sent before it. False:
  // the command is untouched.
  bool SendNow(SendCommand& command);
  void Wake();
  bool OnLoop() const { return loop_id_.load() == LoopMark(); }
  static const void* LoopMark();  // differs from thread to thread

  // Below: under loop_, which the transport's thread holds but while it sleeps.
  void Run();
  void Sleep();
  bool Stopping();
  bool RunCommands();
  void Execute(SendCommand command);
  absl::Status Write(PeerId id, Peer& peer, std::vector<FinishedSend>* finished);
  void Execute(DialCommand command);
  void Execute(CloseCommand command);
  bool PollSockets(absl::Duration timeout);
  void AcceptAll();
  void ExpireStrangers();
  absl::Time NextExpiry() const;
  void TendLinks();
  absl::Time NextTending() const;
  void PushMessage(Peer& peer, Channel channel, absl::string_view header, SharedBytes body, SendDone done);
  Peer& AddPeer(PeerId id, Peer::State state, FileDescriptor socket, const LinkKey& key, bool bulk);
  void Watch(int fd, uint64_t key, uint32_t interest);
  bool WantsBulk(const std::string& peer_host) const;
  void StartSession(Peer& peer);
  void Open(PeerId id, Peer& peer);
  void SayHandshake(Peer& peer, FrameKind kind, absl::string_view header);
  void OpenFabric(PeerId id, Peer& peer, const std::string& address);
  void ReadLink(PeerId id);
  void WriteLink(PeerId id);
  void Handle(UcxEvent event);
  void HandleFrame(PeerId id, const Frame& frame, std::string header, std::string body);
  void HandleHandshake(PeerId id, Peer& peer, const Frame& frame, const std::string& header);
  void HandleMessage(PeerId id, Peer& peer, const Frame& frame, std::string header, std::string body);
  void Refuse(PeerId id, Cause cause, absl::string_view why);
  void RefuseHandshake(PeerId id, const absl::Status& why);
  void Deliver(uint16_t channel, Message message);
  std::vector<FinishedSend> Forget(PeerId id, const absl::Status& reason);
  void ClosePeer(PeerId id);
  void LosePeer(PeerId id, const absl::Status& why);
  void Finish(std::vector<FinishedSend> finished);
  void Shutdown();

  const UcxOptions options_;
  const std::string machine_;
  const std::unique_ptr<Entropy> entropy_;
  LinkKey key_{};  // of those who connect to us
  std::string address_;
  RealClock clock_;
  FileDescriptor epoll_;
  FileDescriptor wake_;
  FileDescriptor listener_;
  std::unique_ptr<UcxWorker> fabric_;  // null: sockets alone

  absl::Mutex loop_;  // before mutex_
  // Protected by loop_.
  absl::flat_hash_map<PeerId, std::unique_ptr<Peer>> peers_;
  absl::flat_hash_map<uint64_t, PeerId> by_token_;
  absl::flat_hash_map<EndpointId, PeerId> by_endpoint_;
  std::set<PeerId> strangers_;  // of kDialling and kAccepted, in the order in which they came
  std::set<PeerId> unwritten_;  // whose link got something to send since the last look
  uint64_t last_peer_ = 0;
  absl::Time accept_again_ = absl::InfinitePast();
  absl::Time tended_ = absl::InfinitePast();
  LogLimit told_of_refusal_{absl::Seconds(1)}, not_accepted_{absl::Seconds(1)};

  absl::Mutex mutex_;
  std::deque<Command> commands_;                                      // protected by mutex_
  bool stopping_ = false;                                             // protected by mutex_
  absl::flat_hash_map<uint16_t, std::shared_ptr<Handler>> handlers_;  // protected by mutex_
  std::vector<std::shared_ptr<PeerLost>> lost_handlers_;              // protected by mutex_
  std::array<std::atomic<int64_t>, kRefusalCauses.size()> refused_{};
  std::atomic<bool> sleeping_{false};
  std::atomic<const void*> loop_id_{nullptr};
  Thread thread_;
};

}  // namespace interlace
