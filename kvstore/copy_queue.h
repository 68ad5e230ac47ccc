// CopyQueue: copies of sealed blocks between the device and the host, on a thread of their own.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/thread.h"
#include "kernels/backend.h"
#include "kernels/device_copies.h"
#include "kvstore/block_id.h"
#include "kvstore/tier_stack.h"

namespace interlace {

struct SharedBlock;

// One block of one layer.
struct CopyJob {
  enum class Kind : uint8_t {
    kIn,     // verifies the frame, then copies its payload into the slot
    kOut,    // copies the slot into the frame and completes the stored form there
    kOffer,  // hands the stored form to the tiers: of the frame, or made from the slot where there is none
  };
  // Which job runs first; among equals the one that was submitted first.
  enum class Urgency : uint8_t { kNow, kAhead, kOut, kOffer };

  Kind kind = Kind::kIn;
  Urgency urgency = Urgency::kNow;
  bool offer = false;  // kOut: offer it to the tiers as well
  int32_t index = 0;   // of the block in its sequence, for offers
  BlockKey key;
  std::byte* slot = nullptr;
  std::byte* frame = nullptr;
  SharedBlock* block = nullptr;  // the caller's
  // If set, it runs on the queue's thread when the job is done, and Reap does not see the job.
  absl::AnyInvocable<void(absl::Status)> done;
};

struct CopyDone {
  CopyJob job;
  absl::Status status;  // DataLoss: the frame's bytes are not those of the key; NotFound: a fault point took them
};

struct CopyStats {
  int64_t bytes_in = 0, bytes_out = 0;
  absl::Duration busy_in, busy_out;  // time during which a copy in, or out, was under way
  int64_t corrupt = 0, missing = 0;
};

// Slots and frames of a job belong to it until it is done; every job ends, whatever happens. Nothing waits for a tier.
// Owned by KvPool. Threads: Reap and Await are the runner's, Submit any.
class CopyQueue {
 public:
  static constexpr size_t kBatch = 16;  // jobs between two waits for the device
  // `tiers` and `offered` (host memory that the device may write, kBatch payloads: through it blocks go from slots to
  // the tiers) may be null: then nothing is offered.
  CopyQueue(int64_t payload_bytes, DeviceCopies& copies, TierStack* tiers, std::unique_ptr<DeviceBuffer> offered,
            Clock& clock, FaultPoints& faults);
  ~CopyQueue();  // runs what was submitted first

  // The jobs' copies start after `fence`.
  void Submit(std::vector<CopyJob> jobs, OpFence fence);
  // Moves the jobs that are done to the end of *done; false iff there are none.
  bool Reap(std::vector<CopyDone>* done);
  bool Busy() const;  // a job that Reap will see is under way
  // Waits until Reap has something to give, or nothing is under way.
  void Await();
  CopyStats Stats() const;

 private:
  struct Queued {
    CopyJob job;
    OpFence fence;
  };
  static constexpr size_t kUrgencies = 4;

  void Run();
  bool WorkOrClosed() const;
  bool DoneOrIdle() const { return !done_.empty() || under_way_ == 0; }
  std::vector<Queued> TakeBatch();  // requires mutex_
  std::vector<absl::Status> RunBatch(std::vector<Queued>& batch);
  void RunIn(std::vector<Queued>& batch, std::vector<absl::Status>* statuses);
  void RunOut(std::vector<Queued>& batch, std::vector<absl::Status>* statuses);
  void RunOffers(std::vector<Queued>& batch);
  absl::Status Verify(const CopyJob& job);
  void Offer(const CopyJob& job, SharedBytes stored);

  const int64_t payload_bytes_;
  DeviceCopies& copies_;
  TierStack* const tiers_;
  const std::unique_ptr<DeviceBuffer> offered_;
  Clock& clock_;
  FaultPoints& faults_;
  // What faults answer with in the place of a block. Thread: the queue's.
  BlockKey former_key_;
  std::byte* former_frame_ = nullptr;

  mutable absl::Mutex mutex_;
  std::array<std::deque<Queued>, kUrgencies> queued_;  // protected by mutex_
  std::vector<CopyDone> done_;                         // protected by mutex_
  int64_t under_way_ = 0;                              // protected by mutex_; submitted without `done`, not done
  bool closed_ = false;                                // protected by mutex_
  CopyStats stats_;                                    // protected by mutex_
  Thread thread_;
};

}  // namespace interlace
