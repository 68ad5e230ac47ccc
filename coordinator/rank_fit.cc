#include "coordinator/rank_fit.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// What all ranks of a replica must have in common: one line a field.
struct Agreed {
  absl::string_view field;
  std::string (*of)(const RankInfo&);
};
constexpr Agreed kAgreed[] = {
    {"cluster.stages", [](const RankInfo& r) { return absl::StrCat(r.stages); }},
    {"the model's digest", [](const RankInfo& r) { return r.model_digest; }},
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
    if (theirs != ours) return Unfit(agreed.field, theirs, ours, absl::StrCat("stage ", Value(other.stage)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckFit(const RankInfo& rank, const ReplicaTerms& terms,
                      const std::map<int32_t, const RankInfo*>& others) {
  if (rank.stages != terms.stages) {
    return Unfit("cluster.stages", absl::StrCat(rank.stages), absl::StrCat(terms.stages), "the coordinator");
  }
  if (rank.model_digest != terms.model_digest) {
    return Unfit("the model's digest", rank.model_digest, terms.model_digest, "the coordinator");
  }
  if (rank.block_tokens != terms.block_tokens) {
    return Unfit("kv.block_tokens", absl::StrCat(rank.block_tokens), absl::StrCat(terms.block_tokens),
                 "the coordinator");
  }
  for (const auto& [stage, other] : others) RETURN_IF_ERROR(CheckAgreed(rank, *other));
  // Stages hold all layers, each once and in order.
  const auto before = others.find(Value(rank.stage) - 1), after = others.find(Value(rank.stage) + 1);
  const auto at = [&rank](absl::string_view field, int32_t theirs, int32_t ours, absl::string_view whose) {
    return theirs == ours ? absl::OkStatus() : Unfit(field, absl::StrCat(theirs), absl::StrCat(ours), whose);
  };
  if (Value(rank.stage) == 0) RETURN_IF_ERROR(at("its first layer", rank.layer_begin, 0, "the model"));
  if (before != others.end()) {
    RETURN_IF_ERROR(at("its first layer", rank.layer_begin, before->second->layer_end, "the stage before"));
  }
  if (after != others.end()) {
    RETURN_IF_ERROR(at("its layer end", rank.layer_end, after->second->layer_begin, "the stage behind"));
  }
  if (Value(rank.stage) == terms.stages - 1) {
    RETURN_IF_ERROR(at("its layer end", rank.layer_end, rank.layers, "the model"));
  }
  return absl::OkStatus();
}

}  // namespace interlace
