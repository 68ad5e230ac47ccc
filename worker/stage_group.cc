#include "worker/stage_group.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace interlace {
namespace {

constexpr int64_t kCacheLine = 64;

// A bit for each sequence.
int64_t HeadBytes(int32_t sequences) { return (sequences + 8 * kCacheLine - 1) / (8 * kCacheLine) * kCacheLine; }

}  // namespace

int64_t StageGroup::MaxBytes(const Options& options) {
  const int64_t floats = std::max(options.max_tokens * options.width, options.max_samples * options.vocab);
  return HeadBytes(options.max_tokens) + floats * int64_t{sizeof(float)};
}

StageGroup::StageGroup(const Options& options, Collective& collective, Backend& backend)
    : options_(options), collective_(collective), backend_(backend) {}

void StageGroup::Begin(Epoch epoch, PlanId plan, LayerPager& pager) {
  pager_ = &pager;
  head_bytes_ = HeadBytes(static_cast<int32_t>(pager.running()));
  next_ = {epoch, plan, 0};
  status_ = absl::OkStatus();
}

Tensor StageGroup::Part(int64_t rows, int64_t cols) {
  CHECK(head_bytes_ + rows * cols * int64_t{sizeof(float)} <= collective_.max_bytes());
  return {collective_.Part() + head_bytes_, DType::kF32, rows, cols};
}

void StageGroup::Sum(const Tensor& part, const Tensor& y, bool accumulate) {
  if (!Exchange(head_bytes_ + part.bytes())) return;
  for (int32_t r = 0; r < collective_.ranks(); ++r) {
    const Tensor of_rank = PartOf(r, y.rows, y.cols);
    if (of_rank.data == nullptr) return;
    if (r == 0 && !accumulate) {
      std::memcpy(y.data, of_rank.data, static_cast<size_t>(y.bytes()));
    } else {
      backend_.ops().residual_add({y, of_rank}, backend_.context());
    }
  }
}

void StageGroup::Join(const Tensor& part, const Tensor& y) {
  if (!Exchange(head_bytes_ + part.bytes())) return;
  int64_t column = 0;
  for (int32_t r = 0; r < collective_.ranks(); ++r) {
    const auto bytes = static_cast<int64_t>(parts_[static_cast<size_t>(r)].size()) - head_bytes_;
    const int64_t cols = bytes / (y.rows * int64_t{sizeof(float)});
    const Tensor of_rank = PartOf(r, y.rows, std::min(cols, y.cols - column));
    if (of_rank.data == nullptr) return;
    for (int64_t row = 0; row < y.rows; ++row) {
      std::memcpy(static_cast<float*>(y.data) + row * y.cols + column,
                  static_cast<const float*>(of_rank.data) + row * cols, static_cast<size_t>(cols) * sizeof(float));
    }
    column += cols;
  }
  if (column != y.cols) {
    status_ = absl::InternalError(absl::StrCat("ranks of the stage gave ", column, " columns of ", y.cols));
  }
}

std::vector<Tensor> StageGroup::Gather(absl::Span<const int64_t> rows, int64_t cols) {
  const int64_t own = rows[static_cast<size_t>(collective_.rank())];
  if (!Exchange(head_bytes_ + own * cols * int64_t{sizeof(float)})) return {};
  std::vector<Tensor> parts;
  for (int32_t r = 0; r < collective_.ranks(); ++r) {
    parts.push_back(PartOf(r, rows[static_cast<size_t>(r)], cols));
    if (parts.back().data == nullptr) return {};
  }
  return parts;
}

absl::Status StageGroup::Agree() {
  Exchange(head_bytes_);
  return status_;
}

bool StageGroup::Exchange(int64_t bytes) {
  if (!status_.ok()) return false;
  TellLost();
  absl::StatusOr<Collective::Parts> parts = collective_.Exchange(next_, bytes, options_.timeout);
  ++next_.index;
  status_ = parts.status();
  if (!status_.ok()) return false;
  parts_ = *parts;
  for (const absl::Span<const std::byte> part : parts_) {
    if (static_cast<int64_t>(part.size()) < head_bytes_) {
      status_ = absl::InternalError("a rank of the stage gave a part without its head");
      return false;
    }
    TakeLost(part);
  }
  return true;
}

void StageGroup::TellLost() {
  std::byte* const bits = collective_.Part();
  std::memset(bits, 0, static_cast<size_t>(head_bytes_));
  for (size_t i = 0; i < pager_->running(); ++i) {
    if (pager_->IsLost(i)) bits[i / 8] |= std::byte{1} << static_cast<int>(i % 8);
  }
}

void StageGroup::TakeLost(absl::Span<const std::byte> part) {
  for (size_t i = 0; i < pager_->running(); ++i) {
    const bool lost = (part[i / 8] & (std::byte{1} << static_cast<int>(i % 8))) != std::byte{0};
    if (lost && !pager_->IsLost(i)) pager_->MarkLost(i);
  }
}

Tensor StageGroup::PartOf(int32_t rank, int64_t rows, int64_t cols) {
  const absl::Span<const std::byte> part = parts_[static_cast<size_t>(rank)];
  const int64_t due = head_bytes_ + rows * cols * int64_t{sizeof(float)};
  if (static_cast<int64_t>(part.size()) != due) {
    status_ = absl::InternalError(absl::StrCat("rank ", rank, " of the stage gave ", part.size(), " bytes where ", due,
                                               " were due: its sched.max_running or sched.step_tokens differs"));
    return {};
  }
  return {const_cast<std::byte*>(part.data()) + head_bytes_, DType::kF32, rows, cols};
}

}  // namespace interlace
