#include "cli/bench_ops.h"

#include <utility>

namespace interlace {
namespace {

// Whose ops this thread taps: functions of an op table carry no state of their own.
thread_local TappedBackend* tapped = nullptr;

}  // namespace

struct OpTap {
  template <typename Args>
  using Op = void (*OpTable::*)(const Args&, OpContext);

  template <OpKind kKind, typename Args, Op<Args> kOp>
  static void Timed(const Args& args, OpContext on) {
    TappedBackend& tap = *tapped;
    const absl::Time begin = tap.clock_->Now();
    (tap.inner_->ops().*kOp)(args, on);
    (void)tap.inner_->Synchronize();  // an error shows at the end of the step
    tap.calls_->push_back({kKind, tap.clock_->Now() - begin});
  }
  static void Watched(const SampleArgs& args, OpContext on) {
    (void)tapped->inner_->Synchronize();
    tapped->watch_(args.logits);
    tapped->inner_->ops().sample(args, on);
  }
};

absl::string_view OpKindName(OpKind kind) {
  static constexpr absl::string_view kNames[kOpKinds] = {
      "embedding",       "rms_norm", "rope",         "linear",   "gated_linear", "gate",   "kv_append",
      "paged_attention", "sample",   "residual_add", "soft_cap", "moe_route",    "moe_ffn"};
  return kNames[static_cast<int>(kind)];
}

TappedBackend::TappedBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)), table_(inner_->ops()) {}

absl::StatusOr<std::unique_ptr<Backend>> TappedBackend::Make(const BackendOptions& options) {
  absl::StatusOr<std::unique_ptr<Backend>> inner = CreateBackend("cpu", options);
  if (!inner.ok()) return inner.status();
  return std::unique_ptr<Backend>(new TappedBackend(*std::move(inner)));
}

void TappedBackend::Time(Clock& clock, std::vector<OpCall>* calls) {
  // An op that is missing here would count as time outside kernels.
  static_assert(sizeof(OpTable) == sizeof(absl::string_view) + (kOpKinds + 2) * sizeof(void (*)()),
                "OpTable has another op: give it an OpKind and a line below");
  tapped = this;
  clock_ = &clock;
  calls_ = calls;
  table_.embedding = &OpTap::Timed<OpKind::kEmbedding, EmbeddingArgs, &OpTable::embedding>;
  table_.rms_norm = &OpTap::Timed<OpKind::kRmsNorm, RmsNormArgs, &OpTable::rms_norm>;
  table_.rope = &OpTap::Timed<OpKind::kRope, RopeArgs, &OpTable::rope>;
  table_.linear = &OpTap::Timed<OpKind::kLinear, LinearArgs, &OpTable::linear>;
  table_.gated_linear = &OpTap::Timed<OpKind::kGatedLinear, GatedLinearArgs, &OpTable::gated_linear>;
  table_.gate = &OpTap::Timed<OpKind::kGate, GateArgs, &OpTable::gate>;
  table_.kv_append = &OpTap::Timed<OpKind::kKvAppend, KvAppendArgs, &OpTable::kv_append>;
  table_.paged_attention = &OpTap::Timed<OpKind::kPagedAttention, PagedAttentionArgs, &OpTable::paged_attention>;
  table_.sample = &OpTap::Timed<OpKind::kSample, SampleArgs, &OpTable::sample>;
  table_.residual_add = &OpTap::Timed<OpKind::kResidualAdd, ResidualAddArgs, &OpTable::residual_add>;
  table_.soft_cap = &OpTap::Timed<OpKind::kSoftCap, SoftCapArgs, &OpTable::soft_cap>;
  table_.moe_route = &OpTap::Timed<OpKind::kMoeRoute, MoeRouteArgs, &OpTable::moe_route>;
  table_.moe_ffn = &OpTap::Timed<OpKind::kMoeFfn, MoeFfnArgs, &OpTable::moe_ffn>;
}

void TappedBackend::WatchLogits(std::function<void(const Tensor&)> watch) {
  tapped = this;
  watch_ = std::move(watch);
  table_.sample = &OpTap::Watched;
}

void TappedBackend::Off() {
  tapped = nullptr;
  table_ = inner_->ops();
}

}  // namespace interlace
