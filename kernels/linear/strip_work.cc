#include "kernels/linear/strip_work.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "common/check.h"
#include "kernels/cpu/deals.h"

namespace interlace::strips {
namespace {

constexpr int64_t kInlineQuantise = 8;  // up to so many tokens are quantised by each thread for itself
constexpr int64_t kQuantiseGrain = 4;   // tokens
constexpr int64_t kPairsAtOnce = 4;     // taken by a thread

// Memory that a thread keeps between calls; grows, never shrinks.
class XScratch {
 public:
  QuantisedX Resize(int64_t tokens, int64_t k) {
    const int64_t blocks = k / kBlock;
    Grow(tokens * k, &q_);
    Grow(tokens * blocks, &d_);
    Grow(tokens * blocks, &sum_);
    Grow(tokens * blocks, &start_);
    Grow(2 * tokens * blocks, &start_half_);
    return {q_.data(), d_.data(), sum_.data(), start_.data(), start_half_.data(), k, blocks};
  }

 private:
  template <typename T>
  static void Grow(int64_t size, std::vector<T>* v) {
    if (static_cast<int64_t>(v->size()) < size) v->resize(static_cast<size_t>(size));
  }
  std::vector<uint8_t> q_;
  std::vector<float> d_, sum_;
  std::vector<int32_t> start_, start_half_;
};

std::byte* KernelScratch(int64_t bytes) {
  constexpr int64_t kAlignment = 64;
  static thread_local std::vector<std::byte> memory;
  if (static_cast<int64_t>(memory.size()) < bytes + kAlignment) memory.resize(static_cast<size_t>(bytes + kAlignment));
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  return memory.data() + (kAlignment - address % kAlignment) % kAlignment;
}

// Pairs of one weight type in a row.
struct Run {
  DType dtype;
  int64_t begin, end;
};
struct Work {
  Tensor x;
  std::vector<Pair> pairs;
  std::vector<Run> runs;
};
// Of the thread that calls ops, so that a step allocates nothing.
Work& EmptyWork(const Tensor& x) {
  static thread_local Work work;
  work.x = x;
  work.pairs.clear();
  work.runs.clear();
  return work;
}

// Everything in one parallel region; where many tokens are to be quantised, that is one before it.
void RunWork(const Work& work, const StripKernels& kernels, OpContext on) {
  const int64_t tokens = work.x.rows, k = work.x.cols;
  if (tokens == 0 || work.pairs.empty()) return;
  const bool quantised = std::any_of(work.runs.begin(), work.runs.end(),
                                     [](const Run& run) { return TraitsOf(run.dtype).block_elements > 1; });
  const bool together = quantised && tokens > kInlineQuantise;
  QuantisedX common{};
  if (together) {
    static thread_local XScratch shared;
    common = shared.Resize(tokens, k);
    on.team().ParallelFor(tokens, kQuantiseGrain, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) kernels.quantise(work.x.f32_row(t), t, common);
    });
  }
  const auto pairs = static_cast<int64_t>(work.pairs.size());
  const int64_t members = std::min<int64_t>(on.team().threads(), pairs);
  static thread_local Deals of_caller;
  Deals& deals = of_caller;  // the caller's in every thread
  deals.Reset(pairs, members, kPairsAtOnce);
  on.team().ParallelFor(members, 1, [&](int64_t member, int64_t /*end*/) {
    QuantisedX x = common;
    bool ready = together || !quantised;  // a thread that finds nothing left to multiply quantises nothing
    std::byte* scratch = KernelScratch(kernels.scratch_bytes);
    for (int64_t m = 0; m < members; ++m) {
      const int64_t owner = (member + m) % members;
      for (Deals::Range taken = deals.Take(owner); taken.begin < taken.end; taken = deals.Take(owner)) {
        if (!ready) {
          static thread_local XScratch own;
          x = own.Resize(tokens, k);
          for (int64_t t = 0; t < tokens; ++t) kernels.quantise(work.x.f32_row(t), t, x);
          ready = true;
        }
        for (const Run& run : work.runs) {
          const int64_t from = std::max(taken.begin, run.begin), to = std::min(taken.end, run.end);
          const int64_t known = std::min(deals.end_of(owner), run.end);
          if (from < to)
            kernels.multiply(run.dtype, {work.pairs.data() + from, to - from, known - from}, work.x, x, scratch);
        }
      }
    }
  });
}

// The strips of one output, two by two.
void AddPairs(const LinearOut& out, Work* work) {
  const int64_t strip_bytes = StripBytes(out.w.dtype, out.w.k);
  const auto begin = static_cast<int64_t>(work->pairs.size());
  const auto* bytes = reinterpret_cast<const uint8_t*>(out.w.data);
  const int64_t strips = (out.w.rows + kRows - 1) / kRows;
  for (int64_t s = 0; s < strips; s += 2) {
    Pair pair{};
    for (int64_t i = 0; i < std::min<int64_t>(2, strips - s); ++i) {
      const int64_t row = (s + i) * kRows;
      pair.strip[i] = bytes + (s + i) * strip_bytes;
      pair.target[i] = {out.y.f32() + row, out.y.cols, out.bias == nullptr ? nullptr : out.bias + row, out.accumulate,
                        static_cast<int>(std::min(kRows, out.w.rows - row))};
    }
    work->pairs.push_back(pair);
  }
  work->runs.push_back({out.w.dtype, begin, static_cast<int64_t>(work->pairs.size())});
}

// Gate and up of different types.
void RunGatedInTwo(const GatedLinearArgs& args, const StripKernels& kernels, OpContext on) {
  static thread_local std::vector<float> scratch;  // of the thread that calls ops; grows, never shrinks
  const auto floats = static_cast<size_t>(args.x.rows * args.up.rows);
  if (scratch.size() < floats) scratch.resize(floats);
  const Tensor up{scratch.data(), DType::kF32, args.x.rows, args.up.rows};
  RunLinear({args.x, {{args.out, args.gate}, {up, args.up}}}, kernels, on);
  RunGate({args.out, up, args.kind}, kernels, on);
}

}  // namespace

void RunLinear(const LinearArgs& args, const StripKernels& kernels, OpContext on) {
  Work& work = EmptyWork(args.x);
  for (const LinearOut& out : args.outs) {
    CHECK(out.w.k == args.x.cols && out.y.cols == out.w.rows);
    AddPairs(out, &work);
  }
  RunWork(work, kernels, on);
}

void RunGatedLinear(const GatedLinearArgs& args, const StripKernels& kernels, OpContext on) {
  CHECK(args.gate.rows == args.up.rows && args.gate.k == args.x.cols);
  if (args.gate.dtype != args.up.dtype) return RunGatedInTwo(args, kernels, on);
  Work& work = EmptyWork(args.x);
  const int64_t strip_bytes = StripBytes(args.gate.dtype, args.gate.k);
  const int64_t strips = (args.gate.rows + kRows - 1) / kRows;
  for (int64_t s = 0; s < strips; ++s) {
    Pair pair{};
    pair.gated = true;
    pair.kind = args.kind;
    pair.strip[0] = reinterpret_cast<const uint8_t*>(args.gate.data) + s * strip_bytes;
    pair.strip[1] = reinterpret_cast<const uint8_t*>(args.up.data) + s * strip_bytes;
    pair.target[0] = {args.out.f32() + s * kRows, args.out.cols, nullptr, false,
                      static_cast<int>(std::min(kRows, args.gate.rows - s * kRows))};
    work.pairs.push_back(pair);
  }
  work.runs.push_back({args.gate.dtype, 0, strips});
  RunWork(work, kernels, on);
}

void RunGate(const GateArgs& args, const StripKernels& kernels, OpContext on) {
  on.team().ParallelFor(args.gate.rows, kQuantiseGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      kernels.gate(args.kind, args.gate.f32_row(t), args.up.f32_row(t), args.up.cols);
    }
  });
}

}  // namespace interlace::strips
