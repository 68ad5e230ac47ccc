// Weights: tensors of a file, checked against what the architecture expects.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "model/text/gguf.h"

namespace interlace {

// Reads a rank's tensors one after another, into the layout of the backend's op table, or where that is the file's own,
// leaves them in the file's mapping; reading touches each page once, so that the first step does not wait for the disk.
// Owned by an architecture's Make; thread: one, at start.
class WeightReader {
 public:
  // `all_bytes`: what the rank will read in all, for progress.
  WeightReader(const GgufFile& file, Backend& backend, int64_t all_bytes,
               absl::FunctionRef<void(int64_t, int64_t)> progress);
  // [rows, cols] in one of the kernels' dtypes. InvalidArgument names file, tensor and shape of one that is missing or
  // has another shape; Unimplemented names a type that no kernel computes with.
  absl::StatusOr<LinearWeight> Read(const std::string& name, int64_t rows, int64_t cols);
  // F32 [1, cols], for norms.
  absl::StatusOr<Tensor> ReadVector(const std::string& name, int64_t cols);
  // The memory of what was packed so far; the weights live as long as it does.
  std::vector<std::unique_ptr<DeviceBuffer>> TakeBuffers() { return std::move(buffers_); }

 private:
  absl::StatusOr<Tensor> Map(const std::string& name, int64_t rows, int64_t cols);

  const GgufFile& file_;
  Backend& backend_;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
  const int64_t all_bytes_;
  absl::FunctionRef<void(int64_t, int64_t)> progress_;
  int64_t done_bytes_ = 0;
};

}  // namespace interlace
