#include "kvstore/remote/store_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/entropy.h"
#include "common/status_macros.h"
#include "kvstore/remote/kv_store_service.h"
#include "kvstore/remote/leased_blocks.h"
#include "kvstore/remote/request_intake.h"
#include "kvstore/tier/tiers.h"
#include "transport/tcp_socket.h"

namespace interlace {
namespace {

absl::StatusOr<std::vector<std::unique_ptr<KvTier>>> MakeTiers(const StoreServerOptions& options) {
  TierOptions tier_options;
  tier_options.host_bytes = options.host_bytes;
  tier_options.rocksdb_dir = options.rocksdb_dir;
  tier_options.rocksdb_bytes = options.rocksdb_bytes;
  const auto named = [](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("kvstore.", status.message()));
  };
  std::vector<std::unique_ptr<KvTier>> tiers;
  absl::StatusOr<std::unique_ptr<KvTier>> host = MakeHostTier(tier_options);
  if (!host.ok()) return named(host.status());
  tiers.push_back(*std::move(host));
  if (options.rocksdb_dir.empty()) return tiers;
  absl::StatusOr<std::unique_ptr<KvTier>> rocksdb = MakeRocksdbTier(tier_options);
  if (!rocksdb.ok()) return named(rocksdb.status());
  tiers.push_back(*std::move(rocksdb));
  return tiers;
}

}  // namespace

// Members die from the last to the first: what serves before what it serves from.
struct StoreServer::Parts {
  std::unique_ptr<LeasedBlocks> blocks;
  std::unique_ptr<Transport> transport;
  std::unique_ptr<RequestIntake> intake;
  std::unique_ptr<KvStoreService> service;
  std::unique_ptr<grpc::Server> server;
  std::string address;

  ~Parts() {
    if (server != nullptr) {
      server->Shutdown(gpr_inf_past(GPR_CLOCK_REALTIME));  // cancels the streams, which ends the leases
      server->Wait();
    }
    if (intake != nullptr) intake->Close();
    transport.reset();  // the last message was handled
  }
};

absl::StatusOr<std::unique_ptr<StoreServer>> StoreServer::Start(const StoreServerOptions& options) {
  const size_t colon = options.listen.rfind(':');
  if (colon == std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("kvstore.listen='", options.listen, "' is not host:port"));
  }
  const std::string host = options.listen.substr(0, colon);
  auto parts = std::make_unique<Parts>();
  ASSIGN_OR_RETURN(std::vector<std::unique_ptr<KvTier>> tiers, MakeTiers(options));
  const std::unique_ptr<Entropy> entropy = MakeOsEntropy();
  parts->blocks = std::make_unique<LeasedBlocks>(std::move(tiers), entropy->Fork("leases"));
  UcxOptions transport_options = options.transport;
  if (transport_options.host.empty()) {
    absl::StatusOr<std::string> numeric = NumericHost(host);
    if (!numeric.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("kvstore.listen='", options.listen, "': ", numeric.status().message()));
    }
    transport_options.host = *std::move(numeric);
  }
  absl::StatusOr<std::unique_ptr<Transport>> transport = MakeUcxTransport(transport_options);
  if (!transport.ok()) {
    return absl::Status(transport.status().code(), absl::StrCat("kvstore.listen='", options.listen,
                                                                "': the transport: ", transport.status().message()));
  }
  parts->transport = *std::move(transport);
  parts->intake = std::make_unique<RequestIntake>(*parts->transport, *parts->blocks, options.max_pending_bytes);
  parts->transport->Listen(kKvRequestChannel,
                           [intake = parts->intake.get()](Message message) { intake->Handle(std::move(message)); });
  parts->service =
      std::make_unique<KvStoreService>(*parts->blocks, *parts->intake, parts->transport->address(), entropy->Next());
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 1000);  // a client that hangs or vanished loses its lease
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 1000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
  builder.RegisterService(parts->service.get());
  parts->server = builder.BuildAndStart();
  if (parts->server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("kvstore.listen='", options.listen, "' cannot be bound"));
  }
  parts->address = absl::StrCat(host, ":", port);
  return std::unique_ptr<StoreServer>(new StoreServer(std::move(parts)));
}

StoreServer::StoreServer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
StoreServer::~StoreServer() = default;
const std::string& StoreServer::address() const { return parts_->address; }
const std::string& StoreServer::transport_address() const { return parts_->transport->address(); }
std::vector<std::pair<std::string, TierUsage>> StoreServer::Usage() const { return parts_->blocks->Usage(); }
int64_t StoreServer::leases() const { return parts_->blocks->leases(); }
int64_t StoreServer::malformed() const { return parts_->intake->malformed(); }

}  // namespace interlace
