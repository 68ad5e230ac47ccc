#include "kvstore/remote/leased_blocks.h"

#include <atomic>

#include "common/check.h"

namespace interlace {

struct LeasedBlocks::WriteJob {
  std::vector<StoredBlock> blocks;  // keys as in the tiers
  std::vector<std::shared_ptr<Held>> owners;
  std::vector<absl::Status> statuses;
  std::vector<size_t> places;  // tier that took the block
  KvTier::WriteDone done;
};

// Tiers answer on threads of their own, each for other indices.
struct LeasedBlocks::ReadJob {
  std::vector<absl::StatusOr<SharedBytes>> answers;
  std::atomic<size_t> tiers_left;
  KvTier::ReadDone done;
  void Leave() {
    if (tiers_left.fetch_sub(1) == 1) done(std::move(answers));
  }
};

LeasedBlocks::LeasedBlocks(std::vector<std::unique_ptr<KvTier>> tiers, std::unique_ptr<Entropy> entropy)
    : tiers_(std::move(tiers)), entropy_(std::move(entropy)) {
  CHECK(!tiers_.empty());
  for (const auto& tier : tiers_) capacity_bytes_ += tier->Usage().capacity_bytes;
}

LeaseId LeasedBlocks::OpenLease() {
  absl::MutexLock lock(&mutex_);
  while (true) {
    const LeaseId lease{entropy_->Next()};
    if (lease != LeaseId{0} && leases_.emplace(lease, std::make_unique<Lease>()).second) return lease;
  }
}

bool LeasedBlocks::Retire(Held& held) {
  held.dropped = true;
  held.lease_usage->blocks -= static_cast<int64_t>(held.blocks.size());
  held.lease_usage->bytes -= held.bytes;
  held.lease_usage = nullptr;
  held.blocks.clear();
  return held.writes == 0;
}

void LeasedBlocks::DropStored(const std::vector<Generation>& stored) {
  for (const Generation generation : stored) {
    for (const auto& tier : tiers_) tier->Drop(generation);
  }
}

void LeasedBlocks::CloseLease(LeaseId lease) {
  std::vector<Generation> stored;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = leases_.find(lease);
    if (it == leases_.end()) return;
    for (auto& [generation, held] : it->second->generations) {
      if (Retire(*held)) stored.push_back(held->stored);
    }
    leases_.erase(it);
  }
  DropStored(stored);
}

bool LeasedBlocks::Drop(LeaseId lease, Generation generation) {
  std::vector<Generation> stored;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = leases_.find(lease);
    if (it == leases_.end()) return false;
    const auto held = it->second->generations.find(generation);
    if (held == it->second->generations.end()) return true;
    if (Retire(*held->second)) stored.push_back(held->second->stored);
    it->second->generations.erase(held);
  }
  DropStored(stored);
  return true;
}

bool LeasedBlocks::Write(LeaseId lease, std::vector<StoredBlock> blocks, KvTier::WriteDone done) {
  auto job = std::make_shared<WriteJob>();
  const size_t count = blocks.size();
  {
    absl::MutexLock lock(&mutex_);
    const auto it = leases_.find(lease);
    if (it == leases_.end()) return false;
    for (StoredBlock& block : blocks) {
      std::shared_ptr<Held>& held = it->second->generations[block.key.generation];
      if (held == nullptr) {
        held = std::make_shared<Held>();
        held->stored = Generation{++last_stored_};
        held->lease_usage = &it->second->usage;
      }
      ++held->writes;
      block.key.generation = held->stored;
      job->owners.push_back(held);
    }
  }
  job->blocks = std::move(blocks);
  job->statuses.resize(count);
  job->places.resize(count);
  job->done = std::move(done);
  std::vector<size_t> all(count);
  for (size_t i = 0; i < count; ++i) all[i] = i;
  TryTier(std::move(job), 0, std::move(all));
  return true;
}

void LeasedBlocks::TryTier(std::shared_ptr<WriteJob> job, size_t tier, std::vector<size_t> indices) {
  std::vector<StoredBlock> blocks;
  blocks.reserve(indices.size());
  for (const size_t i : indices) blocks.push_back(job->blocks[i]);
  tiers_[tier]->Write(std::move(blocks), [this, job, tier, indices](std::vector<absl::Status> statuses) {
    std::vector<size_t> refused;
    for (size_t k = 0; k < indices.size(); ++k) {
      const size_t i = indices[k];
      job->statuses[i] = std::move(statuses[k]);
      job->places[i] = tier;
      if (!job->statuses[i].ok()) refused.push_back(i);
    }
    if (refused.empty() || tier + 1 == tiers_.size()) return FinishWrite(*job);
    TryTier(job, tier + 1, std::move(refused));
  });
}

void LeasedBlocks::FinishWrite(WriteJob& job) {
  std::vector<Generation> dropped;
  {
    absl::MutexLock lock(&mutex_);
    for (size_t i = 0; i < job.blocks.size(); ++i) {
      Held& held = *job.owners[i];
      if (held.dropped) {
        if (--held.writes == 0) dropped.push_back(held.stored);
        job.statuses[i] = absl::UnavailableError("the generation was dropped while the block was written");
        continue;
      }
      --held.writes;
      if (!job.statuses[i].ok()) continue;
      const auto bytes = static_cast<int64_t>(job.blocks[i].bytes->size());
      const auto [place, added] = held.blocks.try_emplace(job.blocks[i].key, Held::Place{0, 0});
      held.bytes += bytes - place->second.bytes;
      held.lease_usage->bytes += bytes - place->second.bytes;
      held.lease_usage->blocks += added ? 1 : 0;
      place->second = {job.places[i], bytes};
    }
  }
  DropStored(dropped);
  job.done(std::move(job.statuses));
}

bool LeasedBlocks::Read(LeaseId lease, const std::vector<BlockKey>& keys, KvTier::ReadDone done) {
  auto job = std::make_shared<ReadJob>();
  std::vector<std::vector<size_t>> indices(tiers_.size());
  std::vector<std::vector<BlockKey>> asked(tiers_.size());
  {
    absl::MutexLock lock(&mutex_);
    const auto it = leases_.find(lease);
    if (it == leases_.end()) return false;
    for (size_t i = 0; i < keys.size(); ++i) {
      const auto held = it->second->generations.find(keys[i].generation);
      if (held == it->second->generations.end()) continue;
      BlockKey stored = keys[i];
      stored.generation = held->second->stored;
      const auto place = held->second->blocks.find(stored);
      if (place == held->second->blocks.end()) continue;
      indices[place->second.tier].push_back(i);
      asked[place->second.tier].push_back(stored);
    }
  }
  job->answers.assign(keys.size(), absl::NotFoundError("the lease holds no such block"));
  job->done = std::move(done);
  job->tiers_left = tiers_.size() + 1;
  for (size_t t = 0; t < tiers_.size(); ++t) {
    if (asked[t].empty()) {
      job->Leave();
      continue;
    }
    tiers_[t]->Read(std::move(asked[t]),
                    [job, indices = std::move(indices[t])](std::vector<absl::StatusOr<SharedBytes>> answers) {
                      for (size_t k = 0; k < indices.size(); ++k) job->answers[indices[k]] = std::move(answers[k]);
                      job->Leave();
                    });
  }
  job->Leave();
  return true;
}

TierUsage LeasedBlocks::UsageOf(LeaseId lease) const {
  absl::MutexLock lock(&mutex_);
  const auto it = leases_.find(lease);
  TierUsage usage = it == leases_.end() ? TierUsage{} : it->second->usage;
  usage.capacity_bytes = capacity_bytes_;
  return usage;
}

std::vector<std::pair<std::string, TierUsage>> LeasedBlocks::Usage() const {
  std::vector<std::pair<std::string, TierUsage>> usage;
  for (const auto& tier : tiers_) usage.emplace_back(std::string(tier->name()), tier->Usage());
  return usage;
}

int64_t LeasedBlocks::leases() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(leases_.size());
}

}  // namespace interlace
