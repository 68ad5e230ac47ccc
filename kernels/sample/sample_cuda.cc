// sample: logits come to the host, where the reference chooses: the whole contract, its ties and its generator, at the
// price of one copy of [rows, vocab]. A kernel for greedy rows is the first thing to gain here.
#include <algorithm>

#include "kernels/cpu/variants.h"
#include "kernels/cuda/cuda_ops.h"

namespace interlace::cuda {

void Sample(const SampleArgs& args, OpContext on) {
  CudaStream& stream = CudaStream::Of(on);
  std::byte* logits = nullptr;
  if (!stream.Begin("sample") || !stream.Download(args.logits.data, args.logits.bytes(), &logits)) {
    std::fill(args.tokens.begin(), args.tokens.end(), -1);
    return;
  }
  SampleArgs on_host = args;
  on_host.logits.data = logits;
  reference::Sample(on_host, stream.team());
}

}  // namespace interlace::cuda
