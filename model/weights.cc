#include "model/weights.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

absl::StatusOr<DType> ToDType(const GgufTensor& tensor, const std::string& file) {
  switch (tensor.type) {
    case GgufType::kF32:
      return DType::kF32;
    case GgufType::kF16:
      return DType::kF16;
    case GgufType::kBF16:
      return DType::kBF16;
    case GgufType::kQ8_0:
      return DType::kQ8_0;
    case GgufType::kQ4_0:
      return DType::kQ4_0;
    case GgufType::kQ4_1:
      return DType::kQ4_1;
  }
  return absl::UnimplementedError(absl::StrCat(file, ": tensor ", tensor.name, " has type ",
                                               static_cast<uint32_t>(tensor.type),
                                               "; built in: F32, F16, BF16, Q8_0, Q4_0, Q4_1"));
}

// Reads one byte of each page. The sum is returned so that no compiler drops the reads.
uint64_t Touch(absl::Span<const std::byte> bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes.size(); i += 4096) sum += static_cast<uint64_t>(bytes[i]);
  return sum;
}

}  // namespace

WeightReader::WeightReader(const GgufFile& file, Backend& backend, int64_t all_bytes,
                           absl::FunctionRef<void(int64_t, int64_t)> progress)
    : file_(file), backend_(backend), all_bytes_(all_bytes), progress_(progress) {}

absl::StatusOr<LinearWeight> WeightReader::Read(const std::string& name, int64_t rows, int64_t cols) {
  ASSIGN_OR_RETURN(const Tensor tensor, Map(name, rows, cols));
  LinearWeight weight{tensor.dtype, rows, cols, static_cast<const std::byte*>(tensor.data)};
  const int64_t bytes = backend_.ops().weight_bytes(tensor.dtype, rows, cols);
  if (bytes == 0) return weight;
  ASSIGN_OR_RETURN(std::unique_ptr<DeviceBuffer> buffer, backend_.Allocate(bytes));
  backend_.ops().pack_weight(tensor, buffer->data(), backend_.context());
  weight.data = buffer->data();
  buffers_.push_back(std::move(buffer));
  return weight;
}

absl::StatusOr<Tensor> WeightReader::Map(const std::string& name, int64_t rows, int64_t cols) {
  const absl::StatusOr<const GgufTensor*> found = file_.Tensor(name);
  if (!found.ok()) return absl::InvalidArgumentError(absl::StrCat(file_.name(), ": tensor ", name, " is missing"));
  const GgufTensor* tensor = *found;
  int64_t tensor_rows = 1;
  for (size_t i = 1; i < tensor->dims.size(); ++i) tensor_rows *= tensor->dims[i];
  if (tensor->dims[0] != cols || tensor_rows != rows) {
    return absl::InvalidArgumentError(absl::StrCat(file_.name(), ": tensor ", name, " is [", tensor_rows, ", ",
                                                   tensor->dims[0], "], expected [", rows, ", ", cols, "]"));
  }
  ASSIGN_OR_RETURN(const DType dtype, ToDType(*tensor, file_.name()));
  const size_t alignment = dtype == DType::kF32 ? alignof(float) : alignof(uint16_t);
  if (reinterpret_cast<uintptr_t>(tensor->data.data()) % alignment != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_.name(), ": tensor ", name, " is not aligned to its elements; see general.alignment"));
  }
  volatile uint64_t sink = Touch(tensor->data);
  (void)sink;
  done_bytes_ += static_cast<int64_t>(tensor->data.size());
  progress_(done_bytes_, all_bytes_);
  // Weights are read only: the const is cast away because Tensor serves outputs too.
  return Tensor{const_cast<std::byte*>(tensor->data.data()), dtype, rows, cols};
}

absl::StatusOr<Tensor> WeightReader::ReadVector(const std::string& name, int64_t cols) {
  ASSIGN_OR_RETURN(const Tensor vector, Map(name, 1, cols));
  if (vector.dtype != DType::kF32) {
    return absl::UnimplementedError(
        absl::StrCat(file_.name(), ": tensor ", name, " is ", TraitsOf(vector.dtype).name, "; norms are F32"));
  }
  return vector;
}

}  // namespace interlace
