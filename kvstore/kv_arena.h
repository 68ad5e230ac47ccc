// KvArena: memory for KV, cut into equal slots; any slot holds any layer's block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace interlace {

class KvArena;

// A counted hold of one slot; returns it when it dies. Move-only; thread: runner.
class ArenaSlot {
 public:
  ArenaSlot() = default;
  ArenaSlot(ArenaSlot&& other) noexcept;
  ArenaSlot& operator=(ArenaSlot&& other) noexcept;
  ~ArenaSlot();
  explicit operator bool() const { return arena_ != nullptr; }
  std::byte* data() const;

 private:
  friend class KvArena;
  ArenaSlot(KvArena* arena, int32_t index) : arena_(arena), index_(index) {}
  KvArena* arena_ = nullptr;
  int32_t index_ = -1;
};

// Owned by the worker's composition root; thread: runner. It outlives its slots; who holds a slot keeps it until copies
// from and to it are done.
class KvArena {
 public:
  // As many slots of slot_bytes as fit into arena_bytes of the device; ResourceExhausted names both if none does.
  static absl::StatusOr<std::unique_ptr<KvArena>> Create(Backend& backend, int64_t arena_bytes, int64_t slot_bytes);
  // As many slots as fit into this memory.
  static std::unique_ptr<KvArena> Over(std::unique_ptr<DeviceBuffer> memory, int64_t slot_bytes);
  ~KvArena();           // aborts if slots are still held
  ArenaSlot TryTake();  // empty when the arena is full
  int32_t slots() const { return slots_; }
  int32_t used() const { return slots_ - static_cast<int32_t>(free_.size()); }
  int64_t slot_bytes() const { return slot_bytes_; }

 private:
  friend class ArenaSlot;
  KvArena(std::unique_ptr<DeviceBuffer> memory, int64_t slot_bytes, int32_t slots);
  std::unique_ptr<DeviceBuffer> memory_;
  const int64_t slot_bytes_;
  const int32_t slots_;
  std::vector<int32_t> free_;  // last in, first out: warm slots first
};

}  // namespace interlace
