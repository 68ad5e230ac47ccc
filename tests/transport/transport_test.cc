// Two transports in one process.
#include "common/transport.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "common/thread.h"
#include "tests/status_matchers.h"
#include "tests/transport/waiting.h"
#include "transport/transport_address.h"
#include "transport/ucx_transport.h"

namespace interlace {
namespace {

using ::testing::_;
using ::testing::HasSubstr;

std::unique_ptr<Transport> MakeOne(UcxOptions options = {}) {
  absl::StatusOr<std::unique_ptr<Transport>> transport = MakeUcxTransport(options);
  EXPECT_OK(transport);
  return *std::move(transport);
}

struct Pair {
  std::unique_ptr<Transport> a, b;
  Collected<Message> at_a, at_b;
  PeerId b_of_a{};
  explicit Pair(const UcxOptions& options = {}) : a(MakeOne(options)), b(MakeOne(options)) {
    for (Channel channel : {kActivationChannel, kKvRequestChannel, kKvReplyChannel}) {
      a->Listen(channel, [this](Message m) { at_a.Add(std::move(m)); });
      b->Listen(channel, [this](Message m) { at_b.Add(std::move(m)); });
    }
    const absl::StatusOr<PeerId> peer = a->Connect(b->address());
    EXPECT_OK(peer);
    if (peer.ok()) b_of_a = *peer;
  }
  ~Pair() {  // handlers use the collections
    a.reset();
    b.reset();
  }
};

// Over sockets, and over a fabric of UCX that every machine has.
class EachWay : public testing::TestWithParam<const char*> {
 protected:
  Pair pair{{.tls = GetParam()}};
};
INSTANTIATE_TEST_SUITE_P(UcxTransport, EachWay, testing::Values("none", "shm"));

TEST_P(EachWay, CarriesBodiesOfAnySizeInParts) {
  const std::vector<std::vector<size_t>> shapes = {{},
                                                   {0},
                                                   {1},
                                                   {24 << 10},
                                                   {1 << 20},
                                                   {32 << 20},
                                                   {0, 0},
                                                   {1, 0, 2},
                                                   {24 << 10, 24 << 10, 1},
                                                   {1 << 20, 3, 4 << 20}};
  Collected<absl::Status> done;
  std::vector<std::string> expected;
  for (const std::vector<size_t>& shape : shapes) {
    std::vector<SharedBytes> parts;
    expected.emplace_back();
    for (size_t size : shape) {
      parts.push_back(Shared(Pattern(size, expected.size() + parts.size())));
      expected.back() += *parts.back();
    }
    pair.a->Send(pair.b_of_a, kKvRequestChannel, absl::StrCat("header", expected.size()), parts,
                 [&](absl::Status s) { done.Add(s); });
  }
  ASSERT_TRUE(pair.at_b.WaitFor(shapes.size()));
  ASSERT_TRUE(done.WaitFor(shapes.size()));
  for (const absl::Status& status : done.Take()) EXPECT_OK(status);
  const std::vector<Message> got = pair.at_b.Take();
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].header, absl::StrCat("header", i + 1));
    EXPECT_TRUE(got[i].body == expected[i]) << "shape " << i;
  }
}

TEST_P(EachWay, AnswersGoToTheSenderOfAMessage) {
  pair.a->Send(pair.b_of_a, kKvRequestChannel, "question", {}, [](absl::Status) {});
  ASSERT_TRUE(pair.at_b.WaitFor(1));
  const PeerId from = pair.at_b.Take()[0].from;
  pair.b->Send(from, kKvReplyChannel, "answer", {Shared("body")}, [](absl::Status) {});
  ASSERT_TRUE(pair.at_a.WaitFor(1));
  const std::vector<Message> got = pair.at_a.Take();
  EXPECT_EQ(got[0].header, "answer");
  EXPECT_EQ(got[0].from, pair.b_of_a);
}

// Small and large bodies in any mixture arrive in the order of sending, on each channel.
TEST_P(EachWay, KeepsTheOrderOfEachChannel) {
  std::mt19937_64 random(7);
  constexpr int kMessages = 300;
  for (int i = 0; i < kMessages; ++i) {
    const size_t size = size_t{1} << (random() % 21);
    const Channel channel = random() % 2 ? kKvRequestChannel : kKvReplyChannel;
    pair.a->Send(pair.b_of_a, channel, absl::StrCat(static_cast<int>(channel), ";", i),
                 {Shared(std::string(size, 'x'))}, [](absl::Status) {});
  }
  ASSERT_TRUE(pair.at_b.WaitFor(kMessages));
  std::map<std::string, int> last;
  for (const Message& message : pair.at_b.Take()) {
    const std::string channel = message.header.substr(0, 1);
    const int number = std::stoi(message.header.substr(2));
    const auto it = last.emplace(channel, -1).first;
    EXPECT_LT(std::exchange(it->second, number), number);
  }
}

TEST_P(EachWay, TenThousandSmallMessagesFromSeveralThreads) {
  Collected<absl::Status> done;
  {
    std::vector<Thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back("sender", [&, t] {
        for (int i = 0; i < 2500; ++i) {
          pair.a->Send(pair.b_of_a, kKvRequestChannel, absl::StrCat(t, ";", i), {Shared("x")},
                       [&](absl::Status s) { done.Add(s); });
        }
      });
    }
  }
  ASSERT_TRUE(pair.at_b.WaitFor(10000));
  ASSERT_TRUE(done.WaitFor(10000));
  std::vector<int> next(4, 0);
  for (const Message& message : pair.at_b.Take()) {
    const int thread = message.header[0] - '0';
    EXPECT_EQ(std::stoi(message.header.substr(2)), next[static_cast<size_t>(thread)]++);
  }
}

TEST_P(EachWay, CloseFailsWhatIsOnItsWayAndTellsThePeer) {
  Collected<absl::Status> lost_at_a, lost_at_b, done;
  pair.a->OnPeerLost([&](PeerId, absl::Status s) { lost_at_a.Add(s); });
  pair.b->OnPeerLost([&](PeerId, absl::Status s) { lost_at_b.Add(s); });
  const SharedBytes body = Shared(std::string(16 << 20, 'x'));
  for (int i = 0; i < 20; ++i) {
    pair.a->Send(pair.b_of_a, kKvRequestChannel, "x", {body}, [&](absl::Status s) { done.Add(s); });
  }
  pair.a->Close(pair.b_of_a);
  EXPECT_EQ(done.size(), 20u) << "Close returned before every send had its done";
  int cancelled = 0;
  for (const absl::Status& status : done.Take()) cancelled += absl::IsCancelled(status);
  EXPECT_GT(cancelled, 0);
  EXPECT_TRUE(lost_at_b.WaitFor(1));
  EXPECT_EQ(lost_at_a.size(), 0u);
  pair.a->Send(pair.b_of_a, kKvRequestChannel, "x", {}, [&](absl::Status s) { done.Add(s); });
  ASSERT_TRUE(done.WaitFor(1));
  EXPECT_THAT(done.Take()[0], StatusIs(absl::StatusCode::kUnavailable, _));
}

TEST_P(EachWay, AHandlerMayCloseItsPeer) {
  Collected<absl::Status> done, lost;
  pair.a->OnPeerLost([&](PeerId, absl::Status s) { lost.Add(s); });
  Collected<int> closed;
  pair.b->Listen(kKvRequestChannel, [&](Message message) {
    pair.b->Close(message.from);
    closed.Add(1);
  });
  for (int i = 0; i < 50; ++i) {
    pair.a->Send(pair.b_of_a, kKvRequestChannel, "x", {Shared("x")}, [&](absl::Status s) { done.Add(s); });
  }
  ASSERT_TRUE(closed.WaitFor(1));
  ASSERT_TRUE(lost.WaitFor(1));
  ASSERT_TRUE(done.WaitFor(50));
  EXPECT_EQ(closed.size(), 1u) << "a message was delivered after Close";
  EXPECT_THAT(pair.b->Connect(pair.a->address()), IsOk());
}

TEST(UcxTransport, SurvivesManyConnectionsThatComeAndGo) {
  std::unique_ptr<Transport> hub = MakeOne();
  Collected<PeerId> lost;
  Collected<Message> got;
  hub->OnPeerLost([&](PeerId peer, absl::Status) { lost.Add(peer); });
  hub->Listen(kKvRequestChannel, [&](Message m) { got.Add(std::move(m)); });
  constexpr size_t kRounds = 20;
  for (size_t i = 0; i < kRounds; ++i) {
    std::unique_ptr<Transport> spoke = MakeOne();
    const absl::StatusOr<PeerId> peer = spoke->Connect(hub->address());
    ASSERT_OK(peer);
    spoke->Send(*peer, kKvRequestChannel, "x", {Shared(Pattern(100 << 10, i))}, [](absl::Status) {});
    ASSERT_TRUE(got.WaitFor(i + 1));
  }
  ASSERT_TRUE(lost.WaitFor(kRounds));
  EXPECT_EQ(lost.size(), kRounds);
}

TEST(UcxTransport, TheDestructorEndsEverySend) {
  Collected<absl::Status> done;
  {
    Pair pair;
    const SharedBytes body = Shared(std::string(8 << 20, 'x'));
    for (int i = 0; i < 30; ++i) {
      pair.a->Send(pair.b_of_a, kKvRequestChannel, "x", {body}, [&](absl::Status s) { done.Add(s); });
    }
  }
  EXPECT_EQ(done.size(), 30u);
}

TEST(UcxTransport, RefusesWhatItCannotSend) {
  UcxOptions small;
  small.max_body_bytes = 1000;
  std::unique_ptr<Transport> transport = MakeOne(small);
  Collected<absl::Status> done;
  const auto add = [&](absl::Status s) { done.Add(s); };
  transport->Send(PeerId{1}, kKvRequestChannel, std::string(4097, 'h'), {}, add);
  transport->Send(PeerId{1}, kKvRequestChannel, "", {Shared(std::string(600, 'b')), Shared(std::string(401, 'b'))},
                  add);
  transport->Send(PeerId{77}, kKvRequestChannel, "", {}, add);
  ASSERT_TRUE(done.WaitFor(3));
  const std::vector<absl::Status> got = done.Take();
  EXPECT_THAT(got[0], StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("4097")));
  EXPECT_THAT(got[1], StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1001")));
  EXPECT_THAT(got[2], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("77")));
}

// A body beyond the receiver's bound costs the sender its connection, not the receiver its memory.
TEST(UcxTransport, LosesAPeerThatSendsTooMuch) {
  UcxOptions small;
  small.max_body_bytes = 1 << 20;
  std::unique_ptr<Transport> a = MakeOne(), b = MakeOne(small);
  Collected<absl::Status> lost_at_a, lost_at_b;
  a->OnPeerLost([&](PeerId, absl::Status s) { lost_at_a.Add(s); });
  b->OnPeerLost([&](PeerId, absl::Status s) { lost_at_b.Add(s); });
  const absl::StatusOr<PeerId> peer = a->Connect(b->address());
  ASSERT_OK(peer);
  a->Send(*peer, kKvRequestChannel, "x", {Shared(std::string((1 << 20) + 1, 'x'))}, [](absl::Status) {});
  ASSERT_TRUE(lost_at_b.WaitFor(1));
  EXPECT_THAT(lost_at_b.Take()[0], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("too large")));
  ASSERT_TRUE(lost_at_a.WaitFor(1));
}

TEST(UcxTransport, ConnectRefusesBadStaleAndDeadAddresses) {
  UcxOptions hasty;
  hasty.connect_timeout = absl::Seconds(2);
  std::unique_ptr<Transport> a = MakeOne(hasty), b = MakeOne();
  EXPECT_THAT(a->Connect("garbage"), StatusIs(absl::StatusCode::kInvalidArgument, _));
  absl::StatusOr<TransportAddress> stale = TransportAddress::Decode(b->address());
  ASSERT_OK(stale);
  stale->nonce = std::string(32, '0');  // as after a restart on the same port
  stale->hosts.clear();
  EXPECT_THAT(a->Connect(stale->Encode()), StatusIs(absl::StatusCode::kUnavailable, _));
  const std::string dead = b->address();
  b.reset();
  EXPECT_THAT(a->Connect(dead), StatusIs(absl::StatusCode::kUnavailable, _));
}

TEST(UcxTransport, OneWithoutAHostDialsAndIsNotDialled) {
  UcxOptions dialler;
  dialler.host = "";
  std::unique_ptr<Transport> a = MakeOne(dialler), b = MakeOne();
  Collected<Message> at_a, at_b;
  a->Listen(kResultChannel, [&](Message m) { at_a.Add(std::move(m)); });
  b->Listen(kPlanChannel, [&](Message m) { at_b.Add(std::move(m)); });
  EXPECT_EQ(a->address(), "");
  EXPECT_THAT(b->Connect(a->address()), StatusIs(absl::StatusCode::kInvalidArgument, _));
  const absl::StatusOr<PeerId> peer = a->Connect(b->address());
  ASSERT_OK(peer);
  a->Send(*peer, kPlanChannel, "question", {}, [](absl::Status) {});
  ASSERT_TRUE(at_b.WaitFor(1));
  b->Send(at_b.Take()[0].from, kResultChannel, "answer", {}, [](absl::Status) {});
  ASSERT_TRUE(at_a.WaitFor(1));
  EXPECT_EQ(at_a.Take()[0].header, "answer");
  a.reset();  // handlers use the collections
  b.reset();
}

TEST(UcxTransport, RefusesBadOptions) {
  UcxOptions options;
  options.host = "no.such.host";
  EXPECT_THAT(MakeUcxTransport(options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no.such.host")));
  options = {};
  options.tls = "nonsense";
  EXPECT_FALSE(MakeUcxTransport(options).ok());
  for (const char* dangerous : {"tcp", "shm,tcp", "all", "^shm"}) {
    options.tls = dangerous;
    EXPECT_THAT(MakeUcxTransport(options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("transport.tls")));
  }
}

}  // namespace
}  // namespace interlace
