#include "coordinator/front/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace interlace {

std::string HostPort(const std::string& host, int port) {
  const bool bare = absl::StrContains(host, ":") && !absl::StartsWith(host, "[");
  return bare ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

namespace {

constexpr unsigned kLookAtFiles = 5;  // seconds

std::shared_ptr<grpc::ServerCredentials> Credentials(const TlsFiles& files) {
  if (!files.on()) return grpc::InsecureServerCredentials();
  namespace tls = grpc::experimental;
  tls::TlsServerCredentialsOptions options(std::make_shared<tls::FileWatcherCertificateProvider>(
      files.key, files.certificate, files.client_ca, kLookAtFiles));
  options.watch_identity_key_cert_pairs();
  options.set_check_call_host(false);
  if (!files.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return tls::TlsServerCredentials(options);
}

}  // namespace

GrpcServer::GrpcServer() = default;
GrpcServer::~GrpcServer() { Shutdown(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Listen(const Options& options, grpc::Service* service) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  std::unique_ptr<GrpcServer> server(new GrpcServer);
  const std::string address = HostPort(options.host, options.port);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, options.credentials == nullptr ? Credentials(options.tls) : options.credentials,
                           &server->port_);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
                             static_cast<int>(absl::ToInt64Milliseconds(options.greet_within)));
  builder.RegisterService(service);
  for (grpc::Service* other : options.also) builder.RegisterService(other);
  const int most = static_cast<int>(std::min<int64_t>(options.max_message, std::numeric_limits<int>::max()));
  builder.SetMaxReceiveMessageSize(std::max(most, -1));
  builder.SetMaxSendMessageSize(-1);
  // Clients ping idle channels too; a server with gRPC's defaults answers them with GOAWAY.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  if (options.keepalive < absl::InfiniteDuration()) {
    const int period = static_cast<int>(absl::ToInt64Milliseconds(options.keepalive));
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, period);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, period);
  }
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT,
                             0);  // or two servers would share a port, and clients, in silence
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || server->port_ == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("gRPC cannot listen on ", address, ": the port is taken or the address is not this machine's; ",
                     "choose another with --set ", options.setting, " (port 0: any free one)"));
  }
  return server;
}

void GrpcServer::SetServing(const std::string& service, bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(service, serving);
}

void GrpcServer::Shutdown(absl::Duration patience) {
  if (server_ == nullptr) return;
  server_->Shutdown(absl::ToChronoTime(absl::Now() + patience));
  server_->Wait();
}

}  // namespace interlace
