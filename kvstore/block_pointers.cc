#include "kvstore/block_pointers.h"

#include <algorithm>

#include "common/check.h"

namespace interlace {

void BlockPointers::Resize(int32_t blocks) {
  CHECK(blocks >= shared_);
  const auto wanted = static_cast<size_t>(blocks);
  if (wanted > capacity_) {
    const size_t capacity = std::max<size_t>({wanted, 2 * capacity_, 8});
    std::vector<std::byte*> data(capacity * counts_.size());
    for (size_t l = 0; l < counts_.size(); ++l) {
      std::copy_n(data_.begin() + static_cast<ptrdiff_t>(l * capacity_), blocks_,
                  data.begin() + static_cast<ptrdiff_t>(l * capacity));
    }
    data_.swap(data);
    capacity_ = capacity;
  }
  for (size_t l = 0; blocks > blocks_ && l < counts_.size(); ++l) {
    std::fill_n(Row(static_cast<int32_t>(l)) + blocks_, blocks - blocks_, nullptr);
  }
  blocks_ = blocks;
}

void BlockPointers::SetShared(int32_t layer, int32_t block, std::byte* address) {
  if (block >= shared_) return;
  std::byte*& held = Row(layer)[block];
  if (block >= counts_[layer].first) Add(layer, (address == nullptr) - (held == nullptr));
  held = address;
}

void BlockPointers::ShareNext(absl::FunctionRef<std::byte*(int32_t layer)> address) {
  CHECK(shared_ < blocks_);
  for (int32_t layer = 0; layer < static_cast<int32_t>(counts_.size()); ++layer) {
    std::byte* const held = address(layer);
    Row(layer)[shared_] = held;
    if (held == nullptr && shared_ >= counts_[layer].first) Add(layer, 1);
  }
  ++shared_;
}

void BlockPointers::SeeFrom(int32_t layer, int32_t first) {
  Count& count = counts_[layer];
  while (count.first < first) {
    if (count.first < shared_ && Row(layer)[count.first] == nullptr) Add(layer, -1);
    ++count.first;
  }
  while (count.first > first) {
    --count.first;
    if (count.first < shared_ && Row(layer)[count.first] == nullptr) Add(layer, 1);
  }
}

int32_t BlockPointers::NextAbsent(int32_t layer, int32_t from) const {
  const absl::Span<std::byte* const> row = Layer(layer);
  int32_t block = std::max(from, counts_[layer].first);
  while (block < shared_ && row[block] != nullptr) ++block;
  return std::min(block, shared_);
}

}  // namespace interlace
