#include "kvstore/kv_arena.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"

namespace interlace {

ArenaSlot::ArenaSlot(ArenaSlot&& other) noexcept
    : arena_(std::exchange(other.arena_, nullptr)), index_(std::exchange(other.index_, -1)) {}

ArenaSlot& ArenaSlot::operator=(ArenaSlot&& other) noexcept {
  std::swap(arena_, other.arena_);
  std::swap(index_, other.index_);
  if (this != &other) ArenaSlot(std::move(other));  // gives back what this slot held
  return *this;
}

ArenaSlot::~ArenaSlot() {
  if (arena_ != nullptr) arena_->free_.push_back(index_);
}

std::byte* ArenaSlot::data() const {
  CHECK_MSG(arena_ != nullptr, "data() of an empty arena slot");
  return arena_->memory_->data() + arena_->slot_bytes_ * index_;
}

absl::StatusOr<std::unique_ptr<KvArena>> KvArena::Create(Backend& backend, int64_t arena_bytes, int64_t slot_bytes) {
  if (slot_bytes <= 0) return absl::InvalidArgumentError(absl::StrCat("slot_bytes is ", slot_bytes, "; must be > 0"));
  const int64_t slots = std::min<int64_t>(arena_bytes / slot_bytes, std::numeric_limits<int32_t>::max());
  if (slots <= 0) {
    return absl::ResourceExhaustedError(absl::StrCat("a KV arena of ", arena_bytes, " bytes has no room for a slot of ",
                                                     slot_bytes, " bytes; make the arena larger"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<DeviceBuffer> memory, backend.AllocateDevice(slots * slot_bytes));
  return Over(std::move(memory), slot_bytes);
}

std::unique_ptr<KvArena> KvArena::Over(std::unique_ptr<DeviceBuffer> memory, int64_t slot_bytes) {
  const auto slots = static_cast<int32_t>(memory->bytes() / slot_bytes);
  return std::unique_ptr<KvArena>(new KvArena(std::move(memory), slot_bytes, slots));
}

KvArena::KvArena(std::unique_ptr<DeviceBuffer> memory, int64_t slot_bytes, int32_t slots)
    : memory_(std::move(memory)), slot_bytes_(slot_bytes), slots_(slots), free_(slots) {
  std::iota(free_.rbegin(), free_.rend(), 0);  // the first slot is taken first
}

KvArena::~KvArena() { CHECK_MSG(used() == 0, "a KV arena was destroyed with slots held"); }

ArenaSlot KvArena::TryTake() {
  if (free_.empty()) return {};
  const int32_t index = free_.back();
  free_.pop_back();
  return ArenaSlot(this, index);
}

}  // namespace interlace
