// Two transports in two processes, one of which dies.
#include <gtest/gtest.h>

#include "common/transport.h"
#include "tests/status_matchers.h"
#include "tests/transport/child_process.h"
#include "tests/transport/waiting.h"
#include "transport/ucx_transport.h"

namespace interlace {
namespace {

using ::testing::_;

struct Parent {
  std::unique_ptr<Transport> transport;
  Collected<PeerId> greeted;
  Collected<Message> replies;
  Collected<absl::Status> lost;
  Parent() {
    absl::StatusOr<std::unique_ptr<Transport>> made = MakeUcxTransport({});
    EXPECT_OK(made);
    transport = *std::move(made);
    transport->Listen(kActivationChannel, [this](Message m) { greeted.Add(m.from); });
    transport->Listen(kKvReplyChannel, [this](Message m) { replies.Add(std::move(m)); });
    transport->OnPeerLost([this](PeerId, absl::Status s) { lost.Add(s); });
  }
  ~Parent() { transport.reset(); }
};

TEST(TransportProcess, EchoesBodiesOfAnySize) {
  Parent parent;
  ChildProcess child(TRANSPORT_PEER, {"echo", parent.transport->address()});
  ASSERT_TRUE(child.started());
  ASSERT_TRUE(parent.greeted.WaitFor(1));
  const PeerId peer = parent.greeted.Take()[0];
  const std::vector<std::vector<size_t>> shapes = {{0}, {1}, {24 << 10}, {1 << 20}, {32 << 20}, {5, 24 << 10, 1 << 20}};
  std::vector<std::string> expected;
  for (const std::vector<size_t>& shape : shapes) {
    std::vector<SharedBytes> parts;
    expected.emplace_back();
    for (size_t size : shape) {
      parts.push_back(Shared(Pattern(size, expected.size())));
      expected.back() += *parts.back();
    }
    parent.transport->Send(peer, kKvRequestChannel, absl::StrCat(expected.size()), parts, [](absl::Status) {});
  }
  ASSERT_TRUE(parent.replies.WaitFor(shapes.size()));
  const std::vector<Message> got = parent.replies.Take();
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].header, absl::StrCat(i + 1));
    EXPECT_TRUE(got[i].body == expected[i]) << "shape " << i;
  }
}

TEST(TransportProcess, TenThousandSmallMessagesInOrder) {
  Parent parent;
  ChildProcess child(TRANSPORT_PEER, {"echo", parent.transport->address()});
  ASSERT_TRUE(parent.greeted.WaitFor(1));
  const PeerId peer = parent.greeted.Take()[0];
  constexpr size_t kMessages = 10000;
  for (size_t i = 0; i < kMessages; ++i) {
    parent.transport->Send(peer, kKvRequestChannel, absl::StrCat(i), {Shared("x")}, [](absl::Status) {});
  }
  ASSERT_TRUE(parent.replies.WaitFor(kMessages));
  const std::vector<Message> got = parent.replies.Take();
  for (size_t i = 0; i < kMessages; ++i) ASSERT_EQ(got[i].header, absl::StrCat(i));
}

TEST(TransportProcess, AnIdlePeerThatIsKilledIsNoticed) {
  Parent parent;
  ChildProcess child(TRANSPORT_PEER, {"echo", parent.transport->address()});
  ASSERT_TRUE(parent.greeted.WaitFor(1));
  const PeerId peer = parent.greeted.Take()[0];
  child.Signal(SIGKILL);
  ASSERT_TRUE(parent.lost.WaitFor(1));
  EXPECT_THAT(parent.lost.Take()[0], StatusIs(absl::StatusCode::kUnavailable, _));
  Collected<absl::Status> done;
  parent.transport->Send(peer, kKvRequestChannel, "x", {Shared("x")}, [&](absl::Status s) { done.Add(s); });
  ASSERT_TRUE(done.WaitFor(1));
  EXPECT_THAT(done.Take()[0], StatusIs(absl::StatusCode::kUnavailable, _));
}

// Killed while large bodies go both ways: every send ends once, the peer is lost once, the transport serves on.
TEST(TransportProcess, APeerKilledInTheMiddleOfTransfersEndsEverySend) {
  Parent parent;
  for (int round = 0; round < 5; ++round) {
    ChildProcess child(TRANSPORT_PEER, {"echo", parent.transport->address()});
    ASSERT_TRUE(parent.greeted.WaitFor(1));
    const PeerId peer = parent.greeted.Take()[0];
    Collected<absl::Status> done;
    const SharedBytes body = Shared(std::string(8 << 20, 'x'));
    constexpr size_t kMessages = 40;
    for (size_t i = 0; i < kMessages; ++i) {
      parent.transport->Send(peer, kKvRequestChannel, absl::StrCat(i), {body}, [&](absl::Status s) { done.Add(s); });
    }
    ASSERT_TRUE(parent.replies.WaitFor(static_cast<size_t>(round)));
    child.Signal(SIGKILL);
    ASSERT_TRUE(parent.lost.WaitFor(1));
    ASSERT_TRUE(done.WaitFor(kMessages));
    EXPECT_EQ(done.size(), kMessages);
    EXPECT_EQ(parent.lost.Take().size(), 1u);
    for (const absl::Status& status : done.Take()) {
      EXPECT_TRUE(status.ok() || absl::IsUnavailable(status)) << status;
    }
    parent.replies.Take();
  }
}

// The receiving side of the same: killed while it sends by rendezvous.
TEST(TransportProcess, APeerKilledWhileItFloodsIsLostOnce) {
  Parent parent;
  for (size_t round = 0; round < 5; ++round) {
    ChildProcess child(TRANSPORT_PEER, {"flood", parent.transport->address()});
    ASSERT_TRUE(parent.replies.WaitFor(1 + 3 * round));
    child.Signal(SIGKILL);
    ASSERT_TRUE(parent.lost.WaitFor(1));
    EXPECT_EQ(parent.lost.Take().size(), 1u);
    for (const Message& message : parent.replies.Take()) {
      ASSERT_EQ(message.body.size(), size_t{8} << 20);
      ASSERT_EQ(message.body.find_first_not_of('f'), std::string::npos);
    }
    parent.greeted.Take();
  }
}

TEST(TransportProcess, TheChildNoticesWhenItsPeerCloses) {
  Parent parent;
  ChildProcess child(TRANSPORT_PEER, {"echo", parent.transport->address()});
  ASSERT_TRUE(parent.greeted.WaitFor(1));
  parent.transport->Close(parent.greeted.Take()[0]);
  EXPECT_EQ(child.Wait(), 0) << "the child ends once its peer is lost";
  EXPECT_EQ(parent.lost.size(), 0u);
}

}  // namespace
}  // namespace interlace
