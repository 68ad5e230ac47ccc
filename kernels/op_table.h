// OpTable: one function pointer per op. A backend fills it at construction, by CPUID where variants exist.
//
// The bit-identity rule (docs/contracts.md, exact.rows): the output of a row (a token, or a token's head) is a function
// of that row's inputs alone: never of how many rows, which chunk, which physical block or how many threads.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/embedding/embedding.h"
#include "kernels/kv_append/kv_append.h"
#include "kernels/linear/linear.h"
#include "kernels/moe/moe.h"
#include "kernels/op_context.h"
#include "kernels/paged_attention/paged_attention.h"
#include "kernels/residual_add/residual_add.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/rope.h"
#include "kernels/sample/sample.h"
#include "kernels/soft_cap/soft_cap.h"

namespace interlace {

inline constexpr int64_t kPackRows = 64;

struct OpTable {
  absl::string_view name;  // "reference", "avx2", "avx512", "avx512bf16"
  void (*embedding)(const EmbeddingArgs&, OpContext);
  void (*rms_norm)(const RmsNormArgs&, OpContext);
  void (*rope)(const RopeArgs&, OpContext);
  void (*linear)(const LinearArgs&, OpContext);
  void (*gated_linear)(const GatedLinearArgs&, OpContext);
  void (*gate)(const GateArgs&, OpContext);
  void (*kv_append)(const KvAppendArgs&, OpContext);
  void (*paged_attention)(const PagedAttentionArgs&, OpContext);
  void (*sample)(const SampleArgs&, OpContext);
  void (*residual_add)(const ResidualAddArgs&, OpContext);
  void (*soft_cap)(const SoftCapArgs&, OpContext);
  void (*moe_route)(const MoeRouteArgs&, OpContext);
  void (*moe_ffn)(const MoeFfnArgs&, OpContext);

  // Bytes of a [rows, k] weight in this table's layout, a multiple of 64; 0: the file's own rows are used in place.
  int64_t (*weight_bytes)(DType dtype, int64_t rows, int64_t k);
  // Lays rows in the file's layout out for this table. out: weight_bytes, 64-byte aligned, zeroed. Layouts are strips
  // of rows: rows from b on, b a multiple of kPackRows, may be packed by themselves to out + weight_bytes(dtype, b, k).
  void (*pack_weight)(const Tensor& rows, std::byte* out, OpContext);
};

// The names that FindOpTable knows, slowest first; not all need run on this CPU.
std::vector<absl::string_view> OpTableNames();

// One of OpTableNames, or "auto": the best that this CPU runs. NotFound lists the known names; FailedPrecondition if
// the CPU lacks the instructions.
absl::StatusOr<const OpTable*> FindOpTable(absl::string_view name);

}  // namespace interlace
