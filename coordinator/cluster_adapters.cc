// ClusterService: which adapters ranks are to have, and what they say of them.
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/cluster_service.h"
#include "proto/plan/plan_codec.h"

namespace interlace {

void ClusterService::TellAdapters(Member& member) {
  v1::Order order;
  EncodeAdapters(adapters_, order.mutable_adapters());
  member.told = adapters_.serial;
  Order(member, std::make_shared<const std::string>(order.SerializeAsString()));
}

void ClusterService::OnAdapters(LinkId id, const AdapterAnswer& answer) {
  {
    absl::MutexLock lock(&mutex_);
    Stream* const stream = FindStream(id);
    if (stream == nullptr || stream->place < 0) return;
    Member& member = members_.at(stream->place);
    if (answer.serial != member.told || member.answered == member.told) return;  // it is to have others by now
    member.answered = member.told;
    member.adapters = absl::OkStatus();
    for (const AdapterAnswer::Failure& failure : answer.failures) {
      const absl::Status why(failure.why.code(), absl::StrCat(Name(stream->place), ": ", failure.why.message()));
      member.adapters.Update(why);
      if (fresh_adapters_.contains(failure.digest) || options_.adapter_failed == nullptr) continue;
      Do([this, digest = failure.digest, why] { options_.adapter_failed(digest, why); });
    }
    FormIfComplete(member.rank.replica);
  }
  CarryOut();
}

absl::Status ClusterService::SetAdapters(std::vector<RankAdapter> adapters, absl::Duration patience) {
  {
    absl::MutexLock lock(&mutex_);
    for (const RankAdapter& adapter : adapters) fresh_adapters_.insert(adapter.digest);
    for (const RankAdapter& adapter : adapters_.adapters) fresh_adapters_.erase(adapter.digest);
    adapters_ = {adapters_.serial + 1, std::move(adapters)};
    for (auto& [place, member] : members_) TellAdapters(member);
  }
  CarryOut();
  absl::Status status;
  absl::MutexLock lock(&mutex_);
  // True too when one cannot: it need not wait for the others.
  const auto settled = [this, &status]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    bool all = true;
    status = absl::OkStatus();
    for (const auto& [place, member] : members_) {
      const bool answered = member.answered == adapters_.serial;
      if (answered) status.Update(member.adapters);
      all &= answered;
    }
    return all || !status.ok();
  };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&settled), patience)) {
    for (const auto& [place, member] : members_) {
      if (member.answered == adapters_.serial) continue;
      status.Update(absl::DeadlineExceededError(
          absl::StrCat(Name(place), " has not loaded them within ", absl::FormatDuration(patience))));
    }
  }
  fresh_adapters_.clear();
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(following_);
  if (draining_) return absl::UnavailableError("the coordinator is draining");
  return members_.empty() ? absl::UnavailableError("no rank is here that could have adapters") : absl::OkStatus();
}

}  // namespace interlace
