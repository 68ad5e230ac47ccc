// Bytes of strangers: whatever reaches a port of ours, the process lives and goes on serving.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <sstream>
#include <string>

#include "common/clock.h"
#include "common/log.h"
#include "tests/status_matchers.h"
#include "tests/transport/waiting.h"
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
  // A stranger that knows the nonce and was let in; its token is for frames to come.
  uint64_t LetIn(Stranger& stranger) {
    Frame greeting{.kind = FrameKind::kGreeting};
    stranger.Say(greeting.With(Hello{.nonce = address.nonce, .token = 7}.Encode()));
    const std::string head = stranger.Hear(sizeof(Frame));
    EXPECT_EQ(head.size(), sizeof(Frame));
    const Frame welcome = Frame::Decode(head.data());
    EXPECT_EQ(welcome.kind, FrameKind::kWelcome);
    EXPECT_EQ(welcome.token, 7u);
    const absl::StatusOr<Hello> hello = Hello::Decode(stranger.Hear(welcome.header_bytes));
    EXPECT_OK(hello);
    return hello.ok() ? hello->token : 0;
  }
};

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
  Frame frame{.kind = FrameKind::kGreeting};
  const std::string good = frame.With(Hello{.nonce = server.address.nonce, .token = 9}.Encode());
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
    Frame frame{.kind = FrameKind::kGreeting};
    for (int i = 0; i < 300; ++i) {
      Stranger stranger(server.address.port);
      stranger.Say(frame.With(Hello{.nonce = "of another process", .token = 9}.Encode()));
      EXPECT_TRUE(stranger.AwaitEnd());
    }
  }
  EXPECT_GE(lines, 1);
  EXPECT_LE(lines, 1 + absl::ToInt64Seconds(clock.Now() - start)) << "more than a line a second";
  SetLogSink(nullptr, LogLevel::kInfo);
}

TEST(Strangers, AbsurdLengthsCostNoMemory) {
  Server server;
  for (const bool let_in : {false, true}) {
    Stranger stranger(server.address.port);
    Frame frame{.kind = FrameKind::kMessage, .channel = 2, .body_bytes = ~uint64_t{0}};
    if (let_in) frame.token = server.LetIn(stranger);
    stranger.Say(frame.With(""));
    EXPECT_TRUE(stranger.AwaitEnd());
  }
  server.ExpectServes();
}

TEST(Strangers, AHoleInTheSequenceLosesThePeer) {
  Server server;
  Stranger stranger(server.address.port);
  Frame frame{.kind = FrameKind::kMessage, .channel = 2, .token = server.LetIn(stranger)};
  stranger.Say(frame.With("0"));
  ASSERT_TRUE(server.got.WaitFor(1));
  frame.sequence = 2;  // 1 failed at the sender
  stranger.Say(frame.With("2"));
  EXPECT_TRUE(stranger.AwaitEnd()) << "held back for ever";
  ASSERT_TRUE(server.lost.WaitFor(1));
  EXPECT_EQ(server.got.size(), 1u);
}

TEST(Strangers, MessagesBeforeTheGreetingAndForOthersAreRefused) {
  Server server;
  for (const bool let_in : {false, true}) {
    Stranger stranger(server.address.port);
    Frame frame{.kind = FrameKind::kMessage, .channel = 2};
    if (let_in) frame.token = server.LetIn(stranger) + 1;
    stranger.Say(frame.With("hello"));
    EXPECT_TRUE(stranger.AwaitEnd());
  }
  EXPECT_EQ(server.got.size(), 0u);
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

TEST(Hello, RoundTripsAndRefusesDamage) {
  const Hello hello{.nonce = "nonce", .token = 77, .fabric = std::string("ad\0ress", 7)};
  const std::string good = hello.Encode();
  const absl::StatusOr<Hello> back = Hello::Decode(good);
  ASSERT_OK(back);
  EXPECT_EQ(back->nonce, hello.nonce);
  EXPECT_EQ(back->token, hello.token);
  EXPECT_EQ(back->fabric, hello.fabric);
  for (size_t length = 0; length < good.size(); ++length) EXPECT_FALSE(Hello::Decode(good.substr(0, length)).ok());
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    EXPECT_FALSE(Hello::Decode(bad).ok()) << at;
  }
}

}  // namespace
}  // namespace interlace
