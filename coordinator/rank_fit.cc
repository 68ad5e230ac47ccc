#include "coordinator/rank_fit.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "common/status_macros.h"
#include "coordinator/replica_shape.h"

namespace interlace {
namespace {

std::string AdaptersOf(const std::vector<std::string>& digests) {
  return digests.empty() ? "none" : absl::StrJoin(digests, ",");
}

// What all ranks of a replica must have in common: one line a field.
struct Agreed {
  absl::string_view field;
  std::string (*of)(const RankInfo&);
};
constexpr Agreed kAgreed[] = {
    {"cluster.stages", [](const RankInfo& r) { return absl::StrCat(r.stages); }},
    {"cluster.tensor_ranks", [](const RankInfo& r) { return absl::StrCat(r.tensor_ranks); }},
    {"cluster.sequence_ranks", [](const RankInfo& r) { return absl::StrCat(r.sequence_ranks); }},
    {"the model's digest", [](const RankInfo& r) { return r.model_digest; }},
    {"model.adapters, by digest,", [](const RankInfo& r) { return AdaptersOf(r.adapters); }},
    {"the number of its layers", [](const RankInfo& r) { return absl::StrCat(r.layers); }},
    {"kv.block_tokens", [](const RankInfo& r) { return absl::StrCat(r.block_tokens); }},
    {"kv.dtype", [](const RankInfo& r) { return r.dtype; }},
    {"the bytes of a KV slot", [](const RankInfo& r) { return absl::StrCat(r.slot_bytes); }},
    {"the model's KV heads", [](const RankInfo& r) { return absl::StrCat(r.kv_heads); }},
    {"the size of its heads", [](const RankInfo& r) { return absl::StrCat(r.head_dim); }},
    {"its vocabulary", [](const RankInfo& r) { return absl::StrCat(r.vocab); }},
    {"its windows", [](const RankInfo& r) { return absl::StrJoin(r.windows, ","); }},
    {"engine.backend and engine.ops", [](const RankInfo& r) { return r.numerics; }},
    {"kv.tiers", [](const RankInfo& r) { return absl::StrJoin(r.tiers, ","); }},
};

absl::Status Unfit(absl::string_view field, absl::string_view theirs, absl::string_view ours, absl::string_view whose) {
  return absl::FailedPreconditionError(
      absl::StrCat("this rank does not fit the replica: ", field, " is ", theirs, ", ", whose, " has ", ours));
}

absl::Status CheckAgreed(const RankInfo& rank, const RankInfo& other) {
  for (const Agreed& agreed : kAgreed) {
    const std::string theirs = agreed.of(rank), ours = agreed.of(other);
    if (theirs == ours) continue;
    std::string whose = NameOfRank(other.index(), other.stage_ranks());
    if (other.replica != rank.replica) whose = absl::StrCat("replica ", other.replica, ", ", whose);
    return Unfit(agreed.field, theirs, ours, whose);
  }
  return absl::OkStatus();
}

absl::Status At(absl::string_view field, int32_t theirs, int32_t ours, absl::string_view whose) {
  return theirs == ours ? absl::OkStatus() : Unfit(field, absl::StrCat(theirs), absl::StrCat(ours), whose);
}

// Stages hold all layers, each once and in order.
absl::Status CheckLayers(const RankInfo& rank, const RankInfo& other) {
  const int32_t further = Value(other.stage) - Value(rank.stage);
  if (further == 0) {
    RETURN_IF_ERROR(At("its first layer", rank.layer_begin, other.layer_begin, "another rank of the stage"));
    return At("its layer end", rank.layer_end, other.layer_end, "another rank of the stage");
  }
  if (further == -1) return At("its first layer", rank.layer_begin, other.layer_end, "the stage before");
  if (further == 1) return At("its layer end", rank.layer_end, other.layer_begin, "the stage behind");
  return absl::OkStatus();
}

// Tensor ranks of a stage hold all heads, in order; a KV head may belong to several. All stages split them alike, and
// ranks that divide rows hold the same.
absl::Status CheckHeads(const RankInfo& rank, const RankInfo& other) {
  const int32_t further = other.tensor_rank - rank.tensor_rank;
  if (further == 0) {
    RETURN_IF_ERROR(At("its first KV head", rank.heads.begin, other.heads.begin, "a rank with the same share"));
    return At("its KV head end", rank.heads.end, other.heads.end, "a rank with the same share");
  }
  if (further != 1 && further != -1) return absl::OkStatus();
  const HeadRange& before = further < 0 ? other.heads : rank.heads;
  const HeadRange& after = further < 0 ? rank.heads : other.heads;
  const bool fits = before.begin <= after.begin && after.begin <= before.end && before.end <= after.end;
  if (fits) return absl::OkStatus();
  return Unfit("its range of KV heads", absl::StrCat("[", rank.heads.begin, ", ", rank.heads.end, ")"),
               absl::StrCat("[", other.heads.begin, ", ", other.heads.end, ")"), "the rank beside it");
}

}  // namespace

absl::Status CheckTerms(const RankInfo& rank, const ReplicaTerms& terms) {
  if (rank.replica >= terms.replicas) {
    return absl::FailedPreconditionError(
        absl::StrCat("cluster.replica is ", rank.replica, ", the coordinator has cluster.replicas=", terms.replicas));
  }
  if (rank.stages != terms.stages) {
    return Unfit("cluster.stages", absl::StrCat(rank.stages), absl::StrCat(terms.stages), "the coordinator");
  }
  if (rank.tensor_ranks != terms.tensor_ranks) {
    return Unfit("cluster.tensor_ranks", absl::StrCat(rank.tensor_ranks), absl::StrCat(terms.tensor_ranks),
                 "the coordinator");
  }
  if (rank.sequence_ranks != terms.sequence_ranks) {
    return Unfit("cluster.sequence_ranks", absl::StrCat(rank.sequence_ranks), absl::StrCat(terms.sequence_ranks),
                 "the coordinator");
  }
  if (rank.model_digest != terms.model_digest) {
    return Unfit("the model's digest", rank.model_digest, terms.model_digest, "the coordinator");
  }
  if (rank.adapters != terms.adapters) {
    return Unfit("model.adapters, by digest,", AdaptersOf(rank.adapters), AdaptersOf(terms.adapters),
                 "the coordinator");
  }
  if (rank.block_tokens != terms.block_tokens) {
    return Unfit("kv.block_tokens", absl::StrCat(rank.block_tokens), absl::StrCat(terms.block_tokens),
                 "the coordinator");
  }
  return terms.draft_model ? CheckDraftModel(rank) : absl::OkStatus();
}

absl::Status CheckDraftModel(const RankInfo& rank) {
  if (!rank.draft_model.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "sched.speculate=draft-model: this rank has no draft model; give it a smaller model with the same vocabulary, "
      "engine.draft_model=PATH, or give the coordinator sched.speculate=auto, ngram or off");
}

absl::Status CheckAlike(const RankInfo& rank, const RankInfo& other) { return CheckAgreed(rank, other); }

absl::Status CheckFit(const RankInfo& rank, const ReplicaTerms& terms,
                      const std::map<int32_t, const RankInfo*>& others) {
  for (const auto& [index, other] : others) {
    RETURN_IF_ERROR(CheckAgreed(rank, *other));
    RETURN_IF_ERROR(CheckLayers(rank, *other));
    RETURN_IF_ERROR(CheckHeads(rank, *other));
  }
  if (Value(rank.stage) == 0) RETURN_IF_ERROR(At("its first layer", rank.layer_begin, 0, "the model"));
  if (Value(rank.stage) == terms.stages - 1) {
    RETURN_IF_ERROR(At("its layer end", rank.layer_end, rank.layers, "the model"));
  }
  if (rank.tensor_rank == 0) RETURN_IF_ERROR(At("its first KV head", rank.heads.begin, 0, "the model"));
  if (rank.tensor_rank == terms.tensor_ranks - 1) {
    RETURN_IF_ERROR(At("its KV head end", rank.heads.end, rank.kv_heads, "the model"));
  }
  return absl::OkStatus();
}

}  // namespace interlace
