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

// Returns the word's value once it is not `old`: spins first, then sleeps.
uint32_t AwaitChange(const std::atomic<uint32_t>& word, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (const uint32_t now = word.load(std::memory_order_acquire); now != old) return now;
    _mm_pause();
  }
  while (true) {
    word.wait(old, std::memory_order_acquire);
    if (const uint32_t now = word.load(std::memory_order_acquire); now != old) return now;
  }
}

// The chunks of one round, in one word: the round's number, how many chunks it has, how many were taken. A thread that
// comes late finds all taken, or a later round; it can never take a chunk of a round that is over.
class Chunks {
 public:
  static constexpr uint32_t kMost = 0xffff;

  void Publish(uint32_t round, uint32_t chunks) {
    word_.store(uint64_t{round} << 32 | chunks << 16, std::memory_order_release);
  }
  // The number of the chunk taken; -1: none is left.
  int64_t Take() {
    uint64_t word = word_.load(std::memory_order_acquire);
    while (TakenOf(word) < static_cast<int64_t>(word >> 16 & kMost)) {
      if (word_.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
        return TakenOf(word);
      }
    }
    return -1;
  }

 private:
  static int64_t TakenOf(uint64_t word) { return static_cast<int64_t>(word & kMost); }
  std::atomic<uint64_t> word_{0};
};

}  // namespace

struct ThreadTeam::State {
  using Body = absl::FunctionRef<void(int64_t, int64_t)>;

  // The caller writes these before it publishes the chunks; whoever took a chunk may read them until it is done.
  const Body* body = nullptr;
  int64_t count = 0;
  int64_t grain = 1;
  int64_t chunks = 0;
  bool busy = false;  // the caller's: ParallelFor never nests

  std::atomic<bool> closing{false};
  alignas(64) std::atomic<uint32_t> round{0};  // what idle workers wait on
  alignas(64) Chunks left;
  alignas(64) std::atomic<uint32_t> pending{0};  // chunks that are not done
  std::vector<Thread> workers;

  int size() const { return static_cast<int>(workers.size()) + 1; }

  // Takes chunks until none is left: equal numbers of grains each, by the chunk's number alone.
  void RunChunks() {
    for (int64_t chunk = left.Take(); chunk >= 0; chunk = left.Take()) {
      const int64_t grains = (count + grain - 1) / grain;
      const int64_t begin = grains * chunk / chunks * grain;
      const int64_t end = std::min(count, grains * (chunk + 1) / chunks * grain);
      (*body)(begin, end);
      if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) pending.notify_one();
    }
  }

  void Work() {
    uint32_t seen = 0;
    while (true) {
      seen = AwaitChange(round, seen);
      if (closing.load(std::memory_order_relaxed)) return;
      RunChunks();
    }
  }
};

ThreadTeam::ThreadTeam(int threads) : state_(std::make_unique<State>()) {
  CHECK(threads >= 1 && threads <= kMostThreads);
  for (int member = 1; member < threads; ++member) {
    state_->workers.emplace_back(absl::StrCat("compute-", member), [state = state_.get()] { state->Work(); });
  }
}

ThreadTeam::~ThreadTeam() {
  state_->closing.store(true, std::memory_order_relaxed);
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
    state.chunks = std::min((count + grain - 1) / grain, int64_t{kChunksPerThread} * members);
    const auto chunks = static_cast<uint32_t>(state.chunks);
    state.pending.store(chunks, std::memory_order_relaxed);
    const uint32_t round = state.round.load(std::memory_order_relaxed) + 1;
    state.left.Publish(round, chunks);
    state.round.store(round, std::memory_order_release);
    state.round.notify_all();
    state.RunChunks();
    for (uint32_t left = state.pending.load(std::memory_order_acquire); left != 0;) {
      left = AwaitChange(state.pending, left);
    }
  }
  state.busy = false;
}

}  // namespace interlace
