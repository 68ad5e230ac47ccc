// The rocksdb tier over an environment of RocksDB's that a test chooses.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kvstore/tier/tiers.h"

namespace rocksdb {
class Env;
}

namespace interlace {

// As MakeRocksdbTier; `env` (null: the system's) does all file I/O and outlives the tier.
absl::StatusOr<std::unique_ptr<KvTier>> MakeRocksdbTierOn(const TierOptions& options, rocksdb::Env* env);

}  // namespace interlace
