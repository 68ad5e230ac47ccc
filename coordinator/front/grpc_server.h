// GrpcServer: a listening gRPC server, with the settings that routers and long-lived streams need.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/front/tls_files.h"

namespace grpc {
class Server;
class ServerCredentials;
class Service;
}  // namespace grpc

namespace interlace {

// Health (grpc.health.v1) and reflection come with it. Owned by main, whose thread calls it; SetServing any thread.
// The trap: the services must outlive it.
class GrpcServer {
 public:
  struct Options {
    std::string host;
    int port = 0;                                         // 0: any free one
    std::string setting;                                  // what chooses the address, for the error text
    int64_t max_message = 0;                              // bytes received in one message; negative: unlimited
    TlsFiles tls;                                         // looked at again every few seconds
    absl::Duration keepalive = absl::InfiniteDuration();  // between pings; a peer that answers none for as long is gone
    absl::Duration greet_within = absl::Seconds(10);      // else a connection is ended
    std::shared_ptr<grpc::ServerCredentials> credentials;  // null: anybody may call, in the clear
    std::vector<grpc::Service*> also = {};                 // further services on the same port
  };
  // FailedPrecondition says which address cannot be had and how to choose another.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Listen(const Options& options, grpc::Service* service);
  ~GrpcServer();  // Shutdown without patience
  int port() const { return port_; }
  // What health checks of `service` answer; "" is the server as a whole.
  void SetServing(const std::string& service, bool serving);
  // Takes no more calls; returns when those that run are finished, cancels them after `patience`. Idempotent.
  void Shutdown(absl::Duration patience);

 private:
  GrpcServer();
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

// "host:port", with brackets around an IPv6 address.
std::string HostPort(const std::string& host, int port);

}  // namespace interlace
