// One pass with a running maximum per row (a token's head), tile after tile of block_tokens positions from 0.
//
// Per row, whatever shares its registers: a score is one chain of fused multiply-adds over ascending d; the weights of
// a tile are exp(score - maximum so far); sums and outputs take tiles, and positions within a tile, in order; a
// position beyond the row's own has weight zero and its V is not read. So the bits of a row depend on its own inputs
// alone.
#include <math.h>

#include "common/check.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/variants.h"

namespace interlace::avx2 {
namespace {

// One sequence of the call.
struct Call {
  Tensor out, q;  // its rows
  float* lse;
  KvBlockShape shape;
  absl::Span<std::byte* const> blocks;
  int32_t start;
  int32_t heads;
  float scale;
};

constexpr int kRowTile = 6;             // rows that share a pass over a tile's K and V
constexpr int64_t kMaxRows = 24;        // rows that share a walk over the blocks: their state stays in the cache
constexpr int64_t kMaxElements = 8192;  // of a walk's outputs
constexpr int64_t kBlocksAhead = 2;     // of the tile at work, being fetched
constexpr int64_t kMaxBlockTokens = 512;
constexpr int64_t kMaxHeadDim = 1024;

// Consecutive query heads for consecutive tokens. Its rows go by KV head, then token, then query head.
struct Walk {
  int64_t first_head;
  int64_t heads;
  int64_t first_token;
  int64_t tokens;
};

// The part of a walk that reads one KV head.
struct Group {
  int64_t kv_head;
  int64_t first_head;
  int64_t heads;
  int64_t first_row;
};

[[gnu::always_inline]] inline int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

struct RowState {
  float largest;
  __m256 sums;  // of weights, lane by lane
};

// State of one walk, on its thread's stack.
struct Scratch {
  const float* q[kMaxRows];
  RowState rows[kMaxRows];
  alignas(64) float outputs[kMaxElements];                // [rows, head_dim]
  alignas(64) float weights[kRowTile * kMaxBlockTokens];  // [kRowTile, block_tokens]
};

// scores[m][8V positions] = q[m] . k, for M rows; k: [head_dim][block_tokens].
template <int M, int V>
[[gnu::always_inline]] inline void Scores(const float* const* q, const float* k, int64_t head_dim, int64_t block_tokens,
                                          float* scores) {
  __m256 acc[M][V];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[m][v] = _mm256_setzero_ps();
  }
  for (int64_t d = 0; d < head_dim; ++d) {
    __m256 ks[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) ks[v] = _mm256_loadu_ps(k + d * block_tokens + kLanes * v);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const __m256 broadcast = _mm256_broadcast_ss(q[m] + d);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[m][v] = _mm256_fmadd_ps(broadcast, ks[v], acc[m][v]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) _mm256_store_ps(scores + m * block_tokens + kLanes * v, acc[m][v]);
  }
}

// outputs[m][8V elements] += sum over j < visible of weights[m][j] * v[j]; v: [block_tokens][head_dim].
template <int M, int V>
[[gnu::always_inline]] inline void AddValues(const float* weights, int64_t block_tokens, const float* v,
                                             int64_t head_dim, int64_t visible, float* outputs) {
  __m256 acc[M][V];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) acc[m][i] = _mm256_loadu_ps(outputs + m * head_dim + kLanes * i);
  }
  for (int64_t j = 0; j < visible; ++j) {
    __m256 vs[V];
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) vs[i] = _mm256_loadu_ps(v + j * head_dim + kLanes * i);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const __m256 broadcast = _mm256_broadcast_ss(weights + m * block_tokens + j);
#pragma GCC unroll 8
      for (int i = 0; i < V; ++i) acc[m][i] = _mm256_fmadd_ps(broadcast, vs[i], acc[m][i]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) _mm256_storeu_ps(outputs + m * head_dim + kLanes * i, acc[m][i]);
  }
}

// Turns a row's scores into weights, and brings the row's sums and outputs to the new maximum.
void Softmax(float scale, int64_t block_tokens, int64_t visible, int64_t head_dim, float* scores, RowState& row,
             float* outputs) {
  const __m256 scales = _mm256_set1_ps(scale);
  const __m256 nothing = _mm256_set1_ps(-INFINITY);
  __m256 largest = nothing;
  for (int64_t i = 0; i < block_tokens; i += kLanes) {
    __m256 s = _mm256_mul_ps(_mm256_load_ps(scores + i), scales);
    if (visible - i < kLanes) {
      const int64_t lanes = visible > i ? visible - i : 0;
      s = _mm256_blendv_ps(nothing, s, _mm256_castsi256_ps(FirstLanes(lanes)));
    }
    _mm256_store_ps(scores + i, s);
    largest = _mm256_max_ps(largest, s);
  }
  const float tile_largest = MaxLanes(largest);
  if (tile_largest > row.largest) {
    // exp(-inf) is 0 on the first tile. Without a new maximum the factor would be exactly 1.
    const __m256 factor = Exp(_mm256_set1_ps(row.largest - tile_largest));
    row.largest = tile_largest;
    row.sums = _mm256_mul_ps(row.sums, factor);
    for (int64_t d = 0; d < head_dim; d += kLanes) {
      _mm256_store_ps(outputs + d, _mm256_mul_ps(_mm256_load_ps(outputs + d), factor));
    }
  }
  // Scores of -inf alone weigh nothing.
  const __m256 offset = _mm256_set1_ps(row.largest == -INFINITY ? 0 : row.largest);
  __m256 sums = row.sums;
  for (int64_t i = 0; i < block_tokens; i += kLanes) {
    const __m256 weight = Exp(_mm256_sub_ps(_mm256_load_ps(scores + i), offset));
    _mm256_store_ps(scores + i, weight);
    sums = _mm256_add_ps(sums, weight);
  }
  row.sums = sums;
}

// One tile for M rows that see the same `visible` positions of it.
template <int M>
void TileRows(const Call& args, const float* k, const float* v, int64_t visible, int64_t row, Scratch& scratch) {
  constexpr int kWide = M <= 3 ? 4 : 2;  // vectors beside M rows that the registers hold
  const int64_t block_tokens = args.shape.block_tokens;
  const int64_t head_dim = args.shape.head_dim;
  float* weights = scratch.weights;
  float* outputs = scratch.outputs + row * head_dim;

  int64_t i = 0;
  for (; i + kWide * kLanes <= block_tokens; i += kWide * kLanes) {
    Scores<M, kWide>(scratch.q + row, k + i, head_dim, block_tokens, weights + i);
  }
  for (; i + 2 * kLanes <= block_tokens; i += 2 * kLanes) {
    Scores<M, 2>(scratch.q + row, k + i, head_dim, block_tokens, weights + i);
  }
  for (; i < block_tokens; i += kLanes) Scores<M, 1>(scratch.q + row, k + i, head_dim, block_tokens, weights + i);

  for (int m = 0; m < M; ++m) {
    Softmax(args.scale, block_tokens, visible, head_dim, weights + m * block_tokens, scratch.rows[row + m],
            outputs + m * head_dim);
  }

  int64_t d = 0;
  for (; d + kWide * kLanes <= head_dim; d += kWide * kLanes) {
    AddValues<M, kWide>(weights, block_tokens, v + d, head_dim, visible, outputs + d);
  }
  for (; d < head_dim; d += kLanes) AddValues<M, 1>(weights, block_tokens, v + d, head_dim, visible, outputs + d);
}

void TileAnyRows(const Call& args, const float* k, const float* v, int64_t visible, int64_t row, int64_t end,
                 Scratch& scratch) {
  for (; row + kRowTile <= end; row += kRowTile) TileRows<kRowTile>(args, k, v, visible, row, scratch);
  switch (end - row) {
    case 5:
      TileRows<5>(args, k, v, visible, row, scratch);
      break;
    case 4:
      TileRows<4>(args, k, v, visible, row, scratch);
      break;
    case 3:
      TileRows<3>(args, k, v, visible, row, scratch);
      break;
    case 2:
      TileRows<2>(args, k, v, visible, row, scratch);
      break;
    case 1:
      TileRows<1>(args, k, v, visible, row, scratch);
      break;
    default:
      break;
  }
}

// Calls body(Group) for each KV head of the walk.
template <typename Body>
[[gnu::always_inline]] inline void ForGroups(const Call& args, const Walk& walk, Body body) {
  const int64_t group = args.heads / args.shape.kv_heads;
  const int64_t end = walk.first_head + walk.heads;
  for (int64_t head = walk.first_head; head < end;) {
    const int64_t heads = Least(group - head % group, end - head);
    body(Group{head / group, head, heads, (head - walk.first_head) * walk.tokens});
    head += heads;
  }
}

void Begin(const Call& args, const Walk& walk, Scratch& scratch) {
  const int64_t head_dim = args.shape.head_dim;
  ForGroups(args, walk, [&](const Group& group) {
    for (int64_t i = 0; i < walk.tokens * group.heads; ++i) {
      const int64_t row = group.first_row + i;
      scratch.q[row] =
          args.q.f32_row(walk.first_token + i / group.heads) + (group.first_head + i % group.heads) * head_dim;
      scratch.rows[row] = {-INFINITY, _mm256_setzero_ps()};
    }
  });
  for (int64_t i = 0; i < walk.tokens * walk.heads * head_dim; i += kLanes) {
    _mm256_store_ps(scratch.outputs + i, _mm256_setzero_ps());
  }
}

void Finish(const Call& args, const Walk& walk, const Scratch& scratch) {
  const int64_t head_dim = args.shape.head_dim;
  ForGroups(args, walk, [&](const Group& group) {
    for (int64_t i = 0; i < walk.tokens * group.heads; ++i) {
      const int64_t row = group.first_row + i;
      const int64_t t = walk.first_token + i / group.heads;
      const int64_t head = group.first_head + i % group.heads;
      const float sum = SumLanes(scratch.rows[row].sums);
      const __m256 divisor = _mm256_set1_ps(sum);
      float* out = args.out.f32_row(t) + head * head_dim;
      for (int64_t d = 0; d < head_dim; d += kLanes) {
        const __m256 value = _mm256_load_ps(scratch.outputs + row * head_dim + d);
        _mm256_storeu_ps(out + d, _mm256_div_ps(value, divisor));
      }
      if (args.lse != nullptr) {
        const float largest = scratch.rows[row].largest;
        args.lse[t * args.heads + head] = (largest == -INFINITY ? 0 : largest) + logf(sum);
      }
    }
  });
}

// To the second-level cache: the first has too few requests in flight for a whole tile.
void Prefetch(const float* from, int64_t floats) {
  for (int64_t i = 0; i < floats; i += 16) _mm_prefetch(reinterpret_cast<const char*>(from + i), _MM_HINT_T1);
}

// The tile of block b for the rows of one KV head.
void AttendTile(const Call& args, const Walk& walk, const Group& group, int64_t b, Scratch& scratch) {
  const int64_t block_tokens = args.shape.block_tokens;
  const int64_t head_elements = block_tokens * args.shape.head_dim;
  const std::byte* const* blocks = args.blocks.data();
  const int64_t first_position = args.start + walk.first_token;
  const int64_t offset = group.kv_head * head_elements;

  // Blocks lie anywhere, so the hardware cannot foresee the next.
  const int64_t last = (first_position + walk.tokens - 1) / block_tokens;
  if (b + kBlocksAhead <= last) {
    const float* ahead = reinterpret_cast<const float*>(blocks[b + kBlocksAhead]) + offset;
    Prefetch(ahead, head_elements);
    Prefetch(ahead + args.shape.k_elements(), head_elements);
  }
  const float* k = reinterpret_cast<const float*>(blocks[b]) + offset;
  const float* v = k + args.shape.k_elements();
  // Tokens before the tile see none of it, those inside see a part, those after it all.
  const int64_t begin = b * block_tokens;
  int64_t t = begin > first_position ? begin - first_position : 0;
  for (; t < walk.tokens && first_position + t + 1 < begin + block_tokens; ++t) {
    const int64_t row = group.first_row + t * group.heads;
    TileAnyRows(args, k, v, first_position + t + 1 - begin, row, row + group.heads, scratch);
  }
  TileAnyRows(args, k, v, block_tokens, group.first_row + t * group.heads, group.first_row + walk.tokens * group.heads,
              scratch);
}

void Attend(const Call& args, const Walk& walk, Scratch& scratch) {
  Begin(args, walk, scratch);
  const int64_t last = (args.start + walk.first_token + walk.tokens - 1) / args.shape.block_tokens;
  for (int64_t b = 0; b <= last; ++b) {
    ForGroups(args, walk, [&](const Group& group) { AttendTile(args, walk, group, b, scratch); });
  }
  Finish(args, walk, scratch);
}

// Few tokens: [begin, end) counts heads, token after token; those of one token walk together.
void AttendHeads(const Call& args, int64_t max_rows, int64_t begin, int64_t end) {
  Scratch scratch;
  while (begin < end) {
    const int64_t head = begin % args.heads;
    const int64_t heads = Least(Least(args.heads - head, end - begin), max_rows);
    Attend(args, {head, heads, begin / args.heads, 1}, scratch);
    begin += heads;
  }
}

// How many tokens are cut into tasks: tiles of tokens, times pieces of heads.
struct Tasks {
  int64_t tile_tokens;
  int64_t tiles;
  int64_t piece_heads;       // at most, of one KV head
  int64_t pieces_per_group;  // of the query heads of one KV head
  int64_t pieces;            // of all heads
};

// Many tokens: [begin, end) counts tasks, tile after tile. Later tokens see more: tiles are dealt from both ends, so
// that equal numbers of tasks are about equal work.
void AttendTiles(const Call& args, const Tasks& tasks, int64_t begin, int64_t end) {
  const int64_t group = args.heads / args.shape.kv_heads;
  Scratch scratch;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t turn = i / tasks.pieces;
    const int64_t tile = turn % 2 == 0 ? turn / 2 : tasks.tiles - 1 - turn / 2;
    const int64_t piece = i % tasks.pieces;
    const int64_t in_group = piece % tasks.pieces_per_group * tasks.piece_heads;
    const int64_t first_token = tile * tasks.tile_tokens;
    Attend(args,
           {.first_head = piece / tasks.pieces_per_group * group + in_group,
            .heads = Least(tasks.piece_heads, group - in_group),
            .first_token = first_token,
            .tokens = Least(tasks.tile_tokens, args.q.rows - first_token)},
           scratch);
  }
}

void AttendSequence(const Call& args, OpContext on) {
  const int64_t tokens = args.q.rows;
  const int64_t head_dim = args.shape.head_dim;
  if (tokens == 0) return;
  CHECK(args.shape.block_tokens % kLanes == 0 && args.shape.block_tokens <= kMaxBlockTokens);
  CHECK(head_dim % kLanes == 0 && head_dim <= kMaxHeadDim);
  CHECK(args.heads % args.shape.kv_heads == 0);

  const int64_t group = args.heads / args.shape.kv_heads;
  const int64_t max_rows = Least(kMaxRows, kMaxElements / head_dim);
  Tasks tasks;
  tasks.piece_heads = Least(group, max_rows);
  tasks.pieces_per_group = (group + tasks.piece_heads - 1) / tasks.piece_heads;
  tasks.pieces = args.shape.kv_heads * tasks.pieces_per_group;
  tasks.tile_tokens = max_rows / tasks.piece_heads;
  tasks.tiles = (tokens + tasks.tile_tokens - 1) / tasks.tile_tokens;
  if (tasks.tiles < 2 * on.team().threads()) {
    on.team().ParallelFor(tokens * args.heads, 1,
                          [&](int64_t begin, int64_t end) { AttendHeads(args, max_rows, begin, end); });
  } else {
    on.team().ParallelFor(tasks.tiles * tasks.pieces, 1,
                          [&](int64_t begin, int64_t end) { AttendTiles(args, tasks, begin, end); });
  }
}

}  // namespace

void PagedAttention(const PagedAttentionArgs& args, OpContext on) {
  CHECK(args.shape.dtype == DType::kF32 && args.window == 0 && args.soft_cap == 0);
  for (const SequenceRows& s : args.sequences) {
    AttendSequence({.out = args.out.Rows(s.row, s.rows),
                    .q = args.q.Rows(s.row, s.rows),
                    .lse = args.lse == nullptr ? nullptr : args.lse + s.row * args.heads,
                    .shape = args.shape,
                    .blocks = s.blocks,
                    .start = s.start,
                    .heads = args.heads,
                    .scale = args.scale},
                   on);
  }
}

}  // namespace interlace::avx2
