#include "kernels/paged_attention/attention_tasks.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "common/check.h"
#include "kernels/cpu/deals.h"

namespace interlace {
namespace {

constexpr int64_t kSplitTokens = 256;
constexpr int64_t kMaxRows = 96;         // a tile's state and scores stay in the second-level cache
constexpr int64_t kMinRows = 12;         // fewer do not pay for unpacking K and V
constexpr int64_t kMaxElements = 24576;  // of a tile's outputs
constexpr int64_t kSubSplit = 64;
constexpr int64_t kLine = 64;
constexpr int64_t kTilesPerThread = 4;  // at least, where there are that many rows
constexpr int64_t kShareOfThread = 8;   // a tile of more than an eighth of a thread's work is cut into its splits

int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Free {
  void operator()(float* memory) const { std::free(memory); }
};
using Floats = std::unique_ptr<float[], Free>;

// Not initialised.
Floats AlignedFloats(int64_t count) {
  const auto bytes = static_cast<size_t>(RoundUp(std::max<int64_t>(count, 1) * int64_t{sizeof(float)}, kLine));
  Floats memory(static_cast<float*>(std::aligned_alloc(kLine, bytes)));
  CHECK_MSG(memory != nullptr, "out of memory");
  return memory;
}

// A tile, or one split of it.
struct Task {
  int32_t tile;
  int32_t split;  // -1: all
  int64_t cost;
};

// The call, cut up. Lives as long as the call.
class Tasks {
 public:
  Tasks(const PagedAttentionArgs& args, const AttentionSizes& sizes, int threads)
      : args_(args), sizes_(sizes), threads_(threads) {
    MakeTiles();
    if (threads_ > 1)
      CutTiles();
    else
      for (size_t i = 0; i < tiles_.size(); ++i) tasks_.push_back({static_cast<int32_t>(i), -1, 1});
  }
  int64_t count() const { return static_cast<int64_t>(tasks_.size()); }

  int64_t cost(int64_t i) const { return tasks_[i].cost; }

  // Task `next`, if there is one, is likely to follow on this thread.
  void Run(int64_t i, int64_t next, const AttentionKernels& kernels, float* scratch) const {
    const Task& task = tasks_[i];
    const AttentionTile& tile = tiles_[task.tile];
    const AttentionNext ahead = next < count() ? AheadOf(tasks_[next]) : AttentionNext{};
    if (task.split < 0) return kernels.walk(args_, sizes_, tile, ahead, scratch);
    kernels.part(args_, sizes_, tile, task.split, ahead, scratch);
    if (tile.missing->fetch_sub(1, std::memory_order_acq_rel) == 1) kernels.merge(args_, sizes_, tile, scratch);
  }

 private:
  AttentionNext AheadOf(const Task& task) const {
    const AttentionTile& tile = tiles_[task.tile];
    return {&tile, task.split < 0 ? tile.first_split : task.split};
  }

  // Positions that the rows of a token read, about.
  int64_t Span(const SequenceRows& s, int64_t token) const {
    const int64_t positions = s.start + token + 1;
    return args_.window > 0 ? std::min<int64_t>(positions, args_.window) : positions;
  }
  // Arithmetic grows with rows, reading does not.
  int64_t CostOf(int64_t rows, int64_t positions) const { return (rows + 8) * positions; }

  int64_t CountTiles(int64_t rows_per_tile) const {
    const int64_t group = args_.heads / args_.shape.kv_heads;
    int64_t tiles = 0;
    for (const SequenceRows& s : args_.sequences) {
      const int64_t heads = std::min(group, rows_per_tile);
      const int64_t tokens = std::max<int64_t>(rows_per_tile / heads, 1);
      tiles += (s.rows + tokens - 1) / tokens * ((group + heads - 1) / heads) * args_.shape.kv_heads;
    }
    return tiles;
  }

  void MakeTiles() {
    int64_t rows = sizes_.max_rows;
    if (threads_ > 1) {
      while (rows / 2 >= kMinRows && CountTiles(rows) < kTilesPerThread * threads_) rows /= 2;
    }
    tiles_.reserve(CountTiles(rows));
    const int64_t group = args_.heads / args_.shape.kv_heads;
    const int64_t heads = std::min(group, rows);
    const int64_t tokens = std::max<int64_t>(rows / heads, 1);
    for (const SequenceRows& s : args_.sequences) {
      // Later tokens see more: they come first, so that the last tasks dealt are small.
      for (int64_t end = s.rows; end > 0;) {
        const int64_t begin = (end - 1) / tokens * tokens;
        for (int64_t kv_head = 0; kv_head < args_.shape.kv_heads; ++kv_head) {
          for (int64_t in_group = 0; in_group < group; in_group += heads) {
            AddTile(s, kv_head, kv_head * group + in_group, std::min(heads, group - in_group), begin, end);
          }
        }
        end = begin;
      }
    }
  }

  void AddTile(const SequenceRows& s, int64_t kv_head, int64_t head, int64_t heads, int64_t begin, int64_t end) {
    AttentionTile tile;
    tile.sequence = &s;
    tile.kv_head = static_cast<int32_t>(kv_head);
    tile.first_head = static_cast<int32_t>(head);
    tile.heads = static_cast<int32_t>(heads);
    tile.first_token = begin;
    tile.tokens = end - begin;
    tile.first_split = (s.start + begin + 1 - Span(s, begin)) / sizes_.split_tokens;
    tile.end_split = (s.start + end - 1) / sizes_.split_tokens + 1;
    tiles_.push_back(tile);
  }

  void CutTiles() {
    int64_t total = 0;
    for (const AttentionTile& tile : tiles_) total += CostOf(tile);
    std::vector<int64_t> offsets(tiles_.size(), -1);
    int64_t floats = 0;
    int64_t cut = 0;
    for (size_t i = 0; i < tiles_.size(); ++i) {
      const AttentionTile& tile = tiles_[i];
      const int64_t splits = tile.end_split - tile.first_split;
      const int64_t cost = CostOf(tile);
      if (splits == 1 || cost * threads_ * kShareOfThread <= total) {
        tasks_.push_back({static_cast<int32_t>(i), -1, cost});
        continue;
      }
      for (int64_t split = tile.first_split; split < tile.end_split; ++split) {
        const int64_t reached = tile.sequence->start + tile.first_token + tile.tokens - split * sizes_.split_tokens;
        tasks_.push_back({static_cast<int32_t>(i), static_cast<int32_t>(split),
                          CostOf(tile.rows(), std::min(reached, sizes_.split_tokens))});
      }
      offsets[i] = floats;
      floats += splits * tile.rows() * sizes_.state_floats();
      ++cut;
    }
    if (cut > 0) GiveParts(offsets, floats, cut);
    const auto costs_more = [](const Task& a, const Task& b) { return a.cost > b.cost; };
    if (!std::is_sorted(tasks_.begin(), tasks_.end(), costs_more)) {
      std::stable_sort(tasks_.begin(), tasks_.end(), costs_more);
    }
  }

  int64_t CostOf(const AttentionTile& tile) const {
    return CostOf(tile.rows(), Span(*tile.sequence, tile.first_token + tile.tokens - 1));
  }

  void GiveParts(const std::vector<int64_t>& offsets, int64_t floats, int64_t cut) {
    parts_ = AlignedFloats(floats);
    missing_ = std::make_unique<std::atomic<int32_t>[]>(cut);
    int64_t next = 0;
    for (size_t i = 0; i < tiles_.size(); ++i) {
      if (offsets[i] < 0) continue;
      AttentionTile& tile = tiles_[i];
      tile.parts = parts_.get() + offsets[i];
      tile.missing = &missing_[next++];
      tile.missing->store(static_cast<int32_t>(tile.end_split - tile.first_split), std::memory_order_relaxed);
    }
  }

  const PagedAttentionArgs& args_;
  const AttentionSizes& sizes_;
  const int threads_;
  std::vector<AttentionTile> tiles_;
  std::vector<Task> tasks_;
  Floats parts_;
  std::unique_ptr<std::atomic<int32_t>[]> missing_;
};

}  // namespace

AttentionSizes::AttentionSizes(const PagedAttentionArgs& args) {
  const int64_t block_tokens = args.shape.block_tokens;
  split_tokens = std::max<int64_t>(kSplitTokens / block_tokens, 1) * block_tokens;
  padded_tokens = RoundUp(split_tokens, kSubSplit);
  padded_dim = RoundUp(args.shape.head_dim, 16);
  max_rows = std::min(kMaxRows, kMaxElements / padded_dim);
}

int64_t AttentionSizes::scratch_floats() const {
  const int64_t states = 2 * max_rows * state_floats();
  const int64_t scores = max_rows * padded_tokens;
  const int64_t panels = 2 * padded_tokens * (padded_dim + 1);
  return states + scores + panels;
}

void RunAttention(const PagedAttentionArgs& args, const AttentionKernels& kernels, OpContext on) {
  CHECK(args.shape.block_tokens % 8 == 0 && args.shape.block_tokens <= 512);
  CHECK(args.shape.head_dim % 8 == 0 && args.shape.head_dim <= 1024);
  CHECK(args.heads % args.shape.kv_heads == 0);
  ThreadTeam& team = on.team();
  const AttentionSizes sizes(args);
  const Tasks tasks(args, sizes, team.threads());
  if (tasks.count() == 0) return;
  const int64_t members = std::min<int64_t>(team.threads(), tasks.count());
  const int64_t scratch_floats = RoundUp(sizes.scratch_floats(), kLine);
  const Floats scratch = AlignedFloats(members * scratch_floats);
  Deals deals;
  deals.Reset(tasks.count(), members, [&](int64_t i) { return tasks.cost(i); });
  team.ParallelFor(members, 1, [&](int64_t begin, int64_t /*end*/) {
    float* own = scratch.get() + begin * scratch_floats;
    for (int64_t m = 0; m < members; ++m) {
      const int64_t owner = (begin + m) % members;
      for (Deals::Range taken = deals.Take(owner); taken.begin < taken.end; taken = deals.Take(owner)) {
        tasks.Run(taken.begin, taken.begin + 1, kernels, own);
      }
    }
  });
}

}  // namespace interlace
