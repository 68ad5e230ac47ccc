#include "kernels/thread_team.h"

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/thread.h"

namespace interlace {
namespace {

// About 40 us of pauses: longer than the gaps between the ops of one layer, shorter than anyone would miss.
constexpr int kSpins = 2000;

// Returns once word != old: spins first, then sleeps.
void AwaitChange(const std::atomic<uint32_t>& word, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (word.load(std::memory_order_acquire) != old) return;
    _mm_pause();
  }
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

}  // namespace

struct ThreadTeam::State {
  using Body = absl::FunctionRef<void(int64_t, int64_t)>;

  // Written by the caller before `round` moves, read by workers after it did.
  const Body* body = nullptr;
  int64_t count = 0;
  int64_t grain = 1;
  bool closing = false;
  bool busy = false;  // the caller's: ParallelFor never nests

  alignas(64) std::atomic<uint32_t> round{0};
  alignas(64) std::atomic<uint32_t> pending{0};
  std::vector<Thread> workers;

  int size() const { return static_cast<int>(workers.size()) + 1; }

  // Runs the share of one member: equal numbers of grains, by index alone.
  void RunShare(int member, int members) const {
    const int64_t grains = (count + grain - 1) / grain;
    const int64_t begin = grains * member / members * grain;
    const int64_t end = std::min(count, grains * (member + 1) / members * grain);
    if (begin < end) (*body)(begin, end);
  }

  void Work(int member, int members) {
    uint32_t seen = 0;
    while (true) {
      AwaitChange(round, seen);
      ++seen;
      if (closing) return;
      RunShare(member, members);
      if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) pending.notify_one();
    }
  }
};

ThreadTeam::ThreadTeam(int threads) : state_(std::make_unique<State>()) {
  CHECK(threads >= 1);
  for (int member = 1; member < threads; ++member) {
    state_->workers.emplace_back(absl::StrCat("compute-", member),
                                 [state = state_.get(), member, threads] { state->Work(member, threads); });
  }
}

ThreadTeam::~ThreadTeam() {
  state_->closing = true;
  state_->round.fetch_add(1, std::memory_order_release);
  state_->round.notify_all();
  for (Thread& worker : state_->workers) worker.Join();
}

int ThreadTeam::threads() const { return state_->size(); }

void ThreadTeam::ParallelFor(int64_t count, int64_t grain, absl::FunctionRef<void(int64_t begin, int64_t end)> body) {
  CHECK(grain >= 1);
  if (count <= 0) return;
  State& state = *state_;
  CHECK_MSG(!state.busy, "ParallelFor inside ParallelFor");
  state.busy = true;
  const int members = state.size();
  if (members == 1 || count <= grain) {
    body(0, count);
  } else {
    state.body = &body;
    state.count = count;
    state.grain = grain;
    state.pending.store(static_cast<uint32_t>(members - 1), std::memory_order_relaxed);
    state.round.fetch_add(1, std::memory_order_release);
    state.round.notify_all();
    state.RunShare(0, members);
    for (uint32_t left = state.pending.load(std::memory_order_acquire); left != 0;
         left = state.pending.load(std::memory_order_acquire)) {
      AwaitChange(state.pending, left);
    }
  }
  state.busy = false;
}

}  // namespace interlace
