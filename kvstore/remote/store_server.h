// StoreServer: a kvstore, whole: tiers, transport and control service.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/cluster_security.h"
#include "kvstore/tier/tier.h"
#include "transport/ucx_transport.h"

namespace interlace {

struct StoreServerOptions {
  std::string listen = "127.0.0.1:0";  // control address; port 0 picks a free one
  UcxOptions transport{.host = ""};    // empty host: that of `listen`; its secret is that of `security`
  std::shared_ptr<const ClusterSecurity> security = std::make_shared<const ClusterSecurity>();
  int64_t host_bytes = 0;
  std::string rocksdb_dir;                         // empty: memory alone
  int64_t rocksdb_bytes = 0;                       // of the folder
  int64_t max_pending_bytes = int64_t{256} << 20;  // of puts that the tiers have not taken yet, of all clients
};

// Serves from Start until it dies. Owned by main, or by a test; thread-safe. The destructor ends every session; blocks
// in RocksDB stay for the next process.
class StoreServer {
 public:
  // Errors name the setting: kvstore.listen, kvstore.host_bytes, kvstore.rocksdb_dir, ...
  static absl::StatusOr<std::unique_ptr<StoreServer>> Start(const StoreServerOptions& options);
  ~StoreServer();

  const std::string& address() const;            // "host:port" of the control service, with the bound port
  const std::string& transport_address() const;  // opaque
  std::vector<std::pair<std::string, TierUsage>> Usage() const;  // "memory", "rocksdb"
  int64_t clients() const;
  int64_t malformed() const;  // messages ignored so far

 private:
  struct Parts;
  explicit StoreServer(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace interlace
