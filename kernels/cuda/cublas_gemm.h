// CublasGemm: products by cuBLASLt, which is opened at run time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>

#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_calls.h"
#include "kernels/cuda/plan_cache.h"

namespace interlace {

// Owned by the runtime driver; thread: its. The trap: which of cuBLASLt's kernels runs depends on the number of rows,
// so a row's sum may differ in its last bits between batches (docs/contracts.md, exact.rows).
class CublasGemm {
 public:
  // FailedPrecondition names where the library was looked for.
  static absl::StatusOr<std::unique_ptr<CublasGemm>> Open();
  ~CublasGemm();
  // Queues the product on a cudaStream_t. `workspace`: device memory of kWorkspaceBytes, used by nothing else on other
  // streams. The text of an error, or empty.
  std::string Run(const CudaGemm& gemm, void* workspace, void* stream);
  const std::string& version() const { return version_; }

  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
  // Shapes are keyed by the exact number of rows: a server sees hundreds of row counts times a few shapes per layer.
  static constexpr size_t kMostPlans = 4096;

 private:
  struct Library;
  struct Plan;
  // m, n, k, ldk, accumulate, alignment of w, x and d
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, bool, uint32_t, uint32_t, uint32_t>;
  CublasGemm();
  std::string MakePlan(const CudaGemm& gemm, const Key& key, Plan** out);

  std::unique_ptr<Library> library_;
  PlanCache<Key, Plan> plans_;
  std::string version_;
};

}  // namespace interlace
