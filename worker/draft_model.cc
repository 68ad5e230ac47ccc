#include "worker/draft_model.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "constraint/vocabulary.h"
#include "model/weights.h"
#include "proto/plan/step_plan.h"

namespace interlace {
namespace {

absl::Status CheckAlone(const Config& config) {
  const int64_t ranks = RanksOfReplica(config);
  if (ranks == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a draft model guesses for a rank that runs the whole model alone, and there are ", ranks,
                   " ranks; set cluster.stages=1, cluster.tensor_ranks=1 and cluster.sequence_ranks=1, or leave "
                   "engine.draft_model empty"));
}

absl::Status CheckHeads(const Config& config, const ModelSpec& model, const ModelSpec& draft) {
  if (model.vocab == draft.vocab) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the head of ", config.engine.draft_model, " has ", draft.vocab,
                                                 " rows, that of ", config.model.path, " has ", model.vocab,
                                                 "; give a smaller model of the same family"));
}

absl::Status Named(const Config& config, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("engine.draft_model=", config.engine.draft_model, ": ", status.message()));
}

int64_t BytesOf(const StepCost& cost) { return std::accumulate(cost.layers.begin(), cost.layers.end(), cost.head); }

}  // namespace

absl::Status CheckDraftSettings(const Config& config) {
  RETURN_IF_ERROR(Named(config, CheckAlone(config)));
  const absl::Status alike = CheckSameTokens(config.model.path, config.engine.draft_model);
  if (!absl::IsInvalidArgument(alike)) return Named(config, alike);
  return Named(config, absl::InvalidArgumentError(
                           absl::StrCat("a draft model needs the vocabulary of its model: ", alike.message(),
                                        "; give a smaller model of the same family")));
}

absl::StatusOr<std::unique_ptr<DraftModel>> DraftModel::Load(const Config& config, const Checkpoint& model, DType kv,
                                                             int32_t most_sequences, Backend& backend,
                                                             absl::FunctionRef<void(int64_t, int64_t)> progress) {
  const auto load = [&]() -> absl::StatusOr<std::unique_ptr<DraftModel>> {
    auto draft = std::make_unique<DraftModel>();
    ASSIGN_OR_RETURN(draft->checkpoint, Checkpoint::Open(config.engine.draft_model));
    const ModelSpec& spec = draft->spec();
    RETURN_IF_ERROR(CheckHeads(config, model.spec(), spec));
    const auto block_tokens = static_cast<int32_t>(config.kv.block_tokens);
    draft->shape = {block_tokens, spec.kv_heads, spec.head_dim, kv};
    const KvBlockShape shape_of_model{block_tokens, model.spec().kv_heads, model.spec().head_dim, kv};
    const StepCost cost = CostOfStep(*draft->checkpoint, draft->shape.bytes() / block_tokens);
    const int64_t of_model = BytesOf(CostOfStep(model, shape_of_model.bytes() / block_tokens));
    draft->share = static_cast<double>(BytesOf(cost)) / static_cast<double>(std::max<int64_t>(1, of_model));
    draft->rows = std::max(kDraftRows, most_sequences);
    for (const LayerSpec& layer : spec.layer) draft->attention.push_back(layer.attention);
    ASSIGN_OR_RETURN(draft->arch, MakeArch({draft->checkpoint.get(), &spec, MakeShard(cost, 0, 1), &backend,
                                            draft->rows, nullptr, nullptr, progress}));
    ASSIGN_OR_RETURN(draft->hidden, backend.Allocate(int64_t{draft->rows} * spec.width * int64_t{sizeof(float)}));
    absl::StatusOr<std::unique_ptr<KvArena>> arena =
        KvArena::Create(backend, config.engine.draft_kv.value, draft->shape.bytes() * spec.layers);
    if (!arena.ok()) {
      return absl::Status(arena.status().code(), absl::StrCat("engine.draft_kv=", PrintBytes(config.engine.draft_kv),
                                                              ": ", arena.status().message()));
    }
    draft->arena = *std::move(arena);
    return draft;
  };
  RETURN_IF_ERROR(CheckDraftSettings(config));
  absl::StatusOr<std::unique_ptr<DraftModel>> draft = load();
  if (!draft.ok()) return Named(config, draft.status());
  return draft;
}

}  // namespace interlace
