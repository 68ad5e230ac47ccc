#include "kvstore/copy_queue.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "kvstore/block_codec.h"

namespace interlace {
namespace {

absl::string_view StoredIn(const std::byte* frame, int64_t payload_bytes) {
  return {reinterpret_cast<const char*>(frame), kBlockHeaderBytes + static_cast<size_t>(payload_bytes)};
}

}  // namespace

CopyQueue::CopyQueue(int64_t payload_bytes, DeviceCopies& copies, TierStack* tiers,
                     std::unique_ptr<DeviceBuffer> offered, Clock& clock, FaultPoints& faults)
    : payload_bytes_(payload_bytes),
      copies_(copies),
      tiers_(tiers),
      offered_(std::move(offered)),
      clock_(clock),
      faults_(faults) {
  thread_ = Thread("copies", [this] { Run(); });
}

CopyQueue::~CopyQueue() {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }
  thread_.Join();
}

void CopyQueue::Submit(std::vector<CopyJob> jobs, OpFence fence) {
  absl::MutexLock lock(&mutex_);
  for (CopyJob& job : jobs) {
    if (!job.done) ++under_way_;
    queued_[static_cast<size_t>(job.urgency)].push_back({std::move(job), fence});
  }
}

bool CopyQueue::Reap(std::vector<CopyDone>* done) {
  absl::MutexLock lock(&mutex_);
  if (done_.empty()) return false;
  if (done->empty()) {
    done->swap(done_);
  } else {
    std::move(done_.begin(), done_.end(), std::back_inserter(*done));
    done_.clear();
  }
  return true;
}

void CopyQueue::Await() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &CopyQueue::DoneOrIdle));
}

bool CopyQueue::Busy() const {
  absl::MutexLock lock(&mutex_);
  return under_way_ > 0;
}

CopyStats CopyQueue::Stats() const {
  absl::MutexLock lock(&mutex_);
  return stats_;
}

bool CopyQueue::WorkOrClosed() const {
  return closed_ || std::any_of(queued_.begin(), queued_.end(), [](const auto& q) { return !q.empty(); });
}

std::vector<CopyQueue::Queued> CopyQueue::TakeBatch() {
  std::vector<Queued> batch;
  for (std::deque<Queued>& queue : queued_) {
    while (!queue.empty() && batch.size() < kBatch) {
      batch.push_back(std::move(queue.front()));
      queue.pop_front();
    }
    if (!batch.empty()) break;  // jobs of one urgency and so of one direction
  }
  return batch;
}

void CopyQueue::Run() {
  while (true) {
    std::vector<Queued> batch;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &CopyQueue::WorkOrClosed));
      batch = TakeBatch();
    }
    if (batch.empty()) return;  // closed, and nothing is left
    std::vector<absl::Status> statuses = RunBatch(batch);
    for (size_t i = 0; i < batch.size(); ++i) {
      if (batch[i].job.done) batch[i].job.done(statuses[i]);
    }
    absl::MutexLock lock(&mutex_);
    for (size_t i = 0; i < batch.size(); ++i) {
      if (batch[i].job.done) continue;
      done_.push_back({std::move(batch[i].job), std::move(statuses[i])});
      --under_way_;
    }
  }
}

std::vector<absl::Status> CopyQueue::RunBatch(std::vector<Queued>& batch) {
  const absl::Time begin = clock_.Now();
  std::vector<absl::Status> statuses(batch.size());
  const CopyJob::Kind kind = batch[0].job.kind;
  if (kind == CopyJob::Kind::kIn) RunIn(batch, &statuses);
  if (kind == CopyJob::Kind::kOut) RunOut(batch, &statuses);
  if (kind == CopyJob::Kind::kOffer) RunOffers(batch);
  const absl::Duration busy = clock_.Now() - begin;
  absl::MutexLock lock(&mutex_);
  if (kind == CopyJob::Kind::kIn) stats_.busy_in += busy;
  if (kind == CopyJob::Kind::kOut) stats_.busy_out += busy;
  for (const absl::Status& status : statuses) {
    if (absl::IsDataLoss(status)) ++stats_.corrupt;
    if (absl::IsNotFound(status)) ++stats_.missing;
    if (!status.ok()) continue;
    if (kind == CopyJob::Kind::kIn) stats_.bytes_in += payload_bytes_;
    if (kind == CopyJob::Kind::kOut) stats_.bytes_out += payload_bytes_;
  }
  return statuses;
}

void CopyQueue::RunIn(std::vector<Queued>& batch, std::vector<absl::Status>* statuses) {
  for (size_t i = 0; i < batch.size(); ++i) {
    const CopyJob& job = batch[i].job;
    (*statuses)[i] = Verify(job);
    if ((*statuses)[i].ok()) copies_.Copy(job.slot, job.frame + kBlockHeaderBytes, payload_bytes_, batch[i].fence);
  }
  const absl::Status copied = copies_.Finish();
  for (absl::Status& status : *statuses) status.Update(copied);
}

absl::Status CopyQueue::Verify(const CopyJob& job) {
  if (faults_.Fires("kv.read_lost")) return absl::NotFoundError("a fault point took the block");
  if (faults_.Fires("kv.flip_at_rest")) {
    const uint64_t bit = faults_.Draw() % (8 * (kBlockHeaderBytes + static_cast<uint64_t>(payload_bytes_)));
    job.frame[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
  }
  const std::byte* from = job.frame;
  const bool other_layer = former_frame_ != nullptr && former_key_.layer != job.key.layer;
  const bool other_block = former_frame_ != nullptr && former_key_.block != job.key.block;
  if (other_layer && faults_.Fires("kv.swap_layer")) from = former_frame_;
  if (other_block && faults_.Fires("kv.swap_request")) from = former_frame_;
  former_key_ = job.key;
  former_frame_ = job.frame;
  return VerifyStored(job.key, StoredIn(from, payload_bytes_), static_cast<size_t>(payload_bytes_));
}

void CopyQueue::RunOut(std::vector<Queued>& batch, std::vector<absl::Status>* statuses) {
  for (const Queued& q : batch) copies_.Copy(q.job.frame + kBlockHeaderBytes, q.job.slot, payload_bytes_, q.fence);
  const absl::Status copied = copies_.Finish();
  for (size_t i = 0; i < batch.size(); ++i) {
    const CopyJob& job = batch[i].job;
    (*statuses)[i] = copied;
    if (!copied.ok()) continue;
    std::byte* const payload = job.frame + kBlockHeaderBytes;
    EncodeHeader(job.key, {payload, static_cast<size_t>(payload_bytes_)}, reinterpret_cast<char*>(job.frame));
    if (faults_.Fires("kv.flip_in_flight")) {
      const uint64_t bit = faults_.Draw() % (8 * static_cast<uint64_t>(payload_bytes_));
      payload[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    }
    if (job.offer) Offer(job, std::make_shared<std::string>(StoredIn(job.frame, payload_bytes_)));
  }
}

void CopyQueue::RunOffers(std::vector<Queued>& batch) {
  if (tiers_ == nullptr || offered_ == nullptr || !tiers_->Wants()) return;
  const auto payload = [this](size_t i) { return offered_->data() + static_cast<int64_t>(i) * payload_bytes_; };
  for (size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].job.frame == nullptr) copies_.Copy(payload(i), batch[i].job.slot, payload_bytes_, batch[i].fence);
  }
  if (!copies_.Finish().ok()) return;
  for (size_t i = 0; i < batch.size(); ++i) {
    const CopyJob& job = batch[i].job;
    if (job.frame != nullptr) {
      Offer(job, std::make_shared<std::string>(StoredIn(job.frame, payload_bytes_)));
      continue;
    }
    const auto bytes = static_cast<size_t>(payload_bytes_);
    auto stored = std::make_shared<std::string>();
    stored->reserve(kBlockHeaderBytes + bytes);
    stored->resize(kBlockHeaderBytes);
    EncodeHeader(job.key, {payload(i), bytes}, stored->data());
    stored->append(reinterpret_cast<const char*>(payload(i)), bytes);
    Offer(job, std::move(stored));
  }
}

void CopyQueue::Offer(const CopyJob& job, SharedBytes stored) {
  if (tiers_ != nullptr && tiers_->Wants()) tiers_->Offer(job.key, job.index, std::move(stored));
}

}  // namespace interlace
