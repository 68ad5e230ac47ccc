// Calls of a tier that wait for the answer, and blocks to call it with.
#pragma once

#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "kvstore/block_codec.h"
#include "kvstore/tier/tier.h"
#include "tests/kvstore/blocks.h"

namespace interlace {

inline StoredBlock Stored(const BlockKey& key, int32_t index, size_t payload_bytes) {
  return {key, index, EncodeBlock(key, Payload(key, payload_bytes))};
}

inline std::vector<BlockKey> KeysOf(const std::vector<StoredBlock>& blocks) {
  std::vector<BlockKey> keys;
  for (const StoredBlock& block : blocks) keys.push_back(block.key);
  return keys;
}

inline std::vector<absl::Status> PutAll(KvTier& tier, std::vector<StoredBlock> blocks) {
  absl::Notification done;
  std::vector<absl::Status> statuses;
  tier.Put(std::move(blocks), [&](std::vector<absl::Status> answer) {
    statuses = std::move(answer);
    done.Notify();  // twice would abort
  });
  done.WaitForNotification();
  return statuses;
}

inline std::vector<absl::StatusOr<SharedBytes>> GetAll(KvTier& tier, std::vector<BlockKey> keys) {
  absl::Notification done;
  std::vector<absl::StatusOr<SharedBytes>> answers;
  tier.Get(std::move(keys), [&](std::vector<absl::StatusOr<SharedBytes>> answer) {
    answers = std::move(answer);
    done.Notify();
  });
  done.WaitForNotification();
  return answers;
}

inline std::vector<bool> ProbeAll(KvTier& tier, std::vector<BlockKey> keys) {
  absl::Notification done;
  std::vector<bool> held;
  tier.Probe(std::move(keys), [&](std::vector<bool> answer) {
    held = std::move(answer);
    done.Notify();
  });
  done.WaitForNotification();
  return held;
}

}  // namespace interlace
