// The remote tier against a store in this process.
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "absl/time/clock.h"
#include "common/cluster_security.h"
#include "common/secret_file.h"
#include "common/transport.h"
#include "kvstore/remote/attach_stream.h"
#include "kvstore/remote/kv_wire.h"
#include "kvstore/remote/store_server.h"
#include "kvstore/tier/tiers.h"
#include "tests/kvstore/blocks.h"
#include "tests/kvstore/folder.h"
#include "tests/kvstore/tier_conformance.h"
#include "tests/status_matchers.h"
#include "tests/transport/waiting.h"
#include "transport/ucx_transport.h"

namespace interlace {
namespace {

using ::testing::_;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::unique_ptr<StoreServer> StartStore(int64_t host_bytes, const std::string& rocksdb_dir = "") {
  StoreServerOptions options;
  options.host_bytes = host_bytes;
  options.rocksdb_dir = rocksdb_dir;
  options.rocksdb_bytes = rocksdb_dir.empty() ? 0 : int64_t{64} << 20;
  absl::StatusOr<std::unique_ptr<StoreServer>> server = StoreServer::Start(options);
  EXPECT_OK(server);
  return *std::move(server);
}

// A client: transport and tier, as a worker has them.
struct Client {
  RealClock clock;
  std::unique_ptr<Transport> transport;
  std::unique_ptr<KvTier> tier;
  explicit Client(const std::string& store) {
    transport = *MakeUcxTransport({});
    absl::StatusOr<std::unique_ptr<KvTier>> made =
        MakeRemoteTier({.remote = store, .transport = transport.get(), .clock = &clock});
    EXPECT_OK(made);
    tier = *std::move(made);
  }
  ~Client() { tier.reset(); }
};

class RemoteUnderTest final : public TierUnderTest {
 public:
  explicit RemoteUnderTest(int64_t capacity) : server_(StartStore(capacity)), client_(server_->address()) {}
  KvTier& tier() override { return *client_.tier; }
  TierUsage UsageNow() override {
    GetAll(tier(), {Key(~uint64_t{0}, 0, 0)});  // what was asked before has been done when this is answered
    return server_->Usage()[0].second;
  }

 private:
  std::unique_ptr<StoreServer> server_;
  Client client_;
};

INSTANTIATE_TEST_SUITE_P(Remote, TierConformance,
                         testing::Values(TierCase{
                             "remote", [](int64_t capacity) { return std::make_unique<RemoteUnderTest>(capacity); },
                             1 << 20}));

// Bytes that name their block, as a reader would get them wrong.
StoredBlock BlockOf(uint64_t chain, uint64_t block, size_t bytes) {
  return {Key(chain, 0, block), static_cast<int32_t>(block), Shared(Pattern(bytes, chain * 1000 + block))};
}

template <typename Condition>
bool WaitUntil(Condition holds) {
  const absl::Time deadline = absl::Now() + kPatience;
  while (!holds() && absl::Now() < deadline) std::this_thread::yield();
  return holds();
}

// Batches of any count and size are cut into messages and put together again.
TEST(RemoteTier, BatchesOfAnyShape) {
  auto server = StartStore(int64_t{512} << 20);
  Client client(server->address());
  std::mt19937_64 random(5);
  for (uint64_t round = 1; round <= 25; ++round) {
    std::vector<StoredBlock> blocks;
    const uint64_t count = 1 + random() % 400;
    for (uint64_t b = 0; b < count; ++b) {
      blocks.push_back(BlockOf(round, b, random() % 20 == 0 ? random() % (3 << 20) : random() % 4000));
    }
    for (const absl::Status& status : PutAll(*client.tier, blocks)) ASSERT_OK(status);
    std::vector<BlockKey> keys;
    for (const StoredBlock& block : blocks) keys.push_back(block.key);
    keys.push_back(Key(round, 0, count));
    const auto answers = GetAll(*client.tier, keys);
    ASSERT_EQ(answers.size(), keys.size());
    for (size_t i = 0; i < blocks.size(); ++i) {
      ASSERT_OK(answers[i]);
      ASSERT_TRUE(**answers[i] == *blocks[i].bytes);
    }
    EXPECT_THAT(answers.back(), StatusIs(absl::StatusCode::kNotFound, _));
    EXPECT_EQ(client.tier->Usage().blocks, static_cast<int64_t>(count));
    client.tier->Drop(keys);
  }
}

TEST(RemoteTier, MemoryStandsOverRocksdbAndRocksdbOutlivesTheStore) {
  const Folder folder;
  std::vector<StoredBlock> blocks;
  for (uint64_t b = 0; b < 30; ++b) blocks.push_back(BlockOf(1, b, 100 << 10));
  for (int life = 0; life < 2; ++life) {
    auto server = StartStore(1 << 20, folder.path());
    Client client(server->address());
    if (life == 0) {
      for (const absl::Status& status : PutAll(*client.tier, blocks)) EXPECT_OK(status);
    }
    EXPECT_LE(server->Usage()[0].second.blocks, 10);
    EXPECT_EQ(server->Usage()[1].second.blocks, 30);
    const auto answers = GetAll(*client.tier, KeysOf(blocks));
    for (size_t i = 0; i < blocks.size(); ++i) {
      ASSERT_OK(answers[i]);
      EXPECT_TRUE(**answers[i] == *blocks[i].bytes);
    }
  }
}

// Blocks belong to nobody: what one client stored, another one finds, also after the first has gone.
TEST(RemoteTier, AllClientsShareTheBlocks) {
  auto server = StartStore(int64_t{64} << 20);
  Client reader(server->address());
  {
    Client writer(server->address());
    ASSERT_OK(PutAll(*writer.tier, {BlockOf(1, 1, 5000)})[0]);
    EXPECT_EQ(server->clients(), 2);
    EXPECT_EQ(ProbeAll(*reader.tier, {Key(1, 0, 1), Key(1, 0, 2)}), (std::vector<bool>{true, false}));
    ASSERT_OK(PutAll(*reader.tier, {BlockOf(1, 1, 5000)})[0]);  // the same block again: held once
    EXPECT_EQ(server->Usage()[0].second.blocks, 1);
  }
  ASSERT_TRUE(WaitUntil([&] { return server->clients() == 1; }));
  const auto answers = GetAll(*reader.tier, {Key(1, 0, 1)});
  ASSERT_OK(answers[0]);
  EXPECT_TRUE(**answers[0] == *BlockOf(1, 1, 5000).bytes);
  EXPECT_TRUE(reader.tier->Usage().shared);
  EXPECT_EQ(reader.tier->Usage().capacity_bytes, int64_t{64} << 20);
}

// No more than the room that the store granted is on its way; the rest is refused before a byte of it is sent.
TEST(RemoteTier, NothingIsSentToBeRefused) {
  StoreServerOptions options;
  options.host_bytes = int64_t{64} << 20;
  options.max_pending_bytes = 1 << 20;
  auto server = *StoreServer::Start(options);
  Client client(server->address());
  EXPECT_THAT(PutAll(*client.tier, {BlockOf(1, 1, 2 << 20)})[0], StatusIs(absl::StatusCode::kResourceExhausted, _));
  std::vector<StoredBlock> blocks;
  for (uint64_t b = 0; b < 100; ++b) blocks.push_back(BlockOf(2, b, 100 << 10));
  int taken = 0;
  for (const absl::Status& status : PutAll(*client.tier, blocks)) {
    taken += status.ok();
    if (!status.ok()) {
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, _));
    }
  }
  EXPECT_EQ(taken, 10);
  EXPECT_EQ(server->Usage()[0].second.blocks, 10);
  EXPECT_TRUE(client.tier->Wants());
  ASSERT_OK(PutAll(*client.tier, {BlockOf(2, 99, 100 << 10)})[0]);
}

// The store is stopped, not killed, while calls are on their way.
TEST(RemoteTier, AStoreThatStopsAnswersOrFailsEveryCall) {
  auto server = StartStore(int64_t{64} << 20);
  Client client(server->address());
  Collected<bool> answered;
  constexpr size_t kCalls = 200;
  for (size_t i = 0; i < kCalls; ++i) {
    client.tier->Put({BlockOf(1, i, 100 << 10)}, [&](std::vector<absl::Status> statuses) {
      answered.Add(statuses.size() == 1 && (statuses[0].ok() || absl::IsUnavailable(statuses[0])));
    });
    if (i == kCalls / 2) server.reset();
  }
  ASSERT_TRUE(answered.WaitFor(kCalls));
  for (const bool good : answered.Take()) EXPECT_TRUE(good);
  EXPECT_THAT(GetAll(*client.tier, {Key(1, 0, 0)})[0], StatusIs(absl::StatusCode::kUnavailable, _));
}

TEST(RemoteTier, CreationNamesTheSettingThatIsWrong) {
  RealClock clock;
  const std::unique_ptr<Transport> transport = *MakeUcxTransport({});
  for (const std::string address : {"", "nonsense", ":1", "host:"}) {
    EXPECT_THAT(MakeRemoteTier({.remote = address, .transport = transport.get(), .clock = &clock}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv.remote")));
  }
  EXPECT_THAT(MakeRemoteTier({.remote = "127.0.0.1:1", .transport = nullptr, .clock = &clock}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv.remote")));
}

// A rank starts without its store, and finds it when it comes.
TEST(RemoteTier, AStoreThatIsNotThereYetIsFoundLater) {
  std::string address;
  {
    auto server = StartStore(1 << 20);
    address = server->address();
  }
  Client client(address);
  EXPECT_FALSE(client.tier->Wants());
  EXPECT_THAT(PutAll(*client.tier, {BlockOf(1, 1, 1000)})[0], StatusIs(absl::StatusCode::kUnavailable, _));
  EXPECT_THAT(GetAll(*client.tier, {Key(1, 0, 1)})[0], StatusIs(absl::StatusCode::kUnavailable, _));
  EXPECT_FALSE(ProbeAll(*client.tier, {Key(1, 0, 1)})[0]);
  StoreServerOptions options;
  options.listen = address;
  options.host_bytes = 1 << 20;
  auto server = StoreServer::Start(options);
  ASSERT_OK(server);
  ASSERT_TRUE(WaitUntil([&] { return client.tier->Wants(); }));
  EXPECT_OK(PutAll(*client.tier, {BlockOf(1, 1, 1000)})[0]);
}

TEST(StoreServer, GarbageIsCountedAndIgnored) {
  auto server = StartStore(int64_t{64} << 20);
  Client client(server->address());
  const std::unique_ptr<Transport> vandal = *MakeUcxTransport({});
  Collected<KvReply> replies;
  vandal->Listen(kKvReplyChannel, [&](Message m) { replies.Add(*KvReply::Decode(m.header, m.body.size())); });
  const absl::StatusOr<PeerId> peer = vandal->Connect(server->transport_address());
  ASSERT_OK(peer);
  std::mt19937_64 random(9);
  const std::string good =
      KvRequest{.op = KvOp::kPut, .session = 1, .id = 1, .keys = {Key(1, 1, 1)}, .lengths = {4}, .indices = {0}}
          .Encode();
  constexpr int kMessages = 300;
  for (int i = 0; i < kMessages; ++i) {
    std::string header = good;
    switch (i % 4) {
      case 0:
        header.resize(random() % header.size());
        break;
      case 1:
        header = std::string(random() % 4096, static_cast<char>(random()));
        break;
      case 2:
        header += "trailing";
        break;
      default:
        header =
            KvRequest{.op = KvOp::kPut, .session = 1, .id = 1, .keys = {Key(1, 1, 1)}, .lengths = {~0u}, .indices = {0}}
                .Encode();
    }
    vandal->Send(*peer, kKvRequestChannel, header, {Shared("body")}, [](absl::Status) {});
  }
  // A well-formed request of a session that was never given is answered, and comes after all the garbage.
  vandal->Send(*peer, kKvRequestChannel, good, {Shared("body")}, [](absl::Status) {});
  ASSERT_TRUE(replies.WaitFor(1));
  EXPECT_FALSE(replies.Take()[0].session_known);
  EXPECT_EQ(server->malformed(), kMessages);
  EXPECT_EQ(server->Usage()[0].second.blocks, 0);
  ASSERT_OK(PutAll(*client.tier, {BlockOf(1, 1, 1000)})[0]);
}

// A session is of the connection that used it first: whoever learned its number writes and reads nothing by it.
TEST(StoreServer, TheSessionOfAnotherConnectionIsNotKnown) {
  auto server = StartStore(int64_t{64} << 20);
  const std::unique_ptr<Transport> owner = *MakeUcxTransport({}), vandal = *MakeUcxTransport({});
  Collected<KvReply> to_owner, to_vandal;
  owner->Listen(kKvReplyChannel, [&](Message m) { to_owner.Add(*KvReply::Decode(m.header, m.body.size())); });
  vandal->Listen(kKvReplyChannel, [&](Message m) { to_vandal.Add(*KvReply::Decode(m.header, m.body.size())); });
  auto stream = AttachStream::Open(
      {.control_address = server->address(), .transport_address = owner->address(), .timeout = absl::Seconds(20)},
      [](absl::Status) {});
  ASSERT_OK(stream);
  const uint64_t session = (*stream)->session().id;
  const std::string put =
      KvRequest{.op = KvOp::kPut, .session = session, .id = 1, .keys = {Key(1, 1, 1)}, .lengths = {4}, .indices = {0}}
          .Encode();
  const auto say = [&](Transport& transport, const std::string& header, const std::string& body) {
    const absl::StatusOr<PeerId> peer = transport.Connect(server->transport_address());
    ASSERT_OK(peer);
    transport.Send(*peer, kKvRequestChannel, header, {Shared(body)}, [](absl::Status) {});
  };
  say(*owner, KvRequest{.op = KvOp::kRoom, .session = session, .id = 7}.Encode(), "");
  ASSERT_TRUE(to_owner.WaitFor(1));
  EXPECT_TRUE(to_owner.Take()[0].session_known);
  say(*vandal, put, "evil");
  ASSERT_TRUE(to_vandal.WaitFor(1));
  EXPECT_FALSE(to_vandal.Take()[0].session_known);
  say(*owner, put, "also");  // over a second connection
  ASSERT_TRUE(to_owner.WaitFor(1));
  EXPECT_FALSE(to_owner.Take()[0].session_known);
  EXPECT_EQ(server->Usage()[0].second.blocks, 0);
}

TEST(StoreServer, AClientWithoutTheSecretReachesNothing) {
  const auto secured = [](char byte) {
    const std::string path = testing::TempDir() + "/store-secret-" + byte;
    EXPECT_OK(WriteSecretFile(path, std::string(32, byte)));
    return *ClusterSecurity::Make({.secret_file = path});
  };
  StoreServerOptions options;
  options.host_bytes = int64_t{64} << 20;
  options.security = secured('a');
  auto server = StoreServer::Start(options);
  ASSERT_OK(server);
  const auto wants = [&](const std::shared_ptr<const ClusterSecurity>& security) {
    RealClock clock;
    const std::unique_ptr<Transport> transport = *MakeUcxTransport({.secret = security->link_key()});
    const auto tier = *MakeRemoteTier(
        {.remote = (*server)->address(), .transport = transport.get(), .clock = &clock, .security = security});
    return tier->Wants();
  };
  EXPECT_TRUE(wants(secured('a')));
  EXPECT_FALSE(wants(secured('b')));
  EXPECT_FALSE(wants(std::make_shared<const ClusterSecurity>()));
  // The block port too, for one that learned its address.
  const std::unique_ptr<Transport> stranger = *MakeUcxTransport({});
  EXPECT_FALSE(stranger->Connect((*server)->transport_address()).ok());
}

TEST(RemoteTier, RepliesOfStrangersAreIgnored) {
  auto server = StartStore(int64_t{64} << 20);
  Client client(server->address());
  ASSERT_OK(PutAll(*client.tier, {BlockOf(1, 1, 1000)})[0]);
  const std::unique_ptr<Transport> vandal = *MakeUcxTransport({});
  const absl::StatusOr<PeerId> peer = vandal->Connect(client.transport->address());
  ASSERT_OK(peer);
  Collected<absl::Status> sent;
  for (int i = 0; i < 100; ++i) {
    vandal->Send(*peer, kKvReplyChannel, std::string(static_cast<size_t>(i), 'g'), {Shared("body")},
                 [&](absl::Status s) { sent.Add(s); });
  }
  ASSERT_TRUE(sent.WaitFor(100));
  EXPECT_OK(GetAll(*client.tier, {Key(1, 0, 1)})[0]);
}

TEST(StoreServer, RefusesBadOptionsByName) {
  StoreServerOptions options;
  options.listen = "nonsense";
  options.host_bytes = 1 << 20;
  EXPECT_THAT(StoreServer::Start(options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kvstore.listen")));
  options.listen = "256.0.0.1:1";
  EXPECT_THAT(StoreServer::Start(options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kvstore.listen")));
  options.listen = "127.0.0.1:0";
  options.host_bytes = 0;
  EXPECT_THAT(StoreServer::Start(options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kvstore.host_bytes")));
  options.host_bytes = 1 << 20;
  options.listen = "0.0.0.0:0";
  EXPECT_THAT(StoreServer::Start(options),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("kvstore.listen"), HasSubstr("cluster.secret_file"))));
  options.listen = "127.0.0.1:0";
  options.transport.host = "0.0.0.0";
  EXPECT_THAT(StoreServer::Start(options),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("transport.host"), HasSubstr("cluster.secret_file"))));
}

}  // namespace
}  // namespace interlace
