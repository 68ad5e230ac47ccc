#include "common/cluster_security.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <sodium.h>

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/derived_certificate.h"
#include "common/log.h"
#include "common/loopback.h"
#include "common/secret_file.h"
#include "common/state_file.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr size_t kLeastSecret = 32;  // bytes
constexpr size_t kMostPem = size_t{1} << 20;
constexpr unsigned kReadAgain = 10;  // seconds between two looks at the certificates of a server

// 32 bytes that tell nothing of the secret, nor of those for another purpose.
std::string Derive(absl::string_view secret, absl::string_view purpose) {
  unsigned char key[crypto_generichash_KEYBYTES_MAX];
  CHECK(crypto_generichash(key, sizeof key, reinterpret_cast<const unsigned char*>(secret.data()), secret.size(),
                           nullptr, 0) == 0);
  std::string derived(crypto_generichash_BYTES, '\0');
  CHECK(crypto_generichash(reinterpret_cast<unsigned char*>(derived.data()), derived.size(),
                           reinterpret_cast<const unsigned char*>(purpose.data()), purpose.size(), key,
                           sizeof key) == 0);
  sodium_memzero(key, sizeof key);
  return derived;
}

struct PemFiles {
  std::string authority, certificate, key;
};

absl::StatusOr<PemFiles> ReadPemFiles(const ClusterSecurity::Options& options) {
  const auto named = [](absl::string_view setting, absl::StatusOr<std::string> read) -> absl::StatusOr<std::string> {
    if (read.ok()) return read;
    return absl::FailedPreconditionError(absl::StrCat(setting, ": ", read.status().message()));
  };
  PemFiles files;
  ASSIGN_OR_RETURN(files.authority, named("cluster.tls_ca", ReadStateFile(options.tls_ca, kMostPem)));
  ASSIGN_OR_RETURN(files.certificate, named("cluster.tls_cert", ReadStateFile(options.tls_cert, kMostPem)));
  ASSIGN_OR_RETURN(files.key, ReadSecretFile("cluster.tls_key", options.tls_key, kMostPem));
  RETURN_IF_ERROR(CheckCertificate(files.authority, files.certificate, files.key));
  return files;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ClusterSecurity>> ClusterSecurity::Make(const Options& options) {
  auto made = std::make_shared<ClusterSecurity>();
  made->options_ = options;
  const bool some = !options.tls_ca.empty() || !options.tls_cert.empty() || !options.tls_key.empty();
  const bool all = !options.tls_ca.empty() && !options.tls_cert.empty() && !options.tls_key.empty();
  if (some && !all) {
    return absl::InvalidArgumentError(
        "cluster.tls_ca, cluster.tls_cert and cluster.tls_key go together: give all three");
  }
  if (all) RETURN_IF_ERROR(ReadPemFiles(options).status());
  if (options.secret_file.empty() && options.insecure) {
    LOG(WARNING) << "cluster.insecure=true: whoever reaches the ports between processes is a member of the cluster";
  }
  if (options.secret_file.empty()) return made;
  ASSIGN_OR_RETURN(const std::string text, ReadSecretFile("cluster.secret_file", options.secret_file));
  const absl::string_view secret = absl::StripTrailingAsciiWhitespace(text);
  if (secret.size() < kLeastSecret) {
    return absl::FailedPreconditionError(
        absl::StrCat("cluster.secret_file=", options.secret_file, " holds ", secret.size(), " bytes, and ",
                     kLeastSecret, " are needed that nobody can guess: openssl rand -hex 32 > FILE"));
  }
  made->link_key_ = Derive(secret, "interlace.cluster.link.1");
  if (all) return made;
  ASSIGN_OR_RETURN(DerivedCertificate derived, DeriveCertificate(Derive(secret, "interlace.cluster.authority.1")));
  made->authority_ = std::move(derived.authority);
  made->certificate_ = std::move(derived.certificate);
  made->key_ = std::move(derived.key);
  return made;
}

absl::StatusOr<std::shared_ptr<const ClusterSecurity>> ClusterSecurity::Make(const Config& config) {
  return Make({.secret_file = config.cluster.secret_file,
               .tls_ca = config.cluster.tls_ca,
               .tls_cert = config.cluster.tls_cert,
               .tls_key = config.cluster.tls_key,
               .tls_name = config.cluster.tls_name,
               .insecure = config.cluster.insecure});
}

absl::Status ClusterSecurity::CheckListen(absl::string_view setting, absl::string_view host) const {
  if (!link_key_.empty() || options_.insecure || IsLoopback(host)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      setting, ": other machines reach '", host,
      "', and this cluster has no secret by which its processes know each other. Give all of them the same --set "
      "cluster.secret_file=FILE (openssl rand -hex 32 > FILE; chmod 600 FILE), which is needed besides cluster.tls_* "
      "too, or say --set cluster.insecure=true if nobody else can reach this network"));
}

std::shared_ptr<grpc::ServerCredentials> ClusterSecurity::ServerCredentials() const {
  if (!options_.tls_ca.empty()) {
    grpc::experimental::TlsServerCredentialsOptions tls(
        std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(options_.tls_key, options_.tls_cert,
                                                                             options_.tls_ca, kReadAgain));
    tls.watch_root_certs();
    tls.watch_identity_key_cert_pairs();
    tls.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
    return grpc::experimental::TlsServerCredentials(tls);
  }
  if (authority_.empty()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions ssl(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  ssl.pem_root_certs = authority_;
  ssl.pem_key_cert_pairs.push_back({key_, certificate_});
  return grpc::SslServerCredentials(ssl);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ClusterSecurity::ChannelCredentials(
    grpc::ChannelArguments* arguments) const {
  if (!options_.tls_ca.empty()) {
    absl::StatusOr<PemFiles> files = ReadPemFiles(options_);
    if (!files.ok()) return absl::UnavailableError(files.status().message());  // they may be in the middle of a change
    if (!options_.tls_name.empty()) arguments->SetSslTargetNameOverride(options_.tls_name);
    return grpc::SslCredentials({files->authority, files->key, files->certificate});
  }
  if (authority_.empty()) return grpc::InsecureChannelCredentials();
  arguments->SetSslTargetNameOverride(kDerivedName);
  return grpc::SslCredentials({authority_, key_, certificate_});
}

}  // namespace interlace
