// Bytes of strangers: whatever reaches a port of ours, the process lives and goes on serving.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <sstream>
#include <string>

#include "common/clock.h"
#include "common/log.h"
#include "common/thread.h"
#include "tests/status_matchers.h"
#include "tests/transport/waiting.h"
#include "transport/frame_mac.h"
#include "transport/handshake.h"
#include "transport/tcp_socket.h"
#include "transport/transport_address.h"
#include "transport/ucx_transport.h"
#include "transport/wire_frame.h"

namespace interlace {
namespace {

// A raw connection.
class Stranger {
 public:
  explicit Stranger(uint16_t port) {
    absl::StatusOr<FileDescriptor> socket = DialTo("127.0.0.1", port);
    EXPECT_OK(socket);
    if (socket.ok()) socket_ = *std::move(socket);
    Await(POLLOUT);
  }
  // The other side may have closed already.
  void Say(absl::string_view bytes) { (void)send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  // What came until the other side closed; empty and false if it never does.
  bool AwaitEnd(std::string* heard = nullptr) {
    char bytes[4096];
    while (Await(POLLIN)) {
      const ssize_t got = recv(socket_.get(), bytes, sizeof bytes, 0);
      if (got <= 0) return true;
      if (heard != nullptr) heard->append(bytes, static_cast<size_t>(got));
    }
    return false;
  }
  std::string Hear(size_t bytes) {
    std::string heard(bytes, '\0');
    size_t have = 0;
    while (have < bytes && Await(POLLIN)) {
      const ssize_t got = recv(socket_.get(), heard.data() + have, bytes - have, 0);
      if (got <= 0) break;
      have += static_cast<size_t>(got);
    }
    heard.resize(have);
    return heard;
  }

 private:
  bool Await(short what) {
    pollfd waiting{socket_.get(), what, 0};
    return poll(&waiting, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))) == 1;
  }
  FileDescriptor socket_;
};

// TCP ports on which this process listens.
std::set<uint16_t> ListeningPorts() {
  std::set<std::string> inodes;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (target.rfind("socket:[", 0) == 0) inodes.insert(target.substr(8, target.size() - 9));
  }
  std::set<uint16_t> ports;
  for (const char* table : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
    std::ifstream file(table);
    std::string line;
    while (std::getline(file, line)) {
      std::istringstream fields(line);
      std::string number, local, remote, state, skipped, inode;
      fields >> number >> local >> remote >> state;
      for (int i = 0; i < 5; ++i) fields >> skipped;
      fields >> inode;
      if (state == "0A" && inodes.count(inode) > 0) {
        ports.insert(static_cast<uint16_t>(std::stoul(local.substr(local.rfind(':') + 1), nullptr, 16)));
      }
    }
  }
  return ports;
}

struct Server {
  std::unique_ptr<Transport> transport;
  TransportAddress address;
  Collected<Message> got;
  Collected<absl::Status> lost;
  explicit Server(const UcxOptions& options = {}) {
    absl::StatusOr<std::unique_ptr<Transport>> made = MakeUcxTransport(options);
    EXPECT_OK(made);
    transport = *std::move(made);
    address = *TransportAddress::Decode(transport->address());
    transport->Listen(kKvRequestChannel, [this](Message m) { got.Add(std::move(m)); });
    transport->OnPeerLost([this](PeerId, absl::Status s) { lost.Add(s); });
  }
  ~Server() { transport.reset(); }

  void ExpectServes() {
    const std::unique_ptr<Transport> friendly = *MakeUcxTransport({});
    const absl::StatusOr<PeerId> peer = friendly->Connect(transport->address());
    ASSERT_OK(peer);
    const size_t before = got.size();
    friendly->Send(*peer, kKvRequestChannel, "still there?", {Shared("body")}, [](absl::Status) {});
    EXPECT_TRUE(got.WaitFor(before + 1));
  }
};

// A stranger that knows the key and was let in, and makes its frames itself.
class Insider {
 public:
  explicit Insider(Server& server)
      : stranger_(server.address.port), handshake_(KeyOfListener("", server.address.nonce), {.token = 7}) {
    stranger_.Say(HandshakeFrame(FrameKind::kGreeting, handshake_.Greet()));
    const absl::StatusOr<std::string> confirm = handshake_.TakeWelcome(Hear(FrameKind::kWelcome));
    EXPECT_OK(confirm);
    if (!confirm.ok()) return;
    stranger_.Say(HandshakeFrame(FrameKind::kConfirm, *confirm));
    EXPECT_EQ(Hear(FrameKind::kReady), "");
    mac_ = std::make_unique<FrameMac>(handshake_.session().send);
  }
  Stranger& stranger() { return stranger_; }
  uint64_t token() const { return handshake_.session().peer_token; }
  // With the tag that belongs to it.
  void Say(Frame frame, absl::string_view header, absl::string_view body = "") {
    frame.kind = FrameKind::kMessage;
    frame.header_bytes = static_cast<uint32_t>(header.size());
    frame.tag = mac_->TagOf(frame, header, body);
    stranger_.Say(frame.With(header));
    stranger_.Say(body);
  }

 private:
  std::string Hear(FrameKind kind) {
    const std::string head = stranger_.Hear(sizeof(Frame));
    EXPECT_EQ(head.size(), sizeof(Frame));
    if (head.size() < sizeof(Frame)) return "";
    const Frame frame = Frame::Decode(head.data());
    EXPECT_EQ(frame.kind, kind);
    return stranger_.Hear(frame.header_bytes);
  }
  Stranger stranger_;
  Handshake handshake_;
  std::unique_ptr<FrameMac> mac_;
};

// Somebody on the way between a dialler and a listener: hears all, and may change what goes to the listener.
class Eavesdropper {
 public:
  // Gets the bytes on their way and how many went before.
  using Edit = std::function<void(size_t before, std::string* bytes)>;
  explicit Eavesdropper(uint16_t to, Edit edit = nullptr)
      : listener_(*ListenOn("127.0.0.1", 0)),
        to_(to),
        edit_(std::move(edit)),
        thread_("eavesdropper", [this] { Run(); }) {}
  ~Eavesdropper() {
    shutdown(listener_.get(), SHUT_RDWR);
    thread_.Join();
  }
  // The listener's address, as the dialler is made to believe.
  std::string Address(TransportAddress address) const {
    address.port = PortOf(listener_);
    return address.Encode();
  }
  // What went to the listener so far.
  std::string heard() {
    absl::MutexLock lock(&mutex_);
    return heard_;
  }

 private:
  // One connection; ends with it, or with this object.
  void Run() {
    pollfd waiting{listener_.get(), POLLIN, 0};
    poll(&waiting, 1, -1);
    absl::StatusOr<FileDescriptor> from = AcceptFrom(listener_);
    if (!from.ok()) return;
    absl::StatusOr<FileDescriptor> to = DialTo("127.0.0.1", to_);
    ASSERT_OK(to);
    pollfd made{to->get(), POLLOUT, 0};
    poll(&made, 1, -1);
    while (true) {
      pollfd ends[3] = {{from->get(), POLLIN, 0}, {to->get(), POLLIN, 0}, {listener_.get(), POLLRDHUP, 0}};
      poll(ends, 3, -1);
      if (ends[2].revents != 0) return;
      if (ends[0].revents != 0 && !Carry(from->get(), to->get(), true)) return;
      if (ends[1].revents != 0 && !Carry(to->get(), from->get(), false)) return;
    }
  }
  bool Carry(int from, int to, bool forth) {
    std::string bytes(4096, '\0');
    const ssize_t got = recv(from, bytes.data(), bytes.size(), 0);
    if (got <= 0) return false;
    bytes.resize(static_cast<size_t>(got));
    if (forth) {
      size_t before = 0;
      {
        absl::MutexLock lock(&mutex_);
        before = heard_.size();
        heard_ += bytes;
      }
      if (edit_) edit_(before, &bytes);
    }
    return send(to, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }

  FileDescriptor listener_;
  const uint16_t to_;
  const Edit edit_;
  absl::Mutex mutex_;
  std::string heard_;  // protected by mutex_
  Thread thread_;
};

int64_t RefusedFor(const Transport& transport, absl::string_view cause) {
  const auto at = std::find(kRefusalCauses.begin(), kRefusalCauses.end(), cause);
  return transport.Refused().at(static_cast<size_t>(at - kRefusalCauses.begin()));
}

TEST(Strangers, RandomBytesToEveryPortOfTheProcess) {
  Server server;
  const std::set<uint16_t> ports = ListeningPorts();
  EXPECT_EQ(ports, std::set<uint16_t>{server.address.port}) << "somebody else listens in this process";
  std::mt19937_64 random(5);
  for (uint16_t port : ports) {
    Stranger(port).Say(std::string(64, '\xff'));
    for (int round = 0; round < 100; ++round) {
      std::string bytes(1 + random() % 3000, '\0');
      for (char& c : bytes) c = static_cast<char>(random());
      Stranger stranger(port);
      stranger.Say(bytes);
      if (bytes.size() < sizeof(Frame)) continue;
      EXPECT_TRUE(stranger.AwaitEnd()) << "round " << round;
    }
  }
  server.ExpectServes();
}

// Frames that are nearly right: the magic number, then damage anywhere.
TEST(Strangers, DamagedGreetingsAreRefused) {
  Server server;
  const std::string good =
      HandshakeFrame(FrameKind::kGreeting, Handshake(KeyOfListener("", server.address.nonce), {.token = 9}).Greet());
  for (size_t at = 0; at < good.size(); ++at) {
    if (at >= 6 && at < sizeof(Frame) && !(at >= 8 && at < 12) && !(at >= 16 && at < 24))
      continue;  // of no account here
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x41);
    Stranger stranger(server.address.port);
    stranger.Say(bad);
    stranger.Say(std::string(70000, 'x'));  // so that no length is waited for
    EXPECT_TRUE(stranger.AwaitEnd()) << "byte " << at;
  }
  EXPECT_EQ(server.got.size(), 0u);
  server.ExpectServes();
}

TEST(Strangers, CannotFillTheLog) {
  static std::atomic<int> lines{0};
  SetLogSink([](const LogEvent& event) { lines += event.text == "transport peer refused" ? 1 : 0; },
             LogLevel::kWarning);
  RealClock clock;
  const absl::Time start = clock.Now();
  {
    Server server;
    for (int i = 0; i < 300; ++i) {
      Stranger stranger(server.address.port);
      stranger.Say(HandshakeFrame(FrameKind::kGreeting,
                                  Handshake(KeyOfListener("", "of another process"), {.token = 9}).Greet()));
      stranger.Say(HandshakeFrame(FrameKind::kConfirm, std::string(Handshake::kProofBytes, 'p')));
      EXPECT_TRUE(stranger.AwaitEnd());
    }
    EXPECT_EQ(RefusedFor(*server.transport, "wrong_key"), 300);
  }
  EXPECT_GE(lines, 1);
  EXPECT_LE(lines, 1 + absl::ToInt64Seconds(clock.Now() - start)) << "more than a line a second";
  SetLogSink(nullptr, LogLevel::kInfo);
}

TEST(Strangers, AbsurdLengthsCostNoMemory) {
  Server server;
  const Frame absurd{.kind = FrameKind::kMessage, .channel = 2, .body_bytes = ~uint64_t{0}};
  Stranger stranger(server.address.port);
  stranger.Say(absurd.With(""));
  EXPECT_TRUE(stranger.AwaitEnd());
  Insider insider(server);
  insider.Say(absurd, "");
  EXPECT_TRUE(insider.stranger().AwaitEnd());
  EXPECT_EQ(RefusedFor(*server.transport, "garbage"), 2);
  server.ExpectServes();
}

TEST(Strangers, AHoleInTheSequenceLosesThePeer) {
  Server server;
  Insider insider(server);
  Frame frame{.channel = 2, .token = insider.token()};
  insider.Say(frame, "0");
  ASSERT_TRUE(server.got.WaitFor(1));
  frame.sequence = 2;  // 1 failed at the sender
  insider.Say(frame, "2");
  EXPECT_TRUE(insider.stranger().AwaitEnd()) << "held back for ever";
  ASSERT_TRUE(server.lost.WaitFor(1));
  EXPECT_EQ(server.got.size(), 1u);
  EXPECT_EQ(RefusedFor(*server.transport, "order"), 1);
}

TEST(Strangers, MessagesBeforeTheHandshakeAndForOthersAreRefused) {
  Server server;
  Stranger stranger(server.address.port);
  stranger.Say(Frame{.kind = FrameKind::kMessage, .channel = 2, .header_bytes = 5}.With("hello"));
  EXPECT_TRUE(stranger.AwaitEnd());
  EXPECT_EQ(RefusedFor(*server.transport, "out_of_turn"), 1);
  Insider insider(server);
  insider.Say({.channel = 2, .token = insider.token() + 1}, "hello");
  EXPECT_TRUE(insider.stranger().AwaitEnd());
  EXPECT_EQ(RefusedFor(*server.transport, "tampered"), 1);
  EXPECT_EQ(server.got.size(), 0u);
}

// The handshake is three steps and each has its time; none may be left out, repeated or come from the wrong end.
TEST(Strangers, AnotherOrderOfTheHandshakeIsRefused) {
  Server server;
  const Handshake::Self self{.token = 9};
  const std::string greeting = Handshake(KeyOfListener("", server.address.nonce), self).Greet();
  const std::string proof(Handshake::kProofBytes, 'p');
  const std::vector<std::vector<std::pair<FrameKind, std::string>>> orders = {
      {{FrameKind::kConfirm, proof}},
      {{FrameKind::kWelcome, greeting + proof}},
      {{FrameKind::kReady, ""}},
      {{FrameKind{77}, ""}},
      {{FrameKind::kGreeting, greeting}, {FrameKind::kGreeting, greeting}},
      {{FrameKind::kGreeting, greeting}, {FrameKind::kReady, ""}},
      {{FrameKind::kGreeting, ""}},
      {{FrameKind::kGreeting, greeting}, {FrameKind::kConfirm, ""}}};
  for (size_t i = 0; i < orders.size(); ++i) {
    Stranger stranger(server.address.port);
    for (const auto& [kind, header] : orders[i]) stranger.Say(HandshakeFrame(kind, header));
    EXPECT_TRUE(stranger.AwaitEnd()) << i;
  }
  EXPECT_EQ(RefusedFor(*server.transport, "out_of_turn"), 6);
  EXPECT_EQ(RefusedFor(*server.transport, "garbage"), 2);
  server.ExpectServes();
}

TEST(Strangers, OneWithoutTheSecretIsRefusedAndToldWhatIsWrong) {
  const std::string secret(32, 's');
  Server server({.secret = secret});
  for (const std::string& wrong : {std::string(), std::string(32, 't')}) {
    const std::unique_ptr<Transport> stranger = *MakeUcxTransport({.secret = wrong});
    EXPECT_THAT(stranger->Connect(server.transport->address()),
                StatusIs(absl::StatusCode::kUnavailable, ::testing::HasSubstr("cluster.secret_file")));
    EXPECT_EQ(RefusedFor(*stranger, "wrong_key"), 1);
    // Nor is one who listens believed by those who have it.
    EXPECT_FALSE(server.transport->Connect(stranger->address()).ok());
  }
  const std::unique_ptr<Transport> member = *MakeUcxTransport({.secret = secret});
  EXPECT_OK(member->Connect(server.transport->address()));
}

TEST(Strangers, RecordedTrafficIsOfNoUse) {
  Server server({.secret = "s"});
  Eavesdropper eavesdropper(server.address.port);
  {
    const std::unique_ptr<Transport> friendly = *MakeUcxTransport({.secret = "s"});
    const absl::StatusOr<PeerId> peer = friendly->Connect(eavesdropper.Address(server.address));
    ASSERT_OK(peer);
    friendly->Send(*peer, kKvRequestChannel, "put", {Shared("block")}, [](absl::Status) {});
    ASSERT_TRUE(server.got.WaitFor(1));
  }
  const std::string heard = eavesdropper.heard();
  ASSERT_GT(heard.size(), 3 * sizeof(Frame));
  Stranger stranger(server.address.port);
  stranger.Say(heard);
  EXPECT_TRUE(stranger.AwaitEnd());
  EXPECT_EQ(server.got.size(), 1u);
  EXPECT_EQ(RefusedFor(*server.transport, "wrong_key"), 1);
}

// Every byte that somebody on the way may change: the message does not arrive, rather than another one.
TEST(Strangers, ChangesOnTheWayAreNeverTaken) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  Server server({.mac = "all"});
  constexpr size_t kHandshake = sizeof(Frame) + Handshake::kRandomBytes + 16 + sizeof(Frame) + Handshake::kProofBytes;
  constexpr size_t kBytes = kHandshake + sizeof(Frame) + 6 + 4;
  UcxOptions hasty;
  hasty.connect_timeout = absl::Milliseconds(200);  // a length that was changed is waited for
  for (size_t at = 0; at < kBytes; ++at) {
    std::atomic<bool> changed{false};
    Eavesdropper eavesdropper(server.address.port, [&](size_t before, std::string* piece) {
      if (at < before || at >= before + piece->size()) return;
      (*piece)[at - before] = static_cast<char>((*piece)[at - before] ^ 0x10);
      changed = true;
    });
    std::unique_ptr<Transport> friendly = *MakeUcxTransport(hasty);
    const absl::StatusOr<PeerId> peer = friendly->Connect(eavesdropper.Address(server.address));
    if (peer.ok()) {
      Collected<absl::Status> done;
      friendly->Send(*peer, kKvRequestChannel, "header", {Shared("body")}, [&](absl::Status s) { done.Add(s); });
      ASSERT_TRUE(done.WaitFor(1));
      friendly.reset();
      ASSERT_TRUE(server.lost.WaitFor(1)) << "byte " << at;
    } else {
      EXPECT_LT(at, kHandshake);
    }
    EXPECT_TRUE(changed) << "byte " << at;
    server.lost.Take();
    for (const Message& message : server.got.Take()) {
      EXPECT_LT(at, kHandshake) << "a field that nobody reads";
      EXPECT_EQ(message.header + message.body, "headerbody") << "byte " << at;
    }
  }
  server.ExpectServes();
  SetLogSink(nullptr, LogLevel::kInfo);
}

TEST(Strangers, AMessageThatIsSentTwiceOnTheWayIsTakenOnce) {
  Server server;
  std::atomic<bool> twice{false};
  Eavesdropper eavesdropper(server.address.port, [&](size_t before, std::string* piece) {
    const size_t at = piece->find("recognised");
    if (at == std::string::npos) return;
    *piece += *piece;
    twice = true;
  });
  const std::unique_ptr<Transport> friendly = *MakeUcxTransport({});
  const absl::StatusOr<PeerId> peer = friendly->Connect(eavesdropper.Address(server.address));
  ASSERT_OK(peer);
  friendly->Send(*peer, kKvRequestChannel, "recognised", {}, [](absl::Status) {});
  ASSERT_TRUE(server.lost.WaitFor(1));
  EXPECT_TRUE(twice);
  EXPECT_EQ(server.got.size(), 1u);
}

TEST(Strangers, WhoNeverGreetsIsTimedOut) {
  UcxOptions hasty;
  hasty.connect_timeout = absl::Milliseconds(50);
  Server server(hasty);
  Stranger silent(server.address.port), slow(server.address.port);
  slow.Say("ILK1");
  EXPECT_TRUE(silent.AwaitEnd());
  EXPECT_TRUE(slow.AwaitEnd());
  server.ExpectServes();
}

TEST(Strangers, ManyThatNeverGreetDoNotKeepOthersOut) {
  Server server;
  std::vector<std::unique_ptr<Stranger>> crowd;
  for (int i = 0; i < 200; ++i) crowd.push_back(std::make_unique<Stranger>(server.address.port));
  server.ExpectServes();
  EXPECT_TRUE(crowd[0]->AwaitEnd()) << "the oldest gives way";
}

TEST(Strangers, ListensWhereItWasTold) {
  EXPECT_EQ(AddressTowards("127.0.0.1:7070").value_or("none"), "127.0.0.1");
  EXPECT_THAT(AddressTowards("localhost"), StatusIs(absl::StatusCode::kInvalidArgument, ::testing::_));
  Server server;
  for (const std::string& host : LocalHosts()) {
    absl::StatusOr<FileDescriptor> socket = DialTo(host, server.address.port);
    if (!socket.ok()) continue;  // refused at once
    pollfd waiting{socket->get(), POLLOUT, 0};
    ASSERT_EQ(poll(&waiting, 1, 5000), 1);
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(socket->get(), SOL_SOCKET, SO_ERROR, &error, &length);
    EXPECT_EQ(error, ECONNREFUSED) << host;
  }
  EXPECT_TRUE(server.address.hosts.empty());
}

}  // namespace
}  // namespace interlace
