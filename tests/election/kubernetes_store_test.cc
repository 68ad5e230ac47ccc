// The leader's record in a Lease of an API server that the test plays.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

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

LeadRecord RecordOf(uint64_t epoch) {
  return {
      .epoch = epoch, .holder = "h", .renewals = 1, .lease = absl::Milliseconds(1500), .http = "a:1", .grpc = "a:2"};
}

class KubernetesStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
    char pattern[] = "/tmp/interlace-lease-XXXXXX";
    folder_ = mkdtemp(pattern);
  }
  void TearDown() override {
    server_ = ChildProcess();
    std::filesystem::remove_all(folder_);
    SetLogSink(nullptr, LogLevel::kInfo);
  }
  void Serve(bool tls = false) {
    std::vector<std::string> command = {"/usr/bin/python3", "tests/election/fake_kubernetes.py"};
    if (tls) {
      const std::string make =
          absl::StrCat("cd ", folder_,
                       " && openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 "
                       "-subj /CN=localhost -addext subjectAltName=DNS:localhost 2>openssl.log");
      ASSERT_EQ(system(make.c_str()), 0);
      command.insert(command.end(), {folder_ + "/cert.pem", folder_ + "/key.pem"});
    }
    auto started = ChildProcess::Start("api", command, folder_ + "/api.log");
    ASSERT_OK(started);
    server_ = *std::move(started);
    const absl::Time limit = clock_.Now() + absl::Seconds(30);
    while (!(std::ifstream(folder_ + "/api.log") >> port_)) ASSERT_LT(clock_.Now(), limit) << "it did not start";
    config_.election.backend = "kubernetes";
    config_.election.endpoints = absl::StrCat(tls ? "https://localhost:" : "http://127.0.0.1:", port_);
    config_.election.key = "models/leader";
  }
  std::unique_ptr<LeadStore> Store() {
    absl::StatusOr<std::unique_ptr<LeadStore>> store = MakeLeadStore(config_, clock_);
    EXPECT_OK(store);
    return store.ok() ? *std::move(store) : nullptr;
  }

  RealClock clock_;
  Config config_;
  std::string folder_;
  int port_ = 0;
  ChildProcess server_;
};

TEST_F(KubernetesStoreTest, ComparesAndSwaps) {
  Serve();
  const auto store = Store(), other = Store();
  EXPECT_EQ(store->Read(kWithin).value(), std::nullopt);
  EXPECT_THAT(store->Write(RecordOf(1), "7", kWithin), StatusIs(absl::StatusCode::kAborted, HasSubstr("another")));
  const absl::StatusOr<std::string> first = store->Write(RecordOf(1), "", kWithin);
  ASSERT_OK(first);
  EXPECT_THAT(other->Write(RecordOf(2), "", kWithin), StatusIs(absl::StatusCode::kAborted, HasSubstr("another")));
  EXPECT_EQ(other->Read(kWithin).value(), (StoredRecord{RecordOf(1), *first}));
  const absl::StatusOr<std::string> second = other->Write(RecordOf(2), *first, kWithin);
  ASSERT_OK(second);
  EXPECT_THAT(store->Write(RecordOf(3), *first, kWithin), StatusIs(absl::StatusCode::kAborted, HasSubstr("another")));
  EXPECT_EQ(store->Read(kWithin).value(), (StoredRecord{RecordOf(2), *second}));
}

TEST_F(KubernetesStoreTest, SpeaksTlsWithWhomTheAuthorityNames) {
  Serve(true);
  config_.election.tls_ca = folder_ + "/cert.pem";
  EXPECT_OK(Store()->Write(RecordOf(1), "", kWithin));
  config_.election.endpoints = absl::StrCat("https://127.0.0.1:", port_);  // the certificate names localhost
  EXPECT_THAT(Store()->Read(kWithin), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("127.0.0.1")));
}

TEST_F(KubernetesStoreTest, WhatHangsIsGivenUpAndUsedAgainAndWhatIsGoneIsUnavailable) {
  Serve();
  const auto store = Store();
  ASSERT_OK(store->Write(RecordOf(1), "", kWithin));
  server_.Signal(SIGSTOP);
  EXPECT_THAT(store->Read(absl::Milliseconds(100)), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("127.0.0.1")));
  server_.Signal(SIGCONT);
  EXPECT_EQ(store->Read(kWithin).value()->record, RecordOf(1));
  server_ = ChildProcess();
  EXPECT_THAT(store->Read(kWithin), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("127.0.0.1")));
}

TEST_F(KubernetesStoreTest, RefusalsOfTheServerSayWhatIsMissing) {
  Serve();
  config_.election.key = "forbidden/leader";
  EXPECT_THAT(Store()->Read(kWithin),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("get, create and update")));
}

TEST_F(KubernetesStoreTest, ElectsOneOfTwoAndTheOtherWhenItDies) {
  Serve();
  const auto a = Store(), b = Store();
  Candidate first("first", *a, absl::Milliseconds(500));
  const std::optional<uint64_t> epoch = first.AwaitLead();
  ASSERT_TRUE(epoch);
  Candidate second("second", *b, absl::Milliseconds(500));
  EXPECT_TRUE(second.AwaitLeader("first"));
  first.Die();
  EXPECT_EQ(second.AwaitLead(), *epoch + 1);
}

TEST_F(KubernetesStoreTest, SettingsThatCannotBeUsedAreRefusedByName) {
  config_.election.backend = "kubernetes";
  config_.election.endpoints = "http://127.0.0.1:1";
  for (const char* key : {"", "x", "a/b/c", "/x", "a/", "A/b", "a/b?c"}) {
    config_.election.key = key;
    EXPECT_THAT(MakeLeadStore(config_, clock_),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("election.key")));
  }
  config_.election.key = "a/b";
  for (const char* url :
       {"127.0.0.1:1", "ftp://x", "http://", "http://a:0", "http://a:x", "http://a/b", "https://[::1"}) {
    config_.election.endpoints = url;
    EXPECT_THAT(MakeLeadStore(config_, clock_),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("election.endpoints")))
        << url;
  }
  config_.election.endpoints = "https://a";
  config_.election.tls_ca = folder_ + "/none.pem";
  EXPECT_FALSE(MakeLeadStore(config_, clock_).ok());
  std::ofstream(config_.election.tls_ca) << "no certificate";
  EXPECT_THAT(MakeLeadStore(config_, clock_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("election.tls_ca")));
}

}  // namespace
}  // namespace interlace
