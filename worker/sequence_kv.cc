#include "worker/sequence_kv.h"

#include "common/check.h"

namespace interlace {

SequenceKv::SequenceKv(const ShardSpec& shard, int32_t block_tokens, Generation generation, uint32_t attempt,
                       BlockHash root)
    : block_tokens_(block_tokens),
      first_layer_(shard.layer_begin),
      generation_(generation),
      attempt_(attempt),
      root_(root),
      places_(shard.layers()),
      traffic_(shard.layers()) {}

void SequenceKv::Extend(int32_t start, absl::Span<const int32_t> tokens) {
  CHECK(start <= length_);
  length_ = start;
  tokens_.resize(start);
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  hashes_.resize(start / block_tokens_);
  for (int32_t block = start / block_tokens_; block < SealedBlocks(); ++block) {
    const BlockHash& parent = block == 0 ? root_ : hashes_[block - 1];
    hashes_.push_back(
        ChainHash(parent, absl::MakeSpan(tokens_).subspan(int64_t{block} * block_tokens_, block_tokens_)));
  }
  for (std::vector<BlockPlace>& layer : places_) layer.resize(Blocks());
}

}  // namespace interlace
