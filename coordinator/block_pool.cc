#include "coordinator/block_pool.h"

#include <utility>

#include "common/check.h"

namespace interlace {

BlockRef& BlockRef::operator=(BlockRef&& other) noexcept {
  std::swap(pool_, other.pool_);
  return *this;
}

BlockRef::~BlockRef() {
  if (pool_ == nullptr) return;
  CHECK(pool_->held_ > 0);
  --pool_->held_;
}

BlockPool::~BlockPool() { CHECK_MSG(held_ == 0, "blocks are held by requests that are gone (contracts.blocks)"); }

std::optional<BlockRef> BlockPool::TryTake() {
  if (held_ >= capacity_) return std::nullopt;
  ++held_;
  return BlockRef(this);
}

}  // namespace interlace
