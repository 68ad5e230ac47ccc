// Processes of one cluster over gRPC: who reaches whom.
#include "common/cluster_security.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/derived_certificate.h"
#include "common/grpc_status.h"
#include "common/secret_file.h"
#include "proto/kv.grpc.pb.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

class Store final : public v1::KvStore::Service {
 public:
  explicit Store(const ClusterSecurity& security) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", security.ServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
  }
  grpc::Status Usage(grpc::ServerContext*, const v1::UsageRequest*, v1::UsageReply* reply) override {
    ++calls_;
    reply->set_clients(42);
    return grpc::Status::OK;
  }
  absl::Status CallFrom(const ClusterSecurity& security) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> credentials = security.ChannelCredentials(&arguments);
    if (!credentials.ok()) return credentials.status();
    const auto stub =
        v1::KvStore::NewStub(grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port_), *credentials, arguments));
    grpc::ClientContext context;
    v1::UsageReply reply;
    const absl::Status status = FromGrpcStatus(stub->Usage(&context, {}, &reply));
    EXPECT_EQ(reply.clients(), status.ok() ? 42 : 0);
    return status;
  }
  int calls() const { return calls_; }

 private:
  int port_ = 0;
  std::atomic<int> calls_{0};
  std::unique_ptr<grpc::Server> server_;
};

class ClusterSecurityTest : public testing::Test {
 protected:
  ClusterSecurityTest() {
    std::string folder = testing::TempDir() + "/security-XXXXXX";
    EXPECT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
  }
  ~ClusterSecurityTest() override { std::filesystem::remove_all(folder_); }
  std::string File(const std::string& name, const std::string& text) {
    EXPECT_OK(WriteSecretFile(folder_ + "/" + name, text));
    return folder_ + "/" + name;
  }
  std::shared_ptr<const ClusterSecurity> WithSecret(const std::string& secret) {
    const auto made = ClusterSecurity::Make({.secret_file = File("secret", secret)});
    EXPECT_OK(made);
    return *made;
  }
  // As an operator makes them: certificates of one authority.
  ClusterSecurity::Options WithFiles(const std::string& authority_seed) {
    const absl::StatusOr<DerivedCertificate> made = DeriveCertificate(authority_seed);
    EXPECT_OK(made);
    return {.tls_ca = File("ca" + authority_seed, made->authority),
            .tls_cert = File("cert" + authority_seed, made->certificate),
            .tls_key = File("key" + authority_seed, made->key),
            .tls_name = kDerivedName};
  }
  std::string folder_;
};

TEST_F(ClusterSecurityTest, HoldersOfOneSecretReachEachOtherAndNobodyElseDoes) {
  const auto ours = WithSecret(std::string(32, 'a')), same = WithSecret(std::string(32, 'a') + "\n");
  const auto theirs = WithSecret(std::string(32, 'b'));
  EXPECT_EQ(ours->link_key(), same->link_key()) << "an editor's newline is not part of it";
  EXPECT_NE(ours->link_key(), theirs->link_key());
  EXPECT_EQ(ours->link_key().size(), 32u);
  EXPECT_TRUE(ours->encrypts());
  Store store(*ours);
  EXPECT_OK(store.CallFrom(*same));
  EXPECT_FALSE(store.CallFrom(*theirs).ok());
  EXPECT_FALSE(store.CallFrom(ClusterSecurity()).ok());
  EXPECT_EQ(store.calls(), 1);
  // Nor does a member tell a stranger's server anything.
  Store stranger(*theirs), open{ClusterSecurity()};
  EXPECT_FALSE(stranger.CallFrom(*ours).ok());
  EXPECT_FALSE(open.CallFrom(*ours).ok());
  EXPECT_EQ(stranger.calls() + open.calls(), 0);
  EXPECT_OK(open.CallFrom(ClusterSecurity()));
}

TEST_F(ClusterSecurityTest, CertificatesOfFilesTakeTheirPlace) {
  const ClusterSecurity::Options options = WithFiles(std::string(32, 'c'));
  const auto made = ClusterSecurity::Make(options), others = ClusterSecurity::Make(WithFiles(std::string(32, 'd')));
  ASSERT_OK(made);
  ASSERT_OK(others);
  EXPECT_EQ((*made)->link_key(), "") << "the transport needs the secret all the same";
  Store store(**made);
  EXPECT_OK(store.CallFrom(**made));
  EXPECT_FALSE(store.CallFrom(**others).ok());
  EXPECT_FALSE(store.CallFrom(*WithSecret(std::string(32, 'a'))).ok());
  EXPECT_FALSE(store.CallFrom(ClusterSecurity()).ok());
  EXPECT_EQ(store.calls(), 1);
  ClusterSecurity::Options another_name = options;
  another_name.tls_name = "somebody-else";
  EXPECT_FALSE(store.CallFrom(**ClusterSecurity::Make(another_name)).ok());
  // A client takes what lies there when it connects.
  const absl::StatusOr<DerivedCertificate> renewed = DeriveCertificate(std::string(32, 'd'));
  File("ca" + std::string(32, 'c'), renewed->authority);
  EXPECT_FALSE(store.CallFrom(**made).ok());
  std::ofstream(options.tls_cert) << "half of a";
  EXPECT_THAT(store.CallFrom(**made), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("cluster.tls_cert")));
}

TEST_F(ClusterSecurityTest, UnfitFilesAreRefusedByName) {
  const auto refused = [](const ClusterSecurity::Options& options, const std::string& text) {
    const auto made = ClusterSecurity::Make(options);
    EXPECT_FALSE(made.ok());
    EXPECT_THAT(std::string(made.status().message()), HasSubstr(text));
  };
  refused({.secret_file = folder_ + "/none"}, "cluster.secret_file");
  refused({.secret_file = File("short", std::string(31, 's') + "\n")}, "openssl rand");
  const ClusterSecurity::Options good = WithFiles(std::string(32, 'e')), other = WithFiles(std::string(32, 'f'));
  ClusterSecurity::Options bad = good;
  bad.tls_key = "";
  refused(bad, "go together");
  bad.tls_key = other.tls_key;
  refused(bad, "cluster.tls_key is not of cluster.tls_cert");
  bad.tls_key = good.tls_cert;
  refused(bad, "cluster.tls_key holds no private key");
  bad = good;
  bad.tls_ca = good.tls_key;
  refused(bad, "cluster.tls_ca holds no certificate");
  bad.tls_ca = folder_ + "/none";
  refused(bad, "cluster.tls_ca");
}

TEST_F(ClusterSecurityTest, BeyondLoopbackThereMustBeASecret) {
  const ClusterSecurity open;
  for (const char* host : {"127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"}) {
    EXPECT_OK(open.CheckListen("cluster.listen", host)) << host;
  }
  const auto files = *ClusterSecurity::Make(WithFiles(std::string(32, 'c')));
  for (const char* host :
       {"0.0.0.0", "10.0.0.1", "::", "[::]", "*", "", "127.0.0.1.example", "127.0.0", "localhost.x"}) {
    for (const ClusterSecurity* cluster : {&open, files.get()}) {
      EXPECT_THAT(cluster->CheckListen("cluster.listen", host),
                  StatusIs(absl::StatusCode::kInvalidArgument,
                           ::testing::AllOf(HasSubstr("cluster.listen"), HasSubstr("cluster.secret_file"),
                                            HasSubstr("cluster.insecure"))))
          << host;
    }
    EXPECT_OK(WithSecret(std::string(32, 'a'))->CheckListen("cluster.listen", host));
    EXPECT_OK((*ClusterSecurity::Make({.insecure = true}))->CheckListen("cluster.listen", host));
  }
}

}  // namespace
}  // namespace interlace
