#include "kernels/cuda/cublas_gemm.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace interlace {

// The entry points of the library that are used.
struct CublasGemm::Library {
  void* handle = nullptr;
  cublasLtHandle_t lt = nullptr;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtGetVersion) version = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;

  // The name of a symbol that is missing, or null.
  const char* Resolve() {
    const char* missing = nullptr;
    const auto find = [&](auto& pointer, const char* name) {
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(dlsym(handle, name));
      if (pointer == nullptr) missing = name;
    };
    find(create, "cublasLtCreate");
    find(destroy, "cublasLtDestroy");
    find(version, "cublasLtGetVersion");
    find(matmul, "cublasLtMatmul");
    find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    find(desc_create, "cublasLtMatmulDescCreate");
    find(desc_destroy, "cublasLtMatmulDescDestroy");
    find(desc_set, "cublasLtMatmulDescSetAttribute");
    find(layout_create, "cublasLtMatrixLayoutCreate");
    find(layout_destroy, "cublasLtMatrixLayoutDestroy");
    find(preference_create, "cublasLtMatmulPreferenceCreate");
    find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
    find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
    return missing;
  }
};

// What one shape runs as. Row-major y [n, m] is column-major [m, n]; row-major w [m, ldk] is column-major [ldk, m],
// taken transposed; row-major x [n, ldk] is column-major [ldk, n], taken as it is.
struct CublasGemm::Plan {
  explicit Plan(const Library& library) : of(library) {}
  ~Plan() {
    if (desc != nullptr) of.desc_destroy(desc);
    for (cublasLtMatrixLayout_t layout : {w, x, d}) {
      if (layout != nullptr) of.layout_destroy(layout);
    }
  }
  const Library& of;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, d = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

namespace {

// The largest power of two, up to 256, that divides the address.
uint32_t AlignmentOf(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return static_cast<uint32_t>(std::min<uintptr_t>(address & (~address + 1), 256));
}

std::string Failed(const char* call, cublasStatus_t status) {
  return absl::StrCat(call, " answered cublasStatus ", static_cast<int>(status));
}

#define RETURN_IF_FAILED(call)                                                             \
  do {                                                                                     \
    if (cublasStatus_t s_ = (call); s_ != CUBLAS_STATUS_SUCCESS) return Failed(#call, s_); \
  } while (false)

}  // namespace

CublasGemm::CublasGemm() : library_(std::make_unique<Library>()), plans_(kMostPlans) {}

CublasGemm::~CublasGemm() {
  plans_.Clear();
  if (library_->lt != nullptr) library_->destroy(library_->lt);
  // The library stays open: it keeps state of the process that outlives a backend.
}

absl::StatusOr<std::unique_ptr<CublasGemm>> CublasGemm::Open() {
  const std::string name = absl::StrCat("libcublasLt.so.", CUBLAS_VER_MAJOR);
  std::unique_ptr<CublasGemm> gemm(new CublasGemm);
  Library& library = *gemm->library_;
  std::string tried;
  for (const std::string& path :
       {name, absl::StrCat(INTERLACE_CUDA_LIBRARIES "/", name), absl::StrCat("/usr/local/cuda/lib64/", name)}) {
    library.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library.handle != nullptr) break;
    const char* error = dlerror();
    absl::StrAppend(&tried, tried.empty() ? "" : "; ", error != nullptr ? error : path);
  }
  if (library.handle == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cuBLASLt was not found (", tried, "); install the CUDA toolkit's libcublas or set LD_LIBRARY_PATH"));
  }
  if (const char* missing = library.Resolve(); missing != nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(name, " lacks ", missing));
  }
  if (const cublasStatus_t status = library.create(&library.lt); status != CUBLAS_STATUS_SUCCESS) {
    return absl::FailedPreconditionError(Failed("cublasLtCreate", status));
  }
  gemm->version_ = absl::StrCat("cuBLASLt ", library.version());
  return gemm;
}

std::string CublasGemm::MakePlan(const CudaGemm& gemm, const Key& key, Plan** out) {
  const Library& lt = *library_;
  auto plan = std::make_unique<Plan>(lt);
  const cublasOperation_t transposed = CUBLAS_OP_T, plain = CUBLAS_OP_N;
  RETURN_IF_FAILED(lt.desc_create(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  RETURN_IF_FAILED(lt.desc_set(plan->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
  RETURN_IF_FAILED(lt.desc_set(plan->desc, CUBLASLT_MATMUL_DESC_TRANSB, &plain, sizeof plain));
  // Padding columns are 0 on both sides, so they may be part of the sum: k is then a multiple of 8 too.
  const auto k = static_cast<uint64_t>(gemm.ldk), m = static_cast<uint64_t>(gemm.m), n = static_cast<uint64_t>(gemm.n);
  RETURN_IF_FAILED(lt.layout_create(&plan->w, CUDA_R_16BF, k, m, gemm.ldk));
  RETURN_IF_FAILED(lt.layout_create(&plan->x, CUDA_R_16BF, k, n, gemm.ldk));
  RETURN_IF_FAILED(lt.layout_create(&plan->d, CUDA_R_32F, m, n, gemm.m));

  cublasLtMatmulPreference_t preference = nullptr;
  RETURN_IF_FAILED(lt.preference_create(&preference));
  const auto workspace = static_cast<uint64_t>(kWorkspaceBytes);
  const uint32_t of_w = std::get<5>(key), of_x = std::get<6>(key), of_d = std::get<7>(key);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t name, const auto& value) {
    return lt.preference_set(preference, name, &value, sizeof value);
  };
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  cublasStatus_t status = set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
  if (status == CUBLAS_STATUS_SUCCESS) status = set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, of_w);
  if (status == CUBLAS_STATUS_SUCCESS) status = set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, of_x);
  if (status == CUBLAS_STATUS_SUCCESS) status = set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, of_d);
  if (status == CUBLAS_STATUS_SUCCESS) status = set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, of_d);
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = lt.heuristic(lt.lt, plan->desc, plan->w, plan->x, plan->d, plan->d, preference, 1, &found, &count);
  }
  lt.preference_destroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS) return Failed("cublasLtMatmulAlgoGetHeuristic", status);
  if (count < 1 || found.state != CUBLAS_STATUS_SUCCESS) return "cuBLASLt has no algorithm for this shape";
  plan->algorithm = found.algo;
  *out = plans_.Put(key, std::move(plan));
  return "";
}

std::string CublasGemm::Run(const CudaGemm& gemm, void* workspace, void* stream) {
  const Key key{
      gemm.m, gemm.n, gemm.k, gemm.ldk, gemm.accumulate, AlignmentOf(gemm.w), AlignmentOf(gemm.x), AlignmentOf(gemm.d)};
  Plan* plan = plans_.Find(key);
  if (plan == nullptr) {
    if (std::string error = MakePlan(gemm, key, &plan); !error.empty()) return error;
  }
  const float alpha = 1, beta = gemm.accumulate ? 1 : 0;
  RETURN_IF_FAILED(library_->matmul(library_->lt, plan->desc, &alpha, gemm.w, plan->w, gemm.x, plan->x, &beta, gemm.d,
                                    plan->d, gemm.d, plan->d, &plan->algorithm, workspace,
                                    static_cast<size_t>(kWorkspaceBytes), static_cast<cudaStream_t>(stream)));
  return "";
}

}  // namespace interlace
