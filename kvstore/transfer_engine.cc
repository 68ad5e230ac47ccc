#include "kvstore/transfer_engine.h"

#include <utility>

#include "common/check.h"
#include "kvstore/transfer_mover.h"

namespace interlace {

TransferEngine::TransferEngine(const Options& options, std::vector<std::unique_ptr<KvTier>> tiers, Clock& clock,
                               FaultPoints& faults) {
  CHECK_MSG(options.payload_bytes > 0, "TransferEngine needs the size of a block");
  CHECK_MSG(options.chunks_in_flight > 0, "TransferEngine needs at least one chunk in flight");
  mover_ = std::make_unique<Mover>(options, std::move(tiers), clock, faults);
}

TransferEngine::~TransferEngine() = default;

TransferTicket TransferEngine::Read(std::vector<KvRead> reads, absl::Time deadline) {
  std::vector<BlockKey> keys;
  std::vector<std::byte*> to;
  for (const KvRead& read : reads) {
    keys.push_back(read.key);
    to.push_back(read.to);
  }
  return mover_->Submit(std::move(keys), std::move(to), {}, deadline);
}

TransferTicket TransferEngine::Write(std::vector<KvWrite> writes, absl::Time deadline) {
  std::vector<BlockKey> keys;
  std::vector<const std::byte*> from;
  for (const KvWrite& write : writes) {
    keys.push_back(write.key);
    from.push_back(write.from);
  }
  return mover_->Submit(std::move(keys), {}, std::move(from), deadline);
}

void TransferEngine::Drop(Generation generation) { mover_->Drop(generation); }

bool TransferEngine::Holds(const BlockKey& key) const { return mover_->Holds(key); }

std::vector<std::string> TransferEngine::tiers() const {
  std::vector<std::string> names;
  for (const std::unique_ptr<KvTier>& tier : mover_->tiers()) names.emplace_back(std::string(tier->name()));
  return names;
}

std::vector<TierUsage> TransferEngine::Usage() {
  std::vector<TierUsage> usage;
  for (const std::unique_ptr<KvTier>& tier : mover_->tiers()) usage.push_back(tier->Usage());
  return usage;
}

TransferStats TransferEngine::Stats() const { return mover_->Stats(); }

}  // namespace interlace
