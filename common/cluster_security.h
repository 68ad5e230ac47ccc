// ClusterSecurity: how the processes of one cluster know each other.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/config.h"

namespace grpc {
class ChannelArguments;
class ChannelCredentials;
class ServerCredentials;
}  // namespace grpc

namespace interlace {

// Owned by main, shared by whatever listens or dials within the cluster; any thread.
//
// All processes hold the same secret. From it each derives, by itself, the same certificate authority, under which it
// makes itself a certificate: gRPC between the processes is mutual TLS with these, so that whoever listens in, sends
// again what he recorded, or changes bytes on the way learns and reaches nothing. Connections of our transport are
// authenticated by a handshake under link_key() (transport/handshake.h). Certificates of an authority of the
// operator's own may take the place of those for gRPC; the transport needs the secret all the same.
//
// The secret makes members, not roles: a process that holds it may say that it is any of them.
class ClusterSecurity {
 public:
  struct Options {
    std::string secret_file;
    std::string tls_ca, tls_cert, tls_key;  // PEM files; all three or none
    std::string tls_name;                   // expected in a server's certificate; empty: the host that is dialled
    bool insecure = false;
  };
  // Nobody is asked for anything: within one process, on loopback, and in tests.
  ClusterSecurity() = default;
  // Reads and checks the files. Errors name the field.
  static absl::StatusOr<std::shared_ptr<const ClusterSecurity>> Make(const Options& options);
  static absl::StatusOr<std::shared_ptr<const ClusterSecurity>> Make(const Config& config);

  // InvalidArgument, with the way out: other machines reach `host` ("1.2.3.4", "[::1]", "name"), and this cluster has
  // no secret by which a member is told from anybody else.
  absl::Status CheckListen(absl::string_view setting, absl::string_view host) const;

  // 32 bytes; empty: there is no secret.
  const std::string& link_key() const { return link_key_; }
  // Whether gRPC is TLS.
  bool encrypts() const { return !authority_.empty() || !options_.tls_ca.empty(); }
  // Of files, new ones are taken within 10 s of their change.
  std::shared_ptr<grpc::ServerCredentials> ServerCredentials() const;
  // Of files, those that lie there now; Unavailable if they are unfit. `arguments` of the channel.
  absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ChannelCredentials(grpc::ChannelArguments* arguments) const;

 private:
  Options options_;
  std::string link_key_;
  std::string authority_, certificate_, key_;  // PEM, made of the secret; empty: there is none, or there are files
};

}  // namespace interlace
