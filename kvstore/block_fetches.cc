#include "kvstore/block_fetches.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"
#include "kvstore/block_codec.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<BlockFetches>> BlockFetches::Create(const Options& options, Backend& backend,
                                                                   TierStack& tiers, CopyQueue& copies, Clock& clock) {
  std::unique_ptr<BlockFetches> fetches(new BlockFetches(options, backend, tiers, copies, clock));
  if (tiers.empty()) return fetches;
  const int64_t stride = FrameStride(options.payload_bytes);
  ASSIGN_OR_RETURN(fetches->staging_, backend.AllocateHost(options.staging_frames * stride));
  absl::MutexLock lock(&fetches->answers_.mutex);
  for (int32_t i = 0; i < options.staging_frames; ++i) {
    fetches->answers_.staging_free.push_back(fetches->staging_->data() + i * stride);
  }
  return fetches;
}

void BlockFetches::Start(const BlockId& block, bool to_device, LayerSet had, LayerSet failed, std::vector<Part> parts,
                         absl::Duration slack) {
  const absl::Time now = clock_.Now(), due = now + slack;
  const uint64_t id = ++last_;
  Fetch& fetch = fetches_[id];
  fetch = {block, to_device, false, had, failed, std::move(parts)};
  const size_t count = fetch.parts.size();
  const OpFence fence = to_device && count > 0 ? backend_.copies().Mark() : nullptr;
  {
    absl::MutexLock lock(&answers_.mutex);
    answers_.open[id] = count;
    if (count == 0) answers_.landed.push_back({id, 0, absl::OkStatus()});
    for (size_t i = 0; to_device && i < count; ++i) {
      const BlockKey key{block, fetch.parts[i].layer, options_.heads};
      const auto later = [](absl::Time time, const Waiting& other) { return time < other.due; };
      const auto at = std::upper_bound(answers_.waiting.begin(), answers_.waiting.end(), due, later);
      answers_.waiting.insert(at, {id, i, key, fetch.parts[i].slot.data(), fence, due});
    }
  }
  if (count == 0) return Wake();
  if (to_device) return StartWaiting();
  for (size_t i = 0; i < count; ++i) {
    const absl::Span<std::byte> frame(fetch.parts[i].frame.data(), kBlockHeaderBytes + options_.payload_bytes);
    tiers_.Fetch({block, fetch.parts[i].layer, options_.heads}, frame, {now + options_.timeout, due},
                 [this, id, i](absl::Status status) { OnLanded(id, i, nullptr, std::move(status)); });
  }
}

void BlockFetches::StartWaiting() {
  while (true) {
    Waiting next;
    std::byte* frame = nullptr;
    {
      absl::MutexLock lock(&answers_.mutex);
      if (answers_.closed || answers_.waiting.empty() || answers_.staging_free.empty()) return;
      next = std::move(answers_.waiting.front());
      answers_.waiting.pop_front();
      frame = answers_.staging_free.back();
      answers_.staging_free.pop_back();
    }
    const BlockKey key = next.key;
    const absl::Span<std::byte> stored(frame, kBlockHeaderBytes + static_cast<size_t>(options_.payload_bytes));
    const FetchTimes times(clock_.Now() + options_.timeout, next.due);
    tiers_.Fetch(key, stored, times, [this, frame, next = std::move(next)](absl::Status status) mutable {
      OnStaged(std::move(next), frame, std::move(status));
    });
  }
}

void BlockFetches::OnStaged(Waiting waiting, std::byte* frame, absl::Status status) {
  const uint64_t fetch = waiting.fetch;
  const size_t part = waiting.part;
  if (!status.ok()) return OnLanded(fetch, part, frame, std::move(status));
  std::vector<CopyJob> jobs(1);
  CopyJob& job = jobs[0];
  job.urgency = CopyJob::Urgency::kAhead;
  job.key = waiting.key;
  job.slot = waiting.slot;
  job.frame = frame;
  job.done = [this, fetch, part, frame](absl::Status copied) { OnLanded(fetch, part, frame, std::move(copied)); };
  copies_.Submit(std::move(jobs), std::move(waiting.fence));
}

void BlockFetches::OnLanded(uint64_t fetch, size_t part, std::byte* frame, absl::Status status) {
  bool whole = false;
  {
    absl::MutexLock lock(&answers_.mutex);
    answers_.landed.push_back({fetch, part, std::move(status)});
    if (frame != nullptr) answers_.staging_free.push_back(frame);
    const auto open = answers_.open.find(fetch);
    CHECK(open != answers_.open.end() && open->second > 0);
    whole = --open->second == 0;
  }
  if (frame != nullptr) StartWaiting();
  if (whole) Wake();
}

std::vector<BlockFetches::Arrived> BlockFetches::TakeArrived() {
  std::vector<Landed> landed;
  std::vector<uint64_t> whole;
  {
    absl::MutexLock lock(&answers_.mutex);
    if (answers_.landed.empty()) return {};
    landed.swap(answers_.landed);
    for (const Landed& l : landed) {
      const auto open = answers_.open.find(l.fetch);
      if (open == answers_.open.end() || open->second > 0) continue;
      whole.push_back(l.fetch);
      answers_.open.erase(open);
    }
  }
  for (Landed& l : landed) {
    Fetch& fetch = fetches_.at(l.fetch);
    if (l.part < fetch.parts.size()) fetch.parts[l.part].status = std::move(l.status);
  }
  std::vector<Arrived> arrived;
  for (uint64_t id : whole) {
    const auto it = fetches_.find(id);
    Fetch& fetch = it->second;
    if (!fetch.forgotten) {
      arrived.push_back({fetch.block, fetch.to_device, fetch.arrived, fetch.failed, std::move(fetch.parts)});
    }
    fetches_.erase(it);
  }
  return arrived;
}

void BlockFetches::Drop(const BlockId& block, bool to_device, const LayerSet& layers) {
  for (auto& [id, fetch] : fetches_) {
    if (fetch.block != block || fetch.to_device != to_device) continue;
    for (Part& part : fetch.parts) part.wanted &= !layers.Has(part.layer);
  }
}

void BlockFetches::Probe(RequestId request, std::vector<BlockId> blocks) {
  const uint64_t epoch = probe_epoch_;
  tiers_.Probe(std::move(blocks), [this, request, epoch](int32_t held) {
    {
      absl::MutexLock lock(&answers_.mutex);
      answers_.probed.push_back({epoch, {request, held}});
    }
    Wake();
  });
}

std::vector<BlockFetches::Probed> BlockFetches::TakeProbed() {
  std::vector<std::pair<uint64_t, Probed>> all;
  {
    absl::MutexLock lock(&answers_.mutex);
    if (answers_.probed.empty()) return {};
    all.swap(answers_.probed);
  }
  std::vector<Probed> probed;
  for (const auto& [epoch, answer] : all) {
    if (epoch == probe_epoch_) probed.push_back(answer);
  }
  return probed;
}

void BlockFetches::OnAnswers(absl::AnyInvocable<void()> wake) {
  absl::MutexLock lock(&answers_.mutex);
  answers_.wake = wake ? std::make_shared<absl::AnyInvocable<void()>>(std::move(wake)) : nullptr;
  const auto none = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return answers_.waking == 0; };
  answers_.mutex.Await(absl::Condition(&none));
}

void BlockFetches::Wake() {
  std::shared_ptr<absl::AnyInvocable<void()>> wake;
  {
    absl::MutexLock lock(&answers_.mutex);
    wake = answers_.wake;
    if (wake == nullptr) return;
    ++answers_.waking;
  }
  (*wake)();
  absl::MutexLock lock(&answers_.mutex);
  --answers_.waking;
}

void BlockFetches::Forget() {
  ++probe_epoch_;
  std::deque<Waiting> never;
  {
    absl::MutexLock lock(&answers_.mutex);
    never.swap(answers_.waiting);
  }
  for (auto& [id, fetch] : fetches_) fetch.forgotten = true;
  for (const Waiting& w : never) OnLanded(w.fetch, w.part, nullptr, absl::CancelledError("a new epoch"));
  if (fetches_.empty()) return;
  tiers_.CancelFetches();
  {
    absl::MutexLock lock(&answers_.mutex);
    const auto landed = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return std::all_of(answers_.open.begin(), answers_.open.end(), [](const auto& open) { return open.second == 0; });
    };
    answers_.mutex.Await(absl::Condition(&landed));
  }
  (void)TakeArrived();  // forgotten ones are not among them: their frames and slots are free
}

void BlockFetches::Close() {
  absl::MutexLock lock(&answers_.mutex);
  answers_.closed = true;
  answers_.waiting.clear();
  answers_.wake = nullptr;
}

}  // namespace interlace
