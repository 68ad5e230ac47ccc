#include "kernels/op_table.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/variants.h"
#include "kernels/linear/weight_strips.h"

namespace interlace {
namespace {

constexpr OpTable kReference = {
    .name = "reference",
    .embedding = &reference::Embedding,
    .rms_norm = &reference::RmsNorm,
    .rope = &reference::Rope,
    .linear = &reference::Linear,
    .gated_linear = &reference::GatedLinear,
    .gate = &reference::Gate,
    .kv_append = &reference::KvAppend,
    .paged_attention = &reference::PagedAttention,
    .sample = &reference::Sample,
    .residual_add = &reference::ResidualAdd,
    .soft_cap = &reference::SoftCap,
    .moe_route = &reference::MoeRoute,
    .moe_ffn = &reference::MoeFfn,
    .weight_bytes = &reference::WeightBytes,
    .pack_weight = &reference::PackWeight,
};

// residual_add and moe_route are the reference's: an addition and a search, where vectors gain next to nothing.
constexpr OpTable kAvx2 = {
    .name = "avx2",
    .embedding = &strips::Embedding,
    .rms_norm = &avx2::RmsNorm,
    .rope = &avx2::Rope,
    .linear = &avx2::Linear,
    .gated_linear = &avx2::GatedLinear,
    .gate = &avx2::Gate,
    .kv_append = &avx2::KvAppend,
    .paged_attention = &avx2::PagedAttention,
    .sample = &avx2::Sample,
    .residual_add = &reference::ResidualAdd,
    .soft_cap = &avx2::SoftCap,
    .moe_route = &reference::MoeRoute,
    .moe_ffn = [](const MoeFfnArgs& args, OpContext on) { GroupedMoeFfn(args, on, &avx2::GatedLinear, &avx2::Linear); },
    .weight_bytes = &strips::WeightBytes,
    .pack_weight = &strips::PackWeight,
};

// Ops without a variant of their own are those of avx2.
constexpr OpTable kAvx512 = {
    .name = "avx512",
    .embedding = &strips::Embedding,
    .rms_norm = &avx512::RmsNorm,
    .rope = &avx2::Rope,
    .linear = &avx512::Linear,
    .gated_linear = &avx512::GatedLinear,
    .gate = &avx512::Gate,
    .kv_append = &avx2::KvAppend,
    .paged_attention = &avx512::PagedAttention,
    .sample = &avx2::Sample,
    .residual_add = &reference::ResidualAdd,
    .soft_cap = &avx2::SoftCap,
    .moe_route = &reference::MoeRoute,
    .moe_ffn = [](const MoeFfnArgs& args,
                  OpContext on) { GroupedMoeFfn(args, on, &avx512::GatedLinear, &avx512::Linear); },
    .weight_bytes = &strips::WeightBytes,
    .pack_weight = &strips::PackWeight,
};

// avx512, but for attention over a KV of BF16, which rounds queries and weights to BF16 (paged_attention.h).
constexpr OpTable WithBf16Attention(OpTable table) {
  table.name = "avx512bf16";
  table.paged_attention = &avx512bf16::PagedAttention;
  return table;
}
constexpr OpTable kAvx512Bf16 = WithBf16Attention(kAvx512);

bool AlwaysRuns() { return true; }
bool CpuHasAvx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool CpuHasAvx512() {
  return CpuHasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}

bool CpuHasAvx512Bf16() { return CpuHasAvx512() && __builtin_cpu_supports("avx512bf16"); }

struct Entry {
  const OpTable* table;
  bool (*runs_here)();
  absl::string_view needs;
};
// Slowest first: "auto" takes the last that runs here.
constexpr Entry kTables[] = {
    {&kReference, &AlwaysRuns, "any CPU"},
    {&kAvx2, &CpuHasAvx2, "AVX2, FMA and F16C"},
    {&kAvx512, &CpuHasAvx512, "AVX-512 F, BW, VL, DQ and VNNI"},
    {&kAvx512Bf16, &CpuHasAvx512Bf16, "AVX-512 F, BW, VL, DQ, VNNI and BF16"},
};

}  // namespace

std::vector<absl::string_view> OpTableNames() {
  std::vector<absl::string_view> names;
  for (const Entry& entry : kTables) names.push_back(entry.table->name);
  return names;
}

absl::StatusOr<const OpTable*> FindOpTable(absl::string_view name) {
  const OpTable* best = nullptr;
  std::string known = "auto";
  for (const Entry& entry : kTables) {
    if (entry.table->name == name) {
      if (entry.runs_here()) return entry.table;
      return absl::FailedPreconditionError(
          absl::StrCat("ops \"", name, "\" need a CPU with ", entry.needs, "; use \"auto\" or \"reference\""));
    }
    if (entry.runs_here()) best = entry.table;
    absl::StrAppend(&known, ", ", entry.table->name);
  }
  if (name == "auto") return best;
  return absl::NotFoundError(absl::StrCat("ops \"", name, "\" are unknown; known: ", known));
}

}  // namespace interlace
