// The table of tiers below a rank's host memory.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "kvstore/tier/tier.h"

namespace interlace {

class ClusterSecurity;

struct TierOptions {
  std::string rocksdb_dir;
  int64_t rocksdb_bytes = 0;                        // of the folder, all that RocksDB keeps in it included
  std::string remote;                               // control address of the kvstore, "host:port"
  Transport* transport = nullptr;                   // for "remote"; outlives the tier
  Clock* clock = nullptr;                           // for "remote"; outlives the tier
  absl::Duration answer_within = absl::Seconds(2);  // for "remote": a store that takes longer counts as away
  std::shared_ptr<const ClusterSecurity> security;  // for "remote"; null: the store asks nobody who he is
};

// The tiers that a rank may have: "remote", "rocksdb".
std::vector<absl::string_view> TierNames();

// "rocksdb,remote" to its names, in order; "" and "none" name no tier. InvalidArgument, naming kv.tiers: an empty
// entry, a name twice, or one that is not in the table.
absl::StatusOr<std::vector<std::string>> ParseTierNames(absl::string_view tiers);

// NotFound lists the known names; other errors name the field to set.
absl::StatusOr<std::unique_ptr<KvTier>> MakeTier(absl::string_view name, const TierOptions& options);

// Each entry's maker, declared here so that a new tier needs no header.
absl::StatusOr<std::unique_ptr<KvTier>> MakeRemoteTier(const TierOptions& options);
absl::StatusOr<std::unique_ptr<KvTier>> MakeRocksdbTier(const TierOptions& options);

// Not in the table, since a rank's host memory is its FrameStore: what the kvstore serves from.
absl::StatusOr<std::unique_ptr<KvTier>> MakeMemoryTier(int64_t capacity_bytes);
// `upper` over `lower`: a Put goes to both, a Get that only `lower` answers is kept in `upper` too.
std::unique_ptr<KvTier> MakeLayeredTier(std::unique_ptr<KvTier> upper, std::unique_ptr<KvTier> lower);

}  // namespace interlace
