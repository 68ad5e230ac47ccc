// The table of tiers.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kvstore/tier/tier.h"

namespace interlace {

struct TierOptions {
  int64_t host_bytes = 0;
  std::string rocksdb_dir;
  int64_t rocksdb_bytes = 0;
  std::string remote;              // control address of the kvstore
  Transport* transport = nullptr;  // for "remote"; outlives the tier
};

// "host", "rocksdb", "remote". NotFound lists the known names; other errors name the field to set.
absl::StatusOr<std::unique_ptr<KvTier>> MakeTier(absl::string_view name, const TierOptions& options);

// Each entry's maker, declared here so that a new tier needs no header.
absl::StatusOr<std::unique_ptr<KvTier>> MakeHostTier(const TierOptions& options);
absl::StatusOr<std::unique_ptr<KvTier>> MakeRocksdbTier(const TierOptions& options);
absl::StatusOr<std::unique_ptr<KvTier>> MakeRemoteTier(const TierOptions& options);

}  // namespace interlace
