// TierStack: the caches below one rank's host memory.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/clock.h"
#include "common/fault.h"
#include "kvstore/tier/tier.h"
#include "kvstore/transfer_core.h"  // FetchTimes, TierStats

namespace interlace {

// Offers go to every tier that wants them, in the background (write-behind); a fetch asks the tiers in order, and
// fetches of one block that is already under way share its read. A tier that answered Unavailable is left alone for
// `retry_after`. Owned by KvPool; thread-safe; no call waits. The callbacks run on the stack's own thread.
class TierStack {
 public:
  struct Options {
    int64_t payload_bytes = 0;  // of every block
    int32_t layer_begin = 0;    // the rank's
    int32_t layer_end = 0;
    HeadRange heads;
    int64_t queue_bytes = int64_t{64} << 20;  // of offers that are not stored yet; beyond it offers are refused
    absl::Duration retry_after = absl::Seconds(1);
  };
  TierStack(const Options& options, std::vector<std::unique_ptr<KvTier>> tiers, Clock& clock, FaultPoints& faults);
  ~TierStack();  // fetches under way answer Cancelled first; offers that wait are dropped

  bool empty() const;                      // no tier is configured
  std::vector<std::string> names() const;  // in order

  // Whether Offer would take a block now: ask before encoding it.
  bool Wants() const;
  // `stored` is the stored form of the block (block_codec.h).
  void Offer(const BlockKey& key, int32_t index, SharedBytes stored);

  // Reads go by when they are due. Puts the stored form into `frame` (kBlockHeaderBytes + payload_bytes) and verifies
  // it there. OK; NotFound; DataLoss (the block is dropped where it came from); DeadlineExceeded; Cancelled. `frame`
  // must stay until `done` has run.
  using FetchDone = absl::AnyInvocable<void(absl::Status)>;
  void Fetch(const BlockKey& key, absl::Span<std::byte> frame, const FetchTimes& times, FetchDone done);

  // How many of the blocks, from the first on, the tiers hold in all layers of the rank.
  using ProbeDone = absl::AnyInvocable<void(int32_t blocks)>;
  // Ends the fetches that are open, as Cancelled or, where a frame is being filled, as that turns out.
  void CancelFetches();
  void Probe(std::vector<BlockId> blocks, ProbeDone done);

  std::vector<TierUsage> Usage();
  TierStats Stats() const;

 private:
  class Worker;
  std::unique_ptr<Worker> worker_;
};

}  // namespace interlace
