// BlockPool: the logical KV blocks of a replica, counted.
#pragma once

#include <cstdint>
#include <optional>

namespace interlace {

class BlockPool;

// A hold of one logical block; returns it when it dies. Move-only. Thread: the replica's.
class BlockRef {
 public:
  BlockRef(BlockRef&& other) noexcept : pool_(other.pool_) { other.pool_ = nullptr; }
  BlockRef& operator=(BlockRef&& other) noexcept;
  ~BlockRef();

 private:
  friend class BlockPool;
  explicit BlockRef(BlockPool* pool) : pool_(pool) {}
  BlockPool* pool_;
};

// Knows no bytes and no device: a block is P tokens of one request over all layers and ranks.
// Owned by the Scheduler; thread: the replica's. The trap: it must outlive its refs; a new capacity may be smaller than
// what is held, and then nothing is given out until enough came back.
class BlockPool {
 public:
  BlockPool() = default;
  ~BlockPool();  // aborts if blocks are still held
  void SetCapacity(int32_t blocks) { capacity_ = blocks; }
  std::optional<BlockRef> TryTake();
  int32_t capacity() const { return capacity_; }
  int32_t held() const { return held_; }

 private:
  friend class BlockRef;
  int32_t capacity_ = 0;
  int32_t held_ = 0;
};

}  // namespace interlace
