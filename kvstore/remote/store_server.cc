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
#include "kvstore/remote/request_intake.h"
#include "kvstore/remote/store_sessions.h"
#include "kvstore/tier/tiers.h"
#include "transport/tcp_socket.h"

namespace interlace {
namespace {

constexpr int kGreetWithinMs = 10000;  // else a connection to the control service is ended

// Memory over RocksDB, or memory alone; `tiers` names the parts.
absl::StatusOr<std::unique_ptr<KvTier>> MakeStore(const StoreServerOptions& options, std::vector<KvTier*>* tiers) {
  const auto named = [](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("kvstore.", status.message()));
  };
  absl::StatusOr<std::unique_ptr<KvTier>> memory = MakeMemoryTier(options.host_bytes);
  if (!memory.ok()) return named(memory.status());
  tiers->push_back(memory->get());
  if (options.rocksdb_dir.empty()) return memory;
  absl::StatusOr<std::unique_ptr<KvTier>> rocksdb =
      MakeRocksdbTier({.rocksdb_dir = options.rocksdb_dir, .rocksdb_bytes = options.rocksdb_bytes});
  if (!rocksdb.ok()) return named(rocksdb.status());
  tiers->push_back(rocksdb->get());
  return MakeLayeredTier(*std::move(memory), *std::move(rocksdb));
}

}  // namespace

// Members die from the last to the first: what serves before what it serves from.
struct StoreServer::Parts {
  std::unique_ptr<KvTier> store;
  std::vector<KvTier*> tiers;  // the parts of store
  std::unique_ptr<StoreSessions> sessions;
  std::unique_ptr<Transport> transport;
  std::unique_ptr<RequestIntake> intake;
  std::unique_ptr<KvStoreService> service;
  std::unique_ptr<grpc::Server> server;
  std::string address;

  ~Parts() {
    if (server != nullptr) {
      server->Shutdown(gpr_inf_past(GPR_CLOCK_REALTIME));  // cancels the streams, which ends the sessions
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
  RETURN_IF_ERROR(options.security->CheckListen(absl::StrCat("kvstore.listen=", options.listen), host));
  auto parts = std::make_unique<Parts>();
  ASSIGN_OR_RETURN(parts->store, MakeStore(options, &parts->tiers));
  const std::unique_ptr<Entropy> entropy = MakeOsEntropy();
  parts->sessions = std::make_unique<StoreSessions>(entropy->Fork("sessions"));
  UcxOptions transport_options = options.transport;
  if (transport_options.host.empty()) {
    absl::StatusOr<std::string> numeric = NumericHost(host);
    if (!numeric.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("kvstore.listen='", options.listen, "': ", numeric.status().message()));
    }
    transport_options.host = *std::move(numeric);
  }
  RETURN_IF_ERROR(
      options.security->CheckListen(absl::StrCat("transport.host=", options.transport.host), transport_options.host));
  transport_options.secret = options.security->link_key();
  absl::StatusOr<std::unique_ptr<Transport>> transport = MakeUcxTransport(transport_options);
  if (!transport.ok()) {
    return absl::Status(transport.status().code(), absl::StrCat("kvstore.listen='", options.listen,
                                                                "': the transport: ", transport.status().message()));
  }
  parts->transport = *std::move(transport);
  parts->intake =
      std::make_unique<RequestIntake>(*parts->transport, *parts->store, *parts->sessions, options.max_pending_bytes);
  parts->transport->Listen(kKvRequestChannel,
                           [intake = parts->intake.get()](Message message) { intake->Handle(std::move(message)); });
  parts->service = std::make_unique<KvStoreService>(parts->tiers, *parts->sessions, *parts->intake, *parts->transport,
                                                    entropy->Next());
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.listen, options.security->ServerCredentials(), &port);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kGreetWithinMs);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 1000);  // a client that hangs or vanished ends its session
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
std::vector<std::pair<std::string, TierUsage>> StoreServer::Usage() const {
  std::vector<std::pair<std::string, TierUsage>> usage;
  for (KvTier* tier : parts_->tiers) usage.emplace_back(std::string(tier->name()), tier->Usage());
  return usage;
}
int64_t StoreServer::clients() const { return parts_->sessions->count(); }
int64_t StoreServer::malformed() const { return parts_->intake->malformed(); }

}  // namespace interlace
