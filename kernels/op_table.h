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
#include "kernels/paged_attention/paged_attention.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/rope.h"
#include "kernels/sample/sample.h"
#include "kernels/swiglu/swiglu.h"

namespace interlace {

class ThreadTeam;

struct OpTable {
  absl::string_view name;  // "reference", "avx2"
  void (*embedding)(const EmbeddingArgs&, ThreadTeam&);
  void (*rms_norm)(const RmsNormArgs&, ThreadTeam&);
  void (*rope)(const RopeArgs&, ThreadTeam&);
  void (*linear)(const LinearArgs&, ThreadTeam&);
  void (*swiglu)(const SwigluArgs&, ThreadTeam&);
  void (*kv_append)(const KvAppendArgs&, ThreadTeam&);
  void (*paged_attention)(const PagedAttentionArgs&, ThreadTeam&);
  void (*sample)(const SampleArgs&, ThreadTeam&);
};

// The names that FindOpTable knows, slowest first; not all need run on this CPU.
std::vector<absl::string_view> OpTableNames();

// "reference", "avx2", or "auto": the best that this CPU runs. NotFound lists the known names; FailedPrecondition if
// the CPU lacks the instructions.
absl::StatusOr<const OpTable*> FindOpTable(absl::string_view name);

}  // namespace interlace
