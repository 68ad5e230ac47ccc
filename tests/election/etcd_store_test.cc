// The leader's record in a real etcd (Debian's etcd-server).
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "cli/child_process.h"
#include "common/clock.h"
#include "common/log.h"
#include "coordinator/election/lead_store.h"
#include "tests/election/candidate.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kWithin = absl::Seconds(5);

// Nobody else is likely to be given it within the next second.
int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(fd);
  return ntohs(address.sin_port);
}

class EtcdStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
    char pattern[] = "/tmp/interlace-etcd-XXXXXX";
    folder_ = mkdtemp(pattern);
    endpoint_ = absl::StrCat("127.0.0.1:", FreePort());
    const std::string client = "http://" + endpoint_, peer = absl::StrCat("http://127.0.0.1:", FreePort());
    auto started = ChildProcess::Start(
        "etcd",
        {"/usr/bin/etcd", "--data-dir", folder_ + "/data", "--name", "one", "--listen-client-urls", client,
         "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
         "--initial-cluster", "one=" + peer, "--heartbeat-interval", "10", "--election-timeout", "100"},
        folder_ + "/etcd.log");
    ASSERT_OK(started);
    etcd_ = *std::move(started);
    store_ = Store();
    const absl::Time limit = clock_.Now() + absl::Seconds(30);
    while (!store_->Read(absl::Milliseconds(200)).ok()) ASSERT_LT(clock_.Now(), limit) << "etcd did not start";
  }
  void TearDown() override {
    etcd_ = ChildProcess();
    std::filesystem::remove_all(folder_);
    SetLogSink(nullptr, LogLevel::kInfo);
  }
  Config Settings() const {
    Config config;
    config.election.backend = "etcd";
    config.election.endpoints = endpoint_;
    config.election.key = "test/leader";
    return config;
  }
  std::unique_ptr<LeadStore> Store() { return Store(Settings()); }
  std::unique_ptr<LeadStore> Store(const Config& config) {
    absl::StatusOr<std::unique_ptr<LeadStore>> store = MakeLeadStore(config, clock_);
    EXPECT_OK(store);
    return store.ok() ? *std::move(store) : nullptr;
  }

  RealClock clock_;
  std::string folder_, endpoint_;
  ChildProcess etcd_;
  std::unique_ptr<LeadStore> store_;
};

LeadRecord RecordOf(uint64_t epoch) {
  return {.epoch = epoch, .holder = "h", .renewals = 1, .lease = absl::Seconds(1), .http = "a:1", .grpc = "a:2"};
}

TEST_F(EtcdStoreTest, ComparesAndSwaps) {
  EXPECT_EQ(store_->Read(kWithin).value(), std::nullopt);
  EXPECT_THAT(store_->Write(RecordOf(1), "7", kWithin), StatusIs(absl::StatusCode::kAborted, HasSubstr("another")));
  const absl::StatusOr<std::string> first = store_->Write(RecordOf(1), "", kWithin);
  ASSERT_OK(first);
  EXPECT_THAT(store_->Write(RecordOf(2), "", kWithin), StatusIs(absl::StatusCode::kAborted, HasSubstr("another")));
  const auto other = Store();
  EXPECT_EQ(other->Read(kWithin).value(), (StoredRecord{RecordOf(1), *first}));
  const absl::StatusOr<std::string> second = other->Write(RecordOf(2), *first, kWithin);
  ASSERT_OK(second);
  EXPECT_NE(*second, *first);
  EXPECT_THAT(store_->Write(RecordOf(3), *first, kWithin), StatusIs(absl::StatusCode::kAborted, HasSubstr("another")));
  EXPECT_EQ(store_->Read(kWithin).value(), (StoredRecord{RecordOf(2), *second}));
}

TEST_F(EtcdStoreTest, WhatHangsIsGivenUpAndUsedAgain) {
  ASSERT_OK(store_->Write(RecordOf(1), "", kWithin));
  etcd_.Signal(SIGSTOP);
  auto read = store_->Read(absl::Milliseconds(100));
  for (int i = 0; i < 50 && read.ok(); ++i)
    read = store_->Read(absl::Milliseconds(100));  // until all its threads stand
  EXPECT_THAT(read, StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr(endpoint_)));
  etcd_.Signal(SIGCONT);
  EXPECT_EQ(store_->Read(kWithin).value()->record, RecordOf(1));
}

TEST_F(EtcdStoreTest, AsksTheOthersWhereOneIsGoneOrHangs) {
  const int hangs = socket(AF_INET, SOCK_STREAM, 0);  // takes connections and says nothing
  sockaddr_in address{.sin_family = AF_INET, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  ASSERT_EQ(bind(hangs, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(hangs, 8), 0);
  getsockname(hangs, reinterpret_cast<sockaddr*>(&address), &size);
  Config config = Settings();
  config.election.endpoints = absl::StrCat("127.0.0.1:1, http://127.0.0.1:", ntohs(address.sin_port), ",", endpoint_);
  const auto store = Store(config);
  EXPECT_OK(store->Write(RecordOf(1), "", absl::Seconds(1)));
  EXPECT_OK(store->Read(absl::Seconds(1)));
  close(hangs);
}

TEST_F(EtcdStoreTest, SomebodyElsesKeyIsRefusedAndLeftAlone) {
  // The key of another program: our own JSON of another kind, written by a store that does not know better.
  LeadRecord damaged = RecordOf(1);
  damaged.lease = absl::ZeroDuration();
  ASSERT_OK(store_->Write(damaged, "", kWithin));
  EXPECT_THAT(store_->Read(kWithin),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("election.key=test/leader")));
}

TEST_F(EtcdStoreTest, ElectsOneOfTwoAndTheOtherWhenItDies) {
  const auto store = Store();
  Candidate first("first", *store_, absl::Milliseconds(500));
  const std::optional<uint64_t> epoch = first.AwaitLead();
  ASSERT_TRUE(epoch);
  Candidate second("second", *store, absl::Milliseconds(500));
  EXPECT_TRUE(second.AwaitLeader("first"));
  first.Die();
  EXPECT_EQ(second.AwaitLead(), *epoch + 1);
  second.Resign();
  EXPECT_EQ(Store()->Read(kWithin).value()->record.holder, "");
}

TEST(LeadStoreTest, SettingsThatCannotBeUsedAreRefusedByName) {
  RealClock clock;
  const auto refused = [&](auto spoil, const char* text) {
    Config config;
    config.election.backend = "etcd";
    config.election.endpoints = "127.0.0.1:2379";
    spoil(config.election);
    EXPECT_THAT(MakeLeadStore(config, clock), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text)));
  };
  refused([](auto& e) { e.backend = "zookeeper"; }, "known: none, etcd");
  for (const char* endpoints : {"", "x", ":1", "a:0", "a:65536", "a:1,", "a:1,,b:1"}) {
    refused([&](auto& e) { e.endpoints = endpoints; }, "election.endpoints");
  }
  refused([](auto& e) { e.key = ""; }, "election.key");
  refused([](auto& e) { e.tls_cert = "c"; }, "election.tls_ca");
  Config none;
  EXPECT_EQ(MakeLeadStore(none, clock).value(), nullptr);
}

}  // namespace
}  // namespace interlace
